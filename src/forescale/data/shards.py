"""From documents to token shards: one constant order of training rows that every run of a ladder reads from the start.

Each source is cut into pieces, shuffled, and repeated when it ends; the next piece always comes from the source that is furthest
behind its weight, so every prefix of the stream has the mixture's proportions. A picture never crosses the border of a row.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from forescale.core.artifacts import Stage, read_json, write_json
from forescale.core.errors import CorruptArtifact, UserError
from forescale.tokenizer.bpe import Tokenizer


@dataclass(frozen=True)
class ShardsConfig:
    """`tokens`: how many to lay out, at least as many as the longest run reads (filled in by the pipeline)."""

    sequence_length: int = 128
    image_tokens: int = 16
    tokens: int = 1_000_000
    validation_rows: int = 16
    seed: int = 0


@dataclass
class Piece:
    """A document or a part of one: token ids with pictures as runs of image tokens, and which pictures."""

    ids: np.ndarray
    images: list[int]
    image_starts: list[int]
    bytes: int


def read_documents(path: Path) -> Iterator[dict[str, Any]]:
    """Raises CorruptArtifact, naming the line, if one is not a document."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                document = json.loads(line)
                document["parts"], document["source"]
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise CorruptArtifact(
                    f"{path}, line {number}, is not a document; delete its folder to make it again."
                ) from error
            yield document


def tokenize(path: Path, tokenizer: Tokenizer, image_tokens: int, row_length: int) -> dict[str, list[Piece]]:
    """Pieces by source, in the file's order. Text documents longer than four rows are cut."""
    longest = 4 * row_length
    pieces: dict[str, list[Piece]] = {}
    batch: list[dict[str, Any]] = []

    def flush() -> None:
        texts = [part["text"] for document in batch for part in document["parts"] if "text" in part]
        encoded = iter(tokenizer.encode_batch(texts))
        for document in batch:
            into = pieces.setdefault(document["source"], [])
            # The end token comes first: it ends what stood before and begins this document.
            ids = [tokenizer.end]
            images, starts, size = [], [], 0
            for part in document["parts"]:
                if "text" in part:
                    ids += next(encoded)
                    size += len(part["text"].encode("utf-8", "surrogatepass"))
                else:
                    # In a document longer than a row, a picture that would cross a border begins the next row instead,
                    # so that every piece fits at the start of a row.
                    if len(ids) % row_length + image_tokens > row_length:
                        ids += [tokenizer.end] * (-len(ids) % row_length)
                    images.append(part["image"])
                    starts.append(len(ids))
                    ids += [tokenizer.image] * image_tokens
            array = np.array(ids, dtype=np.uint16)
            if images or len(array) <= longest:
                into.append(Piece(array, images, starts, size))
            else:
                cuts = range(0, len(array), longest)
                into.extend(
                    Piece(array[c : c + longest], [], [], size * len(array[c : c + longest]) // len(array))
                    for c in cuts
                )
        batch.clear()

    for document in read_documents(path):
        batch.append(document)
        if len(batch) >= 2000:
            flush()
    flush()
    return pieces


class RowWriter:
    """Lays pieces end to end into rows of `length` tokens, keeping every picture inside one row."""

    def __init__(self, length: int, image_tokens: int) -> None:
        self.length, self.image_tokens = length, image_tokens
        self.chunks: list[np.ndarray] = []
        self.images: list[tuple[int, int]] = []
        self.position = 0

    def fits(self, piece: Piece) -> bool:
        """Whether none of its pictures would cross a row's border here."""
        offsets = (start + self.position for start in piece.image_starts)
        return all(offset % self.length + self.image_tokens <= self.length for offset in offsets)

    def add(self, piece: Piece) -> None:
        self.images += [(self.position + start, image) for start, image in zip(piece.image_starts, piece.images)]
        self.chunks.append(piece.ids)
        self.position += len(piece.ids)

    def pad_row(self, end: int) -> None:
        missing = -self.position % self.length
        self.chunks.append(np.full(missing, end, dtype=np.uint16))
        self.position += missing


def lay_out(
    pieces: Mapping[str, list[Piece]], weights: Mapping[str, float], tokens: int, writer: RowWriter, seed: int, end: int
) -> dict[str, int]:
    """Fills the writer with at least `tokens` tokens by the weights; returns the tokens taken from each source."""
    generator = np.random.default_rng(seed)
    names = sorted(name for name in pieces if pieces[name] and weights.get(name, 0) > 0)
    if not names:
        raise UserError("the mixture holds no documents with a weight above zero; check the sources and their weights.")
    orders: dict[str, deque[int]] = {name: deque() for name in names}
    taken = dict.fromkeys(names, 0)
    waiting: deque[Piece] = deque()

    def draw(name: str) -> Piece:
        if not orders[name]:
            orders[name].extend(generator.permutation(len(pieces[name])).tolist())
        return pieces[name][orders[name].popleft()]

    while writer.position < tokens:
        if waiting and writer.fits(waiting[0]):
            writer.add(waiting.popleft())
            continue
        if len(waiting) > 64:
            # Pictures only, and none of them fits: close the row.
            writer.pad_row(end)
            continue
        name = min(names, key=lambda n: (taken[n] / weights[n], n))
        piece = draw(name)
        taken[name] += len(piece.ids)
        if writer.fits(piece):
            writer.add(piece)
        else:
            waiting.append(piece)
    return taken


def prepare(config: ShardsConfig, inputs: Mapping[str, Path], out_dir: Path) -> None:
    """Stage `shards`: inputs `data` and `tokenizer`."""
    tokenizer = Tokenizer.load(inputs["tokenizer"] / "tokenizer.json")
    facts = read_json(inputs["data"] / "data.json")
    weights = {source["name"]: float(source["weight"]) for source in facts["sources"]}
    length = config.sequence_length

    pieces = tokenize(inputs["data"] / "documents.jsonl", tokenizer, config.image_tokens, length)
    available = {name: sum(len(p.ids) for p in source) for name, source in pieces.items()}
    images_of = {name: sum(len(p.images) for p in source) for name, source in pieces.items()}
    writer = RowWriter(length, config.image_tokens)
    taken = lay_out(pieces, weights, config.tokens + length + 1, writer, config.seed, tokenizer.end)
    _write(out_dir / "train", writer, config.tokens // length + 1, length)

    validation = tokenize(inputs["data"] / "validation.jsonl", tokenizer, config.image_tokens, length)
    missing = sorted(set(taken) - set(validation))
    if missing:
        raise UserError(
            f"no validation documents for {', '.join(missing)}; raise the validation fraction or add documents."
        )
    sources = {}
    for name in sorted(taken):
        held_out = RowWriter(length, config.image_tokens)
        used = 0
        # In a fixed shuffled order: rows from the first few long documents alone would not stand for their source.
        order = np.random.default_rng(0).permutation(len(validation[name]))
        validation[name] = [validation[name][index] for index in order]
        for piece in validation[name]:
            if held_out.position >= config.validation_rows * length + 1:
                break
            if not held_out.fits(piece):
                held_out.pad_row(tokenizer.end)
            held_out.add(piece)
            used += 1
        rows = min(config.validation_rows, max(1, (held_out.position - 1) // length))
        if held_out.position < rows * length + 1:
            held_out.pad_row(tokenizer.end)
            held_out.chunks.append(np.array([tokenizer.end], dtype=np.uint16))
        _write(out_dir / "validation" / name, held_out, rows, length)
        written = validation[name][:used]
        text_tokens = sum(len(p.ids) - len(p.images) * config.image_tokens for p in written)
        sources[name] = {
            "weight": weights[name] / sum(weights[n] for n in taken),
            "tokens_available": available[name],
            "tokens_taken": taken[name],
            "epochs": round(taken[name] / available[name], 3),
            "validation_rows": rows,
            "modality": "vision" if images_of[name] else "text",
            "bytes_per_token": sum(p.bytes for p in written) / max(1, text_tokens),
        }
    write_json(
        out_dir / "shards.json",
        {
            "sequence_length": length,
            "image_tokens": config.image_tokens,
            "vocab_size": tokenizer.vocab_size,
            "end_token": tokenizer.end,
            "image_token": tokenizer.image,
            "tokens": (config.tokens // length + 1) * length,
            "images": len(writer.images),
            "images_per_token": len(writer.images) / writer.position,
            "sources": sources,
        },
    )


def _write(stem: Path, writer: RowWriter, rows: int, length: int) -> None:
    stem.parent.mkdir(parents=True, exist_ok=True)
    tokens = np.concatenate(writer.chunks)[: rows * length + 1]
    tokens.astype("<u2").tofile(stem.with_name(stem.name + ".u16"))
    images = np.array([pair for pair in writer.images if pair[0] < rows * length], dtype="<i8").reshape(-1, 2)
    images.tofile(stem.with_name(stem.name + "_images.i64"))


STAGE = Stage("shards", prepare, version=2)


@dataclass(frozen=True)
class Batch:
    """tokens, targets: int64 (rows, length); targets of image places and padding are -100. pixels: uint8 (pictures, S, S, 3)."""

    tokens: np.ndarray
    targets: np.ndarray
    pixels: np.ndarray


class Rows:
    """Rows of one shard file, with their pictures. Raises CorruptArtifact if the files do not fit together."""

    def __init__(self, stem: Path, facts: dict[str, Any], images_NSSc: np.ndarray) -> None:
        path, length = stem.with_name(stem.name + ".u16"), facts["sequence_length"]
        if not path.is_file():
            raise CorruptArtifact(f"{path} is missing; delete its folder to make it again.")
        self.tokens = np.memmap(path, dtype="<u2", mode="r")
        pairs = np.fromfile(stem.with_name(stem.name + "_images.i64"), dtype="<i8")
        if len(self.tokens) % length != 1 or len(pairs) % 2:
            raise CorruptArtifact(
                f"{path} has a length that its manifest does not explain; delete its folder to make it again."
            )
        self.starts, self.which = pairs.reshape(-1, 2).T
        self.length, self.images_NSSc = length, images_NSSc
        self.image_token, self.end_token = facts["image_token"], facts["end_token"]

    def __len__(self) -> int:
        return len(self.tokens) // self.length

    def images_in(self, rows: int) -> int:
        """How many pictures stand in the first `rows` rows."""
        return int(np.searchsorted(self.starts, rows * self.length))

    def batch(self, first: int, rows: int) -> Batch:
        """Raises IndexError past the end: a run never wraps around by itself."""
        if first + rows > len(self):
            raise IndexError(f"rows {first} to {first + rows} of {len(self)}")
        begin, end = first * self.length, (first + rows) * self.length
        span = self.tokens[begin : end + 1].astype(np.int64)
        targets = span[1:].copy()
        # An end token after an end token is padding, which no document holds.
        padding = (span[:-1] == self.end_token) & (targets == self.end_token)
        targets[(targets == self.image_token) | padding] = -100
        low, high = np.searchsorted(self.starts, (begin, end))
        pixels = self.images_NSSc[self.which[low:high]]
        shape = (rows, self.length)
        return Batch(span[:-1].reshape(shape), targets.reshape(shape), np.asarray(pixels))


class Shards:
    """The training rows and each source's validation rows, opened for reading."""

    def __init__(self, shards_dir: Path, data_dir: Path) -> None:
        self.facts = read_json(shards_dir / "shards.json")
        data = read_json(data_dir / "data.json")
        size, count = data["image_size"], data["n_images"]
        path = data_dir / "images.u8"
        if count and (not path.is_file() or path.stat().st_size != count * size * size * 3):
            raise CorruptArtifact(
                f"{path} does not hold the {count} pictures that data.json lists; delete its folder to make it again."
            )
        shape = (count, size, size, 3)
        images = np.memmap(path, dtype=np.uint8, mode="r", shape=shape) if count else np.zeros(shape, np.uint8)
        self.train = Rows(shards_dir / "train", self.facts, images)
        self.validation = {
            name: Rows(shards_dir / "validation" / name, self.facts, images) for name in self.facts["sources"]
        }
