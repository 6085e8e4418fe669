"""Two routes to an ability of the target, and the better by leave-future-out.

    compute   -E log pass rate = alpha C^-k (GPT-4 Technical Report, 2303.08774, section 3.2), C being the budget of laws.py
    loss      -E log pass rate = alpha L^k, L being the run's own loss, at the loss that the loss laws forecast (Gadre et al. 2024,
              2403.08540, section 3.2, and Bhagia et al. 2024, 2412.04403, go through the loss too)

Either is a Huber line in log-log over all rungs, one over the upper half and the last rung's value, weighed by what each said of
larger rungs from smaller ones. In hindsight the route through loss is given the loss that was forecast from the smaller rungs,
never the one that came.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from forescale.forecast.intervals import MINIMUM_BELOW, SHORTEST
from forescale.forecast.laws import Array, Points, line, upper_half
from forescale.forecast.loss import LossModel, fit_loss
from forescale.forecast.runs import Run, group_by_compute

ERROR_PER_DECADE = 0.30
"""Error of log value believed beforehand for each decade looked ahead: what two recorded ladders missed by (docs/log.md)."""
MEMBER_ERROR = 0.10
"""The same where members are weighed against each other."""
ERROR_WEIGHT = 3.0
HUBER_DELTA = 0.05
MEMBERS = ("power", "upper power", "last rung")


@dataclass(frozen=True)
class LossPath:
    """Log losses of the rungs (smallest first), of each later rung as forecast from the first `cut` rungs, and the model that
    forecasts the target's."""

    rungs: Array
    ahead: dict[int, Array]
    model: LossModel

    @staticmethod
    def of(runs: Sequence[Run], at: Points, believed: Mapping[str, float] | None = None) -> LossPath:
        """`at`: the target, with params and tokens where known; `believed`: see `intervals.law_weights`."""
        groups = [[runs[i] for i in group] for group in group_by_compute([run.compute for run in runs])]
        rungs = np.array([float(np.mean(np.log([run.loss for run in group]))) for group in groups])
        ahead = {}
        for cut in range(MINIMUM_BELOW, len(groups)):
            model = _fit([run for group in groups[:cut] for run in group], at, believed)
            later = [group[0] for group in groups[cut:]]
            ahead[cut] = np.array([float(np.log(model.predict([r.compute], r.params, r.tokens)[0])) for r in later])
        return LossPath(rungs, ahead, _fit(runs, at, believed))

    def at(self, where: Points) -> Array:
        """Log loss forecast at `where`."""
        return self.model.combination.log_predict(where)


@dataclass(frozen=True)
class Route:
    """What one route says at the places asked: log value and half-width of its interval there."""

    name: str
    log_value: Array
    half: Array
    weights: Array
    per_decade: float
    alpha: float
    k: float


def take_route(
    name: str,
    u: Array,
    y: Array,
    ahead: dict[int, Array],
    asked: Array,
    far: Array,
    x: Array,
    boots: Sequence[tuple[Array, Array]],
    level: float,
) -> Route:
    """`u`: the rungs' places on this route's axis, `y` their log values, `asked` the places to say, `far` how many decades these
    are beyond the rungs, `x` the rungs' log budgets, `boots` (places, log values) drawn again."""
    weights, per_decade, cuts = _hindsight(u, y, ahead, x)
    every = _members(u, y, asked)
    centre = weights @ every
    shaken = np.stack([_members(bu, by, asked)[0] for bu, by in boots])
    doubt = (weights[:, None] * (every - centre) ** 2).sum(0) + shaken.var(axis=0)
    quantile = float(student.ppf(0.5 + level / 2, ERROR_WEIGHT + cuts))
    half = quantile * np.sqrt(np.maximum(per_decade**2 * (far**2 + SHORTEST**2), doubt))
    p, q, _ = line(u, y, np.ones_like(y), HUBER_DELTA)
    return Route(name, centre, half, weights, per_decade, float(np.exp(np.clip(p, -700, 700))), abs(float(q)))


def _fit(runs: Sequence[Run], at: Points, believed: Mapping[str, float] | None) -> LossModel:
    params, tokens = float(at.params[0]), float(at.tokens[0])
    sized = math.isfinite(params * tokens)
    size = (params, tokens) if sized else (None, None)
    return fit_loss(runs, target_params=size[0], target_tokens=size[1], believed=believed)


def _members(x: Array, y: Array, at: Array) -> Array:
    """Log predictions of power, upper power, last rung: (3, len(at))."""
    p, q, _ = line(x, y, np.ones_like(y), HUBER_DELTA)
    power = p + q * at
    upper = power
    if len(np.unique(x)) >= 5:
        half = upper_half(len(x))
        pu, qu, _ = line(x[-half:], y[-half:], np.ones(half), HUBER_DELTA)
        upper = pu + qu * at
    return np.stack([power, upper, np.full_like(at, y[-1])])


def _hindsight(u: Array, y: Array, ahead: dict[int, Array], x: Array) -> tuple[Array, float, int]:
    """Leave-future-out, as for the loss: weights of the members, error per decade of their combination, number of
    cuts."""
    squares: list[Array] = []
    residuals: list[tuple[int, Array, float]] = []
    for cut in range(MINIMUM_BELOW, len(x)):
        residual = _members(u[:cut], y[:cut], ahead[cut]) - y[cut:]
        far = ((x[cut:] - x[cut - 1]) / math.log(10)) ** 2 + SHORTEST**2
        squares.append((residual**2 / far).mean(axis=1))
        residuals += [(cut, residual[:, i], float(far[i])) for i in range(len(far))]
    # Beforehand, the law of the literature is believed twice as much as a flat line.
    prior = np.array([1.0, 1.5, 2.0]) * MEMBER_ERROR
    scores = (prior**2 + np.sum(squares, axis=0)) / (1 + len(squares)) if squares else prior**2
    weights = scores**-2.0
    weights /= weights.sum()
    total = ERROR_WEIGHT * ERROR_PER_DECADE**2
    for cut in {cut for cut, _, _ in residuals}:
        total += float(np.mean([float(weights @ r) ** 2 / far for c, r, far in residuals if c == cut]))
    return weights, math.sqrt(total / (ERROR_WEIGHT + len(squares))), len(squares)
