"""The processes that run untrusted programs. A script that `sandbox.py` starts; imports no forescale.

Its one argument is JSON: `kind`, `seconds` and `memory` (bytes) a program, and for the kind namespaces `view`, the arguments of
`sandbox_confine.enter`.

    judge     reads requests, runs the tests (trusted), and never runs a line of a program
    zygote    forks once per program, ends it and clears up after it; never sees a request
    program   runs one program behind the barrier, and answers the judge's questions about it

Tests and program share no process: the tests hold names of the program's as copies of plain data or as references, and
calling one sends the arguments over and the result back. So the program never sees the tests nor what they expect, and
there is nothing it could say that means "passed".

With the outside: a JSON line in, a JSON line out, in order. The first line out says what isolation was had.

    in    {"program": str, "tests": str}
    out   {"status": "passed" | "failed" | "error" | "timeout", "detail": str}, or {"broken": why}

Between judge and program: frames of four bytes of length and JSON. The program's process says {"ready"} once it is behind
the barrier and only then gets its program; it answers with the values of the names that the tests use; then one answer to
each {"do": operation, "to": arguments}.
"""

from __future__ import annotations

import _thread
import builtins
import contextlib
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
import types
from collections.abc import Iterator
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import sandbox_confine as confine
from sandbox_program import END, FORK, decode, encode, zygote

del sys.path[0]

# What programs like to import, loaded once so that no fork has to.
for name in ("bisect", "collections", "copy", "functools", "heapq", "itertools", "math", "re", "string", "typing"):
    importlib.import_module(name)

LONGEST = 4 << 20
JUDGE_BYTES = 2 << 30
OWN_SECONDS = 3  # of the judge's, beside those of a program
# How often the judge looks whether a program that takes its time fills the scratch folder with files.
LOOK_SECONDS = 0.02


class Stop(BaseException):
    """Ends the tests, whatever they catch. `status` and `detail` are the verdict."""

    def __init__(self, status: str, detail: str) -> None:
        self.status, self.detail = status, detail


class Zygote:
    """The judge's end of the process that forks."""

    def __init__(self, barrier: confine.Barrier) -> None:
        self._control, theirs = socket.socketpair()
        self._ending = False
        if os.fork() == 0:
            try:
                self._control.close()
                zygote(theirs, barrier)
            finally:
                os._exit(1)
        theirs.close()

    def fork(self) -> socket.socket:
        """Starts the next program's process; returns the judge's end of its channel."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [FORK], [theirs.fileno()])
        return ours

    def end(self, wait: float) -> None:
        """Kills the oldest of the programs' processes if it has not ended after `wait` seconds, and clears up after it."""
        self._control.sendall(END + struct.pack("=d", wait))
        self._ending = True

    def ended(self) -> int | None:
        """Waits until nothing is left of what was to end. Its exit code, or minus the signal that it died of; None if it
        had to be killed."""
        if not self._ending:
            return None
        code, killed = struct.unpack("=i?", self._control.recv(5, socket.MSG_WAITALL))
        self._ending = False
        return None if killed else code


class Channel:
    """Asks the program's process, which may answer anything or nothing, until `deadline` (monotonic seconds)."""

    def __init__(self, connection: socket.socket, contained: bool) -> None:
        self._connection = connection
        self._contained = contained
        self.deadline = 0.0
        self.stopped: Stop | None = None
        self.raised: BaseException | None = None
        self.raised_name = ""

    def stop(self, status: str, detail: str) -> Stop:
        """The first reason stands."""
        self.stopped = self.stopped or Stop(status, detail)
        return self.stopped

    def send(self, message: dict[str, Any]) -> None:
        if self.stopped:
            raise self.stopped
        data = json.dumps(message).encode()
        self._connection.settimeout(max(0.001, self.deadline - time.monotonic()))
        try:
            self._connection.sendall(len(data).to_bytes(4, "big") + data)
        except TimeoutError:
            raise self.stop("timeout", "") from None
        except OSError:
            raise self.stop("error", "") from None

    def receive(self) -> dict[str, Any]:
        """Raises Stop for anything but one frame in time."""
        data, length = b"", 0
        while len(data) < 4 or len(data) < length:
            data += self._some()
            length = 4 + int.from_bytes(data[:4], "big")
            if length > LONGEST:
                raise self.stop("error", "gave back too much")
        try:
            answer = json.loads(data[4:])
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise self.stop("error", "wrote to a channel that is not its own")
        return answer

    def _some(self) -> bytes:
        while True:
            left = self.deadline - time.monotonic()
            if left <= 0:
                raise self.stop("timeout", "")
            self._connection.settimeout(min(left, LOOK_SECONDS))
            try:
                data = self._connection.recv(1 << 20)
            except TimeoutError:
                if self._contained:
                    numbers = os.statvfs(confine.SCRATCH)
                    if numbers.f_files - numbers.f_ffree > confine.SCRATCH_FILES:
                        raise self.stop("error", "made too many files") from None
                continue
            except OSError:
                data = b""
            if not data:
                raise self.stop("error", "")
            return data

    def ask(self, operation: str, *arguments: Any) -> Any:
        """What the operation gives. Raises what the program raised, as the builtin exception that it comes closest to."""
        self.send({"do": operation, "to": [encode(argument, reference) for argument in arguments]})
        answer = self.value(self.receive())
        value = self.decoded(answer["value"])
        for index, new in answer["changed"]:
            replace(arguments[index], self.decoded(new))
        return value

    def value(self, answer: dict[str, Any]) -> dict[str, Any]:
        """The answer, unless it says that the program raised something."""
        if "raised" not in answer:
            return answer
        kinds = [str(kind) for kind in answer["raised"]]
        known = (getattr(builtins, kind, None) for kind in kinds)
        best = next((kind for kind in known if isinstance(kind, type) and issubclass(kind, BaseException)), Exception)
        self.raised = best.__new__(best)
        self.raised_name = kinds[0][:80]
        raise self.raised

    def decoded(self, data: Any) -> Any:
        return decode(data, lambda number: Reference(self, int(number)))


class Reference:
    """Something of the program's that is not plain data: a function, a class, an object, a generator.

    It equals nothing but itself: the program's `__eq__` is not asked.
    """

    def __init__(self, channel: Channel, number: int) -> None:
        self.__channel, self.__number = channel, number

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self.__channel.ask("call", self, *arguments, keywords)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.__channel.ask("get", self, name)

    def __getitem__(self, key: Any) -> Any:
        return self.__channel.ask("item", self, key)

    def __iter__(self) -> Iterator[Any]:
        iterator = self.__channel.ask("iterate", self)
        while True:
            try:
                value = self.__channel.ask("next", iterator)
            except StopIteration:
                return
            yield value

    def __len__(self) -> int:
        return int(self.__channel.ask("length", self))

    def __bool__(self) -> bool:
        return self.__channel.ask("true", self) is True


def reference(value: Any) -> int:
    if type(value) is Reference:
        return int(vars(value)["_Reference__number"])
    raise TypeError("tests can hand plain data to a program, and what they got from it")


def replace(old: Any, new: Any) -> None:
    """Makes an argument's content what the program made of it."""
    if type(old) is not type(new):
        raise ValueError("not what was sent")
    if isinstance(old, (list, bytearray)):
        old[:] = new
    elif isinstance(old, (dict, set)):
        old.clear()
        old.update(new)


def names_in(code: types.CodeType) -> set[str]:
    """Every global name and attribute that the code or a function in it mentions."""
    inner = (names_in(constant) for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*inner)


class Judge:
    """Runs requests one after the other. While a program runs, the next one's process is made ready behind the barrier; it
    gets its program when nothing is left of the one before."""

    def __init__(self, barrier: confine.Barrier, seconds: float) -> None:
        self._barrier = barrier
        self._seconds = seconds
        self._zygote = Zygote(barrier)
        self._spare = self._zygote.fork()
        self._channel: Channel | None = None
        signal.signal(signal.SIGALRM, self._alarm)
        # Tests are trusted, but they compute with what programs give back.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (JUDGE_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))

    def _alarm(self, *_: Any) -> None:
        if self._channel is not None:
            raise self._channel.stop("timeout", "")

    def verdict(self, request: dict[str, str]) -> dict[str, str]:
        connection = self._spare
        channel = Channel(connection, self._barrier.contained)
        channel.deadline = time.monotonic() + 10.0
        hello = channel.receive()
        if "ready" not in hello:
            return {"broken": str(hello.get("unable"))}
        self._zygote.ended()
        self._spare = self._zygote.fork()
        channel.deadline = time.monotonic() + self._seconds
        self._limit_own_time()
        try:
            status, detail = self._judged(channel, request)
        except Stop as stop:
            status, detail = stop.status, stop.detail
        self._channel = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        # Tests that swallowed the Stop, or finished in spite of it, did not pass.
        if channel.stopped is not None:
            status, detail = channel.stopped.status, channel.stopped.detail
        connection.close()
        gone = (status, detail) == ("error", "")
        self._zygote.end(channel.deadline - time.monotonic() if gone else 0.0)
        if gone:
            code = self._zygote.ended()
            if code is None or code == -signal.SIGXCPU:
                status = "timeout"
            else:
                detail = f"killed by signal {-code}" if code < 0 else "ended before its tests did"
        if status == "timeout":
            detail = f"after {self._seconds:g} s"
        return {"status": status, "detail": detail}

    def _limit_own_time(self) -> None:
        """The kernel ends this process if it computes much longer than a program may: a computation in C hears no signal, and
        whoever would notice from outside may have been killed."""
        with contextlib.suppress(ValueError, OSError):
            limit = int(time.process_time() + self._seconds) + OWN_SECONDS
            resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))

    def _judged(self, channel: Channel, request: dict[str, str]) -> tuple[str, str]:
        try:
            tests = compile(request["tests"], "<tests>", "exec", dont_inherit=True, optimize=0)
        except (SyntaxError, ValueError):
            return "error", "SyntaxError in the tests"
        wanted = sorted(names_in(tests) - vars(builtins).keys())
        try:
            self._channel = channel
            # Before anything of the program's is read, and again and again, should the tests catch the first.
            signal.setitimer(signal.ITIMER_REAL, max(0.001, channel.deadline - time.monotonic()), 0.2)
            channel.send({"program": request["program"], "names": wanted})
            defined = channel.value(channel.receive())
            names = {name: channel.decoded(defined[name]) for name in wanted if name in defined}
            names["__name__"] = "tests"
            exec(tests, names)
        except Stop:
            raise
        except BaseException as error:
            if error is channel.raised:
                return "error", channel.raised_name
            return ("failed", "") if isinstance(error, AssertionError) else ("error", type(error).__name__[:80])
        return "passed", ""


def end_with_input(fd: int) -> None:
    """Ends this process, whatever it does, when nobody is left who could ask: then nobody waits for the answer either."""
    watch = select.poll()
    watch.register(fd, 0)  # hanging up alone
    watch.poll()
    os._exit(1)


def main() -> None:
    options: dict[str, Any] = json.loads(sys.argv[1])
    # They name folders of the user's.
    sys.argv[:], sys.orig_argv[:] = ["program"], []
    kind, seconds = options["kind"], options["seconds"]
    contained = kind in ("bubblewrap", "namespaces")
    names = [kind] if contained else ["unsafe"]
    if kind == "namespaces":
        try:
            confine.enter(**options["view"])
        except OSError as error:
            sys.exit(error.strerror or str(error))
        judge = os.fork()
        if judge:
            for fd in (0, 1):
                os.close(fd)
            os.waitpid(judge, 0)
            os._exit(0)
        confine.drop_privileges()
    elif kind == "filter" and confine.leave_the_network():
        names.append("no network")
    if contained:
        # Not where the parent is forescale itself: this would end with the thread that started it.
        confine.end_with_parent()
    confine.hide()
    barrier = confine.Barrier(options["memory"], seconds, contained, use_filter=kind != "hook")
    if kind == "filter" and not barrier.has_filter:
        sys.exit("the kernel takes no system-call filter")
    if barrier.has_filter:
        names.append("system-call filter")
    elif not contained:
        names.append("audit hook")
    names.append("resource limits")
    # The tests may print and read without getting between the lines of the protocol.
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "w")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    # The first compilation in a process sets up the syntax tree's types: half of a fork's time, unless done here.
    exec(compile("x = 0\n", "<program>", "exec"), {})
    gc.collect()
    gc.freeze()
    judge_process = Judge(barrier, seconds)
    # Not before: a fork takes no thread along.
    _thread.start_new_thread(end_with_input, (requests.fileno(),))
    print(json.dumps({"isolation": ", ".join(names)}), file=answers, flush=True)
    # Nobody reads complaints from here on, and a full pipe would stop the judge.
    os.dup2(null, 2)
    for line in requests:
        print(json.dumps(judge_process.verdict(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
