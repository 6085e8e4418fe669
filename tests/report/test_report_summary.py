"""What the report says of a run folder: its numbers, their names, and what it refuses to call a forecast."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest
from fake_run_folder import COMPUTES, START, TARGET, make_run, reseal

from forescale.core.artifacts import read_json
from forescale.core.errors import CorruptArtifact, UserError
from forescale.report.collect import band_watch, collect, exponents
from forescale.report.figures_run import alarm_words


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def summary(run_dir: Path) -> dict[str, Any]:
    return collect(run_dir, "quick")


def test_the_summary_is_json_without_nan(summary: dict[str, Any]) -> None:
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_every_forecast_is_scored_against_what_came(summary: dict[str, Any], run_dir: Path) -> None:
    result = read_json(run_dir / "target" / "result.json")
    rows = [json.loads(line) for line in (run_dir / "target" / "capability.jsonl").read_text().splitlines()]
    passed = {(row["family"], row["id"]): -row["log_pass_rate"] for row in rows}
    assert len(summary["loss"]["forecasts"]) == 3
    for entry in summary["loss"]["forecasts"]:
        payload = read_json(run_dir / entry["path"] / "forecast.json")
        law = payload["loss"]
        assert entry["is_forecast"]
        assert entry["sealed_at"] == payload["seal"]["sealed_at"]
        assert (entry["predicted"], entry["interval"], entry["observed"]) == (
            law["predicted"],
            law["interval"],
            result["loss"],
        )
        assert entry["relative_error"] == pytest.approx(law["predicted"] / result["loss"] - 1)
        assert entry["inside_interval"] == (law["interval"][0] <= result["loss"] <= law["interval"][1])
        for name, group in summary["loss"]["by_modality"].items():
            mine = next(e for e in group["forecasts"] if e["cap_ratio"] == entry["cap_ratio"])
            predicted = payload["loss_by_modality"][name]["predicted"]
            assert mine["relative_error"] == pytest.approx(predicted / result["loss_by_modality"][name] - 1)
        for bucket in payload["capability"]:
            mine = next(
                e
                for e in summary["capability"]["forecasts"]
                if (e["family"], e["bucket"], e["cap_ratio"])
                == (bucket["family"], bucket["bucket"], entry["cap_ratio"])
            )
            values = [passed[bucket["family"], problem] for problem in bucket["problem_ids"]]
            assert mine["observed"] == pytest.approx(sum(values) / len(values))


def test_the_sentence_says_it_all(summary: dict[str, Any]) -> None:
    first = summary["loss"]["forecasts"][0]
    assert first["sentence"].startswith("Forecast from runs with at most 1/10 of the target’s compute: ")
    for part in (
        f"{first['predicted']:.3f}",
        f"Observed: {first['observed']:.3f}",
        "90% interval",
        "Sealed 14 min before",
    ):
        assert part in first["sentence"]


def test_ladder_seconds_throughput_data_and_provenance(summary: dict[str, Any], run_dir: Path) -> None:
    assert [row["role"] for row in summary["ladder"]].count("rung") == 2 * len(COMPUTES)
    assert summary["ladder"][-1]["compute"] == TARGET
    assert summary["ladder"][0]["used_by_caps"] == [f["cap_ratio"] for f in summary["loss"]["forecasts"]]
    rungs = sum(read_json(path)["seconds"] for path in run_dir.glob("rungs/*/manifest.json"))
    assert summary["seconds"]["rungs"] == pytest.approx(rungs, abs=1e-3)
    assert list(summary["seconds"]) == ["data", "tokenizer", "shards", "rungs", "forecasts", "target"]
    assert summary["throughput"]["utilisation"] == 0.569
    assert summary["peak_memory_bytes"] == 1.2e9
    assert {s["license"] for s in summary["data"]["sources"]} == {"PSF-2.0", "CC BY-SA 4.0"}
    assert len(summary["provenance"]) == len(list(run_dir.rglob("manifest.json")))
    assert all(len(row["content"]) == 64 and row["version"] for row in summary["provenance"])


def test_a_seal_younger_than_the_target_is_no_forecast(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", caps=(10, 100))
    reseal(run / "forecasts" / "10x" / "forecast.json", START + dt.timedelta(minutes=12))
    young, good = collect(run, "quick")["loss"]["forecasts"]
    assert not young["is_forecast"]
    assert "not a forecast: sealed 12 min after" in young["standing"]
    assert young["sentence"].startswith("Not a forecast")
    assert "Forecast from" not in young["sentence"]
    assert young["relative_error"] is not None
    assert good["is_forecast"]


def test_an_edited_forecast_is_no_forecast(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", caps=(10,))
    path = run / "forecasts" / "10x" / "forecast.json"
    payload = read_json(path)
    payload["loss"]["predicted"] -= 0.01
    path.write_text(json.dumps(payload))
    summary = collect(run, "quick")
    assert not summary["loss"]["forecasts"][0]["is_forecast"]
    assert any("does not match its seal" in w["text"] for w in summary["warnings"])


def test_a_resumed_target_does_not_look_younger(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", caps=(10,))
    timing = read_json(run / "target" / "timing.json")
    timing["started_at"] = (START + dt.timedelta(hours=5)).isoformat()
    (run / "target" / "timing.json").write_text(json.dumps(timing))
    reseal(run / "forecasts" / "10x" / "forecast.json", START + dt.timedelta(hours=1))
    assert not collect(run, "quick")["loss"]["forecasts"][0]["is_forecast"]


def test_a_ladder_without_its_target(tmp_path: Path) -> None:
    summary = collect(make_run(tmp_path / "run", target=False, caps=(10,)), "quick")
    entry = summary["loss"]["forecasts"][0]
    assert entry["sentence"].endswith("Target not run yet.")
    assert (entry["observed"], entry["is_forecast"], entry["pending"]) == (None, False, True)
    assert summary["warnings"] == []


def test_a_failed_target_is_never_an_observation(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", caps=(10,))
    result = read_json(run / "target" / "result.json")
    (run / "target" / "result.json").write_text(json.dumps(result | {"status": "failed"}))
    summary = collect(run, "quick")
    assert summary["loss"]["forecasts"][0]["observed"] is None
    assert "failed" in summary["loss"]["forecasts"][0]["sentence"]


def test_a_failed_rung_is_listed_with_its_reason(tmp_path: Path) -> None:
    summary = collect(make_run(tmp_path / "run", failed_rung=True, caps=(10,)), "quick")
    failed = next(e for e in summary["exclusions"] if e["name"] == "r2-s1")
    assert "not finite at step 312" in failed["why"]
    assert next(r for r in summary["ladder"] if r["name"] == "r2-s1")["status"] == "failed"


def test_a_miss_is_a_miss(tmp_path: Path) -> None:
    entry = collect(make_run(tmp_path / "run", surprise=0.08, caps=(10,)), "quick")["loss"]["forecasts"][0]
    assert entry["inside_interval"] is False
    assert "too low, outside its interval" in entry["sentence"]


def test_a_bucket_that_the_target_answered_in_part_is_not_observed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", caps=(10,))
    path = run / "target" / "capability.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0]["log_pass_rate"] = None
    path.write_text("".join(json.dumps(row) + "\n" for row in rows if row["id"] != "sort-0"))
    found = {(e["family"], e["bucket"]): e for e in collect(run, "quick")["capability"]["forecasts"]}
    assert found["add", "easy"]["observed"] is None
    assert "1 of 40 problems have no finite" in found["add", "easy"]["not_observed_because"]
    assert "was not asked 1 of 40" in found["sort", "easy"]["not_observed_because"]
    assert found["add", "hard"]["observed"] is not None


def test_a_ladder_that_changed_after_the_forecast_is_reported(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", caps=(10,))
    result = read_json(run / "rungs" / "r0-s0" / "result.json")
    (run / "rungs" / "r0-s0" / "result.json").write_text(json.dumps(result | {"loss": result["loss"] + 0.1}))
    assert any("run r0-s0 (seed 0) was used with a loss of" in w["text"] for w in collect(run, "quick")["warnings"])


def test_the_watch_finds_the_first_lasting_exit_only() -> None:
    fractions = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    points = [{"fraction": f, "predicted": 3.0, "low": 2.9, "high": 3.1} for f in fractions]
    curve = [{"fraction": f, "loss": v} for f, v in zip(fractions, [3.0, 3.2, 3.0, 3.2, 3.3, 3.4])]
    watch = band_watch({"points": points, "sustain": 3, "level": 0.98, "rule": ""}, curve)
    assert (watch["sustained_exit_at"], watch["inside_share"], watch["n_points"]) == (0.4, pytest.approx(2 / 6), 6)
    assert band_watch({"points": points, "sustain": 4}, curve)["sustained_exit_at"] is None
    assert band_watch({"points": []}, curve)["inside_share"] is None
    # The band is of the loss: what the gradients or the noise did is the alarm's to tell.
    noisy = [{**p, "noise_low": 0.1, "noise_predicted": 0.15, "noise_high": 0.2} for p in points]
    steady = [{"fraction": f, "loss": 3.0, "loss_noise": 0.5} for f in fractions]
    assert band_watch({"points": noisy, "sustain": 3}, steady)["sustained_exit_at"] is None


def test_an_alarm_of_the_noise_does_not_name_the_loss_band() -> None:
    alarm = {"fraction": 0.3, "since": 0.25, "loss": 3.0, "predicted": 3.0, "low": 2.9, "high": 3.1}
    assert alarm_words({**alarm, "direction": "worse than predicted"}).endswith("loss 3.000, band 2.900–3.100.")
    told = alarm_words({**alarm, "direction": "noise of the training loss smaller than predicted"})
    assert told == "Alarm at 30% of the run: noise of the training loss smaller than predicted, since 25%."


def test_exponents_off_the_median_are_not_steady() -> None:
    values = [{"from": 1, "to": 2, "exponent": e} for e in (-0.08, -0.08, -0.14)]
    assert [e["steady"] for e in exponents(values)] == [True, True, False]


def test_empty_and_broken_folders_are_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no rungs"):
        collect(tmp_path, "quick")
    run = make_run(tmp_path / "run", target=False, capability=False, caps=(10,))
    (run / "rungs" / "r0-s0" / "result.json").write_text("{")
    with pytest.raises(CorruptArtifact, match=r"result\.json"):
        collect(run, "quick")


def test_a_target_that_is_still_training_has_a_start(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", caps=(10,))
    for name in ("manifest.json", "result.json", "timing.json"):
        (run / "target" / name).unlink()
    (run / "target" / ".stage.json").write_text(json.dumps({"stage": "target", "started_at": START.isoformat()}))
    summary = collect(run, "quick")
    assert summary["target"]["status"] == "unfinished"
    assert summary["loss"]["forecasts"][0]["is_forecast"]
    assert "The target has not finished." in summary["loss"]["forecasts"][0]["sentence"]
