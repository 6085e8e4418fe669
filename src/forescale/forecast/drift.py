"""Watching the target run: the loss curve that the ladder predicts for it, a band, and an alarm.

At each fixed fraction of a run, log loss against the logarithm of the runs' *final* compute is continued by a straight line
through the ladder's upper end (loss curves of one family collapse onto each other when compute and loss are normalised: Qiu et al.
2025, 2507.02119). One width serves all fractions: the error per decade that the same line made when it was drawn from the
ladder's smaller sizes alone, shrunk to a declared prior, so that no fraction's band is narrow by luck. An alarm needs `sustain`
points in a row outside, all on one side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import norm

from forescale.core.errors import UserError
from forescale.forecast.laws import Array, Cells, Points, make_cells
from forescale.forecast.runs import MINIMUM_COMPUTES, Run, group_by_compute

DEFAULT_LEVEL = 0.98
LEAST_HALF_WIDTH = 0.015
"""A live loss is measured on a small validation slice: nothing closer than this is an alarm, whatever the ladder
says."""
SUSTAIN = 3
WARM_UP = 0.04
"""Alarms begin here: before it, the loss hangs on the warm-up and not on the family."""
EARLY_WIDENING = 0.5
"""The band is wider by (1 + this x WARM_UP / fraction): early losses fall fast, and small shifts in time look like
errors."""
MEMORY_DECADES = 0.65
"""Sizes count for the line by exp(-their distance below the largest / this): the local exponent drifts along a ladder."""
ERROR_PER_DECADE = 0.03
ERROR_WEIGHT = 3.0
"""The declared prior of the error of log loss per decade, and how many measured errors it weighs as much as."""
FEW_SIZES = 3.0
"""The width is multiplied by 1 + (this / sizes)^2: a line through three sizes is hardly held."""


@dataclass(frozen=True)
class Band:
    """See docs/artifacts.md: the target's predicted curve, `low` and `high` at each fraction of the run."""

    points: tuple[dict[str, float], ...]
    level: float
    rule: str
    sustain: int


@dataclass(frozen=True)
class Alarm:
    """The curve has left the band: `since` is the fraction of the first point outside, `fraction` that of the last."""

    fraction: float
    since: float
    loss: float | None
    predicted: float
    low: float
    high: float
    direction: str


def predict_band(
    curves: Sequence[Mapping[str, Any]],
    target_compute: float,
    target_params: float | None = None,
    target_tokens: float | None = None,
    *,
    level: float = DEFAULT_LEVEL,
) -> Band:
    """The band for a target of `target_compute` FLOPs from the ladder's curves: `{compute, params, tokens, seed, curve:
    [{fraction, loss}]}`.

    Lines are in 6 N D where params and tokens of target and ladder are given (the whole run's, at every fraction), else in
    compute. Fractions that fewer than three sizes have are left out. Raises UserError where none is left.
    """
    if not math.isfinite(target_compute) or target_compute <= 0:
        raise UserError(f"the target's compute is {target_compute:g}; it must be a finite number of FLOPs above 0.")
    if not 0.5 <= level < 1:
        raise UserError(f"the band's level is {level:g}; it must be at least 0.5 and below 1.")
    sized = target_params is not None and target_tokens is not None
    at = Points.of([target_compute], target_params, target_tokens)
    fractions = [(fraction, *make_cells(runs)) for fraction, runs in _by_fraction(curves, sized)]
    if not fractions:
        raise UserError(
            "no fraction of a run has losses from three or more sizes, so there is no curve to watch against."
        )
    quantile = float(norm.ppf(0.5 + level / 2))
    records = [record for fraction, cells, _ in fractions if fraction >= WARM_UP for record in _hindsight(cells)]
    errors, weights = [error for error, _ in records], [weight for _, weight in records]
    # Fractions of one run err together, so they count as one measurement of each cut.
    cuts = max(0, max(len(cells) for _, cells, _ in fractions) - MINIMUM_COMPUTES)
    # The spread about their mean: what they have in common is the bend at the ladder's lower end, which the target is past.
    common = float(np.average(errors, weights=weights)) if errors else 0.0
    measured = float(np.average(np.square(np.array(errors) - common), weights=weights)) if errors else 0.0
    per_decade = math.sqrt((ERROR_WEIGHT * ERROR_PER_DECADE**2 + cuts * measured) / (ERROR_WEIGHT + cuts))
    points = []
    for fraction, cells, deviation in fractions:
        if sized and not np.isfinite(cells.params * cells.tokens).all():
            raise UserError(
                "params and tokens are given for the target and not for all of the ladder; give both or neither."
            )
        target = float(at.budget[0])
        far = abs(math.log10(target / float(cells.budget[-1])))
        few = 1 + (FEW_SIZES / len(cells)) ** 2
        sigma = math.hypot(few * per_decade * far, deviation or 0.0)
        half = max(LEAST_HALF_WIDTH, quantile * sigma) * (1 + EARLY_WIDENING * WARM_UP / max(fraction, WARM_UP / 4))
        predicted = math.exp(_continued(cells, target))
        points.append(
            {
                "fraction": fraction,
                "predicted": predicted,
                "low": predicted * math.exp(-half),
                "high": predicted * math.exp(half),
            }
        )
    rule = (
        f"outside the {level:.0%} band at {SUSTAIN} points in a row, all on one side, from {WARM_UP:.0%} of the run "
        f"on; the band "
        f"is never closer than {LEAST_HALF_WIDTH:.1%} to the prediction"
    )
    return Band(tuple(points), level, rule, SUSTAIN)


def _by_fraction(curves: Sequence[Mapping[str, Any]], sized: bool) -> list[tuple[float, list[Run]]]:
    runs: dict[float, list[Run]] = {}
    for number, entry in enumerate(curves):
        for point in entry["curve"]:
            fraction, loss = round(float(point["fraction"]), 6), float(point["loss"])
            if math.isfinite(loss) and loss > 0 and fraction > 0:
                size = (entry.get("params"), entry.get("tokens")) if sized else (None, None)
                run = Run(f"curve {number}", float(entry["compute"]), loss, *size, seed=entry.get("seed"))
                runs.setdefault(fraction, []).append(run)
    return [
        (fraction, found)
        for fraction, found in sorted(runs.items())
        if len(group_by_compute([run.compute for run in found])) >= MINIMUM_COMPUTES
    ]


def _continued(cells: Cells, budget: float) -> float:
    """Log loss at `budget` on the line through log loss against log budget, the upper sizes weighing most."""
    x = np.log10(cells.budget) - math.log10(float(cells.budget[-1]))
    weights = np.sqrt(cells.count) * np.exp(x / MEMORY_DECADES)
    slope, level = np.polyfit(x, np.log(cells.loss), 1, w=weights)
    return float(level + slope * (math.log10(budget) - math.log10(float(cells.budget[-1]))))


def _hindsight(cells: Cells) -> list[tuple[float, float]]:
    """Errors per decade of lines through the smaller sizes alone, at each of the sizes above them, and the weight of each: a line
    through nearly all sizes says more of the one that will be drawn than a line through the smallest."""
    errors = []
    for known in range(MINIMUM_COMPUTES, len(cells)):
        below = cells.take(np.arange(known))
        for above in range(known, len(cells)):
            budget = float(cells.budget[above])
            away = math.log10(budget / float(below.budget[-1]))
            # Very near sizes say more of noise than of distance.
            error = (_continued(below, budget) - math.log(float(cells.loss[above]))) / max(away, 0.3)
            short = math.log10(float(cells.budget[-1]) / float(below.budget[-1]))
            errors.append((error, math.exp(-short / MEMORY_DECADES)))
    return errors


@dataclass
class Watcher:
    """Follows one target run. After a restart, feed it the curve so far and go on.

    One alarm is raised for each exit: the run has to come back inside before it can raise another.
    """

    band: Band | Mapping[str, Any]
    warm_up: float = WARM_UP
    outside: list[list[float]] = field(default_factory=list)
    side: str = ""
    raised: bool = False
    last_fraction: float = 0.0

    def __post_init__(self) -> None:
        points = self.band.points if isinstance(self.band, Band) else self.band["points"]
        self._sustain = int(self.band.sustain if isinstance(self.band, Band) else self.band["sustain"])
        ordered = sorted(points, key=lambda point: float(point["fraction"]))
        self._fractions = np.array([p["fraction"] for p in ordered], dtype=np.float64)
        self._rows: dict[str, Array] = {
            name: np.log([p[name] for p in ordered]) for name in ("predicted", "low", "high")
        }

    def bounds(self, fraction: float) -> dict[str, float]:
        """predicted, low, high at any fraction (log-log interpolation between the band's points)."""
        x = np.log(self._fractions)
        return {name: math.exp(float(np.interp(math.log(fraction), x, row))) for name, row in self._rows.items()}

    def update(self, fraction: float, loss: float) -> Alarm | None:
        """A new point of the live curve. A loss that is not finite is an alarm at once. Points that were seen already
        (a resumed run repeats some) are ignored."""
        if fraction <= self.last_fraction:
            return None
        self.last_fraction = fraction
        at = self.bounds(fraction)
        if not math.isfinite(loss):
            if self.raised and self.side == "loss is not a number":
                return None
            self.raised, self.side = True, "loss is not a number"
            return Alarm(fraction, fraction, None, at["predicted"], at["low"], at["high"], self.side)
        if fraction < self.warm_up or at["low"] <= loss <= at["high"]:
            self.outside, self.side, self.raised = [], "", False
            return None
        side = "worse than predicted" if loss > at["high"] else "better than predicted"
        if side != self.side:
            self.outside, self.side, self.raised = [], side, False
        self.outside.append([fraction, loss])
        if self.raised or len(self.outside) < self._sustain:
            return None
        self.raised = True
        return Alarm(fraction, self.outside[0][0], loss, at["predicted"], at["low"], at["high"], side)
