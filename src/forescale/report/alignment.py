"""What the report says of alignment: `summary["alignment"]`, from alignment/, safety/ and redteam/ of a run folder.

Intervals of single figures come with the artifacts. Differences between two models are made here, paired by request or item; those
of the safety evaluation are its own (`against.json`). The exact policy of the small world says which kind of answer is wanted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from forescale.core.statistics import paired_difference
from forescale.data.world import CATEGORIES, DESIRED
from forescale.report.exams import against, differing, paired
from forescale.report.pictures import pictures
from forescale.report.read import Alignment, Behaviour, RunFolder

Json = dict[str, Any]
BEFORE, AFTER = "sft", "ppo"
ALL = "all"  # of a category's requests, whatever their modality
REFUSALS = ("refusal_desired", "refusal_undesired")
CLASSES = (*REFUSALS, "disallowed", "safe", "off_topic")  # of answers: (a) to (d) of the GPT-4 report, and neither
SHOWN_UNITS = 3  # of a category and modality, requests shown with their answers
SHOWN_STEPS = 4  # of PPO, with the answers of each
MOST_POINTS = 200  # of a curve


def summarise_alignment(folder: RunFolder) -> Json | None:
    """All numbers of the report's sections on alignment; `missing`: what there is no artifact of. None if there is nothing."""
    found = folder.alignment
    parts: Json = {
        "sft": _sft(found),
        "reward_model": _reward_model(found),
        "judge": _judge(found),
        "rbrm": _rbrm(found),
        "ppo": _ppo(found),
        "behaviour": _behaviour(found.behaviour),
        "exams": _exams(folder),
        "safety": _safety(found),
        "redteam": _redteam(found),
    }
    if not any(value for name, value in parts.items() if name != "exams"):
        return None
    return {**parts, "missing": [name for name, value in parts.items() if not value]}


def _sft(found: Alignment) -> Json | None:
    steps = found.sft_steps
    if not found.sft and not steps:
        return None
    config = found.configs.get("sft") or {}
    return {
        "status": "ok" if found.sft else "unfinished",
        **{key: found.sft.get(key) for key in ("conversations", "too_long", "row_tokens", "steps")},
        "data": config.get("data") or [],
        "epochs": (config.get("sft") or {}).get("epochs"),
        # Counted as often as learned from: once an epoch.
        "learned_tokens": sum(row.get("learned_tokens") or 0 for row in steps) if steps else None,
        "curve": binned(steps, ("conversation_loss", "pretraining_loss")),
        **{name: (ends(steps, "conversation_loss") or {}).get(name) for name in ("first", "last")},
    }


def _reward_model(found: Alignment) -> Json | None:
    report = found.reward
    if not report and not found.reward_steps:
        return None
    known = report.get("accuracy") is not None
    return {
        "status": "ok" if report else "unfinished",
        **{key: report.get(key) for key in ("pairs", "held_out", "accuracy", "chance", "calibration", "mean", "std")},
        "interval": report.get("interval") if known else None,
        "against_chance": against(report.get("interval"), report.get("chance")) if known else None,
        "data": (found.configs.get("reward") or {}).get("data") or [],
        "curve": binned(found.reward_steps, ("loss", "accuracy")),
    }


def _judge(found: Alignment) -> Json | None:
    if not found.agreement:
        return None
    config = found.configs.get("rbrm") or {}
    return {**found.agreement, "rubric": config.get("rubric"), "forced": bool(config.get("force"))}


def _rbrm(found: Alignment) -> Json | None:
    keys = ("values", "judge", "rubric", "config", "figures")
    return {key: found.weights.get(key) for key in keys} if found.weights else None


# PPO --------------------------------------------------------------------------------------------------------------------

CURVES = (
    "reward", "kl", "beta", "entropy", "clip_fraction", "explained_variance", "length", "ended", "left_out",
    "sft_loss",
)  # fmt: skip
WORST = ("first_ratio_error", "sampler_gap")


def _ppo(found: Alignment) -> Json | None:
    steps = found.ppo_steps
    if not steps and not found.ppo:
        return None
    config = (found.configs.get("ppo") or {}).get("ppo") or {}
    parts = list(dict.fromkeys(name for row in steps for name in row.get("reward_parts") or {}))
    flat = [{**row, **{f"part/{name}": (row.get("reward_parts") or {}).get(name) for name in parts}} for row in steps]
    keys = (*CURVES, *(f"part/{name}" for name in parts))
    return {
        "status": found.ppo.get("status") or "unfinished",
        "steps": found.ppo.get("step") or (steps[-1].get("step") if steps else None),
        "good_step": found.ppo.get("good_step"),
        "left_out": sum(row.get("left_out") or 0 for row in steps),
        "config": config,
        "parts": parts,
        "first_and_last": {key: ends(flat, key) for key in keys},
        "worst": {key: max((abs(r[key]) for r in steps if r.get(key) is not None), default=None) for key in WORST},
        "first_kl": steps[0].get("kl") if steps else None,
        "curve": binned(flat, keys),
        "samples": _ppo_samples(found.ppo_samples),
    }


def binned(rows: Sequence[Json], keys: Sequence[str], most: int = MOST_POINTS) -> list[Json]:
    """At most `most` points: `step` and each key's mean over equally long stretches of rows, None where no row has it."""
    points = []
    for part in np.array_split(np.arange(len(rows)), min(most, len(rows))) if rows else []:
        point: Json = {}
        for key in ("step", *keys):
            values = [rows[i][key] for i in part if rows[i].get(key) is not None]
            point[key] = sum(values) / len(values) if values else None
        points.append(point)
    return points


def ends(rows: Sequence[Json], key: str) -> Json | None:
    """Mean over the first and over the last tenth of the rows that have `key` (at least one each); None without any."""
    values = [row[key] for row in rows if row.get(key) is not None]
    if not values:
        return None
    tenth = max(1, len(values) // 10)
    return {"n": tenth, "first": sum(values[:tenth]) / tenth, "last": sum(values[-tenth:]) / tenth}


def spread(n: int, most: int) -> list[int]:
    """At most `most` places among `n`, at equal distances, from the first to the last."""
    return [round(place) for place in np.linspace(0, n - 1, min(most, n)).tolist()]


def _ppo_samples(rows: Sequence[Json]) -> list[Json]:
    """All kept answers of a few of the steps: the first, the last, and some between at equal distances."""
    steps = sorted({row["step"] for row in rows if isinstance(row.get("step"), int)})
    chosen = {steps[place] for place in spread(len(steps), SHOWN_STEPS)}
    return [row for row in rows if row.get("step") in chosen]


# Behaviour --------------------------------------------------------------------------------------------------------------


def _behaviour(found: Mapping[str, Behaviour]) -> Json | None:
    if not found:
        return None
    labels = list(found)
    categories = list(dict.fromkeys(name for b in found.values() for name in b.figures))
    categories.sort(key=lambda name: CATEGORIES.index(name) if name in CATEGORIES else len(CATEGORIES))
    return {
        "labels": labels,
        "categories": categories,
        "wanted": {name: list(DESIRED.get(name, ())) for name in categories},
        "kinds": list(dict.fromkeys(kind for b in found.values() for f in b.figures.values() for kind in f["kinds"])),
        "by_label": {
            label: {name: _by_modality(b.figures[name]) for name in categories if name in b.figures}
            for label, b in found.items()
        },
        "compared": {label: _compared(found[labels[0]].rows, found[label].rows) for label in labels[1:]},
        "shown": [card["id"] for group in before_and_after(found) for card in group["cards"]],
    }


def _by_modality(figures: Json) -> Json:
    """`all` and each modality: n, kinds, and the shares, whose interval is None where nothing was counted."""
    whole = {ALL: figures, **{name: v for name, v in figures.items() if isinstance(v, dict) and "kinds" in v}}
    return {
        name: {
            "n": part.get("n"),
            "kinds": part["kinds"],
            **{key: _known(part.get(key)) for key in (*MEASURES, "style")},
        }
        for name, part in whole.items()
    }


def _known(share: Json | None) -> Json:
    share = share or {}
    known = share.get("value") is not None
    return {"n": share.get("n"), "value": share.get("value"), "interval": share.get("interval") if known else None}


def _compared(first: Sequence[Json], second: Sequence[Json]) -> Json:
    """By category, `all` and modality: differences second - first of the shares that `MEASURES` names."""
    both = same_requests(first, second)
    result: Json = {}
    for category in dict.fromkeys(row["category"] for row, _ in both):
        own = [pair for pair in both if pair[0]["category"] == category]
        for modality in (ALL, *sorted({row["modality"] for row, _ in own})):
            pairs = [pair for pair in own if modality in (ALL, pair[0]["modality"])]
            result.setdefault(category, {})[modality] = {
                measure: _difference(pairs, holds)
                for measure, holds in MEASURES.items()
                if measure != "incorrect" or category in DESIRED
            }
    return result


def _is_wrong(row: Json) -> bool:
    return not row["right"]


# Of answers, as behaviour.json has them.
MEASURES: dict[str, Callable[[Json], bool]] = {
    "incorrect": _is_wrong,
    "refused": lambda row: row["kind"] in REFUSALS,
    "off_topic": lambda row: str(row["kind"]).startswith("other_"),
    "broken": lambda row: row["kind"] == "broken",
}


def same_requests(first: Sequence[Json], second: Sequence[Json]) -> list[tuple[Json, Json]]:
    """Rows of both about one request: the same id, category and words."""
    keys = ("id", "category", "request")
    others = {tuple(row[key] for key in keys): row for row in second}
    found = ((row, others.get(tuple(row[key] for key in keys))) for row in first)
    return [(row, other) for row, other in found if other is not None]


def _difference(pairs: Sequence[tuple[Json, Json]], holds: Callable[[Json], bool]) -> Json:
    """`clustered_difference` of how often `holds` does."""
    units: dict[str, list[tuple[float, float]]] = {}
    for row, other in pairs:
        units.setdefault(row["unit"], []).append((float(holds(row)), float(holds(other))))
    return clustered_difference(list(units.values()))


def clustered_difference(units: Sequence[Sequence[tuple[float, float]]]) -> Json:
    """Mean difference second - first over pairs of scores, with its 95% interval, where pairs of one unit vary together.

    The interval is `paired_difference`'s of the pairs, whose half-width grows with the root of the design effect: the variance of
    the mean with units drawn, over that with pairs drawn (Kish 1965, section 5.4). As `mean_interval` does, it is shrunk towards
    its upper limit, all pairs of a unit being alike, with the weight of one unit. Raises ValueError for no pairs.
    """
    pairs = np.array([pair for unit in units for pair in unit], dtype=float).reshape(-1, 2)
    found = paired_difference(pairs[:, 0], pairs[:, 1])
    sizes = np.array([len(unit) for unit in units if unit], dtype=float)
    centred = pairs[:, 1] - pairs[:, 0] - found.difference
    totals = np.bincount(np.repeat(np.arange(len(sizes)), sizes.astype(int)), weights=centred)
    most = float(sizes @ sizes) / found.n
    drawn = float(centred @ centred)
    # A factor for the mean being the units' own, as in any variance.
    seen = float(totals @ totals) / drawn * len(sizes) / (len(sizes) - 1) if drawn and len(sizes) > 1 else most
    effect = min(most, max(1.0, (len(sizes) * seen + most) / (len(sizes) + 1)))
    middle = found.difference * found.n / (found.n + 2)
    # One end of the interval may have been cut off at 1 or -1; the other is not.
    half = math.sqrt(effect) * max(found.interval[1] - middle, middle - found.interval[0])
    return {
        "n": found.n,
        "units": len(sizes),
        "design_effect": effect,
        "first": found.first,
        "second": found.second,
        "difference": found.difference,
        "interval": [max(-1.0, middle - half), min(1.0, middle + half)],
    }


def before_and_after(found: Mapping[str, Behaviour]) -> list[Json]:
    """Requests with every label's answer, by category and modality: the first request of three units evenly spread, in file order.

    Where some rows hold a `picture` (PNG as base64), requests about pictures are chosen among those.
    """
    if not found:
        return []
    labels = list(found)
    common = [row for row in found[labels[0]].rows if row["category"] in DESIRED]
    others = {label: {row["id"]: row for row in own.rows} for label, own in found.items()}
    for label in labels[1:]:
        common = [row for row, _ in same_requests(common, found[label].rows)]
    groups = []
    for category in CATEGORIES:
        for modality in sorted({row["modality"] for row in common if row["category"] == category}, reverse=True):
            own = [row for row in common if (row["category"], row["modality"]) == (category, modality)]
            own = [row for row in own if row.get("picture")] or own
            firsts = list({row["unit"]: row for row in reversed(own)}.values())[::-1]
            ids = [firsts[place]["id"] for place in spread(len(firsts), SHOWN_UNITS)]
            cards = [_card({label: others[label][i] for label in labels}) for i in ids]
            groups.append({"category": category, "modality": modality, "of": len(own), "cards": cards})
    return groups


def _card(answers: Mapping[str, Json]) -> Json:
    row = next(iter(answers.values()))
    return {
        "id": row["id"],
        "request": row["request"],
        "pictures": pictures({"images": [row["picture"]]}) if row.get("picture") else [],
        "answers": [
            {"label": label, "text": found["answer"], "kind": found["kind"], "right": not _is_wrong(found)}
            for label, found in answers.items()
        ],
    }


# Exams, safety, red team -------------------------------------------------------------------------------------------------


def _exams(folder: RunFolder) -> Json | None:
    """PPO against SFT on the exams that both took: each, all items together, and the mean over exams."""
    if not {BEFORE, AFTER} <= set(folder.exams):
        return None
    before, after = folder.exams[BEFORE], folder.exams[AFTER]
    tasks = []
    pooled: tuple[dict[str, float], dict[str, float]] = ({}, {})
    for name, task in before.tasks.items():
        if name not in after.tasks:
            continue
        one, two = before.items[name], after.items[name]
        left_out = differing(one, two)
        scores = {i: score for i, score in one.scores.get("normal", {}).items() if i not in left_out}
        found = paired(name, scores, two.scores.get("normal", {}))
        if found is None:
            continue
        solvers = {task.get("solver"), after.tasks[name].get("solver")}
        tasks.append({**found, "title": task.get("title") or name, "modality": task.get("modality"),
                      "chance": task.get("chance"), "left_out": len(left_out), "same_way": len(solvers) == 1})  # fmt: skip
        for both, own in zip(pooled, (scores, two.scores.get("normal", {}))):
            both.update({f"{name}/{i}": score for i, score in own.items()})
    if not tasks:
        return None
    return {
        "before": BEFORE,
        "after": AFTER,
        "tasks": tasks,
        "together": paired("all", *pooled),
        "mean_of_exams": {key: sum(t[key] for t in tasks) / len(tasks) for key in ("first", "second", "difference")},
    }


SAFETY_KEYS = ("model", "chat", "judge", "sets", "jailbreaks", "toxicity", "facts", "not_run")


def _safety(found: Alignment) -> Json | None:
    if not found.safety:
        return None
    return {
        "labels": list(found.safety),
        "by_label": {label: {key: result.get(key) for key in SAFETY_KEYS} for label, result in found.safety.items()},
        "against": found.against,
    }


def _redteam(found: Alignment) -> Json | None:
    return found.redteam or None
