"""The process that runs untrusted programs, one fork each. A script that `sandbox.py` starts; imports no forescale.

Protocol: a JSON line in, a JSON line out, in order. The first line out says what isolation was had.

    in    {"program": str, "tests": str, "timeout": seconds, "memory": bytes}
    out   {"status": "passed" | "failed" | "error" | "timeout", "detail": str}
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import gc
import importlib
import json
import math
import os
import resource
import select
import signal
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

# What programs like to import, loaded once so that no fork has to.
for name in ("bisect", "collections", "copy", "functools", "heapq", "itertools", "operator", "re", "string", "typing"):
    importlib.import_module(name)

CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWNET = 0x08000000, 0x10000000, 0x40000000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
OPEN_FOR_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

# System calls that pure computation needs, by number: (x86_64, aarch64); None where there is no such call. All others,
# among them fork, clone, exec, kill, socket, unlink, rename, prlimit, are refused. `openat` may only read.
ALLOWED: dict[str, tuple[int | None, int | None]] = {
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "fstat": (5, 80), "stat": (4, None), "lstat": (6, None),
    "lseek": (8, 62), "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "pread64": (17, 67),
    "access": (21, None), "sched_yield": (24, 124), "mremap": (25, 216), "madvise": (28, 233), "dup": (32, 23),
    "nanosleep": (35, 101), "getpid": (39, 172), "exit": (60, 93), "uname": (63, 160), "getcwd": (79, 17),
    "readlink": (89, None), "gettimeofday": (96, 169), "getrusage": (98, 165), "times": (100, 153),
    "getuid": (102, 174), "getgid": (104, 176), "geteuid": (107, 175), "getegid": (108, 177), "getppid": (110, 173),
    "sigaltstack": (131, 132), "gettid": (186, 178), "time": (201, None), "futex": (202, 98),
    "sched_getaffinity": (204, 123), "getdents64": (217, 61), "restart_syscall": (219, 128),
    "clock_gettime": (228, 113), "clock_nanosleep": (230, 115), "exit_group": (231, 94), "newfstatat": (262, 79),
    "readlinkat": (267, 78), "faccessat": (269, 48), "getrandom": (318, 278), "statx": (332, 291),
    "faccessat2": (439, 439),
}  # fmt: skip
OPENAT = (257, 56)
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}


def seccomp_filter() -> bytes | None:
    """The BPF program for this machine, or None where none is written."""
    if sys.platform != "linux" or os.uname().machine not in ARCHITECTURES or struct.calcsize("P") != 8:
        return None
    column, audit_arch = ARCHITECTURES[os.uname().machine]
    load, equal, masked, give = 0x20, 0x15, 0x45, 0x06
    allow, deny = 0x7FFF0000, 0x00050001  # the latter: errno EPERM
    instructions = [
        (load, 0, 0, 4),  # architecture
        (equal, 1, 0, audit_arch),
        (give, 0, 0, 0x80000000),  # kill the process
        (load, 0, 0, 0),  # system call number; x32 numbers have a high bit and match nothing below
        (equal, 0, 4, OPENAT[column]),  # anything else: on to the list
        (load, 0, 0, 32),  # low half of openat's third argument, the flags
        (masked, 0, 1, OPEN_FOR_WRITING),
        (give, 0, 0, deny),
        (give, 0, 0, allow),
    ]
    for numbers in ALLOWED.values():
        number = numbers[column]
        if number is not None:
            instructions += [(equal, 0, 1, number), (give, 0, 0, allow)]
    instructions.append((give, 0, 0, deny))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)


class Isolation:
    """What this machine lets us have. `install` puts the calling process behind it for good."""

    def __init__(self, use_kernel: bool) -> None:
        self.names: list[str] = []
        self.libc = ctypes.CDLL(None, use_errno=True)
        code = seccomp_filter() if use_kernel else None
        self.code = ctypes.create_string_buffer(code, len(code)) if code else None
        if use_kernel and sys.platform == "linux" and self._unshare():
            self.names.append("no network")
        if self.code is not None and not self._works():
            self.code = None
        self.names.append("system-call filter" if self.code is not None else "audit hook")
        self.names.append("resource limits")

    def _unshare(self) -> bool:
        """Leaves the network for an empty one. The user namespace also takes away what root could do outside."""
        try:
            return self.libc.unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC) == 0
        except AttributeError:
            return False

    def _works(self) -> bool:
        """Whether a child behind the filter is in fact refused a fork, and can still read a file."""
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                self.install()
                with open(__file__, "rb") as file:
                    file.read(1)
                try:
                    os.fork()
                except PermissionError:
                    status = 0
            finally:
                os._exit(status)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    def install(self) -> None:
        if self.code is None:
            sys.addaudithook(refuse)
            return
        program = struct.pack("@HP", len(self.code) // 8, ctypes.addressof(self.code))
        if self.libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or self.libc.prctl(PR_SET_SECCOMP, 2, program, 0, 0):
            raise OSError(ctypes.get_errno(), "cannot install the system-call filter")


REFUSED = (
    "os.", "shutil.", "subprocess.", "socket.", "ctypes.", "pty.", "fcntl.", "resource.", "signal.pthread_kill",
    "ftplib.", "smtplib.", "urllib.", "webbrowser.", "tempfile.", "sqlite3.", "mmap.", "syslog.",
)  # fmt: skip
HARMLESS = frozenset({"os.listdir", "os.scandir", "os.walk", "os.fwalk"})


def refuse(event: str, arguments: tuple[object, ...]) -> None:
    """Where the kernel offers no filter: refuses what Python reports of processes, files and sockets."""
    if event == "open":
        mode, flags = arguments[1], arguments[2]
        if (isinstance(mode, str) and mode.strip("rbtU")) or (isinstance(flags, int) and flags & OPEN_FOR_WRITING):
            raise PermissionError("the sandbox refuses to open files for writing")
    elif event.startswith(REFUSED) and event not in HARMLESS:
        raise PermissionError(f"the sandbox refuses {event}")


def limit(memory: int, seconds: float) -> None:
    cpu = math.ceil(seconds) + 1
    for name, value in (
        ("RLIMIT_CORE", 0),
        ("RLIMIT_FSIZE", 0),
        ("RLIMIT_NOFILE", 16),
        ("RLIMIT_NPROC", 0),
        ("RLIMIT_CPU", cpu),
        ("RLIMIT_AS", memory),
    ):
        which = getattr(resource, name, None)
        if which is not None:
            try:
                resource.setrlimit(which, (value, value))
            except (ValueError, OSError):
                # macOS refuses some limits outright; the wall clock still holds.
                if sys.platform == "linux":
                    raise


def harness(program: str, tests: str) -> Callable[[], None]:
    """A function that runs the program, then its tests.

    What the tests rely on is taken before the program can touch it, and they get the program's names without those that
    would hide a builtin.
    """
    pristine = dict(vars(builtins))
    compiled_tests = compile(tests, "<tests>", "exec", dont_inherit=True, optimize=0)
    settrace, setprofile = sys.settrace, sys.setprofile

    def run() -> None:
        names: dict[str, object] = {"__builtins__": dict(pristine), "__name__": "program"}
        exec(compile(program, "<program>", "exec", dont_inherit=True, optimize=0), names)
        settrace(None)
        setprofile(None)
        tested = {name: value for name, value in names.items() if name not in pristine}
        tested |= {"__builtins__": dict(pristine), "__name__": "tests"}
        exec(compiled_tests, tested)

    return run


def child(request: dict[str, Any], isolation: Isolation, report_fd: int, token: bytes) -> None:
    """Runs in the forked process and never returns. Only the token, written after the tests, counts as a pass."""
    write, leave, assertion = os.write, os._exit, AssertionError
    message = b"error:could not be isolated"
    try:
        os.setsid()
        if sys.platform == "linux":
            isolation.libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            isolation.libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.dup2(report_fd, 3)
        os.closerange(4, 256)
        sys.setrecursionlimit(1000)
        message = b"error:SyntaxError in the tests"
        run = harness(request["program"], request["tests"])
        message = b"error:could not be isolated"
        limit(request["memory"], request["timeout"])
        isolation.install()
        message = b"error:unknown"
        run()
        message = token
    except assertion as error:
        in_tests = innermost_file(error) == "<tests>"
        message = b"failed:" if in_tests else b"error:AssertionError"
    except BaseException as error:
        if message == b"error:unknown":
            message = b"error:" + type(error).__name__[:80].encode("ascii", "replace")
    finally:
        try:
            write(3, message)
        finally:
            leave(0)


def innermost_file(error: BaseException) -> str:
    """File name of the code that raised: an assertion of the tests, or one inside the program."""
    trace, name = error.__traceback__, ""
    while trace is not None:
        name, trace = trace.tb_frame.f_code.co_filename, trace.tb_next
    return name


def supervise(request: dict[str, Any], isolation: Isolation) -> dict[str, str]:
    """Forks, waits for the report or the clock, and leaves nothing of the child behind."""
    token = os.urandom(24)
    read_fd, write_fd = os.pipe()
    deadline = time.monotonic() + request["timeout"]
    pid = os.fork()
    if pid == 0:
        child(request, isolation, write_fd, token)
    os.close(write_fd)
    message = b""
    expired = False
    while len(message) < 256:
        if not select.select([read_fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
            expired = True
            break
        data = os.read(read_fd, 256)
        if not data:
            break
        message += data
        if message == token:
            break
    os.close(read_fd)
    status = reap(pid, deadline if not (message or expired) else 0.0)
    if message == token:
        return {"status": "passed", "detail": ""}
    late = not message and time.monotonic() >= deadline
    if expired or late or status == -signal.SIGXCPU:
        return {"status": "timeout", "detail": f"after {request['timeout']:g} s"}
    kind, _, detail = message.decode("ascii", "replace").partition(":")
    if kind in ("failed", "error"):
        return {"status": kind, "detail": detail}
    ended = f"killed by signal {-status}" if status < 0 else "ended before its tests did"
    return {"status": "error", "detail": ended}


def reap(pid: int, deadline: float) -> int:
    """Exit code, or minus the signal. Waits until `deadline` for the child to end, then kills it and its group."""
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            kill_group(pid)
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    kill_group(pid)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def main() -> None:
    isolation = Isolation(use_kernel="--no-kernel" not in sys.argv)
    # The first compilation in a process sets up the syntax tree's types: half of a fork's time, unless done here.
    harness("x = 0\n", "assert x == 0\n")()
    gc.collect()
    gc.freeze()
    print(json.dumps({"isolation": ", ".join(isolation.names)}), flush=True)
    for line in sys.stdin:
        print(json.dumps(supervise(json.loads(line), isolation)), flush=True)


if __name__ == "__main__":
    main()
