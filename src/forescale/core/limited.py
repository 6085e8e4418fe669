"""Foreign computing in a process of its own, with a clock and a limit on memory: chat templates, tokenizer files.

    child = Child("forescale.tokenizer.templates:render")
    text = child({"source": ..., "messages": ...})     # JSON there and back

A child is started at the first call and kept. One that takes too long or dies is killed, said to be in one sentence, and another is
started at the next call. It ends with its parent: its input ends, and the kernel limits what a call may compute after that.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from typing import Any

SECONDS = 5.0  # of the clock, for one call
MEMORY_BYTES = 500_000_000
LONGEST = 64 << 20  # bytes of an answer


class Exceeded(Exception):
    """A call went past a limit; the message says which, as the end of a sentence ("it took ...")."""


class Refused(Exception):
    """The function raised; the message is its own."""


class Child:
    """Calls `function` ("module:name") in a child process; arguments and results are what JSON can hold.

    Raises Refused for whatever the function raised, Exceeded if it took more than `seconds` or `memory_bytes`.
    """

    def __init__(self, function: str, seconds: float = SECONDS, memory_bytes: int = MEMORY_BYTES) -> None:
        self.function, self.seconds, self.memory_bytes = function, seconds, memory_bytes
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def __call__(self, argument: Any) -> Any:
        with self._lock:
            process = self._started()
            try:
                said = self._exchange(process, json.dumps(argument).encode() + b"\n")
            except BaseException:
                self._end()
                raise
        if "error" in said:
            raise Refused(said["error"])
        return said["value"]

    def _started(self) -> subprocess.Popen[bytes]:
        # A forked process must not talk to its parent's child.
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            self._owner = os.getpid()
            words = [
                sys.executable,
                "-m",
                "forescale.core.limited",
                self.function,
                str(self.seconds),
                str(self.memory_bytes),
            ]
            self._process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
            )
            atexit.register(self._end)
            # Imports are not the call's time; a machine in use may take long over them.
            self._read(self._process, time.monotonic() + 60)
        return self._process

    def _exchange(self, process: subprocess.Popen[bytes], line: bytes) -> Any:
        assert process.stdin is not None
        until = time.monotonic() + self.seconds
        try:
            process.stdin.write(line)
            process.stdin.flush()
        except BrokenPipeError:
            raise Exceeded("it ended before it answered") from None
        return json.loads(self._read(process, until))

    def _read(self, process: subprocess.Popen[bytes], until: float) -> bytes:
        assert process.stdout is not None
        data = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not data.endswith(b"\n"):
                if not selector.select(max(0.0, until - time.monotonic())):
                    raise Exceeded(f"it took more than {self.seconds:g} seconds")
                some = os.read(process.stdout.fileno(), 1 << 20)
                data += some
                if not some:
                    raise Exceeded(
                        f"it took more than {self.seconds:g} seconds or {self.memory_bytes / 1e6:.0f} MB, or broke"
                    )
                if len(data) > LONGEST:
                    raise Exceeded(f"it gave more than {LONGEST >> 20} MB")
        return bytes(data)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
            process.wait()


def serve(function: str, seconds: float, memory_bytes: int) -> None:
    """What the child does: a line of JSON in, one out, until its input ends."""
    import resource

    module, name = function.split(":")
    call = getattr(importlib.import_module(module), name)
    answers = os.fdopen(os.dup(1), "wb")
    # What is computed may print; that is no answer.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    answers.write(b"ready\n")
    answers.flush()
    for line in sys.stdin.buffer:
        with contextlib.suppress(ValueError, OSError):
            limit = int(time.process_time() + seconds) + 2
            resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))
        try:
            said: dict[str, Any] = {"value": call(json.loads(line))}
            data = json.dumps(said)
        except MemoryError:
            data = json.dumps({"error": f"it asks for more than {memory_bytes / 1e6:.0f} MB"})
        except BaseException as error:  # the tokenizers library panics with a BaseException of its own
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            data = json.dumps({"error": first[:500]})
        answers.write(data.encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    serve(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
