"""A whole run from text and pictures to the report, killed, resumed, repeated and damaged."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from forescale import pipeline
from forescale.core.artifacts import MANIFEST, Manifest, read_json, verify, write_json
from forescale.core.errors import UserError
from forescale.forecast.runs import read_csv
from tests.micro import FAMILIES, numbers, recipe

ROOT = Path(__file__).parents[1]


def start(out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.micro", str(out)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )


def finish(out: Path) -> str:
    process = start(out)
    _, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    return err


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    finish(out)
    return out


def test_the_summary_has_what_machines_need(whole: Path) -> None:
    summary = read_json(whole / "report" / "summary.json")
    (forecast,) = summary["loss"]["forecasts"]
    result = read_json(whole / "target" / "result.json")
    assert forecast["is_forecast"]
    assert forecast["sealed_at"] < forecast["target_started_at"]
    assert forecast["observed"] == result["loss"]
    assert forecast["relative_error"] == pytest.approx(forecast["predicted"] / result["loss"] - 1)
    assert forecast["interval"][0] < forecast["predicted"] < forecast["interval"][1]
    assert forecast["target_flops"] == result["compute"] >= 8e9
    assert forecast["cap_ratio"] >= 2
    runs = [read_json(path) for path in whole.glob("rungs/*/result.json")]
    assert forecast["ladder_share"] == pytest.approx(sum(r["compute"] for r in runs) / result["compute"])
    assert set(summary["loss"]["by_modality"]) == {"text", "vision"}
    assert {c["family"] for c in summary["capability"]["forecasts"]} == {*FAMILIES, "counting exam"}
    for key in ("tokens_per_second", "flops_per_second", "matmul_peak_flops_per_second", "utilisation"):
        assert summary["throughput"][key] > 0
    assert {"data", "tokenizer", "shards", "rungs", "forecasts", "target"} <= set(summary["seconds"])
    page = (whole / "report" / "report.html").read_text()
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert {run.compute for run in read_csv(whole / "report" / "runs.csv")} == {r["compute"] for r in runs}


def test_every_artifact_is_what_its_manifest_says(whole: Path) -> None:
    folders = [path.parent for path in whole.rglob(MANIFEST)]
    assert len(folders) >= 9
    for folder in folders:
        manifest = verify(folder)
        assert manifest.outputs
        assert not list(folder.rglob("*.tmp"))
        assert not (folder / ".stage.json").exists()


def test_functions_are_really_executed(whole: Path) -> None:
    rows = [json.loads(line) for line in (whole / "target" / "capability.jsonl").open()]
    for row in rows:
        assert row["log_pass_rate"] <= 0
        assert (row["method"] == "executed") == (row["family"] == "functions")
    assert {row["modality"] for row in rows} == {"text", "vision"}


def test_again_does_nothing_and_one_deleted_artifact_is_all_that_is_made(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    finish(out)  # The copy has another path, which only the report knows of.
    contents = {str(p.parent.relative_to(out)): Manifest.load(p.parent) for p in out.rglob(MANIFEST)}
    again = finish(out)
    for name in ("data", "tokenizer", "shards", "ladder", "forecast", "target", "report"):
        assert f"{name}: already there" in again
    victim = next(out.glob("rungs/*"))
    shutil.rmtree(victim)
    shutil.rmtree(out / "tokenizer")
    finish(out)
    for name, before in contents.items():
        after = Manifest.load(out / name)
        assert after.content == before.content, name
        remade = after.finished_at != before.finished_at
        assert remade == (name in ("tokenizer", f"rungs/{victim.name}")), name


def test_a_new_seal_means_a_new_target(whole: Path, tmp_path: Path) -> None:
    """Hindsight cannot be smuggled in: if a forecast is made again, its target is trained again after it."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    shutil.rmtree(out / "forecasts")
    finish(out)
    sealed = read_json(next(out.glob("forecasts/*/forecast.json")))["seal"]["sealed_at"]
    assert sealed < read_json(out / "target" / "timing.json")["started_at"]
    assert numbers(out) == numbers(whole)


def test_a_sealed_forecast_whose_target_has_begun_is_never_replaced(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    other = dataclasses.replace(recipe(), capability=dataclasses.replace(recipe().capability, seed=9))
    with pytest.raises(UserError, match="a sealed forecast is never replaced"):
        pipeline.run(other, out)
    assert numbers(out)["forecasts/2/forecast.json"] == numbers(whole)["forecasts/2/forecast.json"]


def test_data_that_a_run_began_with_is_kept_when_only_the_surroundings_changed(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Manifest.load(whole / "data")
    now = pipeline.data_stage.stage_config(recipe().data)
    changed = {"sources": {name: {"version": "another"} for name in now.fingerprint["sources"]}}
    monkeypatch.setattr(
        pipeline.data_stage, "stage_config", lambda config: dataclasses.replace(now, fingerprint=changed)
    )
    kept = pipeline.data_config(recipe(), whole / "data")
    assert pipeline.data_stage.STAGE.key(kept, {}) == before.key


def test_rungs_that_were_given_up_are_not_tried_again(tmp_path: Path) -> None:
    write_json(
        tmp_path / "2" / "forecast.json",
        {"exclusions": [{"name": "w8-s0", "why": pipeline.FAILED_TWICE}, {"name": "w6-s0", "why": "diverged"}]},
    )
    assert pipeline._given_up(tmp_path) == {"w8-s0"}


def test_a_damaged_artifact_is_made_again(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    shard = out / "shards" / "train.u16"
    shard.write_bytes(shard.read_bytes()[:-100])
    said = finish(out)
    assert "train.u16 does not match" in said
    assert "ladder: already there" in said
    assert numbers(out) == numbers(whole)


def test_killed_at_random_moments_it_ends_where_the_whole_run_ends(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    generator = random.Random(0)
    for _ in range(3):
        process = start(out)
        time.sleep(generator.uniform(3, 14))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finish(out)
    assert numbers(out) == numbers(whole)
    for path in out.rglob(MANIFEST):
        verify(path.parent)


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    stage = pipeline.data_stage.STAGE
    monkeypatch.setattr(pipeline.data_stage, "STAGE", type(stage)("data", full))
    with pytest.raises(UserError, match=r"No space left on device.*free space"):
        pipeline.run(recipe(), tmp_path / "run")


def test_without_a_compiler_it_says_so_and_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    import torch

    from forescale.train import loop

    monkeypatch.setattr(pipeline, "has_compiler", lambda: False)
    monkeypatch.setattr(loop, "has_compiler", lambda: False)
    monkeypatch.setattr(pipeline, "prepare_data", lambda *_: (_ for _ in ()).throw(UserError("far enough")))
    with pytest.raises(UserError, match="far enough"):
        pipeline.run(recipe(), tmp_path)
    assert "no C++ compiler" in capsys.readouterr().err
    plan = recipe().family.plan_for(1e14, 0.0)
    assert not loop.should_compile(plan, torch.device("cpu"))


def test_two_runs_into_one_folder_at_once_do_not_meet(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = start(out)
    time.sleep(2.0)
    second = start(out)
    _, said = first.communicate(timeout=400)
    assert first.returncode == 0, said
    second.communicate(timeout=400)
    finish(out)
    assert numbers(out) == numbers(whole)


def test_until_forecast_stops_before_the_target_and_goes_on_later(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    for folder in ("target", "alignment", "exams", "report"):
        shutil.rmtree(out / folder)
    assert pipeline.run(dataclasses.replace(recipe(), until="forecast"), out) == out
    assert not (out / "target").exists()
    # Where it stops is no part of what the run is: the sealed forecast is the one that was there.
    assert numbers_of_forecasts(out) == numbers_of_forecasts(whole)


def numbers_of_forecasts(out: Path) -> list[object]:
    return [read_json(path) for path in sorted(out.glob("forecasts/*/forecast.json"))]


def test_another_seed_is_another_run_of_everything(whole: Path) -> None:
    other = dataclasses.replace(recipe(), seed=2)
    assert pipeline.data_config(other, Path("nowhere")).config.seed == recipe().data.seed + 2
    first, second = (
        pipeline.rungs_for(r.family, r.ladder, r.target.compute, 0.0, r.seed * pipeline.SEEDS_APART)
        for r in (recipe(), other)
    )
    assert [rung.plan for rung in first] == [rung.plan for rung in second]
    assert not {rung.seed for rung in first} & {rung.seed for rung in second}


def test_impossible_budgets_are_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="raise the target's compute"):
        pipeline.run(recipe(compute=1e7), tmp_path / "run")
    assert not (tmp_path / "run").exists()
