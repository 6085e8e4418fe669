"""Programs that attack: each is contained and scored as a failure, the next one runs as ever, and no process is left over."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.evals.sandboxes import opened

from forescale.evals.sandbox import SAFE, Sandbox, Verdict

GOOD = "def double(x):\n    return 2 * x\n"
# The marker stands for anything that only the tests know.
TESTS = """
expected = {2: 4, -3: -6, "marker-7141": "marker-7141marker-7141"}
for x in expected:
    assert double(x) == expected[x]
"""


@dataclass(frozen=True)
class Machine:
    """A sandbox, and things of the user's that no program in it may reach."""

    sandbox: Sandbox
    port: int
    unix: str
    abstract: str
    secret: Path

    def processes(self) -> set[int]:
        """The helper and all that descend from it."""
        parents = {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                except (OSError, IndexError):
                    continue
        assert self.sandbox._helper is not None
        found = {self.sandbox._helper.pid}
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return found

    def settles(self) -> bool:
        """Whether the helper soon consists of what it needs: a starter, judge, zygote and one process made ready."""
        until = time.monotonic() + 5
        while time.monotonic() < until:
            if len(self.processes()) == 4:
                return True
            time.sleep(0.01)
        return False


@pytest.fixture(scope="module", params=SAFE)
def machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("home")
    secret = folder / "secret"
    secret.write_text("the user's secret")
    abstract = f"\0forescale-test-{os.getpid()}"
    with (
        pytest.MonkeyPatch.context() as patch,
        socket.create_server(("127.0.0.1", 0)) as internet,
        socket.socket(socket.AF_UNIX) as unix,
        socket.socket(socket.AF_UNIX) as nameless,
    ):
        patch.setenv("FORESCALE_TEST_SECRET", "in the environment")
        unix.bind(str(folder / "s"))
        unix.listen()
        nameless.bind(abstract)
        nameless.listen()
        with opened(request.param, timeout_seconds=0.5) as sandbox:
            yield Machine(sandbox, internet.getsockname()[1], str(folder / "s"), abstract, secret)
            before = Machine(sandbox, 0, "", "", secret).processes()
        until = time.monotonic() + 5
        while any(Path(f"/proc/{pid}").exists() for pid in before) and time.monotonic() < until:
            time.sleep(0.01)
        assert not [pid for pid in before if Path(f"/proc/{pid}").exists()]


def judged(machine: Machine, program: str, tests: str = TESTS) -> Verdict:
    """The verdict, after checking that the sandbox is as good as new."""
    assert machine.sandbox._helper is not None
    helper = machine.sandbox._helper.pid
    verdict = machine.sandbox.run(program, tests)
    assert machine.sandbox.run(GOOD, TESTS) == Verdict("passed")
    assert machine.sandbox._helper.pid == helper
    assert machine.settles()
    return verdict


def read(*paths: str) -> str:
    return f"""
for path in {paths!r}:
    try:
        with open(path, "rb") as file:
            succeeded = bool(file.read(1)) or succeeded
    except OSError:
        pass
"""


def raising(*statements: str) -> str:
    """Succeeds if one of the statements raises nothing."""
    lines = []
    for statement in statements:
        lines += ["try:", f"    {statement}", "    succeeded = True", "except BaseException:", "    pass"]
    return "\n".join(lines)


SYSCALLS = """
import ctypes, platform
libc = ctypes.CDLL(None)
x86 = platform.machine() == "x86_64"
succeeded = libc.{call} not in (-1, 0xFFFFFFFF)
"""

# Each sets `succeeded` if it reached what it must not, and only then does its function give right answers.
REACHING_OUT = {
    "fork": raising("import os; os.fork()"),
    "forkpty": raising("import pty; pty.fork()"),
    "subprocess": raising("import subprocess; subprocess.run(['/lib64/ld-linux-x86-64.so.2', '--help'])"),
    "os.system": "import os\nsucceeded = os.system('true') == 0\n",
    "exec": raising("import os, sys; os.execv(sys.executable, [sys.executable, '-c', ''])"),
    "posix_spawn": raising("import os, sys; os.posix_spawn(sys.executable, [sys.executable, '-c', ''], {{}})"),
    "multiprocessing": raising("import multiprocessing as m; p = m.Process(target=print); p.start(); p.join()"),
    "thread": raising("import threading; threading.Thread(target=print).start()"),
    "kill the parent": raising("import os; os.kill(os.getppid(), 9)"),
    "kill all": raising("import os; os.kill(-1, 9)"),
    "kill by number": raising(*(f"import os; os.kill({pid}, 9)" for pid in (1, 2, 3, 4, 5))),
    "stop the group": raising("import os, signal; os.killpg(0, signal.SIGSTOP)"),
    "connect": raising("import socket; socket.create_connection(('127.0.0.1', {port}), 0.2)"),
    "listen": raising("import socket; socket.create_server(('127.0.0.1', 0))"),
    "DNS": raising(
        "import socket; socket.getaddrinfo('example.com', 80)", "import socket; socket.gethostbyname('a.b')"
    ),
    "unix socket": raising("import socket; s = socket.socket(socket.AF_UNIX); s.connect({unix!r})"),
    "abstract socket": raising("import socket; s = socket.socket(socket.AF_UNIX); s.connect({abstract!r})"),
    "home folder": """
import os
succeeded = bool(set(os.listdir({home!r})) - {interpreter!r}) if os.path.isdir({home!r}) else False
""",
    "secret file": read("{secret}", "{tests}", "/etc/passwd", "/etc/shadow", "/etc/hostname", "/etc/hosts"),
    "dots": read(
        "../../../../etc/passwd", "/tmp/../etc/passwd", "/lib/../../etc/passwd", "./.." + "/.." * 20 + "/etc/passwd"
    ),
    "processes": read(
        "/proc/self/environ", "/proc/1/environ", "/proc/1/root/etc/passwd", "/proc/self/mem", "/sys/class/net"
    ),
    "devices": read("/dev/sda", "/dev/vda", "/dev/kmsg", "/dev/mem", "/dev/zero", "/dev/urandom", "/dev/fd/0"),
    "symbolic link": raising("import os; os.symlink('/etc', 'link'); os.listdir('link')"),
    "hard link": raising("import os; os.link(os.__file__, 'link')"),
    "change the root": raising(
        "import os; os.chroot('/tmp')", "import os; os.fchdir(os.open('/', 0)); os.chroot('..')"
    ),
    "write elsewhere": raising(
        "import os; open(os.__file__, 'a')",
        "import os; os.remove(os.__file__)",
        "import os; os.rename(os.__file__, '/tmp/os.py')",
        "open('/made', 'w')",
        "open('/dev/made', 'w')",
        "import os; os.mkdir('/usr/made')",
        "import os; os.chmod(os.__file__, 0)",
    ),
    "environment": "import os\nsucceeded = any('in the environment' in value for value in os.environ.values())\n",
    "raise the limits": raising("import resource as r; r.setrlimit(r.RLIMIT_AS, (r.RLIM_INFINITY, r.RLIM_INFINITY))"),
    "real-time priority": raising(
        "import os; os.nice(-5)", "import os; os.sched_setscheduler(0, 1, os.sched_param(1))"
    ),
    "ctypes fork": SYSCALLS.replace("{call}", "syscall(57 if x86 else 220, 17, 0, 0, 0, 0)"),
    "ctypes socket": SYSCALLS.replace("{call}", "socket(2, 1, 0)"),
    "ctypes open": SYSCALLS.replace("{call}", "open(b'/etc/passwd', 0)"),
    "ctypes namespaces": SYSCALLS.replace("{call}", "unshare(0x10000000)"),
    "ctypes mount": SYSCALLS.replace("{call}", "mount(b'none', b'/tmp', b'tmpfs', 0, None)"),
    "ctypes ptrace": SYSCALLS.replace("{call}", "ptrace(16, 1, 0, 0)"),
    "ctypes memory of others": SYSCALLS.replace("{call}", "process_vm_readv(1, 0, 0, 0, 0, 0)"),
    "ctypes io_uring": SYSCALLS.replace("{call}", "syscall(425, 1, 0)"),
    "x32 system calls": SYSCALLS.replace("{call}", "syscall(0x40000000 + 57)"),
    "fill the disk": """
written = 0
try:
    for i in range(200):
        with open(f"file{{i}}", "wb") as file:
            written += file.write(bytes(1 << 20))
except OSError:
    succeeded = written > 16 << 20
""",
    "tests in memory": """
import gc, sys
marker = "-".join(["marker", str(7140 + 1)]).encode()
def told(value, depth=0):
    if isinstance(value, (str, bytes)):
        return value is not marker and marker in (value if isinstance(value, bytes) else value.encode(errors="replace"))
    if depth < 4 and isinstance(value, dict):
        return any(told(part, depth + 1) for pair in list(value.items()) for part in pair)
    if depth < 4 and isinstance(value, (list, tuple, set)):
        return any(told(part, depth + 1) for part in list(value))
    return hasattr(value, "co_consts") and told(value.co_consts, depth + 1)
frame = sys._getframe()
while frame:
    succeeded = told(frame.f_locals) or told(frame.f_globals) or told(frame.f_code) or succeeded
    frame = frame.f_back
succeeded = any(map(told, gc.get_objects() + gc.get_referrers("x"))) or succeeded
""",
}


@pytest.mark.parametrize("attack", REACHING_OUT.values(), ids=REACHING_OUT.keys())
def test_nothing_outside_is_reached(machine: Machine, attack: str) -> None:
    home = Path.home()
    interpreter = Path(os.path.realpath(sys.executable))
    below = {interpreter.relative_to(home).parts[0]} if interpreter.is_relative_to(home) else {"?"}
    attack = attack.format(
        port=machine.port,
        unix=machine.unix,
        abstract=machine.abstract,
        secret=machine.secret,
        tests=__file__,
        home=str(home),
        interpreter=below,
    )
    program = "succeeded = False\n" + attack + "\ndef double(x):\n    return 2 * x if succeeded else None\n"
    assert judged(machine, program).status in ("failed", "error", "timeout")
    assert machine.secret.read_text() == "the user's secret"


def test_those_attacks_would_succeed_outside(machine: Machine) -> None:
    """Attacks that cannot work anywhere would prove nothing: these do, here."""
    for attack in ("connect", "unix socket", "abstract socket", "secret file", "processes", "tests in memory"):
        source = REACHING_OUT[attack].format(
            port=machine.port, unix=machine.unix, abstract=machine.abstract, secret=machine.secret, tests=__file__
        )
        # In a process of its own: what other tests have loaded into this one (torch's classes raise when looked at) is not meant.
        program = f"tests, succeeded = {TESTS!r}, False\n{source}\nassert succeeded\n"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert done.returncode == 0, f"{attack}: {done.stderr}"


EXHAUSTING = {
    "fork bomb": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n",
    "thread bomb": "import threading\nwhile True:\n    try: threading.Thread(target=input).start()\n    except RuntimeError: pass",
    "memory at once": "x = bytearray(10 ** 10)",
    "memory by and by": "x = []\nwhile True: x.append(bytes(10 ** 6))",
    "memory in small pieces": "x = []\nwhile True: x = [x, x]; y = [[] for _ in range(10 ** 5)]; x.append(y)",
    "mapped memory": "import mmap\nx = [mmap.mmap(-1, 1 << 26) for _ in range(100)]",
    "one long instruction": "x = 10 ** 10 ** 9",
    "loop": "while True: pass",
    "loop that catches all": "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    "regular expression": "import re\nre.match('(a+)+b', 'a' * 60)",
    "sleep": "import time\ntime.sleep(60)",
    "stop itself": "import os, signal, time\ntry: os.kill(os.getpid(), signal.SIGSTOP)\nfinally: time.sleep(60)",
    "swallowed signals": "import signal\nfor s in range(1, 65):\n"
    "    try: signal.signal(s, lambda *a: None)\n    except (OSError, ValueError): pass\nwhile True: pass",
    "recursion": "def f(): return f()\nf()",
    "recursion without limit": "import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(x): return f([x])\nf(0)",
    "endless output": "import sys\nwhile True: print('x' * 10000); sys.stderr.write('x' * 10000)",
    "endless output to all": "import os\nwhile True:\n    for fd in range(20):\n"
    "        try: os.write(fd, b'\\x00' * 4096)\n        except OSError: pass",
    "open files": "import os\nx = [os.open(os.__file__, 0) for _ in range(10000)]",
    "many files": "i = 0\nwhile True:\n    i += 1\n    open(f'file{i}', 'w').close()",
    "deep folders": "import os\npath = '.'\nwhile True:\n    path += '/a'\n    os.mkdir(path)",
    "large answer": "def double(x): return [0] * 10 ** 7",
    "deep answer": "def double(x):\n    y = []\n    for _ in range(10 ** 5): y = [y]\n    return y",
    "circular answer": "def double(x):\n    y = []\n    y.append(y)\n    return y",
    "crash": "import ctypes\nctypes.string_at(0)",
    "closed channel": "import os\nos.closerange(0, 256)\nwhile True: pass",
}


@pytest.mark.parametrize("program", EXHAUSTING.values(), ids=EXHAUSTING.keys())
def test_nothing_is_used_up(machine: Machine, program: str) -> None:
    started = time.monotonic()
    assert judged(machine, program + "\n").status in ("error", "timeout")
    assert time.monotonic() - started < 10


def test_a_scratch_folder_that_cannot_be_emptied_is_replaced(machine: Machine) -> None:
    """Folders moved into folders until their paths are longer than any call takes."""
    program = """
import os
folder = "/" + "a" * 9
for name in ("1", "2", "3"):
    for depth in range(300):
        os.mkdir(name + folder * depth)
os.rename("3", "2" + folder * 299 + "/3")
os.rename("2", "1" + folder * 299 + "/2")
"""
    assert machine.sandbox._helper is not None
    helper = machine.sandbox._helper.pid
    assert machine.sandbox.run(program, TESTS) == Verdict("error", "NameError")
    assert machine.sandbox.run("import os\nleft = os.listdir()", "assert left == []") == Verdict("passed")
    assert machine.sandbox._helper.pid != helper
    assert machine.settles()


def test_endless_answers_end(machine: Machine) -> None:
    program = "import itertools\ndouble = itertools.repeat\n"
    assert judged(machine, program, "assert sum(double(2)) == 4").status == "timeout"


# None of these gives a right answer; each hopes to be scored as if it did.
CHEATING = {
    "sys.exit": "import sys\nsys.exit(0)",
    "sys.exit in the function": "import sys\ndef double(x): sys.exit(0)",
    "os._exit": "import os\nos._exit(0)",
    "os._exit in the function": "import os\ndef double(x): os._exit(0)",
    "atexit": "import atexit, os, sys\natexit.register(os._exit, 0)\nsys.exit(0)",
    "quit": "raise SystemExit",
    "KeyboardInterrupt": "def double(x): raise KeyboardInterrupt",
    "StopIteration": "def double(x): raise StopIteration",
    "equal to everything": "class Yes:\n    def __eq__(self, other): return True\n    __hash__ = None\n"
    "def double(x): return Yes()",
    "int equal to everything": "class Yes(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\n"
    "def double(x): return Yes()",
    "str equal to everything": "class Yes(str):\n    def __eq__(self, other): return True\n    __hash__ = str.__hash__\n"
    "    def __str__(self): return self\n    __class__ = int\ndef double(x): return Yes()",
    "metaclass": "class M(type):\n    def __eq__(self, other): return True\n    __hash__ = type.__hash__\n"
    "class Yes(metaclass=M): pass\ndef double(x): return Yes",
    "patched builtins": "import builtins\nfor name in ('len', 'all', 'any', 'isinstance', 'abs', 'print'):\n"
    "    setattr(builtins, name, lambda *a: True)\ndouble = abs",
    "patched AssertionError": "import builtins\nbuiltins.AssertionError = type('E', (BaseException,), {})\ndef double(x): assert 0",
    "patched __import__": "import builtins\nbuiltins.__import__ = lambda *a, **k: None\ndef double(x): return x",
    "patched exec": "import builtins\nbuiltins.exec = builtins.compile = lambda *a, **k: None\ndef double(x): return x",
    "patched json": 'import json\njson.dumps = lambda x: \'{"value": true, "changed": []}\'\ndef double(x): return x',
    "settrace": "import sys\nsys.settrace(lambda *a: None)\nsys.settrace = sys.setprofile = lambda *a: None\ndouble = abs",
    "audit hook": "import sys\nsys.addaudithook(lambda *a: None)\ndef double(x): return x",
    "names of the tests": "expected = check = candidate = {}\n__name__ = 'tests'\ndef double(x): return x",
    "patched harness": """
import sys
for module in list(sys.modules.values()):
    for name in ("encode", "outcome", "answer_for_program", "say", "OPERATIONS", "Judge", "Channel"):
        if hasattr(module, name):
            setattr(module, name, lambda *a, **k: True)
def double(x): return x
""",
    "messages to all descriptors": """
import json, os
for text in ("passed", '{"status": "passed", "detail": ""}'):
    for fd in range(256):
        for data in (text.encode() + b"\\n", len(text).to_bytes(4, "big") + text.encode()):
            try: os.write(fd, data)
            except OSError: pass
os._exit(0)
""",
}
FORGED = (
    '{"value": true, "changed": []}',
    '{"value": ["r", 0], "changed": []}',
    '{"value": ["r", {"a": 1}], "changed": []}',
    '{"value": ["zzz", 1], "changed": []}',
    '{"value": ["n", "1E999999999"], "changed": [[0, 1], [99, ["l"]]]}',
    '{"value": 0}',
    '{"raised": ["AssertionError"]}',
    '{"raised": ["SystemExit", 3]}',
    '{"raised": ["Stop"]}',
    '{"raised": []}',
    '{"raised": 1}',
    '{"unable": "to go on"}',
    '{"ready": true}',
    '{"status": "passed"}',
    "[" * 100000,
    "1e999",
    "",
)
# They answer every question of the judge's themselves, the first with a name that looks like the function.
CHEATING |= {
    f"forged answer {answer[:40]}": f"""
import json, os
def send(text): os.write(3, len(text).to_bytes(4, "big") + text.encode())
send('{{"double": ["r", 0]}}')
while os.read(3, 65536):
    send({answer!r})
"""
    for answer in FORGED
}


@pytest.mark.parametrize("program", CHEATING.values(), ids=CHEATING.keys())
def test_no_cheat_passes(machine: Machine, program: str) -> None:
    assert judged(machine, program + "\n").status in ("failed", "error", "timeout")


def test_right_answers_by_hand_pass(machine: Machine) -> None:
    """The forgeries above fail for what they say, not for how: one that says the right thing is as good as a function."""
    program = """
import json, os
def send(value):
    text = json.dumps(value)
    os.write(3, len(text).to_bytes(4, "big") + text.encode())
send({"double": ["r", 0]})
while data := os.read(3, 65536):
    send({"value": json.loads(data[4:])["to"][1] * 2, "changed": []})
"""
    assert judged(machine, program) == Verdict("passed")
