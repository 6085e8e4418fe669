"""The laws: each is fitted to cells (runs of one size, averaged over seeds) and predicts the loss of any other size.

    power         L = a C^b                      straight in log-log; the baseline that others must beat
    upper power   the same, upper half of the cells only: follows a kink or a bend without naming its cause
    power+floor   L = a C^b + c, c >= 0          GPT-4 Technical Report (2303.08774), section 3.1
    N,D           L = E + A N^-alpha + B D^-beta Hoffmann et al. 2022 (2203.15556), equations 2 and 3 (approach 3)
    N,D tied      the same with beta = alpha     Gadre et al. 2024 (2403.08540), equation 4, in N and D instead of C
    and D/N

All residuals are in log loss and Huber's, as in Hoffmann et al., D.2. The one-dimensional laws are solved in closed
form at each value of their one non-linear parameter (variable projection), so they need no starts and cannot miss
the optimum by more than the grid's step; `N,D` starts from a grid of exponents with the linear part solved by
non-negative least squares.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from forescale.forecast.runs import Run, group_by_compute

Array = NDArray[np.float64]

HUBER_DELTA = 0.005
"""Residuals above this (in log loss; about two seed deviations) count linearly, for laws in compute alone."""
HUBER_DELTA_ND = 0.01
"""For laws in N and D. Hoffmann et al. 2022 (D.2) take 0.001; on the public runs 0.01 forecast a little better
(docs/forecast.md)."""
EXPONENT_PRIOR = (0.34, 0.28)
"""Of N and D, as published for other data (Hoffmann et al. 2022, equation 10), with the deviation below: so few runs as a ladder
has do not tell the exponents from the floor (docs/log.md)."""
EXPONENT_PRIOR_DEVIATION = 0.05
FLOOR_PRIOR_SCALE = 0.4
"""The floor's prior is half-normal with this scale, in units of the smallest loss that was fitted."""
NOISE_PRIOR = 0.003
"""Scatter of one run's log loss about the law that is believed beforehand (what seeds do to small models) ..."""
NOISE_PRIOR_WEIGHT = 2.0
"""... with the weight of so many cells."""
FLOOR_GRID = 120
FLOORED = "power+floor"
EXPONENT_STEP = 2.5
"""Rungs between which a local exponent is taken are this factor apart or more: seeds that differ by 0.3% move it by 0.005 then."""


@dataclass(frozen=True)
class Points:
    """Where a law is asked: arrays of one length; `params` and `tokens` are NaN where unknown."""

    compute: Array
    params: Array
    tokens: Array

    @staticmethod
    def of(compute: Sequence[float] | Array, params: float | None = None, tokens: float | None = None) -> Points:
        computes = np.atleast_1d(np.asarray(compute, dtype=np.float64))
        return Points(
            computes,
            np.full(computes.shape, math.nan if params is None else params),
            np.full(computes.shape, math.nan if tokens is None else tokens),
        )

    @property
    def budget(self) -> Array:
        """What the laws along one line are laws in: see `budget`."""
        return budget(self.compute, self.params, self.tokens)


def budget(compute: Array, params: Array, tokens: Array) -> Array:
    """6 N D, the FLOPs of the products with weights (Kaplan et al. 2020, section 2.1), or compute where N and D are unknown.

    The two part where models are small: attention over a context of 128 is four fifths of a width-4 model's exact FLOPs and
    a tenth of a width-184 one's, and it buys no loss, so that a law in exact FLOPs bends and one in N D does not
    (docs/log.md). Hoffmann et al. 2022 and Gadre et al. 2024 take compute as 6 N D too.
    """
    product = 6 * params * tokens
    return np.where(np.isfinite(product), product, compute)


def budgets_between(computes: Array, compute: Array, budget: Array) -> Array:
    """Budgets at `computes`, read off runs of which both are known by straight lines in log-log: 6 N D is no fixed share of
    compute along a ladder."""
    order = np.argsort(compute)
    return np.exp(np.interp(np.log(computes), np.log(compute[order]), np.log(budget[order])))


@dataclass(frozen=True)
class Cells:
    """Runs of one size, averaged (in log loss) over seeds; sorted by compute. `count` is runs per cell. `parts`: what the losses
    are sums of, and `copying` the mean in-context score, NaN where it is not known."""

    compute: Array
    loss: Array
    count: Array
    params: Array
    tokens: Array
    copying: Array
    parts: Mapping[str, Array] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.compute)

    def take(self, index: NDArray[np.bool_] | NDArray[np.int64]) -> Cells:
        return Cells(
            self.compute[index],
            self.loss[index],
            self.count[index],
            self.params[index],
            self.tokens[index],
            self.copying[index],
            {name: values[index] for name, values in self.parts.items()},
        )

    @property
    def points(self) -> Points:
        return Points(self.compute, self.params, self.tokens)

    @property
    def budget(self) -> Array:
        return self.points.budget

    def without_sizes(self) -> Cells:
        """The same with params and tokens unknown, so that laws are in compute."""
        unknown = np.full(len(self), math.nan)
        return replace(self, params=unknown, tokens=unknown)


def make_cells(runs: Sequence[Run]) -> tuple[Cells, float | None]:
    """Cells, and the pooled standard deviation of log loss between runs of one cell (None where no cell has two
    runs)."""
    keyed: dict[tuple[float | None, float | None], list[Run]] = {}
    groups: list[list[Run]] = []
    for indices in group_by_compute([run.compute for run in runs]):
        keyed = {}
        for index in indices:
            keyed.setdefault((runs[index].params, runs[index].tokens), []).append(runs[index])
        groups.extend(keyed.values())
    # A part is used where every run has it.
    names = sorted(set.intersection(*(set(run.parts) for run in runs)))
    columns: list[tuple[float, ...]] = []
    squares, degrees = 0.0, 0
    for group in groups:
        logs = np.log([run.loss for run in group])
        squares += float(((logs - logs.mean()) ** 2).sum())
        degrees += len(group) - 1
        compute = math.exp(float(np.mean(np.log([run.compute for run in group]))))
        first, score = group[0], float(np.mean([_nan(run.copying) for run in group]))
        parts = (math.exp(float(np.mean(np.log([run.parts[name] for run in group])))) for name in names)
        known = (
            compute,
            math.exp(float(logs.mean())),
            float(len(group)),
            _nan(first.params),
            _nan(first.tokens),
            score,
        )
        columns.append((*known, *parts))
    columns.sort()
    table = np.array(columns, dtype=np.float64).T
    compute, loss, count, params, tokens, score = table[:6]
    cells = Cells(compute, loss, count, params, tokens, score, dict(zip(names, table[6:])))
    return cells, (math.sqrt(squares / degrees) if degrees else None)


def _nan(value: float | None) -> float:
    return math.nan if value is None else float(value)


@dataclass(frozen=True)
class FittedLaw:
    """A law with its parameters. `log_predict` and `log_spread` (the law's own doubt, one deviation) are in log
    loss."""

    name: str
    formula: str
    parameters: dict[str, float]
    log_predict: Callable[[Points], Array] = field(repr=False, compare=False)
    log_spread: Callable[[Points], Array] = field(repr=False, compare=False)


def huber(residual: Array, delta: float) -> Array:
    size = np.abs(residual)
    return np.where(size <= delta, 0.5 * residual**2, delta * (size - 0.5 * delta))


def line(x: Array, y: Array, weight: Array, delta: float, scale: Array | float = 1.0) -> tuple[Array, Array, Array]:
    """Huber lines y = p + q x, along the last axis, for any leading axes: (p, q, residuals x scale).

    Iteratively reweighted least squares; `scale` turns a residual of y into one of log loss.
    """
    robust = np.ones_like(y)
    p = q = np.zeros(y.shape[:-1])
    for _ in range(15):
        w = weight * scale**2 * robust
        total = w.sum(-1)
        mean_x, mean_y = (w * x).sum(-1) / total, (w * y).sum(-1) / total
        dx = x - mean_x[..., None]
        q = (w * dx * (y - mean_y[..., None])).sum(-1) / np.maximum((w * dx**2).sum(-1), 1e-300)
        p = mean_y - q * mean_x
        residual = (y - p[..., None] - q[..., None] * x) * scale
        robust = np.minimum(1.0, delta / np.maximum(np.abs(residual), 1e-12))
    return p, q, residual


def _weights(cells: Cells) -> Array:
    # A cell's mean over n seeds is better known, but not than the law is right: n / (1 + n) of the limit.
    return 2.0 * cells.count / (1.0 + cells.count)


def _unit(cells: Cells) -> str:
    return " (C = 6 N D)" if np.isfinite(cells.params * cells.tokens).all() else ""


def fit_power(cells: Cells, delta: float = HUBER_DELTA, name: str = "power") -> FittedLaw:
    """L = a C^b by a Huber line in log-log. Its own spread is that of a regression's mean."""
    x, y, weight = np.log(cells.budget), np.log(cells.loss), _weights(cells)
    centre = float(x.mean())
    p, q, residual = line(x - centre, y, weight, delta)
    intercept, b = float(p), float(q)
    degrees = max(len(cells) - 2, 0)
    variance = (float((residual**2).sum()) + NOISE_PRIOR_WEIGHT * NOISE_PRIOR**2) / (degrees + NOISE_PRIOR_WEIGHT)
    sxx = float(((x - centre) ** 2).sum())

    def predict(points: Points) -> Array:
        return intercept + b * (np.log(points.budget) - centre)

    def spread(points: Points) -> Array:
        return np.sqrt(variance * (1 / len(cells) + (np.log(points.budget) - centre) ** 2 / sxx))

    parameters = {"a": _exp(intercept - b * centre), "b": b}
    return FittedLaw(name, f"L = a C^b{_unit(cells)}", parameters, predict, spread)


def upper_half(count: int) -> int:
    """How many of `count` rungs are its upper half: never fewer than carry a line."""
    return max(3, math.ceil(count / 2))


def fit_upper(cells: Cells) -> FittedLaw:
    """`power` on the upper half of the cells (at least three)."""
    upper = cells.take(np.arange(len(cells) - upper_half(len(cells)), len(cells)))
    fitted = fit_power(upper, name="upper power")
    return FittedLaw(
        fitted.name,
        f"{fitted.formula}, upper half of the rungs",
        fitted.parameters,
        fitted.log_predict,
        fitted.log_spread,
    )


def fit_floor(cells: Cells, prior_scale: float = FLOOR_PRIOR_SCALE, floors: Array | None = None) -> FittedLaw:
    """L = a C^b + c. At each c of a grid the line in log(L - c) is solved; c is weighed by likelihood and prior.

    Marginal likelihood over the noise with an inverse-gamma prior, times half-normal(c; prior_scale x smallest
    loss). The prediction is the weighed mean of log loss, the spread its deviation: far beyond a short range the most probable
    floor alone forecast worse (docs/log.md). The parameters are those at the largest weight.
    """
    grid = floor_grid(cells) if floors is None else floors
    intercepts, slopes, costs, centre = _floor_lines(cells, grid)
    log_weight = -0.5 * (len(cells) + NOISE_PRIOR_WEIGHT) * np.log(2 * costs + NOISE_PRIOR_WEIGHT * NOISE_PRIOR**2)
    log_weight -= 0.5 * (grid / (prior_scale * cells.loss.min())) ** 2
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    best = int(np.argmax(weight))

    def all_of(points: Points) -> Array:
        x = np.log(points.budget) - centre
        return np.log(np.exp(np.clip(intercepts[:, None] + slopes[:, None] * x, -700, 700)) + grid[:, None])

    def predict(points: Points) -> Array:
        return np.asarray(weight @ all_of(points))

    def spread(points: Points) -> Array:
        every = all_of(points)
        return np.sqrt(weight @ (every - weight @ every) ** 2)

    b = float(slopes[best])
    parameters = {"a": _exp(float(intercepts[best]) - b * centre), "b": b, "c": float(grid[best])}
    return FittedLaw(FLOORED, f"L = a C^b + c{_unit(cells)}", parameters, predict, spread)


def floor_grid(cells: Cells, points: int = FLOOR_GRID) -> Array:
    """Floors from 0 to 98% of the smallest loss."""
    return np.linspace(0.0, 0.98, points) * float(cells.loss.min())


def _floor_lines(cells: Cells, grid: Array) -> tuple[Array, Array, Array, float]:
    x = np.log(cells.budget)
    centre = float(x.mean())
    above = cells.loss[None, :] - grid[:, None]
    weight = np.broadcast_to(_weights(cells), above.shape)
    # d log L = (L - c) / L d log(L - c): the fit is of log loss, not of log distance to the floor.
    p, q, residual = line(
        np.broadcast_to(x - centre, above.shape), np.log(above), weight, HUBER_DELTA, above / cells.loss
    )
    return p, q, (weight * huber(residual, HUBER_DELTA)).sum(-1), centre


def floor_table(cells: Cells, at: Points, fractions: Sequence[float]) -> list[dict[str, float]]:
    """The forecast at each fixed floor (as fractions of the smallest loss), with the root mean square misfit in log
    loss."""
    grid = np.asarray(fractions, dtype=np.float64) * float(cells.loss.min())
    p, q, _, centre = _floor_lines(cells, grid)
    log_target = math.log(float(at.budget[0]))
    rows = []
    for floor, intercept, slope in zip(grid, p, q):
        fitted = np.exp(intercept + slope * (np.log(cells.budget) - centre)) + floor
        predicted = math.exp(float(intercept + slope * (log_target - centre))) + float(floor)
        error = float(np.sqrt(np.mean(np.log(fitted / cells.loss) ** 2)))
        rows.append({"floor": float(floor), "predicted": predicted, "fit_error": error})
    return rows


def fit_nd(cells: Cells, delta: float = HUBER_DELTA_ND, tied: bool = False, prior: bool = True) -> FittedLaw:
    """L = E + A N^-alpha + B D^-beta, Huber on log loss; `cells` must have params and tokens. `tied` makes beta =
    alpha.

    A coarse grid of (alpha, beta) with (E, A, B) >= 0 by least squares of relative error, then the best few are
    polished. With `prior` each exponent and E count as a cell more: normal about EXPONENT_PRIOR (their mean if tied), and
    half-normal as in `fit_floor`.
    """
    n, d = np.log(cells.params), np.log(cells.tokens)
    n0, d0 = float(n.mean()), float(d.mean())
    u, v, y = n - n0, d - d0, np.log(cells.loss)
    root = np.sqrt(_weights(cells))
    starts = _nd_starts(u, v, cells.loss, tied)
    size = 4 if tied else 5
    smallest = float(cells.loss.min())

    def fold(gradient: Array) -> Array:
        return np.concatenate([gradient[:3], gradient[3:4] + gradient[4:]]) if tied else gradient

    def log_model(z: Array, u: Array, v: Array) -> Array:
        return np.logaddexp(np.logaddexp(z[0], z[1] - z[3] * u), z[2] - z[-1] * v)

    believed = np.array([np.mean(EXPONENT_PRIOR)] if tied else EXPONENT_PRIOR)

    def residuals(z: Array) -> Array:
        misfit = (log_model(z, u, v) - y) * root
        if not prior:
            return misfit
        exponents = (z[3:] - believed) / EXPONENT_PRIOR_DEVIATION
        floor = math.exp(z[0]) / (FLOOR_PRIOR_SCALE * smallest)
        return np.concatenate([misfit, delta * exponents, [delta * floor]])

    def jacobian(z: Array) -> Array:
        parts = np.stack([np.full_like(u, z[0]), z[1] - z[3] * u, z[2] - z[-1] * v])
        share = np.exp(parts - np.logaddexp.reduce(parts, axis=0))
        rows = (fold(np.stack([share[0], share[1], share[2], -u * share[1], -v * share[2]])) * root).T
        if not prior:
            return rows
        more = np.zeros((size - 2, size))
        more[:-1, 3:] = np.eye(size - 3) * delta / EXPONENT_PRIOR_DEVIATION
        more[-1, 0] = delta * math.exp(z[0]) / (FLOOR_PRIOR_SCALE * smallest)
        return np.concatenate([rows, more])

    def robust(square: Array) -> Array:
        """Huber's for cells, plain squares for what is believed beforehand; scipy's rho and its two derivatives."""
        outside = (square > 1) & (np.arange(len(square)) < len(cells))
        root_ = np.sqrt(np.maximum(square, 1.0))
        return np.stack(
            [
                np.where(outside, 2 * root_ - 1, square),
                np.where(outside, 1 / root_, 1.0),
                np.where(outside, -0.5 / root_**3, 0.0),
            ]
        )

    lower = np.array([math.log(smallest) - 12, -30.0, -30.0, 0.0, 0.0])[:size]
    upper = np.array([math.log(smallest), 30.0, 30.0, 2.0, 2.0])[:size]
    best: Array | None = None
    best_cost, best_jacobian = math.inf, np.eye(size)
    for start in starts:
        result = least_squares(
            residuals,
            np.clip(start, lower + 1e-6, upper - 1e-6),
            jac=jacobian,
            bounds=(lower, upper),
            loss=robust,
            f_scale=delta,
            max_nfev=100,
        )
        if result.cost < best_cost:
            best, best_cost, best_jacobian = result.x, float(result.cost), np.asarray(jacobian(result.x))
    assert best is not None
    z = best
    residual = log_model(z, u, v) - y
    degrees = max(len(cells) - size, 0)
    variance = (float((residual**2).sum()) + NOISE_PRIOR_WEIGHT * NOISE_PRIOR**2) / (degrees + NOISE_PRIOR_WEIGHT)
    # A weak prior (one unit of each parameter) keeps the covariance finite where the cells do not identify a parameter.
    covariance = variance * np.linalg.inv(best_jacobian.T @ best_jacobian + variance * np.eye(size))

    def predict(points: Points) -> Array:
        return np.asarray(log_model(z, np.log(points.params) - n0, np.log(points.tokens) - d0))

    def spread(points: Points) -> Array:
        pu, pv = np.log(points.params) - n0, np.log(points.tokens) - d0
        parts = np.stack([np.full_like(pu, z[0]), z[1] - z[3] * pu, z[2] - z[-1] * pv])
        share = np.exp(parts - np.logaddexp.reduce(parts, axis=0))
        gradient = fold(np.stack([share[0], share[1], share[2], -pu * share[1], -pv * share[2]]))
        return np.sqrt(np.einsum("ip,ij,jp->p", gradient, covariance, gradient))

    name, formula = "N,D", "L = E + A N^-alpha + B D^-beta"
    if tied:
        name, formula = "N,D tied", "L = E + A N^-alpha + B D^-alpha"
    parameters = {
        "E": _exp(float(z[0])),
        "A": _exp(float(z[1] + z[3] * n0)),
        "alpha": float(z[3]),
        "B": _exp(float(z[2] + z[-1] * d0)),
        "beta": float(z[-1]),
    }
    return FittedLaw(name, formula, parameters, predict, spread)


def _nd_starts(u: Array, v: Array, loss: Array, tied: bool, keep: int = 3) -> list[Array]:
    from scipy.optimize import nnls

    found: list[tuple[float, Array]] = []
    grid = np.linspace(0.1, 0.9, 9)
    for alpha in grid:
        for beta in [alpha] if tied else grid:
            design = np.stack([np.ones_like(u), np.exp(-alpha * u), np.exp(-beta * v)], axis=1) / loss[:, None]
            solution, norm = nnls(design, np.ones_like(loss))
            logs = np.log(np.maximum(solution, 1e-3 * loss.min()))
            found.append((float(norm), np.array([*logs, alpha] if tied else [*logs, alpha, beta])))
    found.sort(key=lambda item: item[0])
    return [start for _, start in found[:keep]]


def _exp(value: float) -> float:
    """exp, kept inside what JSON can hold."""
    return math.exp(min(max(value, -700.0), 700.0))
