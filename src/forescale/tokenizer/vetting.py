"""Tokenizer files of strangers: first used in a child process with a clock and a limit on memory, then here.

A file can hold normalizers and patterns that never end, and some fail, or panic, only when they are used. Encoding in the child for
good would cost every text a trip there (docs/decisions.md), so it is tried there on texts that bring such things out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer as Backend

from forescale.core.artifacts import sha256_file
from forescale.core.errors import CorruptArtifact
from forescale.core.limited import Child, Exceeded, Refused

# The library alone takes about 100 MB of addresses; a vocabulary of 256,000 with its merges some 300 MB.
_VET = Child("forescale.tokenizer.vetting:probe", memory_bytes=2_000_000_000)
PROBES = (
    "a",
    "The cat sat on the mat; it's 1,234 o'clock.\n\n\tdef add(x, y):\n        return x + y\n",
    "Zürich 日本語 🏳️‍🌈 \u200b\u0301\x00 é",
    "a" * 3000,
    "ab" * 1500 + "!",
    " " * 3000 + "x",
    "1" * 3000 + "a",
    "\n" * 2000,
    "(" * 2000,
    "aA1 " * 700,
)


def probe(path: str) -> str:
    """Encodes and decodes `PROBES`. Raises whatever the library raises."""
    backend = Backend.from_file(path)
    for special in (True, False):
        for text in PROBES:
            ids = backend.encode(text, add_special_tokens=special).ids
            backend.decode(ids, skip_special_tokens=False)
    size = backend.get_vocab_size(with_added_tokens=True)
    if size > 10_000_000:
        raise ValueError(f"a vocabulary of {size:,}")
    return ""


@lru_cache(maxsize=64)
def _vetted(path: str, sha256: str) -> None:
    _VET(path)


def load_backend(path: Path) -> Backend:
    """Raises CorruptArtifact, one sentence, for what is no tokenizer file or cannot be used as one in the time and memory."""
    try:
        _vetted(str(path.resolve()), sha256_file(path))
        with no_panic():
            return Backend.from_file(str(path))
    except (Refused, Exceeded) as error:
        raise CorruptArtifact(f"{path} is not a tokenizer file that can be used ({error}).") from error
    except Exception as error:  # the library raises bare Exception
        if isinstance(error, CorruptArtifact):
            raise
        raise CorruptArtifact(f"{path} is not a tokenizer file ({error}).") from error


@contextmanager
def no_panic() -> Iterator[None]:
    """Panics of the library, which are no Exceptions and end programs with a page of text, as CorruptArtifact."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise CorruptArtifact(f"the tokenizer cannot be used on this text ({str(error).splitlines()[0]}).") from error
