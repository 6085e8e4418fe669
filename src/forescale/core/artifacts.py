"""The contract between stages: a stage is a function that fills a folder, and a manifest that says what it made of what.

A stage runs only if no manifest with the same key is there. The key is the hash of the stage's name and version, its
configuration, and the content hashes of its inputs; the content hash of an artifact covers the bytes of its outputs, except
those that carry clock times (`volatile`). So an input that was made again, byte for byte, reruns nothing downstream.

    manifest.json   written last, atomically: no manifest, no artifact
    .stage.json     the key of the work in progress: a killed stage resumes only its own leftovers
    .lock           one writer at a time
"""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from forescale import __version__
from forescale.core.config import digest, to_json
from forescale.core.errors import CorruptArtifact, UserError

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
IN_PROGRESS = ".stage.json"


def utc_now() -> str:
    """Now, as ISO 8601 in UTC with microseconds."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="microseconds")


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary sibling of `path`; on success it is flushed to disk and renamed over `path`, on failure removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(to_json(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Parsed JSON. Raises CorruptArtifact, naming the file, if it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (
        ValueError,
        RecursionError,
    ) as error:  # not JSON, not UTF-8, numbers of thousands of digits, brackets without end
        raise CorruptArtifact(f"{path} is not valid JSON ({error}); delete its folder to make it again.") from error


def resume_lines(path: Path) -> list[Any]:
    """Rows of a JSON-lines file that work in progress appends to, none if there is no file. A line that a kill cut off is
    dropped, from the file too, so that the next one does not follow on it."""
    rows = []
    for line in path.read_text(encoding="utf-8").split("\n") if path.is_file() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    if path.is_file():
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return rows


@functools.cache
def code_hash() -> str:
    """SHA-256 over forescale's own source files: which code made an artifact, git or no git."""
    root = Path(__file__).resolve().parents[1]
    total = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        total.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()


@functools.cache
def environment() -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for package in ("torch", "numpy", "scipy", "tokenizers"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count() or 1,
        "packages": versions,
    }


@dataclass(frozen=True)
class Manifest:
    """What a stage made, of what, with which code, when. `outputs` and `volatile` map relative paths to SHA-256."""

    stage: str
    key: str
    config: Any
    inputs: dict[str, str]
    outputs: dict[str, str]
    volatile: dict[str, str]
    content: str
    version: str
    code: str
    seed: int | None
    environment: dict[str, Any]
    started_at: str
    finished_at: str
    seconds: float

    @staticmethod
    def load(folder: Path) -> Manifest:
        """Raises UserError if there is no manifest, CorruptArtifact if it cannot be read."""
        path = folder / MANIFEST
        if not path.is_file():
            raise UserError(f"{folder} holds no finished artifact (no {MANIFEST}); run the stage that makes it first.")
        try:
            manifest = Manifest(**read_json(path))
        except TypeError as error:
            raise CorruptArtifact(
                f"{path} has unexpected fields ({error}); delete {folder} to make it again."
            ) from error
        for name in ("inputs", "outputs", "volatile"):
            hashes = getattr(manifest, name)
            if not isinstance(hashes, dict) or not all(isinstance(value, str) for value in hashes.values()):
                raise CorruptArtifact(
                    f"{path} holds {name} that are no hashes by name; delete {folder} to make it again."
                )
        if any(
            Path(name).is_absolute() or ".." in Path(name).parts for name in {**manifest.outputs, **manifest.volatile}
        ):
            raise CorruptArtifact(f"{path} lists a file outside of its folder; delete {folder} to make it again.")
        texts = (manifest.stage, manifest.key, manifest.content, manifest.started_at, manifest.finished_at)
        if not all(isinstance(text, str) for text in texts) or not isinstance(manifest.seconds, int | float):
            raise CorruptArtifact(f"{path} has fields of other types than it should; delete {folder} to make it again.")
        return manifest


def content_hash(outputs: Mapping[str, str]) -> str:
    return digest(dict(outputs))


def mismatches(folder: Path, manifest: Manifest, below: str = "") -> list[str]:
    """What in `folder` is not what its manifest says, every file read whose name begins with `below`: a sentence each."""
    found = []
    for name, expected in {**manifest.outputs, **manifest.volatile}.items():
        if not name.startswith(below):
            continue
        path = folder / name
        if not path.is_file():
            found.append(f"{path} is missing though its manifest lists it")
        elif sha256_file(path) != expected:
            found.append(f"{path} does not match its manifest's hash")
    if content_hash(manifest.outputs) != manifest.content:
        found.append(f"{folder / MANIFEST} does not match its own hash of its outputs")
    return found


def verify(folder: Path) -> Manifest:
    """The manifest, after every output was read and found to be what it says. Raises CorruptArtifact otherwise."""
    manifest = Manifest.load(folder)
    for sentence in mismatches(folder, manifest):
        raise CorruptArtifact(f"{sentence}; delete {folder} to make it again.")
    return manifest


@contextmanager
def single_writer(folder: Path, wait_seconds: float = 10.0) -> Iterator[None]:
    """Holds the folder's lock. The operating system lets go of it when the process ends, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=wait_seconds)
    except Timeout:
        raise UserError(
            f"another process is writing {folder}; wait for it, stop it, or give this run another --out folder."
        ) from None
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class Stage:
    """A stage: its name, and the function that fills its folder.

    `run(config, inputs, out_dir)` gets the input folders by name and a folder that may hold leftovers of its own killed run.
    Raise `version` when the same configuration gives a different result. `volatile` names output files with clock times.
    """

    name: str
    run: Callable[[Any, Mapping[str, Path], Path], None]
    version: int = 1
    volatile: frozenset[str] = field(default_factory=frozenset)

    def key(self, config: Any, inputs: Mapping[str, Path]) -> str:
        contents = {name: Manifest.load(folder).content for name, folder in inputs.items()}
        return digest({"stage": self.name, "version": self.version, "config": config, "inputs": contents})

    def is_done(self, config: Any, inputs: Mapping[str, Path], out_dir: Path) -> bool:
        """Whether `out_dir` already holds exactly this. Sizes are not enough: every output is hashed again."""
        if not (out_dir / MANIFEST).is_file():
            return False
        try:
            return Manifest.load(out_dir).key == self.key(config, inputs) and verify(out_dir) is not None
        except CorruptArtifact as error:
            logger.warning("%s Making it again now.", error)
            return False

    def make(self, config: Any, inputs: Mapping[str, Path], out_dir: Path, seed: int | None = None) -> Manifest:
        """Runs the stage unless its manifest matches. Returns the manifest either way."""
        with single_writer(out_dir):
            if self.is_done(config, inputs, out_dir):
                return Manifest.load(out_dir)
            key = self.key(config, inputs)
            self._clear_unless_resumable(out_dir, key)
            started = time.perf_counter()
            started_at = read_json(out_dir / IN_PROGRESS)["started_at"]
            self.run(config, inputs, out_dir)
            hashes = {name: sha256_file(out_dir / name) for name in _files(out_dir)}
            outputs = {name: value for name, value in hashes.items() if name not in self.volatile}
            manifest = Manifest(
                stage=self.name,
                key=key,
                config=to_json(config),
                inputs={name: Manifest.load(folder).content for name, folder in inputs.items()},
                outputs=outputs,
                volatile={name: value for name, value in hashes.items() if name in self.volatile},
                content=content_hash(outputs),
                version=__version__,
                code=code_hash(),
                seed=seed,
                environment=environment(),
                started_at=started_at,
                finished_at=utc_now(),
                seconds=round(time.perf_counter() - started, 3),
            )
            write_json(out_dir / MANIFEST, asdict(manifest))
            for path in out_dir.glob(".*"):
                # Checkpoints and marks of work in progress; all of it is finished.
                if path.is_file() and path.name != ".lock":
                    path.unlink()
            return manifest

    def _clear_unless_resumable(self, out_dir: Path, key: str) -> None:
        """Leaves leftovers of the same key alone, removes any other artifact's, and touches nothing that is not ours."""
        progress, finished = out_dir / IN_PROGRESS, out_dir / MANIFEST
        # A half-written temporary file is nobody's work: a kill may leave one in a folder that has nothing else yet.
        for path in out_dir.glob(".*.tmp"):
            path.unlink()
        others = [path for path in out_dir.iterdir() if path.name != ".lock"]
        if others and not progress.is_file() and not finished.is_file():
            raise UserError(
                f"{out_dir} holds files that forescale did not make; give another --out folder or empty this one."
            )
        if progress.is_file() and not finished.is_file():
            try:
                if read_json(progress).get("key") == key:
                    return
            except CorruptArtifact:
                pass
        write_json(progress, {"stage": self.name, "key": "", "started_at": utc_now()})
        finished.unlink(missing_ok=True)
        for path in others:
            if path.name not in (IN_PROGRESS, MANIFEST):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        write_json(progress, {"stage": self.name, "key": key, "started_at": utc_now()})


def _files(folder: Path) -> Sequence[str]:
    """Relative paths of all outputs, sorted; names that begin with a dot are work in progress and never outputs."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.name != MANIFEST
    )
