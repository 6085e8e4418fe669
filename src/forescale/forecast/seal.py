"""Sealing a forecast before its target runs, and scoring it after.

A seal is `{"sealed_at", "sha256", "version", "code"}`; the hash is of the canonical JSON of everything else in the
file together with the seal's own other fields, so neither the forecast nor its time can be edited unseen. It is a
tripwire for honest people, not a proof: whoever holds the file can make a new one, so publish the hash where you do
not hold the pen.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forescale import __version__
from forescale.core.artifacts import code_hash, read_json, utc_now, write_json
from forescale.core.config import digest, to_json
from forescale.core.errors import CorruptArtifact, UserError

SEAL = "seal"


def _hash(payload: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in payload.items() if key != SEAL}
    fields = {key: value for key, value in payload[SEAL].items() if key != "sha256"}
    return digest({"forecast": rest, SEAL: fields})


def seal(payload: Mapping[str, Any], path: Path, now: str | None = None) -> dict[str, Any]:
    """Writes `payload` with its seal to `path` and returns it. The same payload again keeps the old seal.

    Raises UserError if `path` holds another forecast: a sealed forecast is never replaced.
    """
    body = {key: value for key, value in to_json(dict(payload)).items() if key != SEAL}
    if path.is_file():
        there = read_json(path)
        check_seal(there)
        if digest({key: value for key, value in there.items() if key != SEAL}) == digest(body):
            return dict(there)
        raise UserError(
            f"{path} holds another forecast, sealed at {there[SEAL]['sealed_at']}; a sealed forecast is never "
            f"replaced, so write "
            "this one elsewhere."
        )
    sealed_at = utc_now() if now is None else now
    _time(sealed_at)
    body[SEAL] = {"sealed_at": sealed_at, "version": __version__, "code": code_hash()}
    body[SEAL]["sha256"] = _hash(body)
    write_json(path, body)
    return body


def check_seal(payload: Mapping[str, Any]) -> None:
    """Raises CorruptArtifact if there is no seal or anything was edited since."""
    found = payload.get(SEAL) if isinstance(payload, Mapping) else None
    if not isinstance(found, Mapping) or not isinstance(found.get("sha256"), str):
        raise CorruptArtifact("this forecast has no seal; make it again with forescale.")
    if _hash(payload) != found["sha256"]:
        raise CorruptArtifact("this forecast was edited after it was sealed (its hash does not match); make it again.")


def is_forecast(payload: Mapping[str, Any], target_started_at: str) -> bool:
    """Whether the seal holds and is older than the target's first step. Otherwise it is hindsight."""
    try:
        check_seal(payload)
        return _time(payload[SEAL]["sealed_at"]) < _time(target_started_at)
    except (CorruptArtifact, UserError):
        return False


def _time(text: str) -> dt.datetime:
    try:
        moment = dt.datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise UserError(f"{text!r} is not a time in ISO 8601.") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=dt.UTC)


def score(payload: Mapping[str, Any], result: Mapping[str, Any], target_started_at: str) -> dict[str, Any]:
    """What the target did against what was said: hits and misses alike.

    `result` is the target's result.json; its capabilities may stand under `capability` as rows of capability.jsonl,
    and are then averaged over each forecast's own problems. Relative errors are predicted / observed - 1. A seal
    that fails or is too young gives `is_forecast: false` and still every number.
    """
    scored: dict[str, Any] = {
        "is_forecast": is_forecast(payload, target_started_at),
        "sealed_at": payload.get(SEAL, {}).get("sealed_at"),
        "target_started_at": target_started_at,
        "cap_ratio": payload.get("cap_ratio"),
        "ladder_share": payload.get("ladder_share"),
        "target_flops": payload.get("target", {}).get("flops"),
        **score_one(payload["loss"], float(result["loss"])),
        "by_modality": {
            name: score_one(forecast, float(result["loss_by_modality"][name]))
            for name, forecast in payload.get("loss_by_modality", {}).items()
            if result.get("loss_by_modality", {}).get(name) is not None
        },
    }
    rows = {(row["family"], row["id"]): -float(row["log_pass_rate"]) for row in result.get("capability", [])}
    scored["capability"] = [_score_capability(forecast, rows) for forecast in payload.get("capability", [])]
    return scored


def score_one(forecast: Mapping[str, Any], observed: float) -> dict[str, Any]:
    low, high = forecast["interval"]
    return {
        "predicted": forecast["predicted"],
        "interval": [low, high],
        "interval_level": forecast.get("interval_level"),
        "observed": observed,
        "relative_error": forecast["predicted"] / observed - 1,
        "inside_interval": bool(low <= observed <= high),
        **{
            name: value
            for baseline in ("baseline_last_rung", "baseline_loglog_line")
            if forecast.get(baseline) is not None
            for name, value in (
                (baseline, forecast[baseline]),
                (f"{baseline}_error", forecast[baseline] / observed - 1),
            )
        },
    }


def _score_capability(forecast: Mapping[str, Any], rows: Mapping[tuple[str, str], float]) -> dict[str, Any]:
    values = [
        rows[forecast["family"], problem]
        for problem in forecast["problem_ids"]
        if (forecast["family"], problem) in rows
    ]
    observed = math.fsum(values) / len(values) if values else None
    scored = {
        key: forecast.get(key)
        for key in ("family", "bucket", "n_problems", "predicted", "interval", "status", "baseline_last_rung")
    }
    scored |= {
        "observed": observed,
        "n_observed": len(values),
        "error": None,
        "relative_error": None,
        "inside_interval": None,
    }
    if observed is not None and forecast.get("predicted") is not None and forecast["status"] == "forecast":
        low, high = forecast["interval"]
        scored["error"] = forecast["predicted"] - observed
        scored["relative_error"] = forecast["predicted"] / observed - 1 if observed > 0 else None
        scored["inside_interval"] = bool(low <= observed <= high)
    if observed is not None and forecast.get("baseline_last_rung") is not None:
        scored["baseline_last_rung_error"] = forecast["baseline_last_rung"] - observed
    return scored
