"""Whether the ladder has formed what its target will: in-context copying, the best known cause of a sudden bend.

Score of a run: the share of surprise at a random string that its second copy in the context saves (Olsson et al. 2022 measure the
same losses). 0: nothing is copied; 1: all of it. Copying forms suddenly after some number of steps and then lowers the loss on
text, so that a law through rungs without it is too high for a target with it.

The rule. `formed` where three sizes, the largest among them, have a score of FORMED or more: the law has seen it. Otherwise a
straight line through the upper half of the sizes (three at least), score against the logarithm of the budget, is drawn to the
target: `not expected` where it stays below FORMED, `forms beyond the ladder` where it does not, and then the interval is
WIDENING times as wide and a warning says so.

A random string shows late that copying forms; the part of the text that repeats pairs of its context (`parts.py`) shows it early.
Where that part falls, from the size below (EXPONENT_STEP) to the largest, STEEPENING times as fast as over the sizes below,
copying is forming: the status is then `forms beyond the ladder` too. The interval is not widened for that, since the forecast is
then half a sum of parts, half the whole, and how far they are apart is in the interval. An ability has no parts, and may come as
suddenly as copying does: its interval then reaches as many times as far to the better side as the repeated part falls faster.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from forescale.forecast.laws import EXPONENT_STEP, Cells, Points, upper_half

FORMED = 0.1
WIDENING = 1.5
MINIMUM_SIZES = 3
STEEPENING = 1.6
"""Between 1.1 to 1.3 (ladders of which no size copies) and 2.2 to 3.3 (those of which some begin to): docs/log.md."""
REPEATED = "repeated"
"""The part of the loss that copying is worth."""

Status = Literal["formed", "not expected", "forms beyond the ladder", "unknown"]


@dataclass(frozen=True)
class InContext:
    """`scores`: {compute, score} of each size, smallest first; `expected`: the target's, by the line (null where unknown).
    `widening`: of the loss's interval; `sudden`: of the better side of an ability's."""

    status: Status
    scores: tuple[dict[str, float], ...]
    expected: float | None
    widening: float
    sudden: float
    says: str


def copying(record: Mapping[str, Any]) -> float | None:
    """The score of one run, from its `in_context` record; None where it does not hold both losses."""
    first, second = record.get("repeat_first_half"), record.get("repeat_second_half")
    return 1 - second / first if first and second is not None else None


def forming(cells: Cells) -> float | None:
    """How many times as fast the repeated part of the loss falls with compute at the top as below, where that is STEEPENING times
    or more; None where it is not, that part is not known, or too few sizes tell."""
    if REPEATED not in cells.parts:
        return None
    x, y = np.log(cells.budget), np.log(cells.parts[REPEATED])
    below = np.flatnonzero(x <= x[-1] - math.log(EXPONENT_STEP))
    if len(below) < MINIMUM_SIZES:
        return None
    top = (y[-1] - y[below[-1]]) / (x[-1] - x[below[-1]])
    slope = float(np.polyfit(x[below], y[below], 1)[0])
    return float(top / slope) if slope < 0 and top / slope >= STEEPENING else None


def has_formed(cells: Cells) -> bool:
    """Whether copying has formed on these cells: the largest and two more have a score of FORMED or more."""
    copies = cells.copying >= FORMED
    return bool(copies[-1]) and int(copies.sum()) >= MINIMUM_SIZES


def judge(cells: Cells, at: Points) -> InContext:
    """`cells`: the ladder with its in-context scores, and its parts where they are known; `at`: the target."""
    scored = cells.take(np.isfinite(cells.copying))
    values = scored.copying
    scores = tuple({"compute": float(c), "score": float(v)} for c, v in zip(scored.compute, values))
    if len(scores) < MINIMUM_SIZES:
        return InContext("unknown", scores, None, 1.0, 1.0, "fewer than three sizes have an in-context score.")
    x = np.log(scored.budget)
    upper = upper_half(len(scores))
    slope, level = np.polyfit(x[-upper:] - x[-1], values[-upper:], 1)
    expected = float(np.clip(level + slope * (math.log(float(at.budget[0])) - x[-1]), -1.0, 1.0))
    largest = f"the largest rung copies {values[-1]:.0%} of a repeated random string"
    if has_formed(scored):
        return InContext(
            "formed", scores, expected, 1.0, 1.0, f"in-context copying has formed on the ladder: {largest}."
        )
    steeper = forming(cells)
    if steeper is not None:
        says = (
            f"in-context copying is forming at the top of the ladder (tokens that repeat a pair of their context gain "
            f"{steeper:.1f} times as fast as below), and the target will copy: no law through these rungs knows what that is worth."
        )
        return InContext("forms beyond the ladder", scores, expected, 1.0, steeper, says)
    if max(expected, float(values[-1])) < FORMED:
        says = f"in-context copying has not formed on the ladder ({largest}) and is not expected of the target ({expected:.0%})."
        return InContext("not expected", scores, expected, 1.0, 1.0, says)
    says = (
        f"in-context copying has hardly formed on the ladder ({largest}) and is expected of the target ({expected:.0%}): it may do "
        f"better than any law through these rungs, and the interval is {WIDENING:g} times as wide for that."
    )
    return InContext("forms beyond the ladder", scores, expected, WIDENING, WIDENING, says)
