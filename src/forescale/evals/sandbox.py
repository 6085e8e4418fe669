"""Runs untrusted Python programs against their tests: thousands of tiny ones, quickly.

One helper process forks once per program. In the fork, before the program's first line runs:

- resource limits: processor time, memory, no new processes, no file growth, 16 open files, no core dumps;
- its own session, no standard streams, an empty temporary working directory, no environment;
- on Linux (x86-64, arm64) a system-call filter that allows computing and reading files, and refuses all else: no
  processes, signals, sockets, writing, removing or renaming, and no way to lift the limits;
- where user namespaces are to be had, a network with nothing in it.

`Sandbox.isolation` says which of these this machine gave. Where there is no system-call filter a Python audit hook
stands in for it: it keeps out accidents and no one with intent.

A program passes only if its process hands over a random token after all tests have run, so exiting early, printing or
crashing never counts. Tests see the builtins as they were before the program ran, and a program's names that hide a
builtin are hidden from the tests in turn (so no function under test may be called `sum`).

What this does not contain: a program can read every file that you can read (it can send nothing anywhere, and only a
verdict and an exception's name come back). It shares its process with the tests, so a program written for the purpose
can find the token through frames, or return objects whose `__eq__` says yes to everything. Models that would do so need
a stronger sandbox than this one.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, TypedDict

from forescale.core.errors import UserError

_HELPER = Path(__file__).with_name("sandbox_helper.py")
# Beyond a program's own limit: the fork, the kill, and a machine that is busy.
_GRACE_SECONDS = 10.0
_START_SECONDS = 30.0


Status = Literal["passed", "failed", "error", "timeout"]


class _Answer(TypedDict, total=False):
    """A line from the helper: its greeting has `isolation`, every other line the rest."""

    isolation: str
    status: Status
    detail: str


@dataclass(frozen=True)
class Verdict:
    """`failed`: a test's assertion did not hold. `error`: anything else that went wrong, named in `detail`."""

    status: Status
    detail: str = ""

    @property
    def passed(self) -> bool:
        return self.status == "passed"


def run_programs(
    programs: Sequence[tuple[str, str]],
    *,
    timeout_seconds: float = 1.0,
    memory_bytes: int = 256 << 20,
    workers: int = 1,
) -> list[Verdict]:
    """A verdict for each (program source, tests source), in order.

    `timeout_seconds` is wall time a program, `memory_bytes` its whole address space, the interpreter's own included.
    Raises UserError for empty tests or where there is no POSIX, RuntimeError if the helper process cannot be started.
    """
    for i, (_, tests) in enumerate(programs):
        if not tests.strip():
            raise UserError(f"program {i} has no tests, so nothing could fail; give it at least one assertion.")
    if workers < 1:
        raise UserError(f"cannot run programs with {workers} workers; give at least 1.")

    def run_share(share: Sequence[tuple[str, str]]) -> list[Verdict]:
        with Sandbox(timeout_seconds=timeout_seconds, memory_bytes=memory_bytes) as sandbox:
            return [sandbox.run(program, tests) for program, tests in share]

    if not programs:
        return []
    if workers == 1:
        return run_share(programs)
    verdicts: list[Verdict] = [Verdict("error", "not run")] * len(programs)
    with ThreadPoolExecutor(workers) as pool:
        starts = range(min(workers, len(programs)))
        for start, share in zip(starts, pool.map(run_share, [programs[start::workers] for start in starts])):
            verdicts[start::workers] = share
    return verdicts


class Sandbox:
    """A running helper process, for callers with programs that come one at a time. Use as a context manager.

    `kernel_isolation=False` does without system-call filter and namespaces, as on machines that have none.
    """

    def __init__(
        self, *, timeout_seconds: float = 1.0, memory_bytes: int = 256 << 20, kernel_isolation: bool = True
    ) -> None:
        if os.name != "posix":
            raise UserError("running untrusted programs needs Linux or macOS; run this stage there or in WSL.")
        if timeout_seconds <= 0 or memory_bytes < 64 << 20:
            raise UserError("the sandbox needs a time limit above 0 seconds and at least 67108864 bytes of memory.")
        self.timeout_seconds = timeout_seconds
        self.memory_bytes = memory_bytes
        self.isolation = ""
        self._kernel_isolation = kernel_isolation
        self._helper: subprocess.Popen[bytes] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="forescale-sandbox-")
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._stop()
        self._folder.cleanup()

    def run(self, program: str, tests: str) -> Verdict:
        """Runs one program. If the helper does not survive it, the verdict is an error and a new helper is started."""
        if not tests.strip():
            raise UserError("the program has no tests, so nothing could fail; give it at least one assertion.")
        request = {
            "program": program,
            "tests": tests,
            "timeout": self.timeout_seconds,
            "memory": self.memory_bytes,
        }
        answer = self._ask(json.dumps(request).encode() + b"\n")
        if answer is None:
            self._stop()
            self._start()
            return Verdict("error", "took the sandbox's helper down")
        return Verdict(answer["status"], answer["detail"])

    def _start(self) -> None:
        arguments = [] if self._kernel_isolation else ["--no-kernel"]
        # -P -s -S and an environment of our own are what -I means, except that hashing stays reproducible.
        self._helper = subprocess.Popen(
            [sys.executable, "-P", "-s", "-S", str(_HELPER), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self._folder.name,
            env={"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"},
            start_new_session=True,
        )
        hello = self._read(_START_SECONDS)
        if hello is None:
            self._helper.kill()
            _, complaint = self._helper.communicate()
            text = complaint.decode(errors="replace")[-2000:]
            raise RuntimeError(f"the sandbox's helper process did not start: {text}")
        self.isolation = hello["isolation"]

    def _stop(self) -> None:
        if self._helper is not None:
            self._helper.kill()
            self._helper.wait()
            for stream in (self._helper.stdin, self._helper.stdout, self._helper.stderr):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
            self._helper = None

    def _ask(self, line: bytes) -> _Answer | None:
        assert self._helper is not None
        assert self._helper.stdin is not None
        try:
            self._helper.stdin.write(line)
            self._helper.stdin.flush()
        except BrokenPipeError:
            return None
        return self._read(self.timeout_seconds + _GRACE_SECONDS)

    def _read(self, seconds: float) -> _Answer | None:
        """The helper's next line, or None if it died or stayed silent. One line is in flight at most."""
        assert self._helper is not None
        assert self._helper.stdout is not None
        if not select.select([self._helper.stdout], [], [], seconds)[0]:
            return None
        line = self._helper.stdout.readline()
        if not line.endswith(b"\n"):
            return None
        answer: _Answer = json.loads(line)
        return answer
