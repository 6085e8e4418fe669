# ruff: noqa: E501 (templates are one line each)
"""Templates that never end or take all memory: each is one sentence in the time and memory that a call may have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from tests.tokenizer.test_chat import conversation, with_template

from forescale.core.errors import UserError
from forescale.core.limited import Child, Exceeded, Refused
from forescale.tokenizer import chat
from forescale.tokenizer.chat import render

SECONDS = 1.0  # shorter than what users get, so that the tests are
MEMORY = 300_000_000
DOUBLED = "{% set n = namespace(s='xx') %}{% for i in range(40) %}{% set n.s = %s %}{% endfor %}{{ n.s | length }}"
RECURSION = "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}"


def doubled(step: str) -> str:
    return DOUBLED.replace("%s", step)


HOSTILE = {
    "macro that calls itself twice": RECURSION,
    "macro without end": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "two macros": "{% macro a(n) %}{{ b(n) }}{{ b(n) }}{% endmacro %}{% macro b(n) %}{% if n %}{{ a(n-1) }}{% endif %}{% endmacro %}{{ a(60) }}",
    "call blocks": "{% macro f(n) %}{% if n %}{% call f(n-1) %}{% endcall %}{% call f(n-1) %}{% endcall %}{% endif %}{% endmacro %}{{ f(50) }}",
    "nested loops": "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
    "a range": "{% for a in range(10 ** 9) %}{% endfor %}",
    "a list of a range": "{{ range(99999) | list * 9999 }}",
    "join": doubled("[n.s, n.s] | join"),
    "join by itself": doubled("['', '', '', '', ''] | join(n.s + n.s)"),
    "replace": doubled("n.s | replace('x', 'xxx')"),
    "the method replace": doubled("n.s.replace('x', 'xxx')"),
    "format": doubled("'{0}{0}'.format(n.s)"),
    "the filter format": doubled("'%s%s' | format(n.s, n.s)"),
    "center": "{{ 'x'.center(4000000000) | length }}",
    "the filter center": "{{ 'x' | center(4000000000) | length }}",
    "ljust": "{{ 'x'.ljust(4000000000) | length }}",
    "rjust": "{{ 'x'.rjust(4000000000) | length }}",
    "zfill": "{{ 'x'.zfill(4000000000) | length }}",
    "expandtabs": "{{ '\t\t\t\t'.expandtabs(2000000000) | length }}",
    "indent": "{{ 'a\nb' | indent(2000000000) | length }}",
    "tojson with an indent": "{{ [[[[1]]]] | tojson(indent=1000000000) | length }}",
    "tojson of much": "{% set n = namespace(s=[1]) %}{% for i in range(40) %}{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s | tojson }}",
    "text of much": "{% set n = namespace(s=[1]) %}{% for i in range(40) %}{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s }}",
    "equal lists": "{% set n = namespace(a=[1], b=[1]) %}{% for i in range(40) %}{% set n.a = [n.a, n.a] %}{% set n.b = [n.b, n.b] %}{% endfor %}{{ n.a == n.b }}",
    "nested too deep": "{% set n = namespace(s=[1]) %}{% for i in range(20000) %}{% set n.s = [n.s] %}{% endfor %}{{ n.s }}",
    "batch": "{{ [1] | batch(3000000000, 0) | list | length }}",
    "slice": "{{ [1] | slice(3000000000) | list | length }}",
    "wordwrap": "{{ ('x' * 9999999) | wordwrap(1) | length }}",
    "wordwrap with a long break": "{{ ('x ' * 99999) | wordwrap(1, True, 'y' * 99999) | length }}",
    "sum of lists": "{{ ([[1] * 9999] * 9999) | sum(start=[]) | length }}",
    "groupby": "{{ ([{'a': 1}] * 5000000) | groupby('a') | list | length }}",
    "unique": "{{ (range(99999) | list * 90) | unique | list | length }}",
    "sort": "{{ (['a' * 9999] * 9999) | map('replace', 'a', 'bb') | sort | length }}",
    "map": "{{ (['a' * 99999] * 99999) | map('upper') | list | length }}",
    "title": "{{ (('a ' * 4999999) ~ '') | title | title | title | title | title | title | length }}",
    "urlize": "{{ ('http://a.bc ' * 800000) | urlize | length }}",
    "striptags": "{{ ('<a ' * 3000000) | striptags | length }}",
    "escape": "{{ ('<' * 9999999) | escape | escape | escape | escape | length }}",
    "xmlattr": "{{ {'a': '<' * 9999999} | xmlattr | escape | escape | escape | length }}",
    "pprint": "{% set n = namespace(s=[1]) %}{% for i in range(30) %}{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s | pprint | length }}",
    "truncate": "{{ 'x' | truncate(5, True, 'y' * 9999999) | replace('y', 'yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy') | length }}",
    "power": "{{ 9 ** 9 ** 9 }}",
    "product": "{% set n = namespace(s=9) %}{% for i in range(99) %}{% set n.s = n.s * n.s %}{% endfor %}{{ n.s }}",
    "a wide number": "{{ '%999999999d' % 1 }}",
    "a wide format": "{{ '{:999999999}'.format(1) | length }}",
    "a precise format": "{{ '{:.999999999f}'.format(1.5) | length }}",
    "round": "{{ 1.5 | round(99999999999) }}",
    "lipsum": "{{ lipsum(n=100000, min=10, max=1000) | length }}",
    "cycler": "{% set c = cycler(1, 2) %}{% for a in range(99999) %}{{ c.next() }}{% endfor %}{% for a in range(99999) %}{{ c.next() }}{% endfor %}",
    "joiner": "{% set j = joiner('x' * 9999) %}{% for a in range(99999) %}{{ j() }}{% endfor %}",
    "recursive loops": "{% for a in [[[]]] recursive %}{{ loop([a, a]) }}{% endfor %}",
    "split": "{{ ('a,' * 4999999).split(',') | length }}{{ ('a,' * 4999999).split(',') | join('xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx') | length }}",
    "translate": "{{ ('a' * 9999999).translate({97: 'b' * 999}) | length }}",
    "encode": "{{ ('é' * 9999999).encode('unicode_escape').decode().encode('unicode_escape').decode().encode('unicode_escape') | length }}",
    "partition": "{% set n = namespace(s='ab' * 4999999) %}{% for i in range(99999) %}{% set x = n.s.partition('ba') %}{% endfor %}",
    "find": "{% set s = 'a' * 4999999 %}{% for i in range(99999) %}{% set x = s.find('a' * 999 + 'b') %}{% endfor %}",
    "count": "{% set s = 'a' * 9999999 %}{% for i in range(99999) %}{% set x = s.count('a') %}{% endfor %}",
    "deep source": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "wide source": "{{ 1" + " + 1" * 200_000 + " }}",
    "deep lists in the source": "{{ " + "[" * 5000 + "]" * 5000 + " }}",
    "blocks": "".join("{% if true %}" for _ in range(500)) + "x" + "".join("{% endif %}" for _ in range(500)),
}  # fmt: skip


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[Child]:
    child = Child("forescale.tokenizer.templates:render", SECONDS, MEMORY)
    monkeypatch.setattr(chat, "_RENDERER", child)
    yield child
    child._end()


def test_there_are_sixty() -> None:
    assert len(HOSTILE) >= 60


def test_each_ends_in_one_sentence(impatient: Child) -> None:
    talk = conversation(("user", "hi"))
    for name, template in HOSTILE.items():
        tokenizer = with_template("{% for m in messages %}{{ m.content }}{% endfor %}" + template)
        began = time.monotonic()
        try:
            render(talk, tokenizer)
            said = ""
        except UserError as error:
            said = str(error)
        # Twice as a string and as a list of parts, each at most a second, and the start of another child.
        assert time.monotonic() - began < 5, name
        assert "\n" not in said, name
        assert not said or "chat template" in said, name
        # And what is well renders afterwards as before.
        assert render(talk, with_template("{{ messages[0].content }}")), name


def peak_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="/proc is Linux's")
def test_a_child_stays_within_its_memory(impatient: Child) -> None:
    request = {"messages": [], "add_generation_prompt": True, "bos_token": "", "eos_token": ""}
    with pytest.raises((Refused, Exceeded)):
        impatient({**request, "source": doubled("[n.s, n.s] | join")})
    assert impatient({**request, "source": "a"}) == "a"
    assert impatient._process
    assert peak_bytes(impatient._process.pid) < MEMORY


def test_a_child_dies_with_its_parent() -> None:
    program = (
        "import json, os, threading, time\n"
        "from forescale.core.limited import Child\n"
        "child = Child('forescale.tokenizer.templates:render', 2.0)\n"
        "request = {'messages': [], 'add_generation_prompt': True, 'bos_token': '', 'eos_token': ''}\n"
        "child({**request, 'source': 'a'})\n"
        "print(child._process.pid, flush=True)\n"
        f"child({{**request, 'source': {RECURSION!r}}})\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    child = int(parent.stdout.readline())
    time.sleep(0.3)
    parent.kill()
    parent.wait()
    until = time.monotonic() + 15
    while time.monotonic() < until and alive(child):
        time.sleep(0.1)
    assert not alive(child)


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


VALUE = {"b": 1, "a": ["é", 2]}


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"ensure_ascii": True},
        {"indent": 2},
        {"sort_keys": True},
        {"separators": (",", ":")},
        {"separators": (",", ":"), "sort_keys": True, "ensure_ascii": False, "indent": 1},
    ],
)
def test_tojson_takes_what_transformers_takes(arguments: dict) -> None:
    words = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    template = "{{ {'b': 1, 'a': ['é', 2]} | tojson(" + words + ") }}"
    tokenizer = with_template("{{ messages[0].content }}" + template)
    ids = render(conversation(("user", "hi")), tokenizer)
    assert tokenizer.decode(i for i in ids if isinstance(i, int)) == "hi" + json.dumps(
        VALUE, **{"ensure_ascii": False, **arguments}
    )
