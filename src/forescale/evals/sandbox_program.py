"""The process that forks, the processes that it forks for programs, and values between them and the judge.

For `sandbox_helper.py` alone, which describes the whole; imports no forescale.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import operator
import os
import signal
import socket
import struct
import sys
import time
import types
from collections.abc import Callable
from typing import Any, NoReturn

import sandbox_confine as confine

CHANNEL = 3
FORK, END = b"f", b"e"


# --- values on the wire: plain data by its base type, all else by reference


# Of a Decimal: tests may make a whole number of it, which has as many digits.
LARGEST_EXPONENT = 100_000


def encode(value: Any, refer: Callable[[Any], Any]) -> Any:
    """JSON for a value. Subclasses of the plain types go as what they extend; `refer` encodes what is not plain."""
    kind = type(value)
    if value is None or kind in (bool, float, str):
        return value
    if isinstance(value, int):
        value = int.__index__(value)
        return value if -(2**63) < value < 2**63 else ["i", hex(value)]
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, dict):
        return ["d", *(encode(part, refer) for pair in dict.items(value) for part in pair)]
    collections: tuple[tuple[Any, str], ...] = ((list, "l"), (tuple, "t"), (set, "s"), (frozenset, "f"))
    for base, tag in collections:
        if isinstance(value, base):
            return [tag, *(encode(item, refer) for item in base.__iter__(value))]
    if isinstance(value, (bytes, bytearray)):
        return ["b" if isinstance(value, bytes) else "a", bytes(value).hex()]
    if isinstance(value, complex):
        return ["c", value.real, value.imag]
    # Not imported for the sake of a comparison: every module makes every fork dearer.
    if (kind.__module__, kind.__qualname__) == ("decimal", "Decimal"):
        return ["n", str(value)]
    if (kind.__module__, kind.__qualname__) == ("fractions", "Fraction"):
        return ["q", str(value)]
    return ["r", refer(value)]


def decode(data: Any, resolve: Callable[[Any], Any]) -> Any:
    """The value again. Raises some Exception for data that `encode` does not make."""
    if not isinstance(data, list):
        if isinstance(data, dict):
            raise ValueError("not a value")
        return data
    tag, *rest = data
    if tag == "r":
        return resolve(*rest)
    if tag == "i":
        return int(rest[0], 16)
    if tag in ("b", "a"):
        return (bytes if tag == "b" else bytearray).fromhex(rest[0])
    if tag == "n":
        number = importlib.import_module("decimal").Decimal(rest[0])
        if number.is_finite() and abs(number.adjusted()) > LARGEST_EXPONENT:
            raise ValueError("a number that could not be computed with")
        return number
    if tag == "q":
        # Not as text, whose exponents are written out at once: "1e300000000" takes seconds that no signal ends.
        over, _, under = rest[0].partition("/")
        return importlib.import_module("fractions").Fraction(int(over), int(under or "1"))
    values = [decode(item, resolve) for item in rest]
    if tag == "d":
        return dict(zip(values[::2], values[1::2], strict=True))
    if tag == "c":
        return complex(*values)
    makers: dict[str, Callable[[list[Any]], Any]] = {"l": list, "t": tuple, "s": set, "f": frozenset}
    return makers[tag](values)


# --- the program's process


OPERATIONS: dict[str, Callable[..., Any]] = {
    "call": lambda function, *arguments: function(*arguments[:-1], **arguments[-1]),
    "get": getattr,
    "item": operator.getitem,
    "iterate": iter,
    "next": next,
    "length": len,
    "true": bool,
}


def run_program(connection: int, barrier: confine.Barrier) -> NoReturn:
    """Runs in a fresh fork and never returns."""
    leave = os._exit
    try:
        os.setsid()
        confine.end_with_parent()
        os.dup2(connection, CHANNEL)
        os.closerange(CHANNEL + 1, 256)
        sys.setrecursionlimit(1000)
        try:
            barrier.install()
        except OSError as error:
            say({"unable": str(error)})
            leave(1)
        say({"ready": True})
        answer_for_program()
    finally:
        leave(0)


def answer_for_program() -> None:
    request = hear()
    # A module that can be found, since dataclasses and pickling look theirs up.
    module = types.ModuleType("program")
    sys.modules["program"] = module
    names = vars(module)
    objects: list[Any] = []

    def refer(value: Any) -> int:
        objects.append(value)
        return len(objects) - 1

    def define() -> dict[str, Any]:
        exec(compile(request["program"], "<program>", "exec", dont_inherit=True, optimize=0), names)
        return {name: encode(names[name], refer) for name in request["names"] if name in names}

    say(outcome(define))
    while True:
        question = hear()

        def answer(question: dict[str, Any] = question) -> dict[str, Any]:
            arguments = [decode(item, objects.__getitem__) for item in question["to"]]
            value = encode(OPERATIONS[question["do"]](*arguments), refer)
            # Tests may look at what a function did to a list or dict that they gave it.
            changeable = [i for i, old in enumerate(question["to"]) if isinstance(old, list) and old[0] in "ldsa"]
            now = {i: encode(arguments[i], refer) for i in changeable}
            return {"value": value, "changed": [[i, new] for i, new in now.items() if new != question["to"][i]]}

        say(outcome(answer))


def outcome(action: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the action gives, or the names of the exception's class and its bases."""
    try:
        return action()
    except BaseException as error:
        kinds = [kind.__name__ for kind in type(error).__mro__]
    return {"raised": kinds}


def say(message: dict[str, Any]) -> None:
    data = json.dumps(message).encode()
    data = len(data).to_bytes(4, "big") + data
    while data:
        data = data[os.write(CHANNEL, data) :]


def hear() -> Any:
    """The next frame; there is never more than one on its way."""
    data = b""
    while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
        got = os.read(CHANNEL, 1 << 16)
        if not got:
            os._exit(0)
        data += got
    return json.loads(data[4:])


# --- the zygote


def zygote(control: socket.socket, barrier: confine.Barrier) -> None:
    """Loops until the judge is gone. Leaves, which makes the judge leave too, if a scratch folder cannot be cleared."""
    confine.end_with_parent()
    confine.hide()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.closerange(3, control.fileno())
    os.closerange(control.fileno() + 1, 256)
    barrier.prepare()
    children: list[int] = []
    while True:
        order, connections, _, _ = socket.recv_fds(control, 1, 1)
        if order == FORK:
            child = os.fork()
            if child == 0:
                run_program(connections[0], barrier)
            children.append(child)
            os.close(connections[0])
        elif order == END:
            (wait,) = struct.unpack("=d", control.recv(8, socket.MSG_WAITALL))
            ended = reap(children.pop(0), time.monotonic() + wait)
            if barrier.contained and not cleared():
                return
            control.sendall(struct.pack("=i?", *ended))
        else:
            for child in children:
                reap(child, 0.0)
            return


def reap(pid: int, deadline: float) -> tuple[int, bool]:
    """Waits until `deadline` for the process to end, then kills it and its group: exit code, and whether it was killed."""
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), False
        time.sleep(0.001)
    # Its group exists only once it got so far.
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), True


def cleared() -> bool:
    """Empties the scratch folder; False if that cannot be done."""
    folders = [confine.SCRATCH]
    try:
        for folder in folders:
            for entry in list(os.scandir(folder)):
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    os.unlink(entry.path)
        for folder in reversed(folders[1:]):
            os.rmdir(folder)
        return True
    except OSError:
        return False
