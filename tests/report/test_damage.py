"""What a run folder's readers say of files that are not what their manifests say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_run_folder import START, dump, make_run, manifest, reseal

from forescale.cli import main
from forescale.core.artifacts import read_json
from forescale.core.listing import damage, list_artifacts

FORECAST = "forecasts/10x/forecast.json"


def close_target(run: Path) -> None:
    """The target as its stage leaves it: made of the forecast that lies there, whose seal it names."""
    timing = read_json(run / "target" / "timing.json")
    dump(run / "target" / "timing.json", timing | {"forecast_seal": read_json(run / FORECAST)["seal"]["sha256"]})
    name_forecast(run)


def name_forecast(run: Path) -> None:
    content = read_json(run / "forecasts" / "10x" / "manifest.json")["content"]
    manifest(run / "target", "rung", START, 3600.0, inputs={"forecast": content})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run(tmp_path_factory.mktemp("damage") / "run", caps=(10,))
    close_target(run)
    return run


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def truncate(content: bytes) -> bytes:
    return content[: len(content) // 2]


def empty(content: bytes) -> bytes:
    return b""


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def two_digits(content: bytes) -> bytes:
    """Two neighbouring digits exchanged: a number that reads as well as the one before."""
    for i in range(len(content) // 2, len(content) - 1):
        pair = content[i : i + 2]
        if pair.isdigit() and pair[0] != pair[1] and pair[0] != 48 and pair[1] != 48:
            return content[:i] + pair[::-1] + content[i + 2 :]
    return b"1" + content


MUTATIONS: list[Callable[[bytes], bytes]] = [truncate, empty, flip, two_digits]


def hashed_files(run: Path) -> list[Path]:
    """One of each kind: of the rungs, the first."""
    return [
        path
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name != "manifest.json" and not ("rungs" in path.parts and "r0-s0" not in path.parts)
    ]


@pytest.mark.parametrize("mutate", MUTATIONS)
def test_every_changed_byte_under_a_hash_is_named(whole: Path, run: Path, mutate: Callable[[bytes], bytes]) -> None:
    files = hashed_files(whole)
    assert len(files) >= 13
    assert damage(run) == []
    for source in files:
        path = run / source.relative_to(whole)
        path.write_bytes(mutate(source.read_bytes()))
        assert any(str(path) in sentence for sentence in damage(run)), path
        states = {row["artifact"]: row["state"] for row in list_artifacts(run)}
        assert states[path.parent.relative_to(run).as_posix()] == "damaged"
        path.write_bytes(source.read_bytes())
    assert damage(run) == []


@pytest.mark.parametrize("mutate", MUTATIONS)
@pytest.mark.parametrize("name", ["target/result.json", "target/capability.jsonl", FORECAST, "rungs/r0-s0/result.json"])
def test_the_report_ends_with_1_or_2_and_names_the_file(
    run: Path, name: str, mutate: Callable[[bytes], bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / name
    path.write_bytes(mutate(path.read_bytes()))
    assert main(["report", "--dir", str(run)]) in (1, 2)
    said = capsys.readouterr().err
    assert str(path) in said
    assert "Traceback" not in said


def edit_manifest(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def edit(run: Path) -> None:
        facts = read_json(run / "target" / "manifest.json")
        change(facts)
        dump(run / "target" / "manifest.json", facts)

    return edit


MANIFESTS: dict[str, Callable[[Path], None]] = {
    "an output less": edit_manifest(lambda facts: facts["outputs"].pop("result.json")),
    "another hash": edit_manifest(lambda facts: facts["outputs"].update({"result.json": "0" * 64})),
    "another content": edit_manifest(lambda facts: facts.update(content="0" * 64)),
    "another input": edit_manifest(lambda facts: facts["inputs"].update(forecast="0" * 64)),
    "hashes that are numbers": edit_manifest(lambda facts: facts["outputs"].update({"result.json": 1})),
    "outputs in a list": edit_manifest(lambda facts: facts.update(outputs=list(facts["outputs"]))),
    "a file elsewhere": edit_manifest(lambda facts: facts["outputs"].update({"../data/data.json": "0" * 64})),
    "a field less": edit_manifest(lambda facts: facts.pop("content")),
    "a field more": edit_manifest(lambda facts: facts.update(more=1)),
    "no time": edit_manifest(lambda facts: facts.update(started_at=1)),
    "no object": lambda run: (run / "target" / "manifest.json").write_text("[1]"),
    "not JSON": lambda run: (run / "target" / "manifest.json").write_text("{"),
}


@pytest.mark.parametrize("edit", MANIFESTS.values(), ids=MANIFESTS.keys())
def test_manifests_that_do_not_fit_are_named(
    run: Path, edit: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    edit(run)
    assert any("target" in sentence for sentence in damage(run))
    assert main(["report", "--dir", str(run)]) in (1, 2)
    assert "target" in capsys.readouterr().err


def test_a_seal_is_forged_by_consistent_edits_in_four_files_only(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def made_again() -> None:
        manifest(run / "forecasts" / "10x", "forecast", START, 2.4)

    forgeries: list[Callable[[], None]] = [
        lambda: reseal(run / FORECAST, START, loss=read_json(run / FORECAST)["loss"] | {"predicted": 1.0}),
        made_again,
        lambda: name_forecast(run),
    ]
    for forge in forgeries:
        forge()
        assert any("hash" in sentence for sentence in damage(run))
        assert main(["report", "--dir", str(run)]) == 1
        assert "match" in capsys.readouterr().err
    # The fourth: nothing in the folder tells any more, which docs/forecast.md says.
    close_target(run)
    assert damage(run) == []


def test_a_target_that_was_edited_to_its_forecast_is_no_forecast(run: Path) -> None:
    predicted = read_json(run / FORECAST)["loss"]["predicted"]
    result = read_json(run / "target" / "result.json")
    dump(run / "target" / "result.json", result | {"loss": predicted})
    assert main(["report", "--dir", str(run)]) == 1
    summary = read_json(run / "report" / "summary.json")
    (entry,) = summary["loss"]["forecasts"]
    assert not entry["is_forecast"]
    assert "does not match its manifest" in entry["standing"]
    assert any("result.json" in warning["text"] for warning in summary["warnings"])


def test_runs_ends_with_1_where_something_is_damaged(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "--dir", str(run)]) == 0
    (run / "target" / "result.json").write_text("{}")
    (run / "data" / "data.json").unlink()
    assert main(["runs", "--dir", str(run)]) == 1
    said = capsys.readouterr().out
    assert "result.json does not match" in said
    assert "data.json is missing" in said
    assert main(["runs", "--dir", str(run), "--json"]) == 0
    rows = {row["artifact"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["target"]["state"] == rows["data"]["state"] == "damaged"


def test_an_old_target_names_no_seal(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", caps=(10,))
    assert damage(run) == []
