"""Which documents are validation, and which training documents are too like one of them to stay.

The split is by the hash of a document's content with a fixed salt, so it depends on no order and no seed.
Near-duplicates are found exactly, not by MinHash: every validation document's 5-token shingles stand in one sorted
array; a training document that shares too few of them to reach a threshold is passed at once (nearly all are), and for
the rest the true overlap with each validation document is counted.

S: shingles of a document. V: unique shingles of the validation set. P: postings (shingle, document). D: documents.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np

from forescale.core.documents import Document, Text

SALT = b"forescale split 1"
SHINGLE_TOKENS = 5
JACCARD = 0.8
CONTAINMENT = 0.9
# Below this many shingles two documents may share most of them by chance, so containment says nothing.
CONTAINMENT_SHINGLES = 20
# Sources of few, long documents hold out at least this many (but at most a tenth), or their loss hangs on two or three.
FEWEST_VALIDATION = 8

# Words; and single characters of the scripts that put no spaces between words.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_TOKENS = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")
_MULTIPLIERS = np.array(
    [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F],
    dtype=np.uint64,
)


def content_key(document: Document) -> int:
    """64 bits that are equal for documents with equal parts (text and pixels), whatever their ids and sources."""
    total = hashlib.blake2b(SALT, digest_size=8)
    for part in document.parts:
        is_text = isinstance(part, Text)
        data = part.text.encode("utf-8", "surrogatepass") if isinstance(part, Text) else part.pixels.tobytes()
        total.update(f"{'text' if is_text else 'image'} {len(data)}:".encode())
        total.update(data)
    return int.from_bytes(total.digest(), "big")


def choose_validation(
    keys: Sequence[int], characters: Sequence[int], fraction: float, max_documents: int, max_characters: int
) -> set[int]:
    """Indices of one source's validation documents: the lowest keys, up to `fraction` of the documents and both limits.

    At least eight documents (a tenth of them all, if that is fewer), at most half. One that would pass `max_characters`
    is left to training, and the next is tried. Raises ValueError if there are fewer than two documents.
    """
    if len(keys) < 2:
        raise ValueError("at least two documents are needed, one for training and one for validation")
    fewest = max(1, min(FEWEST_VALIDATION, len(keys) // 10))
    wanted = min(max(fewest, round(fraction * len(keys))), max_documents, len(keys) // 2)
    order = sorted(range(len(keys)), key=lambda i: (keys[i], i))
    chosen: set[int] = set()
    total = 0
    for index in order:
        if len(chosen) >= wanted:
            break
        if total + characters[index] <= max_characters:
            chosen.add(index)
            total += characters[index]
    return chosen or {min(order, key=lambda i: characters[i])}


def shingles(text: str) -> np.ndarray:
    """uint64 of shape (S,), sorted and unique: hashes of all runs of 5 tokens (of all tokens, if they are fewer).

    Equal within one process only: words are hashed by Python's own hash, which is salted per process.
    """
    words = _TOKENS.findall(text.lower())
    if not words:
        return np.empty(0, dtype=np.uint64)
    hashes = np.fromiter(map(hash, words), dtype=np.int64, count=len(words)).view(np.uint64)
    hashes ^= hashes >> np.uint64(29)
    width = min(SHINGLE_TOKENS, len(words))
    runs = np.zeros(len(words) - width + 1, dtype=np.uint64)
    for offset in range(width):
        runs += hashes[offset : offset + len(runs)] * _MULTIPLIERS[offset]
        runs ^= runs >> np.uint64(31)
    return np.unique(runs)


class NearDuplicates:
    """Finds documents that nearly repeat one of a fixed set: Jaccard similarity of at least 0.8 over 5-token shingles,
    or 0.9 of the smaller one's shingles (20 or more) inside the larger.

    Documents with pictures are near-duplicates only if they share one, too.
    """

    def __init__(self, texts: Sequence[str], pictures: Sequence[frozenset[int]]) -> None:
        """Of each document of the set: its text, and a number for each of its pictures, equal where the pixels are."""
        self._pictures = list(pictures)
        sets = [shingles(text) for text in texts]
        self._sizes_D = np.array([len(s) for s in sets], dtype=np.int64)
        flat_P = np.concatenate(sets) if sets else np.empty(0, dtype=np.uint64)
        order = np.argsort(flat_P, kind="stable")
        self._owners_P = np.repeat(np.arange(len(sets)), self._sizes_D)[order]
        self._shingles_V, self._starts_V, self._counts_V = np.unique(
            flat_P[order], return_index=True, return_counts=True
        )
        self._wordless = [i for i, s in enumerate(sets) if not len(s)]

    def find(self, text: str, pictures: frozenset[int] = frozenset()) -> int | None:
        """The index of the first document of the set that this one nearly repeats, or None."""
        own_S = shingles(text)
        if not len(own_S):
            return next((i for i in self._wordless if pictures & self._pictures[i]), None)
        if not len(self._shingles_V):
            return None
        at_S = np.searchsorted(self._shingles_V, own_S)
        at_S[at_S == len(self._shingles_V)] = 0
        hits = at_S[self._shingles_V[at_S] == own_S]
        if len(hits) < min(JACCARD * len(own_S), CONTAINMENT * CONTAINMENT_SHINGLES):
            return None
        counts = self._counts_V[hits]
        # All postings of the hits: for each, its start repeated, plus 0, 1, 2 ... within it.
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        owners = self._owners_P[np.repeat(self._starts_V[hits], counts) + within]
        shared_D = np.bincount(owners, minlength=len(self._sizes_D))
        smaller_D = np.minimum(self._sizes_D, len(own_S))
        near_D = shared_D >= JACCARD * (self._sizes_D + len(own_S) - shared_D)
        near_D |= (shared_D >= CONTAINMENT * smaller_D) & (smaller_D >= CONTAINMENT_SHINGLES)
        for index in np.flatnonzero(near_D):
            other = self._pictures[index]
            if not (pictures or other) or pictures & other:
                return int(index)
        return None
