"""Watching the target run: the loss curve that the ladder predicts for it, a band, and an alarm.

At each fixed fraction of a run, log loss against the logarithm of the runs' *final* compute is continued by a straight line
through the ladder's upper end (loss curves of one family collapse onto each other when compute and loss are normalised: Qiu et al.
2025, 2507.02119). One width serves all fractions: the error per decade that the same line made when it was drawn from the
ladder's smaller sizes alone, shrunk to a declared prior, so that no fraction's band is narrow by luck.

Three more things are watched, since much that is wrong moves the loss by less than its band. *Gradients*: along a tuned ladder
their norm at a fraction of the run falls and settles (docs/log.md); a wrong learning rate moves it. *Noise*: how much the training
loss differs from one step to the next, times the square root of the batch, hardly falls with size (docs/log.md), so a wrong batch
moves it. *Blocks*: a decoder block whose gradient is a thousandth of another's does not learn.

An alarm needs `sustain` points in a row outside, all on one side.
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
SETTLED_SIZES = 3
GRADIENT_HALF_WIDTH = 0.3
"""Of the log gradient norm's band, at no distance; half as much again one decade ahead, three times as much two: it falls on
beyond the sizes where it seemed to settle (docs/log.md)."""
NOISE_HALF_WIDTH = 0.4
"""Of the log noise's band; a quarter more for each decade ahead, wider where a point has fewer than NOISE_STEPS steps behind
it. Four times the batch moves it by 0.69."""
NOISE_STEPS = 20
NOISE_FROM = 0.1
"""Noise is taken from ladder and target from this fraction on: before it, the loss falls within the few steps of a point."""
DEAD_SHARE = 1e-3
LOSS_SIDES = ("worse than predicted", "better than predicted")
"""The directions of an alarm that are of the loss itself."""
FEW_SIZES = 3.0
"""The width is multiplied by 1 + (this / sizes)^2: a line through three sizes is hardly held."""


@dataclass(frozen=True)
class Band:
    """See docs/artifacts.md: the target's predicted curve, `low` and `high` at each fraction of the run, and the same of the
    gradient norm and of the training loss's noise (`gradient_predicted`, `gradient_low`, `gradient_high`, `noise_...`) where the
    ladder's curves have them."""

    points: tuple[dict[str, float], ...]
    level: float
    rule: str
    sustain: int


@dataclass(frozen=True)
class Alarm:
    """The curve has left the band: `since` is the fraction of the first point outside, `fraction` that of the last. `loss` and its
    band are those at that point, whatever `direction` names."""

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
    target_steps: int | None = None,
    level: float = DEFAULT_LEVEL,
) -> Band:
    """The band for a target of `target_compute` FLOPs from the ladder's curves: `{compute, params, tokens, seed, curve:
    [{fraction, loss}]}`, and where its points have them `gradient_norm`, and `loss_noise` with `step` and `tokens`. `target_steps`:
    without them its noise is not watched.

    Lines are in 6 N D where params and tokens of target and ladder are given (the whole run's, at every fraction), else in
    compute. Fractions that fewer than three sizes have are left out. Raises UserError where none is left.
    """
    if not math.isfinite(target_compute) or target_compute <= 0:
        raise UserError(f"the target's compute is {target_compute:g}; it must be a finite number of FLOPs above 0.")
    if not 0.5 <= level < 1:
        raise UserError(f"the band's level is {level:g}; it must be at least 0.5 and below 1.")
    sized = target_params is not None and target_tokens is not None
    if sized and any(entry.get("params") is None or entry.get("tokens") is None for entry in curves):
        raise UserError(
            "params and tokens are given for the target and not for all of the ladder; give both or neither."
        )
    target = float(Points.of([target_compute], target_params, target_tokens).budget[0])
    fractions = [(fraction, *make_cells(runs)) for fraction, runs in _by_fraction(curves, sized, "loss")]
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
    gradients = _gradient_band(curves, sized, target)
    noise = _noise_band(curves, sized, target, target_tokens, target_steps)
    points = [{**point, **gradients.get(point["fraction"], {}), **noise} for point in points]
    rule = (
        f"outside the {level:.0%} band at {SUSTAIN} points in a row, all on one side, from {WARM_UP:.0%} of the run "
        f"on; the band "
        f"is never closer than {LEAST_HALF_WIDTH:.1%} to the prediction; so too the gradient norm and the noise of the "
        f"training loss, with bands of their own, and a decoder block with less than {DEAD_SHARE:g} of another's gradient"
    )
    return Band(tuple(points), level, rule, SUSTAIN)


def _gradient_band(curves: Sequence[Mapping[str, Any]], sized: bool, budget: float) -> dict[float, dict[str, float]]:
    band = {}
    for fraction, runs in _by_fraction(curves, sized, "gradient_norm"):
        _, predicted, far = _settling(runs, budget)
        band[fraction] = _around("gradient", predicted, GRADIENT_HALF_WIDTH * (1 + 0.5 * far**2))
    return band


def _settling(runs: Sequence[Run], budget: float) -> tuple[float, float, float]:
    """What falls from size to size and then settles: the largest sizes' mean (of the logarithm), half way between that and the line
    through all, since the mean alone is too high by as much as the line is too low, and the decades to `budget`."""
    cells, _ = make_cells(runs)
    settled = float(np.log(cells.loss[-SETTLED_SIZES:]).mean())
    return settled, 0.5 * (settled + _continued(cells, budget)), max(math.log10(budget / float(cells.budget[-1])), 0.0)


def _around(of: str, predicted: float, half: float) -> dict[str, float]:
    bounds = (("predicted", 0.0), ("low", -half), ("high", half))
    return {f"{of}_{name}": math.exp(predicted + shift) for name, shift in bounds}


def _noise_band(
    curves: Sequence[Mapping[str, Any]], sized: bool, budget: float, tokens: float | None, steps: int | None
) -> dict[str, float]:
    """The same at every fraction: the mean over fractions of noise times the root of the batch, over the root of the target's
    batch."""
    if tokens is None or steps is None:
        return {}
    scaled = [
        {
            **entry,
            "curve": [
                {"fraction": p["fraction"], "noise": p["loss_noise"] * math.sqrt(p["tokens"] / p["step"])}
                for p in entry["curve"]
                if p["fraction"] >= NOISE_FROM and p.get("loss_noise")
            ],
        }
        for entry in curves
    ]
    found = [_settling(runs, budget) for _, runs in _by_fraction(scaled, sized, "noise")]
    if not found:
        return {}
    settled, between, far = np.mean(found, axis=0)
    steps_a_point = steps * min(p["fraction"] for entry in curves for p in entry["curve"])
    half = NOISE_HALF_WIDTH * (1 + 0.25 * far) * max(1.0, math.sqrt(NOISE_STEPS / steps_a_point))
    # The smallest sizes' noise grows before it falls, and is not taken to go on growing.
    return _around("noise", float(min(settled, between)) - 0.5 * math.log(tokens / steps), half)


def _by_fraction(curves: Sequence[Mapping[str, Any]], sized: bool, what: str) -> list[tuple[float, list[Run]]]:
    runs: dict[float, list[Run]] = {}
    for number, entry in enumerate(curves):
        for point in entry["curve"]:
            fraction, value = round(float(point["fraction"]), 6), float(point.get(what) or math.nan)
            if math.isfinite(value) and value > 0 and fraction > 0:
                size = (entry.get("params"), entry.get("tokens")) if sized else (None, None)
                run = Run(f"curve {number}", float(entry["compute"]), value, *size, seed=entry.get("seed"))
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
class _Channel:
    """One thing that is watched. One alarm is raised for each exit: it has to come back inside before it can raise another."""

    sustain: int
    outside: list[float] = field(default_factory=list)
    side: str = ""
    raised: bool = False

    def see(self, fraction: float, side: str) -> bool:
        """`side`: how the value is outside, or nothing where it is inside. Whether this raises an alarm."""
        if side != self.side:
            self.outside, self.side, self.raised = [], side, False
        if not side:
            return False
        self.outside.append(fraction)
        if self.raised or len(self.outside) < self.sustain:
            return False
        self.raised = True
        return True


@dataclass
class Watcher:
    """Follows one target run. After a restart, feed it the curve so far and go on."""

    band: Band | Mapping[str, Any]
    warm_up: float = WARM_UP
    last_fraction: float = 0.0

    def __post_init__(self) -> None:
        points = self.band.points if isinstance(self.band, Band) else self.band["points"]
        sustain = int(self.band.sustain if isinstance(self.band, Band) else self.band["sustain"])
        ordered = sorted(points, key=lambda point: float(point["fraction"]))
        self._fractions = np.array([p["fraction"] for p in ordered], dtype=np.float64)
        names = (f"{of}{bound}" for of in ("", "gradient_", "noise_") for bound in ("predicted", "low", "high"))
        self._rows: dict[str, Array] = {
            name: np.log([p[name] for p in ordered]) for name in names if all(p.get(name) for p in ordered)
        }
        self._loss, self._block = _Channel(sustain), _Channel(sustain)
        self._channels = {"gradient": _Channel(sustain), "noise": _Channel(sustain)}
        # A loss that is not a number does not wait for a second one.
        self._broken = _Channel(1)

    def bounds(self, fraction: float) -> dict[str, float]:
        """predicted, low, high (and gradient_..., noise_...) at any fraction (log-log interpolation between the band's points)."""
        x = np.log(self._fractions)
        return {name: math.exp(float(np.interp(math.log(fraction), x, row))) for name, row in self._rows.items()}

    def update(self, point: Mapping[str, Any]) -> Alarm | None:
        """A new point of the live curve, as the training loop writes it: `fraction`, `loss`, and where there are such
        `gradient_norm`, `loss_noise`, `least_block`, `least_block_share`.

        A loss that is not finite is an alarm at once. Points that were seen already (a resumed run repeats some) are ignored.
        """
        fraction, loss = float(point["fraction"]), float(point["loss"])
        if fraction <= self.last_fraction:
            return None
        self.last_fraction = fraction
        at = self.bounds(fraction)
        finite = math.isfinite(loss)
        early = fraction < self.warm_up
        sides = [(self._broken, "" if finite else "loss is not a number")]
        if finite:
            side = LOSS_SIDES[0] if loss > at["high"] else LOSS_SIDES[1] if loss < at["low"] else ""
            sides.append((self._loss, "" if early else side))
        watched = (
            ("gradient", "gradient_norm", "gradients", self.warm_up),
            ("noise", "loss_noise", "noise of the training loss", NOISE_FROM),
        )
        for of, key, what, first in watched:
            value = point.get(key)
            if value is not None and f"{of}_high" in at:
                above, below = value > at[f"{of}_high"], value < at[f"{of}_low"]
                side = f"{what} larger than predicted" if above else f"{what} smaller than predicted" if below else ""
                sides.append((self._channels[of], "" if fraction < first else side))
        if point.get("least_block_share") is not None:
            dead = point["least_block_share"] < DEAD_SHARE
            sides.append((self._block, f"block {point['least_block']:.0f} gets no gradient" if dead else ""))
        alarm = None
        for channel, side in sides:
            if channel.see(fraction, side) and alarm is None:
                alarm = Alarm(
                    fraction, channel.outside[0], loss if finite else None, at["predicted"], at["low"], at["high"], side
                )
        return alarm
