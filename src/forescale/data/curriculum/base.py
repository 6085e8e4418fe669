"""What every family of the curriculum shares: a draft, the split rule, and how a draft becomes a problem.

The split rule is one line: a problem belongs to the test split exactly when the hash of its family and values falls in
one of ten classes. Both splits draw from the same distribution and throw away what is not theirs, so nothing leaks
between them whatever the seeds, and no list of held-out values has to be kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Literal

import numpy as np

Split = Literal["train", "test"]
Values = tuple[object, ...]

IMAGE = "<image>"
LEVELS = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Draft:
    """One problem before it is phrased.

    `kind` picks the templates. `values` is what is held out: nested tuples of strings and integers, in a canonical
    order where order does not matter (12 + 7 and 7 + 12 are one value). `fields` fill the template.
    """

    kind: str
    values: Values
    answer: str
    fields: Mapping[str, object] = field(default_factory=dict)
    tests: str = ""


@dataclass(frozen=True)
class Templates:
    """Phrasings. `held_out` ones appear in the test split only."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]


Draw = Callable[[Random, int], Draft]
# (draft, how many pictures the template asks for, positions and sizes, pixels a side) -> that many pictures
Paint = Callable[[Draft, int, Random, int], tuple[np.ndarray, ...]]


@dataclass(frozen=True)
class Family:
    name: str
    modality: Literal["text", "vision"]
    description: str
    draw: Draw
    templates: Mapping[str, Templates]
    paint: Paint | None = None


def held_out(family: str, values: Values) -> bool:
    """Whether these values belong to the test split: one in ten do, the same ones on every machine.

    >>> held_out("addition", ("+", 7, 12)) == held_out("addition", ("+", 7, 12))
    True
    """
    return hashlib.sha256(f"{family}|{values!r}".encode()).digest()[0] % 10 == 0


def rng_for(*names: object) -> Random:
    """A generator that depends on `names` alone, not on the process or the machine."""
    return Random(int.from_bytes(hashlib.sha256("/".join(map(str, names)).encode()).digest()[:8], "big"))


ONSETS, VOWELS, CODAS = "bdflmnrtvw", "aeiou", "lmnrs"


def made_up_word(rng: Random, letters: int) -> str:
    """A pronounceable word that is in no dictionary's way: there are enough of them to hold some out.

    >>> len(made_up_word(Random(0), 5))
    5
    """
    word = ""
    while len(word) < letters:
        word += rng.choice(ONSETS) + rng.choice(VOWELS)
    if len(word) > letters:
        word = word[: letters - 1] + rng.choice(CODAS)
    return word
