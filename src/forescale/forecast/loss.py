"""The loss of a run that has not been trained, from runs that have.

Laws (`laws.py`) are weighed by how well each forecast the ladder's larger rungs from its smaller ones, and combined
in log loss; the same errors make the interval (`intervals.py`). The plain log-log line is always among them and
always printed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from forescale.core.errors import UserError
from forescale.forecast.in_context import REPEATED, has_formed
from forescale.forecast.intervals import IN_COMPUTE, Combination, Fitter, Hindcast, combine, cuts, fit_each, hindcasts
from forescale.forecast.laws import (
    EXPONENT_STEP,
    Array,
    Cells,
    FittedLaw,
    Points,
    budgets_between,
    fit_nd,
    floor_table,
    make_cells,
)
from forescale.forecast.parts import BY_PARTS, FEWEST_SIZES, fit_parts, weight_of_parts
from forescale.forecast.runs import COMPUTE_LIMIT, Run, check_runs

DEFAULT_LEVEL = 0.9
FLOOR_FRACTIONS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
ND_MINIMUM_CELLS = 8
ND_MINIMUM_SPREAD = 3.0
"""tokens per parameter must vary by this factor before N and D can be told apart"""
SAME_FAMILY = 1.5
"""runs whose tokens per parameter are within this factor of the target's are of the target's family"""


@dataclass(frozen=True)
class LossForecast:
    """See docs/artifacts.md; `low`, `high` and `predicted` in the unit of the runs' loss."""

    predicted: float
    interval: tuple[float, float]
    interval_level: float
    law: dict[str, Any]
    ensemble: tuple[dict[str, Any], ...]
    floor_sensitivity: tuple[dict[str, float], ...]
    local_exponents: tuple[dict[str, float], ...]
    baseline_last_rung: float
    baseline_loglog_line: float
    curve: tuple[dict[str, float], ...]
    n_runs: int
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class LossModel:
    """Fitted laws: `cells` are those that the laws in compute saw, `every` those of all runs."""

    cells: Cells
    every: Cells
    combination: Combination
    seed_deviation: float | None
    warnings: tuple[str, ...]

    def at(self, compute: Sequence[float] | Array, params: float | None = None, tokens: float | None = None) -> Points:
        """Where to ask the laws; without params and tokens where the runs that were fitted have none."""
        known = bool(np.isfinite(self.cells.params * self.cells.tokens).all())
        return Points.of(compute, params, tokens) if known else Points.of(compute)

    def predict(
        self, compute: Sequence[float] | Array, params: float | None = None, tokens: float | None = None
    ) -> Array:
        return np.exp(self.combination.log_predict(self.at(compute, params, tokens)))


def fit_loss(
    runs: Sequence[Run],
    *,
    target_params: float | None = None,
    target_tokens: float | None = None,
    believed: Mapping[str, float] | None = None,
) -> LossModel:
    """Fits and weighs the laws; `believed`: see `law_weights`. Raises UserError where `runs` cannot carry a forecast."""
    check_runs(runs)
    if (target_params is None) != (target_tokens is None):
        raise UserError("give both the target's params and its tokens, or neither.")
    every, seed_deviation = make_cells(runs)
    degrees = len(runs) - len(every)
    warnings: list[str] = []
    target_ratio = None if target_params is None or target_tokens is None else target_tokens / target_params
    given: dict[str, float] = {}
    if target_ratio is not None and can_fit_nd(every):
        laws, records, cells = _in_params_and_tokens(every, target_ratio, warnings)
    else:
        cells = _family(every, target_ratio, warnings)
        if target_ratio is None or not np.isfinite(cells.params * cells.tokens).all():
            cells = cells.without_sizes()
        laws, records = fit_each(IN_COMPUTE, cells), hindcasts(cells, IN_COMPUTE, cuts(cells), _up_to(cells))
        share = weight_of_parts(cells)
        if share:
            laws, given = [*laws, fit_parts(cells)], {BY_PARTS: share}
            records = records + _hindcasts_by_parts(cells)
    combination = combine(laws, records, float(cells.budget.max()), seed_deviation, degrees, believed, given)
    return LossModel(cells, every, combination, seed_deviation, tuple(warnings))


def _hindcasts_by_parts(cells: Cells) -> list[Hindcast]:
    """What the sum of parts would have said. Where copying is a part and has formed, only of cuts below which it had."""
    formed = REPEATED in cells.parts and has_formed(cells)

    def fit(seen: Cells) -> FittedLaw | None:
        return fit_parts(seen) if has_formed(seen) or (not formed and len(seen) >= FEWEST_SIZES) else None

    return hindcasts(cells, [fit], cuts(cells), _up_to(cells))


def _up_to(cells: Cells) -> Callable[[float], Cells]:
    return lambda limit: cells.take(cells.compute <= limit)


def _in_params_and_tokens(
    every: Cells, ratio: float, warnings: list[str]
) -> tuple[list[FittedLaw], list[Hindcast], Cells]:
    """The laws in N and D, judged on the sizes with the target's tokens per parameter if they are four or more, else on all
    within four times of that ratio, else on all."""
    fitters: list[Fitter] = [_on_nd, _on_nd_tied]
    laws: list[FittedLaw] = [fit_nd(every), fit_nd(every, tied=True)]

    seen = _up_to(every)
    distance = np.abs(np.log(every.tokens / every.params / ratio))
    near = [every.take(distance <= math.log(factor)) for factor in (SAME_FAMILY, 4.0)]
    judged = next((cells for cells in near if _distinct(cells) >= 4), every)
    if judged is not near[0]:
        warnings.append(
            "fewer than four sizes have the target's tokens per parameter, so the laws are judged on others too."
        )
    limits = [limit for limit in cuts(judged) if can_fit_nd(seen(limit))]
    return laws, hindcasts(judged, fitters, limits, seen), judged


def _on_nd(cells: Cells) -> FittedLaw | None:
    return fit_nd(cells) if can_fit_nd(cells) else None


def _on_nd_tied(cells: Cells) -> FittedLaw | None:
    return fit_nd(cells, tied=True) if can_fit_nd(cells) else None


def can_fit_nd(cells: Cells) -> bool:
    """Whether params and tokens are known and vary enough, apart from each other, to fit five parameters."""
    if len(cells) < ND_MINIMUM_CELLS or not np.isfinite(cells.params).all() or not np.isfinite(cells.tokens).all():
        return False
    ratio = cells.tokens / cells.params
    enough = min(len(np.unique(cells.params)), len(np.unique(cells.tokens))) >= 3
    return enough and bool(ratio.max() / ratio.min() >= ND_MINIMUM_SPREAD)


def _family(every: Cells, target_ratio: float | None, warnings: list[str]) -> Cells:
    """The cells that lie on one line with the target: its tokens per parameter, else the frontier of lowest losses."""
    ratio = every.tokens / every.params
    known = bool(np.isfinite(ratio).all())
    varies = known and bool(ratio.max() / ratio.min() > SAME_FAMILY**2)
    if target_ratio is not None and known:
        same = np.abs(np.log(ratio / target_ratio)) <= math.log(SAME_FAMILY)
        if _distinct(every.take(same)) >= 3:
            if not same.all():
                warnings.append(
                    f"{int(same.sum())} of {len(every)} sizes have the target's {target_ratio:.3g} tokens per "
                    f"parameter (within "
                    f"{SAME_FAMILY:g} times); laws in compute use only these."
                )
            return every.take(same)
        warnings.append(
            f"fewer than three sizes have the target's {target_ratio:.3g} tokens per parameter; laws in compute use the "
            "lowest losses at any ratio instead."
        )
    elif varies:
        warnings.append(
            f"tokens per parameter go from {ratio.min():.3g} to {ratio.max():.3g}; points off the frontier (beaten "
            f"at no more "
            "compute) are left out, and giving the target's params and tokens would forecast better."
        )
    if not varies and len(every) == _distinct(every):
        return every
    best = np.minimum.accumulate(every.loss)
    frontier = every.take(every.loss <= best)
    if _distinct(frontier) < 3:
        warnings.append("fewer than three sizes are on the frontier of lowest losses, so all are used.")
        return every
    return frontier


def _distinct(cells: Cells) -> int:
    return len(np.unique(cells.compute))


def check_target(target: float, smallest: float) -> None:
    """Raises UserError for a target that no law can be asked about."""
    if not math.isfinite(target) or target <= 0 or target > COMPUTE_LIMIT:
        raise UserError(f"the target's compute is {target:g}; it must be a finite number of FLOPs above 0 (1e21, say).")
    if target < smallest:
        raise UserError(
            f"the target's compute {target:.3g} is below the smallest run's {smallest:.3g}; give a larger target."
        )


def forecast_loss(
    runs: Sequence[Run],
    target_compute: float,
    *,
    target_params: float | None = None,
    target_tokens: float | None = None,
    level: float = DEFAULT_LEVEL,
    widening: float = 1.0,
    believed: Mapping[str, float] | None = None,
) -> LossForecast:
    """The forecast for one target, its interval `widening` times as wide; `believed`: see `law_weights`.

    Raises UserError for runs or a target that cannot carry one.
    """
    check_level(level)
    check_runs(runs)
    check_target(target_compute, min(run.compute for run in runs))
    for what, value in (("params", target_params), ("tokens", target_tokens)):
        if value is not None and (not math.isfinite(value) or value <= 0):
            raise UserError(f"the target's {what} are {value:g}; they must be a finite number above 0.")
    model = fit_loss(runs, target_params=target_params, target_tokens=target_tokens, believed=believed)
    model = replace(model, combination=replace(model.combination, widening=widening))
    cells, combination = model.cells, model.combination
    at = model.at([target_compute], target_params, target_tokens)
    predicted, low, high = (float(value[0]) for value in combination.interval(at, level))
    floors = floor_table(cells, at, FLOOR_FRACTIONS)
    every, _ = make_cells(runs)
    plain = _least_squares_line(runs, target_compute)
    return LossForecast(
        predicted=predicted,
        interval=(low, high),
        interval_level=level,
        law=_law(combination),
        ensemble=tuple(
            {
                "name": law.name,
                "formula": law.formula,
                "parameters": law.parameters,
                "predicted": float(np.exp(law.log_predict(at)[0])),
                "weight": weight,
            }
            for law, weight in zip(combination.laws, combination.weights)
        ),
        floor_sensitivity=tuple(floors),
        local_exponents=tuple(local_exponents(cells)),
        baseline_last_rung=float(every.loss[-1]),
        baseline_loglog_line=plain,
        curve=tuple(predict_curve(model, target_compute, target_params, target_tokens, level=level)),
        n_runs=len(runs),
        warnings=(*model.warnings, *_warnings(runs, model, target_compute, floors, (low, high), predicted)),
    )


def check_level(level: float) -> None:
    if not 0.5 <= level < 1:
        raise UserError(f"the interval's level is {level:g}; it must be at least 0.5 and below 1.")


def _law(combination: Combination) -> dict[str, Any]:
    """The law that the forecast came from: a weighted geometric mean, with each member's weight."""
    return {
        "name": "combination",
        "formula": "exp(sum of weight x log(law)) over: "
        + "; ".join(f"{law.name}: {law.formula}" for law in combination.laws),
        "parameters": {
            **{law.name: weight for law, weight in zip(combination.laws, combination.weights)},
            "noise": combination.noise,
            "error_per_decade": combination.per_decade,
        },
    }


def _least_squares_line(runs: Sequence[Run], target: float) -> float:
    """The baseline: a least-squares line through all runs in log-log, nothing robust, nothing left out."""
    x, y = np.log([run.compute for run in runs]), np.log([run.loss for run in runs])
    slope, intercept = np.polyfit(x - x.mean(), y, 1)
    return math.exp(float(intercept + slope * (math.log(target) - x.mean())))


def local_exponents(cells: Cells) -> list[dict[str, float]]:
    """d log L / d log (6 N D), or / d log C where N and D are unknown, from rung to rung; `from`, `to` in compute.

    Rungs that are nearer than EXPONENT_STEP are passed over, from the largest down (so perhaps the
    smallest): between such neighbours it is mostly noise.
    """
    rows: list[dict[str, float]] = []
    upper = len(cells) - 1
    for lower in range(len(cells) - 2, -1, -1):
        step = math.log(cells.budget[upper] / cells.budget[lower])
        if step >= math.log(EXPONENT_STEP) * 0.999 or (lower == 0 and not rows and step > 0):
            exponent = math.log(cells.loss[upper] / cells.loss[lower]) / step
            rows.append({"from": float(cells.compute[lower]), "to": float(cells.compute[upper]), "exponent": exponent})
            upper = lower
    return rows[::-1]


def predict_curve(
    model: LossModel,
    target: float,
    params: float | None = None,
    tokens: float | None = None,
    *,
    level: float = DEFAULT_LEVEL,
    points: int = 48,
) -> list[dict[str, float]]:
    """The forecast over compute, from the smallest rung to the target, for a figure.

    Between rungs and target, params and tokens move along the target's own tokens per parameter.
    """
    cells = model.cells
    at = model.at([target], params, tokens)
    computes = np.geomspace(float(cells.compute[0]), max(target, float(cells.compute[-1])), points)
    budgets = budgets_between(computes, np.append(cells.compute, target), np.append(cells.budget, at.budget))
    scale = np.sqrt(budgets / at.budget)
    between = Points(computes, at.params * scale, at.tokens * scale)
    predicted, low, high = model.combination.interval(between, level)
    return [
        {"compute": float(c), "predicted": float(p), "low": float(a), "high": float(b)}
        for c, p, a, b in zip(computes, predicted, low, high)
    ]


def _warnings(
    runs: Sequence[Run],
    model: LossModel,
    target: float,
    floors: Sequence[dict[str, float]],
    interval: tuple[float, float],
    predicted: float,
) -> list[str]:
    cells = model.cells
    rungs = _distinct(cells)
    smallest, largest = float(cells.compute[0]), float(cells.compute[-1])
    found = []
    if rungs < 5:
        found.append(f"few rungs: {rungs} sizes carry this forecast; five or more would let the laws check each other.")
    if len(runs) == len(model.every):
        found.append("one seed a rung: the noise between seeds is assumed (0.3%), not measured.")
    elif model.seed_deviation is not None and model.seed_deviation > 0.02:
        found.append(
            f"runs of one size differ by {model.seed_deviation:.1%}; if they differ in more than the seed, give "
            f"params and tokens."
        )
    if largest / smallest < 10:
        found.append(f"short range: the rungs span {largest / smallest:.3g} times in compute, less than one decade.")
    if target <= largest:
        found.append("the target is inside the fitted range: this is interpolation, not a forecast.")
    if target / largest > 100:
        found.append(
            f"the target takes {target / largest:.3g} times the largest rung's compute; beyond 100 times, laws often "
            f"bend."
        )
    if any(loss > previous for previous, loss in zip(cells.loss, cells.loss[1:])):
        found.append("a larger rung has a higher loss than a smaller one: look for a failed or badly tuned run.")
    exponents = [row["exponent"] for row in local_exponents(cells)]
    if len(exponents) >= 2 and _unsteady(exponents):
        found.append(
            f"the local exponent is not steady (from {exponents[0]:.3f} to {exponents[-1]:.3f} along the ladder, "
            f"{min(exponents):.3f} to {max(exponents):.3f} in all): a kink or a floor, and no single power law holds."
        )
    weights = {law.name: weight for law, weight in zip(model.combination.laws, model.combination.weights)}
    if weights.get(BY_PARTS) == 1:
        # What a floor of the whole would give is no part of this forecast.
        return found
    best = min(row["fit_error"] for row in floors)
    plausible = [row["predicted"] for row in floors if row["fit_error"] <= max(1.5 * best, 0.004)]
    if plausible and (min(plausible) < interval[0] or max(plausible) > interval[1]):
        found.append(
            f"the floor decides: floors that fit about as well give {min(plausible):.4g} to {max(plausible):.4g}, "
            f"beyond the interval."
        )
    elif plausible and max(plausible) - min(plausible) > 0.5 * (interval[1] - interval[0]):
        found.append(
            f"the floor matters: floors that fit about as well give {min(plausible):.4g} to {max(plausible):.4g}."
        )
    return found


def _unsteady(exponents: Sequence[float]) -> bool:
    mean = float(np.mean(exponents))
    return mean >= 0 or (max(exponents) - min(exponents)) > 0.25 * abs(mean)


__all__ = [
    "DEFAULT_LEVEL",
    "LossForecast",
    "LossModel",
    "fit_loss",
    "forecast_loss",
    "local_exponents",
    "predict_curve",
]
