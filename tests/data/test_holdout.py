"""The split is fixed by content, and no training document nearly repeats a validation document."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forescale.core.documents import Document, Image, Text
from forescale.data.holdout import JACCARD, NearDuplicates, choose_validation, content_key, shingles

WORDS = [f"w{i}" for i in range(2_000)]


def text(seed: int, words: int = 200) -> list[str]:
    return random.Random(seed).choices(WORDS, k=words)


def jaccard(a: str, b: str) -> float:
    x, y = set(shingles(a).tolist()), set(shingles(b).tolist())
    return len(x & y) / len(x | y)


def near(*texts: str) -> NearDuplicates:
    return NearDuplicates(texts, [frozenset()] * len(texts))


def test_content_keys_are_of_text_and_pixels_in_order_alone() -> None:
    white, black = Image(np.full((2, 2, 3), 255, np.uint8)), Image(np.zeros((2, 2, 3), np.uint8))
    parts = [(Text("ab"),), (Text("a"), Text("b")), (white,), (black,), (white, Text("a")), (Text("a"), white)]
    keys = [content_key(Document("x", "s", p)) for p in parts]
    assert len(set(keys)) == len(parts)
    assert keys == [content_key(Document("y", "t", p)) for p in parts]


@given(st.integers(2, 300), st.floats(0.001, 0.5), st.integers(1, 50), st.integers(1, 5_000))
@settings(max_examples=60, deadline=None)
def test_validation_keeps_its_limits_and_does_not_depend_on_order(
    count: int, fraction: float, max_documents: int, max_characters: int
) -> None:
    rng = random.Random(count)
    pairs = [(rng.getrandbits(64), rng.randrange(1, 200)) for _ in range(count)]
    chosen = {pairs[i] for i in choose_validation(*zip(*pairs), fraction, max_documents, max_characters)}
    assert 1 <= len(chosen) <= min(max_documents, count // 2)
    assert len(chosen) == 1 or sum(size for _, size in chosen) <= max_characters
    rng.shuffle(pairs)
    assert {pairs[i] for i in choose_validation(*zip(*pairs), fraction, max_documents, max_characters)} == chosen


def test_one_document_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="at least two"):
        choose_validation([1], [1], 0.1, 10, 10)


def test_an_edited_copy_is_found_and_another_text_is_not() -> None:
    words = text(1)
    index = near(" ".join(text(2)), " ".join(words))
    words[100] = "changed"
    copy = " ".join(words)
    assert jaccard(copy, " ".join(text(1))) >= JACCARD
    assert index.find(copy.upper().replace(" ", ",\n")) == 1
    assert index.find(" ".join(text(3))) is None
    assert index.find(" ".join(text(1)[:120] + text(4))) is None


def test_a_text_inside_another_is_found_either_way() -> None:
    long, short = " ".join(text(1, 1_000)), " ".join(text(1, 1_000)[300:340])
    assert near(long).find(short) == 0
    assert near(short).find(long) == 0
    # Too short to say anything: the phrase may be common.
    assert near(long).find(" ".join(text(1, 1_000)[300:310])) is None


def test_texts_of_few_words_and_of_unspaced_scripts() -> None:
    assert near("one two").find("One, two!") == 0
    assert near("one two").find("one three") is None
    chinese = "".join(chr(0x4E00 + i) for i in random.Random(0).choices(range(2_000), k=60))
    assert near(chinese).find(chinese[:58] + "好") == 0
    assert near("", "...").find("!") is None
    assert near().find("anything") is None


def test_pictures_with_the_same_text_are_duplicates_only_if_the_picture_is() -> None:
    index = NearDuplicates(["Emoji: heart", ""], [frozenset({1}), frozenset({2})])
    assert index.find("Emoji: heart", frozenset({1})) == 0
    assert index.find("Emoji: heart", frozenset({3})) is None
    assert index.find("Emoji: heart") is None
    assert index.find("", frozenset({2})) == 1
    assert index.find("", frozenset({3})) is None


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_what_is_found_is_what_comparing_every_pair_finds(edits: list[tuple[int, int, int]]) -> None:
    """The index against the definition, on texts that are variants of a few, too short for containment to count."""
    validation = [" ".join(text(seed, 20)) for seed in range(6)]
    index = near(*validation)
    for seed, at, other in edits:
        words = text(seed, 20)
        words[at % 20 :] = words[at % 20 :] if other % 2 else text(100 + other, 20 - at % 20)
        candidate = " ".join(words)
        expected = next((i for i, v in enumerate(validation) if jaccard(candidate, v) >= JACCARD), None)
        assert index.find(candidate) == expected


def test_it_is_fast() -> None:
    index = near(*(" ".join(text(i, 300)) for i in range(500)))
    candidates = [" ".join(text(1_000 + i, 300)) for i in range(500)]
    started = time.perf_counter()
    assert not any(index.find(candidate) is not None for candidate in candidates)
    # It takes about 0.1 s; the limit leaves room for a busy machine, not for comparing every pair.
    assert time.perf_counter() - started < 2
