"""What the target reads more than once and no rung does: a bend that a ladder cannot show.

A second reading teaches less than a first (Muennighoff et al. 2023, 2305.16264), and a model then knows its training text better
than held-out text (docs/log.md: 12% better after 1.6 readings). Rungs read the beginning of the same rows, so that whatever of a
source there is, they read the less of it the smaller they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TWICE = 1.1
"""Readings above which a source counts as read again: a tenth of it, and what `lay_out` rounds, do not bend a loss."""
LEAST_SHARE = 0.01
"""Of the mixture: what weighs less moves no loss by what a forecast is asked to tell."""


def readings(shards: Mapping[str, Any], tokens: float) -> dict[str, float]:
    """How often a run of so many tokens reads each source; `shards`: shards.json."""
    return {name: source["weight"] * tokens / source["tokens_available"] for name, source in shards["sources"].items()}


def read_again(
    shards: Mapping[str, Any], largest_tokens: float, target_tokens: float, only: str | None = None
) -> dict[str, float]:
    """Readings by the target of the sources (of the modality `only`) that it reads again and the largest rung does not, most often
    first."""
    at_rung, at_target = readings(shards, largest_tokens), readings(shards, target_tokens)
    found = {
        name: times
        for name, times in at_target.items()
        if times > TWICE >= at_rung[name]
        and shards["sources"][name]["weight"] >= LEAST_SHARE
        and only in (None, shards["sources"][name]["modality"])
    }
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def warning(found: Mapping[str, float], shards: Mapping[str, Any]) -> str:
    """One sentence for people; `found`: what `read_again` returned, not empty."""
    share = sum(shards["sources"][name]["weight"] for name in found)
    names = ", ".join(f"{name} {times:.1f} times" for name, times in found.items())
    return (
        f"the target reads {share:.0%} of its mixture more than once, and no rung does ({names}): a second reading teaches less, "
        "so the loss may come higher; give these sources less weight or more documents."
    )
