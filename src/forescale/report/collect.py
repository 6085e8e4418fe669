"""From a run folder to `summary.json`: every number that the report prints, and where it came from."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from forescale.core.artifacts import utc_now
from forescale.forecast.drift import Watcher
from forescale.report import alignment_words, verdict
from forescale.report.alignment import summarise_alignment
from forescale.report.exams import summarise_exams
from forescale.report.read import STAGE_ORDER, ForecastFile, RunFolder, finite, read, stage_of

STEADY = 0.25  # a local exponent is called steady within this share of the median
Json = dict[str, Any]


def collect(run_dir: Path, recipe: str) -> Json:
    """The summary of a run folder. Raises UserError if it holds no run, CorruptArtifact if a file cannot be read."""
    return summarise(read(run_dir), recipe)


def summarise(folder: RunFolder, recipe: str) -> Json:
    forecasts = [_loss_entry(folder, forecast) for forecast in folder.forecasts]
    alignment = summarise_alignment(folder)
    primary = folder.forecasts[0] if folder.forecasts else None
    summary = {
        "recipe": recipe,
        "created_at": utc_now(),
        "target": _target(folder),
        "loss": {
            "forecasts": forecasts,
            "by_modality": _by_modality(folder),
            "local_exponents": exponents((primary.payload["loss"] if primary else {}).get("local_exponents") or []),
        },
        "capability": {"forecasts": _capability(folder)},
        "watch": _watch(folder),
        "ladder": _ladder(folder),
        "throughput": _throughput(folder),
        "seconds": _seconds(folder),
        "peak_memory_bytes": max(
            (r["peak_memory_bytes"] for r in _ladder(folder) if r["peak_memory_bytes"]), default=None
        ),
        "exclusions": _exclusions(folder),
        "damage": list(folder.damage),
        "warnings": _warnings(folder, forecasts, alignment),
        "data": {
            "offline": folder.data.get("offline"),
            "notes": folder.data.get("notes") or [],
            "sources": folder.data.get("sources") or [],
        },
        "exams": summarise_exams(folder.exams),
        "alignment": alignment,
        "provenance": _provenance(folder),
        "environment": _environment(folder),
    }
    return finite(summary)


def target_status(folder: RunFolder) -> str:
    return folder.target.status if folder.target is not None else "none"


def _target(folder: RunFolder) -> Json:
    run = folder.target
    if run is None:
        wanted = (folder.forecasts[0].payload.get("target") or {}) if folder.forecasts else {}
        return {
            "status": "none",
            "started_at": None,
            "compute": wanted.get("flops"),
            "params": wanted.get("params"),
            "tokens": wanted.get("tokens"),
        }
    keys = ("params", "tokens", "loss", "bits_per_byte", "loss_by_modality", "loss_by_source", "in_context")
    values = {key: run.result.get(key, run.asked.get(key)) for key in keys}
    return {"status": run.status, "name": run.name, "compute": run.compute, "started_at": run.started_at, **values}


def _baselines(law: Json) -> Json:
    return {
        "baseline_last_rung": law.get("baseline_last_rung"),
        "baseline_loglog_line": law.get("baseline_loglog_line"),
    }


def _loss_entry(folder: RunFolder, forecast: ForecastFile) -> Json:
    payload, law = forecast.payload, forecast.payload["loss"]
    is_forecast, pending, why = verdict.standing(forecast, folder.target, folder.damage)
    observed = folder.observed.result["loss"] if folder.observed else None
    entry = {
        "cap_ratio": forecast.cap_ratio,
        "ladder_share": payload.get("ladder_share"),
        **verdict.compare(law.get("predicted"), law.get("interval"), observed),
        "interval_level": law.get("interval_level"),
        **_baselines(law),
        "law": law.get("law"),
        "ensemble": law.get("ensemble") or [],
        "floor_sensitivity": law.get("floor_sensitivity") or [],
        "n_runs": law.get("n_runs", len(payload.get("runs") or [])),
        "sealed_at": (payload.get("seal") or {}).get("sealed_at"),
        "seal_sha256": (payload.get("seal") or {}).get("sha256"),
        "target_started_at": folder.target.started_at if folder.target else None,
        "target_flops": (payload.get("target") or {}).get("flops"),
        "is_forecast": is_forecast,
        "pending": pending,
        "standing": why,
        "in_context": (payload.get("in_context") or {}).get("says"),
        "warnings": law.get("warnings") or [],
        "path": forecast.path,
    }
    return {**entry, "sentence": verdict.sentence(entry, target_status(folder))}


def _by_modality(folder: RunFolder) -> Json:
    """Per modality: what was observed, and each cap's forecast of it."""
    observed = (folder.observed.result.get("loss_by_modality") or {}) if folder.observed else {}
    found = [
        (f, name, law)
        for f in folder.forecasts
        for name, law in (f.payload.get("loss_by_modality") or {}).items()
        if law
    ]
    names = dict.fromkeys([*observed, *(name for _, name, _ in found)])
    result: Json = {name: {"observed": observed.get(name), "forecasts": [], "local_exponents": []} for name in names}
    for forecast, name, law in found:
        entry = {
            "cap_ratio": forecast.cap_ratio,
            **verdict.compare(law.get("predicted"), law.get("interval"), observed.get(name)),
            "interval_level": law.get("interval_level"),
            **_baselines(law),
            "is_forecast": verdict.standing(forecast, folder.target, folder.damage)[0],
            "pending": verdict.standing(forecast, folder.target, folder.damage)[1],
        }
        result[name]["forecasts"].append(entry)
        if not result[name]["local_exponents"]:
            result[name]["local_exponents"] = exponents(law.get("local_exponents") or [])
    return result


def exponents(local: list[Json]) -> list[Json]:
    """Local exponents with `steady`: within a quarter of their median. A law through an unsteady line is a guess."""
    known = [e["exponent"] for e in local if e.get("exponent") is not None]
    middle = statistics.median(known) if known else 0.0
    return [
        {**e, "steady": e.get("exponent") is not None and abs(e["exponent"] - middle) <= STEADY * abs(middle)}
        for e in local
    ]


def _capability(folder: RunFolder) -> list[Json]:
    entries = []
    for forecast in folder.forecasts:
        is_forecast = verdict.standing(forecast, folder.target, folder.damage)[0]
        for item in forecast.payload.get("capability") or []:
            observed, why = (None, None)
            if folder.observed is not None:
                observed, why = verdict.bucket_value(folder.observed, item.get("family"), item.get("problem_ids") or [])
            made = item.get("status") == "forecast"
            predicted, interval = (item.get("predicted"), item.get("interval")) if made else (None, None)
            entries.append(
                {
                    "family": item.get("family"),
                    "bucket": item.get("bucket"),
                    "n_problems": item.get("n_problems", len(item.get("problem_ids") or [])),
                    "cap_ratio": forecast.cap_ratio,
                    "status": item.get("status"),
                    **verdict.compare(predicted, interval, observed),
                    "interval_level": item.get("interval_level"),
                    "baseline_last_rung": item.get("baseline_last_rung"),
                    "route": item.get("route"),
                    "routes": {route["name"]: route["predicted"] for route in item.get("routes") or []},
                    "is_forecast": is_forecast and made,
                    "not_observed_because": why,
                    "warnings": item.get("warnings") or [],
                }
            )
    # Buckets in the forecasts' own order, easiest first.
    order = {bucket: i for i, bucket in enumerate(dict.fromkeys(e["bucket"] for e in entries))}
    return sorted(entries, key=lambda e: (str(e["family"]), order[e["bucket"]], e["cap_ratio"]))


def band_watch(band: Json, curve: list[Json]) -> Json:
    """The target's curve against one band, by the run's own watcher: points, share inside, first lasting exit."""
    rows = [
        p
        for p in band.get("points") or []
        if None not in (p.get("fraction"), p.get("predicted"), p.get("low"), p.get("high"))
    ]
    points: list[Json] = []
    alarm = None
    if rows:
        watcher = Watcher({"points": rows, "sustain": band.get("sustain") or 1})
        first = min(p["fraction"] for p in rows)
        for p in curve:
            fraction, loss = p.get("fraction"), p.get("loss")
            if fraction is None or loss is None or fraction < first * 0.999:
                continue
            at = watcher.bounds(fraction)
            inside = at["low"] <= loss <= at["high"]
            points.append(
                {"fraction": fraction, "loss": loss, "deviation": loss / at["predicted"] - 1, "inside": inside}
            )
            alarm = alarm or watcher.update({"fraction": fraction, "loss": loss})
    return {
        "level": band.get("level"),
        "rule": band.get("rule"),
        "sustain": band.get("sustain"),
        "n_points": len(points),
        "inside_share": sum(p["inside"] for p in points) / len(points) if points else None,
        "largest_deviation": max((p["deviation"] for p in points), key=abs, default=None),
        "sustained_exit_at": alarm.since if alarm else None,
        "points": points,
    }


def _watch(folder: RunFolder) -> Json:
    """`alarm` is what the run raised while it trained; `bands` holds each forecast's band against the whole curve."""
    result = folder.target.result if folder.target else {}
    curve = result.get("curve") or []
    bands = [
        {"cap_ratio": f.cap_ratio, **band_watch(f.payload["band"], curve)}
        for f in folder.forecasts
        if f.payload.get("band")
    ]
    return {"alarm": result.get("alarm"), "target_status": target_status(folder), "bands": bands}


def _ladder(folder: RunFolder) -> list[Json]:
    used: dict[tuple[Any, Any], list[float]] = {}
    for forecast in folder.forecasts:
        for item in forecast.payload.get("runs") or []:
            used.setdefault((item.get("name"), item.get("seed")), []).append(forecast.cap_ratio)
    runs = [*folder.rungs, *([folder.target] if folder.target else [])]
    return [
        {
            "name": run.name,
            "role": "target" if run is folder.target else "rung",
            "seed": run.seed,
            "status": run.status,
            "compute": run.compute,
            **{key: run.result.get(key, run.asked.get(key)) for key in ("params", "tokens", "loss", "bits_per_byte")},
            "width": run.asked.get("width"),
            "depth": run.asked.get("depth"),
            "in_context": run.result.get("in_context"),
            "seconds": run.timing.get("seconds"),
            "peak_memory_bytes": run.timing.get("peak_memory_bytes"),
            "used_by_caps": sorted(used.get((run.name, run.seed), [])),
            "notes": run.result.get("notes") or [],
        }
        for run in runs
    ]


def _throughput(folder: RunFolder) -> Json:
    timing = folder.target.timing if folder.target else {}
    keys = (
        "tokens_per_second",
        "flops_per_second",
        "matmul_peak_flops_per_second",
        "utilisation",
        "threads",
        "compiled",
        "attempts",
    )
    return {key: timing.get(key) for key in keys}


def _seconds(folder: RunFolder) -> dict[str, float]:
    """Seconds of work by stage, not wall time: rungs, which may run side by side, count as one, as do forecasts."""
    totals: dict[str, float] = {}
    for path, manifest in folder.manifests.items():
        totals[stage_of(path)] = totals.get(stage_of(path), 0.0) + float(manifest.get("seconds") or 0.0)
    if "rungs" not in totals:
        times = [r.timing["seconds"] for r in folder.rungs if r.timing.get("seconds")]
        totals |= {"rungs": float(sum(times))} if times else {}
    if "target" not in totals and folder.target and folder.target.timing.get("seconds"):
        totals["target"] = float(folder.target.timing["seconds"])
    order = {stage: i for i, stage in enumerate(STAGE_ORDER)}
    return {stage: round(totals[stage], 3) for stage in sorted(totals, key=lambda s: (order.get(s, len(order)), s))}


def _exclusions(folder: RunFolder) -> list[Json]:
    """Runs that a forecast left out, with its reason, and runs that did not end well."""
    why: dict[tuple[str, str], list[float]] = {}
    for forecast in folder.forecasts:
        for item in forecast.payload.get("exclusions") or []:
            why.setdefault((str(item.get("name")), str(item.get("why"))), []).append(forecast.cap_ratio)
    for rung in folder.rungs:
        if rung.status != "ok" and not any(name == rung.name for name, _ in why):
            note = "; ".join(rung.result.get("notes") or [])
            why[rung.name, f"run {rung.status}" + (f": {note}" if note else "")] = []
    return [{"name": name, "why": reason, "caps": sorted(caps)} for (name, reason), caps in why.items()]


def _warnings(folder: RunFolder, entries: list[Json], alignment: Json | None) -> list[Json]:
    """Everything that a reader should hold against the numbers, with what it is about."""
    found: list[tuple[str, str]] = [("damaged", sentence) for sentence in folder.damage]
    for forecast, entry in zip(folder.forecasts, entries):
        about = forecast.path
        if not entry["is_forecast"] and not entry["pending"]:
            found.append((about, entry["standing"]))
        found += [(about, w) for w in entry["warnings"]]
        for name, law in (forecast.payload.get("loss_by_modality") or {}).items():
            found += [(f"{about}, {name}", w) for w in (law or {}).get("warnings") or [] if w not in entry["warnings"]]
        found += [(about, note) for note in verdict.inconsistencies(folder, forecast)]
    for source in folder.data.get("sources") or []:
        if source.get("fallback"):
            found.append((f"data, {source.get('name')}", f"stood in for {source['fallback']}"))
    if folder.target is not None:
        found += [("target", note) for note in folder.target.result.get("notes") or []]
        if folder.target.status != "ok":
            found.append(
                ("target", f"the target run {'failed' if folder.target.status == 'failed' else 'has not finished'}")
            )
    found += alignment_words.warnings(alignment)
    return [{"about": about, "text": text} for about, text in dict.fromkeys(found)]


def _provenance(folder: RunFolder) -> list[Json]:
    keys = ("stage", "content", "code", "version", "seed", "started_at", "finished_at", "seconds")
    rows = [{"path": path, **{key: manifest.get(key) for key in keys}} for path, manifest in folder.manifests.items()]
    listed = set(folder.manifests)
    for run in [*folder.rungs, *([folder.target] if folder.target else [])]:
        if run.path not in listed:
            rows.append({"path": run.path, **dict.fromkeys(keys)})
    others = [*(f.path for f in folder.forecasts), *(e.path for e in folder.exams.values()), *folder.alignment.paths]
    rows += [{"path": path, **dict.fromkeys(keys)} for path in others if path not in listed]
    order = {stage: i for i, stage in enumerate(STAGE_ORDER)}
    return sorted(rows, key=lambda row: (order.get(stage_of(row["path"]), len(order)), row["path"]))


def _environment(folder: RunFolder) -> list[Json]:
    """The distinct environments that the artifacts were made in, with how many artifacts each made."""
    seen: list[Json] = []
    for manifest in folder.manifests.values():
        environment = manifest.get("environment")
        if not environment:
            continue
        for known in seen:
            if known["environment"] == environment:
                known["artifacts"] += 1
                break
        else:
            seen.append({"environment": environment, "artifacts": 1})
    return seen
