"""What a model is aligned on, by name: generated data with a count ("world:4000"), and files of the user's own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from forescale.core.documents import Answered, Conversation, Preference, Request
from forescale.core.errors import UserError
from forescale.data import sources, world
from forescale.data.conversations import curriculum_conversations, encyclopedia_conversations, read_conversations
from forescale.data.packs import find_pack
from forescale.data.preferences import read_preferences, read_requests

T = TypeVar("T")
Made = Callable[[int, int, int], Iterable[T]]  # of a count, a seed, and the size of pictures


def fingerprints(specs: Sequence[str]) -> dict[str, Any]:
    """Of the files among them: changes when they do."""
    return {spec: sources.fingerprint("jsonl", spec) for spec in specs if _is_file(spec)}


def load_conversations(specs: Sequence[str], seed: int, image_size: int) -> list[Conversation]:
    """`world:N`, `curriculum:N` (of each family), `encyclopedia:N`, or files (docs/conversations.md).

    Raises UserError for anything else, or a file that cannot be used; PackUnavailable.
    """
    made: dict[str, Made[Conversation]] = {
        "world": world.demonstrations,
        "curriculum": curriculum_conversations,
        "encyclopedia": lambda n, _, __: itertools.islice(
            encyclopedia_conversations(find_pack("encyclopedia").documents()), n
        ),
    }
    return _load(specs, made, read_conversations, seed, image_size)


def load_preferences(specs: Sequence[str], seed: int, image_size: int) -> list[Preference]:
    """`world:N`, or files. Raises UserError for anything else, or a file that cannot be used."""
    return _load(specs, {"world": world.preferences}, read_preferences, seed, image_size)


def load_requests(specs: Sequence[str], seed: int, image_size: int) -> list[Request]:
    """`world:N`, or files. Raises UserError for anything else, or a file that cannot be used."""
    made: dict[str, Made[Request]] = {"world": lambda n, s, size: world.requests("train", n, s, size)}
    return _load(specs, made, read_requests, seed, image_size)


def load_rankings(specs: Sequence[str], seed: int, image_size: int) -> list[list[Answered]]:
    """Answers to one request each, best first: `world:N`, or files of preferences. Raises UserError as `load_preferences` does."""

    def read(path: str, size: int) -> Iterable[list[Answered]]:
        for pair in read_preferences(path, size):
            yield [Answered(pair.request, pair.chosen), Answered(pair.request, pair.rejected)]

    return _load(specs, {"world": world.ranked}, read, seed, image_size)


def _load(
    specs: Sequence[str], made: dict[str, Made[T]], read: Callable[[str, int], Iterable[T]], seed: int, image_size: int
) -> list[T]:
    found: list[T] = []
    for spec in specs:
        name, _, count = spec.partition(":")
        if name in made and count.isdigit() and int(count):
            found += made[name](int(count), seed, image_size)
        elif _is_file(spec):
            found += read(spec, image_size)
        else:
            names = ", ".join(f"{name}:N" for name in made)
            raise UserError(f"{spec!r} is no data to align on: give {names}, or a file of JSON lines that is there.")
    if not found:
        raise UserError("no data to align on was named.")
    return found


def _is_file(spec: str) -> bool:
    return "://" in spec or Path(spec).expanduser().exists()
