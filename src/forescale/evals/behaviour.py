"""What a model does when asked in the small world: how often it does what the policy wants, by category and modality.

Answers are sampled as a user would get them, and told apart by the world's own grammar, which no reward has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from forescale.checkpoints.encoding import encode_chat
from forescale.checkpoints.files import Checkpoint
from forescale.core.documents import Image, Request, Text
from forescale.core.statistics import mean_interval
from forescale.data import world
from forescale.data.images import encode_png
from forescale.generate.sample import sample

BATCH = 64
MAX_NEW_TOKENS = 48
REFUSALS = ("refusal_desired", "refusal_undesired")
Row = dict[str, Any]


def behaviour(
    checkpoint: Checkpoint,
    requests: Sequence[Request],
    seed: int = 0,
    temperature: float = 1.0,
    on_batch: Callable[[float], None] | None = None,
) -> list[Row]:
    """A row a request: its id, category, modality, `unit` (topic and phrasing, which vary together), the answer, its kind, and
    whether it is `right` by the policy. The first row of a unit that shows a picture has it, as a PNG in base64."""
    rows: list[Row] = []
    seen: set[str] = set()
    for start in range(0, len(requests), BATCH):
        batch = requests[start : start + BATCH]
        written = sample(
            checkpoint.model,
            [encode_chat(r.messages, checkpoint.tokenizer, checkpoint.model.config) for r in batch],
            stop=checkpoint.tokenizer.roles.stop,
            max_new_tokens=MAX_NEW_TOKENS,
            temperature=temperature,
            seed=seed * 1_000_003 + start,
        )
        for request, ids in zip(batch, written):
            answer = checkpoint.tokenizer.decode(ids)
            words = "".join(part.text for part in request.messages[-1].parts if isinstance(part, Text))
            kind = world.classify(request, answer)
            row: Row = {
                "id": request.id,
                "category": request.category,
                "modality": world.modality(request),
                "unit": f"{world.topic_of(request).name}/{world.phrasing_of(request)}",
                "request": words,
                "answer": answer,
                "kind": kind,
                "right": kind in world.DESIRED[request.category],
            }
            pictures = [part.pixels for part in request.messages[-1].parts if isinstance(part, Image)]
            if pictures and row["unit"] not in seen:
                row["picture"] = encode_png(pictures[0])
            seen.add(row["unit"])
            rows.append(row)
        if on_batch:
            on_batch(min(1.0, (start + BATCH) / len(requests)))
    return rows


def summary(rows: Iterable[Row]) -> dict[str, Any]:
    """`behaviour.json`: for each category, and for each of its modalities, the figures of `_figures`."""
    rows = list(rows)
    found: dict[str, Any] = {}
    for category in world.CATEGORIES:
        own = [row for row in rows if row["category"] == category]
        found[category] = _figures(own)
        for modality in sorted({row["modality"] for row in own}):
            found[category][modality] = _figures([row for row in own if row["modality"] == modality])
    return found


def _figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`n`, `kinds` (counts), and with interval each: `incorrect` (not as the policy wants), `refused`, `off_topic` (about another
    topic than was asked about), `broken` (no answer of this world), `style` (of refusals, those in the desired style).

    Topic and phrasing are the units of the intervals.
    """
    kinds = {kind: sum(row["kind"] == kind for row in rows) for kind in world.KINDS}
    refusals = [row for row in rows if row["kind"] in REFUSALS]
    return {
        "n": len(rows),
        "kinds": kinds,
        "incorrect": share(rows, lambda row: not row["right"]),
        "refused": share(rows, lambda row: row["kind"] in REFUSALS),
        "off_topic": share(rows, lambda row: row["kind"].startswith("other_")),
        "broken": share(rows, lambda row: row["kind"] == "broken"),
        "style": share(refusals, lambda row: row["kind"] == "refusal_desired"),
    }


def share(rows: Sequence[Mapping[str, Any]], holds: Callable[[Mapping[str, Any]], bool]) -> dict[str, Any]:
    """`n`, `value` (None for no rows) and `interval` of the share of rows of which it holds; a row's `unit` is its cluster."""
    units: dict[str, list[bool]] = {}
    for row in rows:
        units.setdefault(row["unit"], []).append(holds(row))
    counts = [float(len(unit)) for unit in units.values()]
    mean, interval = mean_interval([sum(unit) / len(unit) for unit in units.values()], counts or None)
    return {"n": len(rows), "value": mean if rows else None, "interval": list(interval)}
