"""Choosing between laws, and how wide to be: both from what the laws would have said of the ladder's own larger rungs.

*Leave-future-out*: fit on the smaller rungs only, predict the larger ones; do so for every cut that leaves three
rungs or more below it. Each prediction is a small forecast with a known end: its error, and how many decades of
compute it looked ahead.

The rule, in log loss, for a target x decades beyond the largest rung (r = an error of the combined law, seen at
distance x_r):

    error per decade   s1^2 = (n0 p1^2 + sum over cuts of mean (r^2 - s0^2)+ / (x_r^2 + h^2)) / (n0 + number of cuts)
    interval           predicted * exp(+- t sqrt(s0^2 + max(s1^2 (x^2 + h^2), own^2) + forms^2))

s0 is the noise of one run (from seeds, or 0.3%), forms the spread of the laws about their combination, own each
law's doubt of its own parameters (s1 and own estimate the same error, so the larger counts), (n0, p1) a declared
prior, h a floor on the distance, and t Student's quantile with DEGREES + cuts degrees of freedom. So the
interval is never of zero width, widens with every decade, and is wide where few rungs can vouch for the law.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from forescale.forecast.laws import Array, Cells, FittedLaw, Points, fit_floor, fit_power, fit_upper

SEED_NOISE = 0.003
"""Deviation of log loss between seeds where the ladder has one seed a rung."""
SEED_NOISE_WEIGHT = 2.0
ERROR_PER_DECADE = 0.02
"""p1: what a good law on clean rungs misses for each decade that it looks ahead."""
ERROR_WEIGHT = 3.0
"""n0: the prior's weight in cuts."""
DEGREES = 6.0
"""Of freedom of Student's quantile, beside the cuts: chosen with p1 on recorded runs (docs/log.md)."""
BELIEVED_WEIGHT = 6.0
"""The weight in cuts of what laws missed by on recorded ladders of the same family."""
SHORTEST = 0.3
"""h, in decades: a forecast of a rung next door is not free of error."""
MINIMUM_BELOW = 3
MOST_CUTS = 6


@dataclass(frozen=True)
class Hindcast:
    """What a law, fitted below a cut, said of a rung above it: `residual` = log predicted - log observed."""

    cut: int
    law: str
    distance: float
    residual: float


Fitter = Callable[[Cells], FittedLaw | None]


def decades(compute: Array | float, largest: float) -> Array:
    """Decades of compute beyond the largest rung; 0 inside the fitted range."""
    return np.maximum(np.log10(np.asarray(compute, dtype=np.float64) / largest), 0.0)


def cuts(cells: Cells, minimum: int = MINIMUM_BELOW, most: int = MOST_CUTS) -> list[float]:
    """Compute limits that leave `minimum` cells or more below and one or more above; of many, `most` spread evenly."""
    limits = sorted({float(compute) * 1.001 for compute in cells.compute[minimum - 1 : -1]})
    limits = [limit for limit in limits if bool((cells.compute > limit).any())]
    if len(limits) <= most:
        return limits
    return [limits[round(index)] for index in np.linspace(0, len(limits) - 1, most)]


def hindcasts(
    cells: Cells, fitters: Sequence[Fitter], limits: Sequence[float], fit_on: Callable[[float], Cells]
) -> list[Hindcast]:
    """Leave-future-out errors on `cells`, for each limit. `fit_on(limit)` gives the cells up to it for the laws to
    see."""
    found: list[Hindcast] = []
    for below, limit in enumerate(limits):
        above = cells.take(cells.compute > limit)
        seen = fit_on(limit)
        distance = decades(above.budget, float(seen.budget.max()))
        for fitter in fitters:
            law = fitter(seen)
            if law is None:
                continue
            residual = law.log_predict(above.points) - np.log(above.loss)
            found.extend(Hindcast(below, law.name, float(x), float(r)) for x, r in zip(distance, residual))
    return found


def _on_upper(cells: Cells) -> FittedLaw | None:
    return fit_upper(cells) if len(cells) >= 5 else None


IN_COMPUTE: tuple[Fitter, ...] = (fit_power, _on_upper, fit_floor)


def fit_each(fitters: Sequence[Fitter], cells: Cells) -> list[FittedLaw]:
    """The laws that these cells can carry."""
    return [law for law in (fitter(cells) for fitter in fitters) if law is not None]


def error_per_decade(
    records: Sequence[Hindcast],
    noise: float = 0.0,
    prior_weight: float = ERROR_WEIGHT,
    prior: float = ERROR_PER_DECADE,
) -> float:
    """s1 of the module's rule."""
    total, cuts = prior_weight * prior**2, sorted({record.cut for record in records})
    for cut in cuts:
        squares = [
            max(record.residual**2 - noise**2, 0.0) / (record.distance**2 + SHORTEST**2)
            for record in records
            if record.cut == cut
        ]
        total += float(np.mean(squares))
    return math.sqrt(total / (prior_weight + len(cuts)))


def law_weights(
    laws: Sequence[FittedLaw],
    records: Sequence[Hindcast],
    believed: Mapping[str, float] | None = None,
    power: float = 2.0,
) -> list[float]:
    """Weights proportional to (error per decade)^-power, for each law alone; equal where no cut is possible.

    `believed`: errors per decade of laws on recorded ladders of the same family, with the weight of BELIEVED_WEIGHT cuts; a law
    that is not named starts from ERROR_PER_DECADE, with the weight of one.

    A law that cannot be fitted below a cut is judged there by the plain line, so that a law is never preferred for
    silence.
    """
    cuts = {record.cut for record in records}
    plain = [record for record in records if record.law == "power"]
    scores = []
    for law in laws:
        own = [record for record in records if record.law == law.name]
        missing = cuts - {record.cut for record in own}
        known = (believed or {}).get(law.name)
        weight, prior = (1.0, ERROR_PER_DECADE) if known is None else (BELIEVED_WEIGHT, known)
        mine = [*own, *(record for record in plain if record.cut in missing)]
        scores.append(error_per_decade(mine, prior_weight=weight, prior=prior))
    raw = [score**-power for score in scores]
    return [value / sum(raw) for value in raw]


def combined(records: Sequence[Hindcast], laws: Sequence[FittedLaw], weights: Sequence[float]) -> list[Hindcast]:
    """The hindcasts of the weighted combination."""
    weight = {law.name: w for law, w in zip(laws, weights)}
    keyed: dict[tuple[int, float], list[Hindcast]] = {}
    for record in records:
        keyed.setdefault((record.cut, record.distance), []).append(record)
    result = []
    for (cut, distance), group in keyed.items():
        total = sum(weight[record.law] for record in group)
        if not total:
            continue
        residual = sum(weight[record.law] * record.residual for record in group) / total
        result.append(Hindcast(cut, "combination", distance, residual))
    return result


@dataclass(frozen=True)
class Combination:
    """Laws, their weights, and everything that the interval's rule needs."""

    laws: tuple[FittedLaw, ...]
    weights: tuple[float, ...]
    largest: float
    noise: float
    per_decade: float
    cuts: int
    widening: float = 1.0

    def log_predict(self, points: Points) -> Array:
        return np.asarray(sum(w * law.log_predict(points) for law, w in zip(self.laws, self.weights)))

    def log_sigma(self, points: Points) -> Array:
        """One deviation of log loss, for a single run."""
        centre = self.log_predict(points)
        forms = sum(w * (law.log_predict(points) - centre) ** 2 for law, w in zip(self.laws, self.weights))
        own = sum(w * law.log_spread(points) ** 2 for law, w in zip(self.laws, self.weights))
        far = decades(points.budget, self.largest) ** 2 + SHORTEST**2
        return np.sqrt(self.noise**2 + np.maximum(self.per_decade**2 * far, own) + forms)

    def quantile(self, level: float) -> float:
        return float(student.ppf(0.5 + level / 2, DEGREES + self.cuts))

    def interval(self, points: Points, level: float) -> tuple[Array, Array, Array]:
        """(predicted, low, high) at `points`."""
        centre = self.log_predict(points)
        half = self.widening * self.quantile(level) * self.log_sigma(points)
        low, high = np.clip(centre - half, -300, 300), np.clip(centre + half, -300, 300)
        return np.exp(np.clip(centre, -300, 300)), np.exp(low), np.exp(high)


def combine(
    laws: Sequence[FittedLaw],
    records: Sequence[Hindcast],
    largest: float,
    seed_deviation: float | None,
    seeds: int,
    believed: Mapping[str, float] | None = None,
    given: Mapping[str, float] | None = None,
) -> Combination:
    """Weighs the laws and sets the interval. `seeds` is the degrees of freedom behind `seed_deviation`; `believed` as in
    `law_weights`. `given`: laws whose weight is not to be measured; the others share what they leave."""
    own = 0.0 if seed_deviation is None else seed_deviation**2 * seeds
    noise = math.sqrt((own + SEED_NOISE_WEIGHT * SEED_NOISE**2) / (seeds + SEED_NOISE_WEIGHT))
    given = given or {}
    weighed = [law for law in laws if law.name not in given]
    measured = dict(zip((law.name for law in weighed), law_weights(weighed, records, believed)))
    rest = 1 - sum(given.values())
    weights = [given[law.name] if law.name in given else rest * measured[law.name] for law in laws]
    together = combined(records, laws, weights)
    cuts = len({record.cut for record in together})
    return Combination(tuple(laws), tuple(weights), largest, noise, error_per_decade(together, noise), cuts)
