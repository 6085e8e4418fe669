"""Whether a forecast may be called one, and how it came out. The honesty rules of the report live here.

A forecast is called a forecast only if the seal's hash holds and it was sealed before the target's first step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from forescale.core.errors import CorruptArtifact
from forescale.forecast.capability import LARGEST_LOG_PASS_RATE
from forescale.forecast.seal import check_seal
from forescale.report import words
from forescale.report.read import ForecastFile, RunFolder, TrainingRun

Interval = list[float] | None


def seal_holds(sealed: dict[str, Any]) -> bool:
    """Whether the file is as it was when it was sealed."""
    try:
        check_seal(sealed)
    except CorruptArtifact:
        return False
    return True


def standing(forecast: ForecastFile, target: TrainingRun | None, damage: Sequence[str] = ()) -> tuple[bool, bool, str]:
    """(is a forecast, may still become one, why in words). `damage`: what of the run folder does not match its manifests."""
    sealed_at = words.parse_time((forecast.payload.get("seal") or {}).get("sealed_at"))
    if sealed_at is None:
        return False, False, "not a forecast: it was never sealed"
    if not seal_holds(forecast.sealed):
        return False, False, "not a forecast: its content does not match its seal"
    started_at = words.parse_time(target.started_at) if target else None
    if target and started_at is None:
        return False, False, "not a forecast: when the target started is not known"
    ahead = (started_at - sealed_at).total_seconds() if started_at else 0.0
    if target and ahead <= 0:
        return False, False, f"not a forecast: sealed {words.duration(-ahead)} after the target’s first step"
    folders = [forecast.path, *([target.path] if target else [])]
    for sentence in damage:
        # Sentences name a file or a folder of the run, so that what touches this forecast or its target can be told.
        if any(f"{folder}/" in sentence or f"{folder} " in sentence for folder in folders):
            return False, False, f"not a forecast: {sentence}"
    if target is None:
        return False, True, f"sealed {words.clock(sealed_at.isoformat())}; the target has not been run yet"
    return True, False, f"sealed {words.duration(ahead)} before the target’s first step"


def compare(predicted: float | None, interval: Interval, observed: float | None) -> dict[str, Any]:
    """Signed error relative to what was observed (positive: forecast too high), and whether the interval held it."""
    known = predicted is not None and observed not in (None, 0)
    bounded = bool(interval) and None not in (interval or []) and observed is not None
    return {
        "predicted": predicted,
        "interval": interval,
        "observed": observed,
        "relative_error": (predicted - observed) / observed if known else None,  # type: ignore[operator]
        "inside_interval": interval[0] <= observed <= interval[1] if bounded else None,  # type: ignore[index,operator]
    }


def sentence(entry: dict[str, Any], target_status: str) -> str:
    """One forecast and its outcome as a person would say it."""
    share = f"runs with at most 1/{words.ratio(entry['cap_ratio'])} of the target’s compute"
    value = f"{words.loss(entry['predicted'])} nats per token"
    if entry["interval"]:
        value += f" ({words.level(entry['interval_level'])} interval {words.interval(entry['interval'])})".replace(
            "( ", "("
        )
    if entry["is_forecast"] or entry["pending"]:
        opening = f"Forecast from {share}: {value}."
    else:
        opening = f"{entry['standing'][0].upper()}{entry['standing'][1:]}. Fitted to {share}: {value}."
    if entry["observed"] is None:
        outcome = {"none": "Target not run yet.", "unfinished": "The target has not finished."}.get(
            target_status, "The target run failed, so there is nothing to compare with."
        )
    else:
        where = {True: ", inside its interval", False: ", outside its interval", None: ""}[entry["inside_interval"]]
        verb = "The forecast was " if entry["is_forecast"] else "That is "
        error = words.error_words(entry["relative_error"])
        outcome = f"Observed: {words.loss(entry['observed'])}. {verb}{error}{where}."
    closing = f" {entry['standing'][0].upper()}{entry['standing'][1:]}." if entry["is_forecast"] else ""
    return f"{opening} {outcome}{closing}"


def bucket_value(target: TrainingRun, family: str, problem_ids: list[str]) -> tuple[float | None, str | None]:
    """Mean −log pass rate in nats of exactly these problems, or None and why: fewer would be another number."""
    by_id: dict[Any, Any] = {
        row["id"]: row.get("log_pass_rate") for row in target.capability if row.get("family") == family
    }
    absent = sum(1 for i in problem_ids if i not in by_id)
    if absent or not problem_ids:
        return None, f"the target was not asked {absent} of {len(problem_ids)} problems"
    values = [by_id[i] for i in problem_ids if by_id[i] is not None]
    unsolved = len(problem_ids) - len(values)
    if unsolved:
        return None, f"{unsolved} of {len(problem_ids)} problems have no finite pass rate in the target"
    return -sum(max(v, LARGEST_LOG_PASS_RATE) for v in values) / len(values), None  # held as the forecaster holds them


def inconsistencies(folder: RunFolder, forecast: ForecastFile) -> list[str]:
    """Where a forecast's own account differs from what now lies on disk."""
    notes = []
    target, wanted = folder.observed, (forecast.payload.get("target") or {}).get("flops")
    if target is not None and wanted and target.compute and abs(target.compute / wanted - 1) > 0.01:
        notes.append(
            f"the forecast was for {words.scientific(wanted)} FLOPs, the target ran with "
            f"{words.scientific(target.compute)}"
        )
    on_disk = {(rung.name, rung.seed): rung for rung in folder.rungs}
    for run in forecast.payload.get("runs") or []:
        rung = on_disk.get((run.get("name"), run.get("seed")))
        if rung is None or rung.status != "ok":
            notes.append(f"run {run.get('name')} (seed {run.get('seed')}) was used, but is no longer among the rungs")
        elif run.get("loss") and abs(rung.result["loss"] / run["loss"] - 1) > 1e-6:
            notes.append(
                f"run {rung.name} (seed {rung.seed}) was used with a loss of {run['loss']:.4f}; "
                f"the rung on disk has {rung.result['loss']:.4f}"
            )
    return notes
