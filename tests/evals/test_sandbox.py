"""The sandbox: right verdicts, quickly, from programs that do not want to be judged."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from forescale.core.errors import UserError
from forescale.evals import sandbox as module
from forescale.evals.sandbox import Sandbox, Verdict, run_programs

GOOD = "def double(x):\n    return 2 * x\n"
TESTS = "assert double(2) == 4\nassert double(-3) == -6\n"
PASSED = Verdict("passed")


@pytest.fixture(scope="module", params=[True, False], ids=["kernel", "audit hook"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with Sandbox(timeout_seconds=0.5, kernel_isolation=request.param) as sandbox:
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
    assert [verdict.status for verdict in run_programs(programs, timeout_seconds=5.0)] == expected
    assert [verdict.status for verdict in run_programs(programs, timeout_seconds=5.0, workers=2)] == expected
    assert run_programs([]) == []


def test_details_name_the_exception() -> None:
    programs = ["x = 1 / 0\n", "def double(x:\n", "\0", "x = '\ud800'"]
    verdicts = run_programs([(program, TESTS) for program in programs])
    assert verdicts[:2] == [Verdict("error", "ZeroDivisionError"), Verdict("error", "SyntaxError")]
    assert {verdict.status for verdict in verdicts[2:]} == {"error"}
    assert run_programs([(GOOD, "assert double(")]) == [Verdict("error", "SyntaxError in the tests")]


def test_programs_may_import_and_read() -> None:
    program = "import math, statistics, dataclasses, fractions, random, hashlib, datetime, json, re\n" + GOOD
    assert run_programs([(program, TESTS)], timeout_seconds=5.0) == [PASSED]


def test_nothing_passes_without_tests() -> None:
    with pytest.raises(UserError, match="no tests"):
        run_programs([(GOOD, TESTS), (GOOD, " \n")])
    with pytest.raises(UserError, match="workers"):
        run_programs([(GOOD, TESTS)], workers=0)
    with pytest.raises(UserError, match="time limit"):
        Sandbox(timeout_seconds=0)


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
    "create": "open('made-in-the-sandbox', 'w')",
    "create in /tmp": "import os\nos.open('/tmp/made-in-the-sandbox', os.O_CREAT | os.O_WRONLY)",
    "append": "open({victim!r}, 'a')",
    "truncate": "import os\nos.truncate({victim!r}, 0)",
    "remove": "import os\nos.remove({victim!r})",
    "rename": "import os\nos.rename({victim!r}, {victim!r} + '2')",
    "chmod": "import os\nos.chmod({victim!r}, 0)",
    "mkdir": "import os\nos.mkdir('made-in-the-sandbox')",
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
    assert not Path("/tmp/made-in-the-sandbox").exists()
    assert sandbox.run(GOOD, TESTS) == PASSED


def test_a_dead_helper_costs_one_verdict_and_is_replaced() -> None:
    with Sandbox() as sandbox:
        assert sandbox.run(GOOD, TESTS) == PASSED
        assert sandbox._helper is not None
        os.kill(sandbox._helper.pid, signal.SIGKILL)
        assert sandbox.run(GOOD, TESTS).status == "error"
        assert sandbox.run(GOOD, TESTS) == PASSED


def test_a_helper_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "helper.py"
    broken.write_text("raise OSError('no such luck')\n")
    monkeypatch.setattr(module, "_HELPER", broken)
    with pytest.raises(RuntimeError, match="no such luck"):
        run_programs([(GOOD, TESTS)])


def test_other_systems_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.os, "name", "nt")
    with pytest.raises(UserError, match="Linux or macOS"):
        Sandbox()


def test_isolation_is_reported() -> None:
    with Sandbox() as with_kernel, Sandbox(kernel_isolation=False) as without:
        assert "system-call filter" in with_kernel.isolation or "audit hook" in with_kernel.isolation
        assert without.isolation == "audit hook, resource limits"


def test_sets_of_strings_have_one_order() -> None:
    program = "print_order = list({'a', 'b', 'c', 'd', 'e', 'f'})\n"
    with Sandbox() as first:
        orders = _tried(first, program)
    with Sandbox() as second:
        assert _tried(second, program) == orders


def _tried(sandbox: Sandbox, program: str) -> list[bool]:
    return [sandbox.run(program, f"assert print_order[{i}] == {c!r}\n").passed for i in range(2) for c in "abcdef"]


def test_thousands_are_quick() -> None:
    """A free core runs 400 to 500 a second; this only guards against starting an interpreter for each."""
    started = time.monotonic()
    assert set(run_programs([(GOOD, TESTS)] * 300, timeout_seconds=10.0)) == {PASSED}
    assert time.monotonic() - started < 10
