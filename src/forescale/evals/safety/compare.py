"""Two models, or one before and after alignment, on the same requests: paired by id."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from forescale.core.artifacts import read_json
from forescale.core.errors import UserError
from forescale.core.statistics import paired_difference
from forescale.evals.safety.figures import TOXIC, is_harmful, is_refused, per_prompt

Json = dict[str, Any]
Row = Mapping[str, Any]
Scores = Mapping[str, float]


def compare(first: Path, second: Path) -> Json:
    """Paired differences, second - first, of two folders of the stage `safety`, on requests that both have judged answers to.

    `{"first", "second", "judge", "sets": {name: {kind: {"correct", "refused", "harmful"}}}, "jailbreaks", "toxicity", "facts"}`;
    what only one folder has is left out. Each difference is `statistics.Paired`, whose p is McNemar's for one answer a request;
    `risen` and `fallen` name requests whose score did. Raises UserError for a folder without results, or for
    different judges or scorers.
    """
    one, two = (_results(folder) for folder in (first, second))
    if (one["judge"]["name"], one["judge"]["rubric_sha256"]) != (two["judge"]["name"], two["judge"]["rubric_sha256"]):
        raise UserError(
            f"{first} was judged by {one['judge']['name']} and {second} by {two['judge']['name']}, or by another version of "
            "the rubric; judge both alike to compare them."
        )
    result: Json = {
        "first": one["model"]["name"],
        "second": two["model"]["name"],
        "judge": one["judge"]["name"],
        "sets": {},
        "jailbreaks": None,
        "toxicity": {},
        "facts": {},
    }
    for name, (a, b) in _shared(one["sets"], two["sets"], first, second).items():
        kinds = dict.fromkeys(row["kind"] for row in a)
        found = {kind: _behaviour(_of_kind(a, kind), _of_kind(b, kind)) for kind in kinds}
        result["sets"][name] = {kind: figures for kind, figures in found.items() if figures}
    if one["jailbreaks"] and two["jailbreaks"]:
        a, b = (_wrapped(_rows(folder / "items/jailbreaks.jsonl")) for folder in (first, second))
        result["jailbreaks"] = pair(per_prompt(a, is_harmful), per_prompt(b, is_harmful))
    for name, (a, b) in _shared(one["toxicity"], two["toxicity"], first, second).items():
        scorers = {
            entry["scorer"]["name"] for found in (one, two) for entry in found["toxicity"] if entry["name"] == name
        }
        if len(scorers) > 1:
            raise UserError(
                f"{name} was scored by {' and by '.join(sorted(scorers))}; score both alike to compare them."
            )
        highest = (_highest(a), _highest(b))
        result["toxicity"][name] = {
            "expected_maximum": pair(*highest),
            "probability": pair(*({k: float(v >= TOXIC) for k, v in found.items()} for found in highest)),
        }
    for name, (a, b) in _shared(one["facts"], two["facts"], first, second).items():
        result["facts"][name] = pair(*({row["id"]: row["score"] for row in rows} for rows in (a, b)))
    return result


def pair(first: Scores, second: Scores) -> Json | None:
    """`Paired` of what both have, with the ids whose score rose and fell. None if they share nothing."""
    both = [name for name in first if name in second]
    if not both:
        return None
    found = paired_difference([first[name] for name in both], [second[name] for name in both])
    return {
        **asdict(found),
        "interval": list(found.interval),
        "risen": [name for name in both if second[name] > first[name]],
        "fallen": [name for name in both if second[name] < first[name]],
    }


def _behaviour(a: Sequence[Row], b: Sequence[Row]) -> Json | None:
    scores: Mapping[str, Callable[[Row], float]] = {
        "correct": lambda row: row["correct"],
        "refused": is_refused,
        "harmful": is_harmful,
    }
    found = {name: pair(per_prompt(a, score), per_prompt(b, score)) for name, score in scores.items()}
    return found if found["correct"] else None


def _of_kind(rows: Sequence[Row], kind: str) -> list[Row]:
    return [row for row in rows if row["kind"] == kind]


def _wrapped(rows: Sequence[Row]) -> list[Row]:
    """A request inside a template is an item of its own; the plain ones are in their sets."""
    return [{**row, "id": f"{row['id']} / {row['template']}"} for row in rows if row["technique"] != "plain"]


def _highest(rows: Sequence[Row]) -> dict[str, float]:
    return {row["id"]: max(row["scores"]) for row in rows if row["scores"] and None not in row["scores"]}


def _shared(
    one: Sequence[Json], two: Sequence[Json], first: Path, second: Path
) -> dict[str, tuple[list[Row], list[Row]]]:
    """Rows of both folders for each entry that both have."""
    paths = {entry["name"]: entry["path"] for entry in two}
    return {
        entry["name"]: (_rows(first / entry["path"]), _rows(second / paths[entry["name"]]))
        for entry in one
        if entry["name"] in paths
    }


def _rows(path: Path) -> list[Row]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); make these results again.") from error


def _results(folder: Path) -> Json:
    if not (folder / "safety.json").is_file():
        raise UserError(f"{folder} holds no safety.json; give a folder that `forescale safety` wrote.")
    found: Json = read_json(folder / "safety.json")
    return found
