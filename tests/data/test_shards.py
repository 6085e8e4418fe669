from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from forescale.core.artifacts import read_json
from forescale.core.errors import CorruptArtifact, UserError
from forescale.data.shards import Piece, RowWriter, Shards, ShardsConfig, lay_out, prepare
from forescale.tokenizer.bpe import Tokenizer


def test_targets_are_the_next_tokens_and_pictures_are_never_predicted(prepared: dict[str, Path]) -> None:
    shards = Shards(prepared["shards"], prepared["data"])
    batch = shards.train.batch(3, 5)
    flat = shards.train.tokens[3 * 64 : 8 * 64 + 1].astype(np.int64)
    assert (batch.tokens.reshape(-1) == flat[:-1]).all()
    image = shards.facts["image_token"]
    assert ((batch.targets.reshape(-1) == -100) == (flat[1:] == image)).all()
    assert len(batch.pixels) * shards.facts["image_tokens"] == (batch.tokens == image).sum()


def test_padding_is_never_a_target(prepared: dict[str, Path]) -> None:
    shards = Shards(prepared["shards"], prepared["data"])
    end, padded = shards.facts["end_token"], 0
    for rows in (shards.train, *shards.validation.values()):
        batch = rows.batch(0, len(rows))
        after_end = (batch.tokens == end) & (np.roll(batch.tokens, -1, axis=1) == end)
        after_end[:, -1] = False
        padded += after_end.sum()
        assert (batch.targets[after_end] == -100).all()
    assert padded > 0


def test_every_row_holds_whole_pictures_in_order(prepared: dict[str, Path]) -> None:
    shards = Shards(prepared["shards"], prepared["data"])
    image, places = shards.facts["image_token"], shards.facts["image_tokens"]
    seen = 0
    for row in range(len(shards.train)):
        batch = shards.train.batch(row, 1)
        assert (batch.tokens == image).sum() == places * len(batch.pixels)
        seen += len(batch.pixels)
    assert seen == shards.train.images_in(len(shards.train)) > 100


def test_a_longer_stream_begins_with_the_shorter_one(prepared: dict[str, Path], tmp_path: Path) -> None:
    inputs = {"data": prepared["data"], "tokenizer": prepared["tokenizer"]}
    prepare(ShardsConfig(sequence_length=64, tokens=20_000, validation_rows=4), inputs, tmp_path)
    short = np.fromfile(tmp_path / "train.u16", "<u2")
    long = np.fromfile(prepared["shards"] / "train.u16", "<u2")
    assert (long[: len(short)] == short).all()


def test_validation_rows_come_from_all_held_out_documents(tmp_path: Path, prepared: dict[str, Path]) -> None:
    documents = [{"source": "long", "parts": [{"text": f"{letter} " * 3000}]} for letter in "abcdefgh"]
    data = tmp_path / "data"
    shutil.copytree(prepared["data"], data)
    (data / "documents.jsonl").write_text("".join(json.dumps(d) + "\n" for d in documents))
    (data / "validation.jsonl").write_text("".join(json.dumps(d) + "\n" for d in documents))
    facts = read_json(data / "data.json")
    (data / "data.json").write_text(json.dumps({**facts, "sources": [{"name": "long", "weight": 1.0}]}))
    inputs = {"data": data, "tokenizer": prepared["tokenizer"]}
    prepare(ShardsConfig(sequence_length=64, tokens=5_000, validation_rows=64), inputs, tmp_path / "shards")
    text = Tokenizer.load(prepared["tokenizer"] / "tokenizer.json").decode(
        np.fromfile(tmp_path / "shards" / "validation" / "long.u16", "<u2").tolist()
    )
    # Sixty-four rows are less than one of the documents holds.
    assert len(set(text) & set("abcdefgh")) >= 5


def test_every_prefix_has_the_mixture(prepared: dict[str, Path]) -> None:
    facts = read_json(prepared["shards"] / "shards.json")
    total = sum(source["tokens_taken"] for source in facts["sources"].values())
    for source in facts["sources"].values():
        assert source["tokens_taken"] / total == pytest.approx(source["weight"], abs=0.02)


def test_validation_documents_are_not_in_training(prepared: dict[str, Path]) -> None:
    tokenizer = Tokenizer.load(prepared["tokenizer"] / "tokenizer.json")
    train = tokenizer.decode(np.fromfile(prepared["shards"] / "train.u16", "<u2").tolist())
    held_out = tokenizer.decode(np.fromfile(prepared["shards"] / "validation" / "code.u16", "<u2").tolist())
    probe = held_out[len(held_out) // 2 :][:120]
    assert probe not in train


def test_pictures_alone_still_make_rows() -> None:
    piece = Piece(np.array([0, *[1] * 16, 5, 6], np.uint16), [0], [1], 2)
    writer = RowWriter(20, 16)
    lay_out({"a": [piece]}, {"a": 1.0}, 400, writer, 0, end=0)
    tokens = np.concatenate(writer.chunks)
    starts = [start for start, _ in writer.images]
    assert len(starts) >= 10
    assert all(start % 20 + 16 <= 20 for start in starts)
    assert all((tokens[start : start + 16] == 1).all() for start in starts if start + 16 <= len(tokens))


def test_an_empty_mixture_is_refused() -> None:
    with pytest.raises(UserError, match="no documents"):
        lay_out({}, {}, 100, RowWriter(20, 16), 0, end=0)


@pytest.mark.parametrize("name", ["train.u16", "validation/code.u16"])
def test_a_shortened_shard_is_noticed(prepared: dict[str, Path], tmp_path: Path, name: str) -> None:
    shutil.copytree(prepared["shards"], tmp_path / "shards")
    path = tmp_path / "shards" / name
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CorruptArtifact, match="delete its folder"):
        Shards(tmp_path / "shards", prepared["data"])


def test_missing_pictures_are_noticed(prepared: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(prepared["data"], tmp_path / "data")
    (tmp_path / "data" / "images.u8").write_bytes(b"")
    with pytest.raises(CorruptArtifact, match="does not hold the 120 pictures"):
        Shards(prepared["shards"], tmp_path / "data")
