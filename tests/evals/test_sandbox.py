"""The sandbox: right verdicts, quickly, from programs that do not want to be judged."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.evals.sandboxes import opened

from forescale.core.errors import UserError
from forescale.evals import sandbox as module
from forescale.evals.sandbox import SAFE, UNSAFE, Kind, Sandbox, Verdict, run_programs, run_programs_patiently

GOOD = "def double(x):\n    return 2 * x\n"
TESTS = "assert double(2) == 4\nassert double(-3) == -6\n"
PASSED = Verdict("passed")


@pytest.fixture(scope="module", params=[*SAFE, *UNSAFE])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with opened(request.param, timeout_seconds=0.5) as sandbox:
        yield sandbox


def test_verdicts_come_in_order() -> None:
    programs = [
        (GOOD, TESTS),
        ("def double(x):\n    return x\n", TESTS),
        ("def double(x):\n    pass\n", TESTS),
        ("def double(x):\n    return 2 *\n", TESTS),
        ("def double(x):\n    return y\n", TESTS),
        ("", TESTS),
        (GOOD, TESTS),
    ]
    expected = ["passed", "failed", "failed", "error", "error", "error", "passed"]
    for workers in (1, 2):
        verdicts = run_programs(programs, timeout_seconds=5.0, workers=workers, unsafe=True)
        assert [verdict.status for verdict in verdicts] == expected
    assert run_programs([]) == []


def test_details_name_the_exception() -> None:
    programs = ["x = 1 / 0\n", "def double(x:\n", "\0", "x = '\ud800'", "class E(ValueError): pass\nraise E"]
    verdicts = run_programs([(program, TESTS) for program in programs], unsafe=True)
    assert verdicts[:2] == [Verdict("error", "ZeroDivisionError"), Verdict("error", "SyntaxError")]
    assert {verdict.status for verdict in verdicts[2:]} == {"error"}
    assert verdicts[4].detail == "E"
    assert run_programs([(GOOD, "assert double(")], unsafe=True) == [Verdict("error", "SyntaxError in the tests")]
    in_the_program = run_programs([("def double(x):\n    assert False", TESTS)], unsafe=True)
    assert in_the_program == [Verdict("error", "AssertionError")]


def test_programs_may_import_and_read() -> None:
    program = (
        "import math, statistics, dataclasses, fractions, random, hashlib, datetime, json, re, decimal, ssl\n" + GOOD
    )
    assert run_programs([(program, TESTS)], timeout_seconds=5.0, unsafe=True) == [PASSED]


def test_late_programs_get_a_second_chance() -> None:
    slow, endless = "import time\ntime.sleep(0.5)\n" + GOOD, "while True: pass"
    programs = [(GOOD, TESTS), (slow, TESTS), (endless, TESTS)]
    statuses = [v.status for v in run_programs_patiently(programs, timeout_seconds=0.2, unsafe=True)]
    assert statuses == ["passed", "passed", "timeout"]


def test_nothing_passes_without_tests() -> None:
    with pytest.raises(UserError, match="no tests"):
        run_programs([(GOOD, TESTS), (GOOD, " \n")])
    with pytest.raises(UserError, match="workers"):
        run_programs([(GOOD, TESTS)], workers=0)
    with pytest.raises(UserError, match="time limit"):
        Sandbox(timeout_seconds=0)


# Each line holds for the program in the process of the tests; so it must hold from the other side of the channel too.
VALUES = """
import collections, decimal, fractions, dataclasses, enum
class Colour(enum.IntEnum):
    RED = 1
class Stack:
    def __init__(self):
        self.items = []
    def push(self, x):
        self.items.append(x)
        return self
    def __len__(self):
        return len(self.items)
    def __getitem__(self, i):
        return self.items[i]
def same(x): return x
def keywords(a, *rest, b=2, **more): return [a, rest, b, more]
def counted(x): return collections.Counter(x)
def squares(n): return (i * i for i in range(n))
def sort(xs): xs.sort()
def add(d, s): d["new"] = s.pop(); s.add(9)
def number(): return Colour.RED
def third(): return fractions.Fraction(1, 3)
def money(): return decimal.Decimal("1.10")
def bad(): raise KeyError("x")
def make(n): return lambda x: x + n
table = {"a": (1, [2.5, None])}
"""
VALUES_TESTS = [
    "for x in (None, True, 0, -1, 2**63, -(2**64), 2**20000, 1.5, -0.0, float('inf'), '', 'é\\ud800', b'\\x00', [], (), {}):"
    " assert same(x) == x and type(same(x)) is type(x)",
    "assert same([(1,), {2}, frozenset({3}), {(4, 5): bytearray(b'6')}, 1j]) == "
    "[(1,), {2}, frozenset({3}), {(4, 5): bytearray(b'6')}, 1j]",
    "assert same(float('nan')) != same(float('nan'))",
    "assert same(True) is True and same(None) is None",
    "assert list(same({3: 1, 1: 2})) == [3, 1]",
    "assert keywords(1, 2, 3, b=4, c=5) == [1, (2, 3), 4, {'c': 5}]",
    "assert counted('aab') == {'a': 2, 'b': 1}",
    "assert list(squares(4)) == [0, 1, 4, 9] and sum(squares(4)) == 14",
    "xs = [3, 1, 2]\nassert sort(xs) is None and xs == [1, 2, 3]",
    "d, s = {}, {7}\nadd(d, s)\nassert d == {'new': 7} and s == {9}",
    "assert number() == 1 and third() * 3 == 1 and str(money()) == '1.10'",
    "from fractions import Fraction\nassert same(Fraction(2, 3)) == Fraction(2, 3)",
    "try:\n    bad()\n    assert False\nexcept KeyError:\n    pass",
    "s = Stack()\nassert s.push(1).push('b') and len(s) == 2 and s[1] == 'b' and s.items == [1, 'b']",
    "assert make(3)(4) == 7",
    "assert same(make) != same",
    "assert table == {'a': (1, [2.5, None])}",
    "def check(candidate):\n    assert candidate([1, 2]) == [1, 2]\ncheck(same)",
]


@pytest.mark.parametrize("tests", VALUES_TESTS)
def test_values_cross_as_they_are(sandbox: Sandbox, tests: str) -> None:
    assert sandbox.run(VALUES, tests) == PASSED


def test_what_tests_cannot_do_is_an_error_and_no_failure(sandbox: Sandbox) -> None:
    assert sandbox.run(VALUES, "assert same(lambda x: x)") == Verdict("error", "TypeError")
    assert sandbox.run(VALUES, "assert same(3).missing") == Verdict("error", "AttributeError")
    assert sandbox.run(VALUES, "bad()") == Verdict("error", "KeyError")
    assert sandbox.run(VALUES, "raise KeyError") == Verdict("error", "KeyError")
    assert sandbox.run(VALUES, "while True: pass").status == "timeout"
    assert sandbox.run(VALUES, "print('in the way of the protocol')\ninput") == PASSED


LEAVING = {
    "SystemExit": "raise SystemExit(0)",
    "sys.exit in the function": "import sys\ndef double(x):\n    sys.exit(0)",
    "os._exit": "import os\nos._exit(0)",
    "forged report": "import os\nos.write(3, b'passed:')\nos._exit(0)",
    "guessed token": "import os\nos.write(3, bytes(24))\nos._exit(0)",
    "captured exits": "import os\nos._exit = os.write = print\nraise SystemExit(0)",
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    "crash": "import sys\nsys.setrecursionlimit(10**8)\ndef double(x):\n    return double([x])",
    "patched AssertionError": "import builtins\nbuiltins.AssertionError = type('E', (Exception,), {})\ndouble = abs",
    "patched builtins": "import builtins\nbuiltins.len = builtins.all = lambda *_: True\ndouble = abs",
    "tracing": "import sys\nsys.settrace(lambda *a: None)\ndouble = abs",
}


@pytest.mark.parametrize("program", LEAVING.values(), ids=LEAVING.keys())
def test_leaving_early_is_no_pass(sandbox: Sandbox, program: str) -> None:
    assert sandbox.run(program + "\n", TESTS).status in ("failed", "error", "timeout")


def test_tests_see_the_builtins_as_they_were(sandbox: Sandbox) -> None:
    tests = "assert len([double(1), double(2)]) == 2 and all([double(1) == 2])\n"
    cheat = "import builtins\nclass Yes:\n    pass\n{}\ndef double(x):\n    return 0\n"
    for patch in ("builtins.all = lambda _: True", "def all(_): return True", "__builtins__['all'] = lambda _: True"):
        assert sandbox.run(cheat.format(patch), tests).status == "failed"


ENDLESS = {
    "loop": "while True: pass",
    "sleep": "import time\ntime.sleep(60)",
    "one long instruction": "x = 10 ** 10 ** 9",
    "output": "while True: print('x' * 10000)",
    "closed pipe": "import os\nos.close(3)\nwhile True: pass",
    "ignored signals": "import signal\nfor s in range(1, 32):\n"
    "    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nwhile True: pass",
}


@pytest.mark.parametrize("program", ENDLESS.values(), ids=ENDLESS.keys())
def test_endless_programs_are_stopped(sandbox: Sandbox, program: str) -> None:
    started = time.monotonic()
    assert sandbox.run(program + "\n", TESTS).status == "timeout"
    assert time.monotonic() - started < 5
    assert sandbox.run(GOOD, TESTS) == PASSED


def test_memory_is_limited(sandbox: Sandbox) -> None:
    assert sandbox.run("x = bytearray(10**9)\n", TESTS) == Verdict("error", "MemoryError")
    assert sandbox.run("x = []\nwhile True: x.append(bytes(10**7))\n", TESTS) == Verdict("error", "MemoryError")


REACHING_OUT = {
    "fork": "import os\nos.fork()",
    "fork bomb": "import os\nwhile True:\n    try: os.fork()\n    except OSError: raise\n",
    "subprocess": "import subprocess\nsubprocess.run(['true'])",
    "os.system": "import os\nassert os.system('true') == 0",
    "socket": "import socket\nsocket.socket()",
    "kill the helper": "import os\nos.kill(os.getppid(), 9)",
    "kill all": "import os\nos.kill(-1, 9)",
    "lift the limits": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "create": "open('/made-in-the-sandbox', 'w')",
    "create in the library": "import os\nopen(os.path.dirname(os.__file__) + '/made-in-the-sandbox', 'w')",
    "append": "open({victim!r}, 'a')",
    "truncate": "import os\nos.truncate({victim!r}, 0)",
    "remove": "import os\nos.remove({victim!r})",
    "rename": "import os\nos.rename({victim!r}, {victim!r} + '2')",
    "chmod": "import os\nos.chmod({victim!r}, 0)",
    "mkdir": "import os\nos.mkdir('/made-in-the-sandbox')",
    "link": "import os\nos.symlink('/', 'made-in-the-sandbox')",
}


@pytest.mark.parametrize("program", REACHING_OUT.values(), ids=REACHING_OUT.keys())
def test_programs_cannot_reach_out(sandbox: Sandbox, program: str, tmp_path: Path) -> None:
    """The program must fail at what it does before it defines a function that would pass."""
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    mode = victim.stat().st_mode
    verdict = sandbox.run(program.format(victim=str(victim)) + "\n" + GOOD, TESTS)
    assert verdict.status == "error"
    assert victim.read_text() == "untouched"
    assert victim.stat().st_mode == mode
    assert os.listdir(tmp_path) == ["victim"]
    for folder in ("/", os.path.dirname(os.__file__)):
        assert not Path(folder, "made-in-the-sandbox").exists()
    assert sandbox.run(GOOD, TESTS) == PASSED


@pytest.mark.parametrize("kind", SAFE)
def test_the_scratch_folder_is_small_and_emptied(kind: Kind) -> None:
    write = "import os, tempfile\nwith open('a', 'w') as f: f.write('x')\nos.mkdir('b')\nopen('b/c', 'w').close()\n"
    found = "import os\nfound = os.listdir() + os.listdir('/tmp')\n"
    fill = "with open('big', 'wb') as f:\n    for _ in range(100): f.write(bytes(1 << 20))\n"
    spread = "for i in range(100):\n    with open(f'big{i}', 'wb') as f: f.write(bytes(1 << 20))\n"
    deep = "import os\npath = '.'\nfor i in range(900):\n    path += '/a'\n    os.mkdir(path)\n"
    with opened(kind, timeout_seconds=5.0) as sandbox:
        for program in (write, found, fill, found, spread, found, deep, found):
            if program is found:
                assert sandbox.run(found, "assert found == []") == PASSED
            else:
                verdict = sandbox.run(program + GOOD, TESTS)
                assert (verdict == PASSED) == (program in (write, deep)), verdict


@pytest.mark.parametrize("kind", UNSAFE)
def test_the_unsafe_mode_writes_nowhere(kind: Kind) -> None:
    with opened(kind) as sandbox:
        assert sandbox.isolation.startswith("unsafe")
        assert sandbox.run("open('a', 'w')\n" + GOOD, TESTS).status == "error"


def test_a_dead_helper_is_replaced() -> None:
    with Sandbox(unsafe=True) as sandbox:
        assert sandbox.run(GOOD, TESTS) == PASSED
        assert sandbox._helper is not None
        before = sandbox._helper.pid
        os.killpg(before, signal.SIGKILL)
        assert sandbox.run(GOOD, TESTS) == PASSED
        assert sandbox._helper.pid != before


def test_a_helper_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "helper.py"
    broken.write_text("raise OSError('no such luck')\n")
    monkeypatch.setattr(module, "_HELPER", broken)
    with pytest.raises(UserError, match="no such luck"):
        run_programs([(GOOD, TESTS)], unsafe=True)


def test_a_program_that_cannot_be_put_behind_the_limits_is_no_verdict(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for part in module._HELPER_PARTS:
        text = part.read_text().replace("limit(self._own)", "raise OSError('no such limit')")
        (tmp_path / part.name).write_text(text)
    monkeypatch.setattr(module, "_HELPER", tmp_path / module._HELPER.name)
    monkeypatch.setattr(Sandbox, "_probe", lambda *_: None)
    with Sandbox(unsafe=True, kinds=("hook",)) as sandbox, pytest.raises(RuntimeError, match="no such limit"):
        sandbox.run(GOOD, TESTS)


def test_the_smallest_memory_is_enough_for_small_programs(sandbox: Sandbox) -> None:
    kind = sandbox._kinds[0]
    with Sandbox(unsafe=True, kinds=(kind,), memory_bytes=64 << 20) as small:
        assert small.run(GOOD, TESTS) == PASSED
        assert small.run("x = bytes(60 << 20)", TESTS) == Verdict("error", "MemoryError")


def test_tests_may_complain_at_length() -> None:
    tests = (
        "import sys\nfor _ in range(100):\n    print('x' * 10000)\n    print('x' * 10000, file=sys.stderr)\n" + TESTS
    )
    assert run_programs([(GOOD, tests)], unsafe=True) == [PASSED]


def test_without_containment_there_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without bubblewrap whose kernel permits no namespaces."""
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(module, "_view", lambda: {"binds": ["/nonexistent"], "links": {}, "hidden": []})
    with pytest.raises(UserError, match=r"bubblewrap: not installed.*namespaces: .*unsafe sandbox"):
        run_programs([(GOOD, TESTS)])
    assert run_programs([(GOOD, TESTS)], unsafe=True) == [PASSED]


def test_isolation_that_does_not_hold_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A view that shows files of the machine's fails the first program of every helper."""
    opened("namespaces").close()
    view = module._view()
    everything = {**view, "binds": [*view["binds"], "/etc"]}
    monkeypatch.setattr(module, "_view", lambda: everything)
    with pytest.raises(UserError, match="was not contained"):
        Sandbox(kinds=("namespaces",))


def test_unsafe_kinds_need_permission() -> None:
    with pytest.raises(UserError, match="allow the unsafe sandbox"):
        Sandbox(kinds=UNSAFE)


def test_other_systems_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.os, "name", "nt")
    with pytest.raises(UserError, match="Linux or macOS"):
        Sandbox()


def test_isolation_is_reported(sandbox: Sandbox) -> None:
    kind = next((kind for kind in SAFE if sandbox.isolation.startswith(kind)), "unsafe")
    assert sandbox.isolation.startswith(kind)
    assert sandbox.isolation.endswith("resource limits")
    assert ("audit hook" in sandbox.isolation) <= (kind == "unsafe")


def test_sets_of_strings_have_one_order() -> None:
    program = "order = list({'a', 'b', 'c', 'd', 'e', 'f'})\n"
    with Sandbox(unsafe=True) as first:
        orders = _tried(first, program)
    with Sandbox(unsafe=True) as second:
        assert _tried(second, program) == orders
    assert any(orders)


def _tried(sandbox: Sandbox, program: str) -> list[bool]:
    return [sandbox.run(program, f"assert order[{i}] == {c!r}\n").passed for i in range(2) for c in "abcdef"]


def test_thousands_are_quick() -> None:
    """A free core runs hundreds a second (benchmarks/sandbox.py); this guards against starting an interpreter for each."""
    started = time.monotonic()
    assert set(run_programs([(GOOD, TESTS)] * 300, timeout_seconds=10.0, unsafe=True)) == {PASSED}
    assert time.monotonic() - started < 15


def forged(value: str) -> str:
    """A program that answers for itself on the channel to the judge: `value` is the JSON of what `add` is said to be."""
    return (
        "import os\n"
        f"m = b'{{\"add\": ' + {value!r}.encode() + b'}}'\n"
        "d = len(m).to_bytes(4, 'big') + m\n"
        "while d: d = d[os.write(3, d):]\n"
        "while True: pass\n"
    )


FORGED = {
    "fraction": '["q", "1e300000000"]',
    "fraction under": '["q", "1/1e300000000"]',
    "decimal": '["n", "1e300000000"]',
    "small decimal": '["n", "1e-300000000"]',
    "many digits": '["q", "' + "9" * 100_000 + '"]',
    "deep": "[" * 5000 + "]" * 5000,
    "deep lists": '["l", ' * 900 + "1" + "]" * 900,
    "no tag": '["z", 1]',
    "unhashable": '["d", ["l"], 1]',
    "no number": '["i", "zz"]',
    "not a list": '{"a": 1}',
    "a reference that is none": '["r", 1e300]',
}


@pytest.mark.parametrize("value", FORGED.values(), ids=FORGED.keys())
def test_values_that_programs_forge_take_no_longer_than_a_program(value: str) -> None:
    with Sandbox(timeout_seconds=0.5, unsafe=True) as sandbox:
        began = time.monotonic()
        verdict = sandbox.run(forged(value), "assert int(add) >= 0 and add + 1 and not add\n")
        assert not verdict.passed
        assert time.monotonic() - began < 4


@pytest.mark.parametrize("kind", [*SAFE, *UNSAFE])
def test_helpers_die_with_their_parent(kind: Kind) -> None:
    opened(kind).close()
    program = (
        "import threading\n"
        "from forescale.evals.sandbox import Sandbox\n"
        f"sandbox = Sandbox(timeout_seconds=60, unsafe=True, kinds=({kind!r},))\n"
        "print(sandbox._helper.pid, flush=True)\n"
        "sandbox.run('def f():\\n    while True: pass\\n', 'f()')\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    helper = int(parent.stdout.readline())
    time.sleep(1)
    below = [helper, *descendants(helper)]
    assert len(below) > 1
    parent.kill()
    parent.wait()
    until = time.monotonic() + 10
    while time.monotonic() < until and any(map(alive, below)):
        time.sleep(0.1)
    assert [pid for pid in below if alive(pid)] == []


def descendants(pid: int) -> list[int]:
    children = [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return children + [pid for child in children for pid in descendants(child)]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False
