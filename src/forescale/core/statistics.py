"""Intervals of exam scores, and two models on the same items. Everything is a closed formula: no seeds, no resampling.

I: items. Scores lie between 0 and 1; most are 0 or 1. `rows` are those of `items/<task>.jsonl`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from scipy.stats import binomtest, norm

from forescale.core.errors import UserError

LEVEL = 0.95
Interval = tuple[float, float]
T = TypeVar("T")
Row = Mapping[str, Any]


def wilson(value: float, n: float, level: float = LEVEL) -> Interval:
    """Score interval of a proportion `value` seen in `n` trials (Wilson 1927; Brown, Cai & DasGupta 2001, equation 4).

    `n` may be an effective number. (0, 1) for no trials. Raises ValueError if value is outside 0..1 or n negative.
    """
    if not (0 <= value <= 1 and n >= 0):
        raise ValueError(f"a proportion of {value} in {n} trials cannot be")
    if n == 0:
        return 0.0, 1.0
    z = float(norm.ppf((1 + level) / 2))
    centre = value + z * z / (2 * n)
    half = z * math.sqrt(value * (1 - value) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At 0 and 1 the bounds are exactly that; rounding would leave them a hair inside.
    low = 0.0 if value == 0 else max(0.0, (centre - half) / scale)
    high = 1.0 if value == 1 else min(1.0, (centre + half) / scale)
    return low, high


def mean_interval(
    scores: Sequence[float] | np.ndarray, weights: Sequence[float] | np.ndarray | None = None, level: float = LEVEL
) -> tuple[float, Interval]:
    """Weighted mean of independent scores (I,) in 0..1, and its interval: Wilson's, with an effective number of trials.

    n_eff = mean (1 - mean) / variance of the mean (Korn & Graubard 1998), so scores of 0 and 1 with equal weights give
    exactly Wilson's interval, and partial credit, which varies less, a narrower one. Weights may be random as long as they
    come with their item (the mean is then a ratio). The scores' variance is shrunk towards its upper limit,
    mean (1 - mean), with the weight of one item, so that equal scores do not claim certainty. (0, 1) for no scores.
    Raises ValueError for scores outside 0..1 or weights that are not positive.
    """
    x_I = np.asarray(scores, dtype=np.float64)
    w_I = np.ones_like(x_I) if weights is None else np.asarray(weights, dtype=np.float64)
    if not len(x_I):
        return math.nan, (0.0, 1.0)
    if not (np.all((x_I >= 0) & (x_I <= 1)) and np.all(w_I > 0)):
        raise ValueError("scores must lie between 0 and 1 and weights be positive")
    w_I = w_I / w_I.sum()
    # Rounding must not turn all right into nearly all right.
    mean = float(np.clip(w_I @ x_I, x_I.min(), x_I.max()))
    most = mean * (1 - mean)
    shrink = len(x_I) / (len(x_I) + 1)
    variance = shrink * float(w_I**2 @ (x_I - mean) ** 2) + (1 - shrink) * most * float(w_I @ w_I)
    # All right, all wrong, or so near it that the variance underflows: the number of items, less what weights cost (Kish).
    return mean, wilson(mean, most / variance if variance > 0 else 1 / float(w_I @ w_I), level)


def summary(scores: Sequence[float] | np.ndarray, level: float = LEVEL) -> dict[str, Any]:
    """`{"n", "accuracy", "interval"}` as `exams.json` has it. Raises UserError if there are no scores."""
    if not len(scores):
        raise UserError("there are no answered items to score; give the exam at least one.")
    mean, interval = mean_interval(scores, level=level)
    return {"n": len(scores), "accuracy": mean, "interval": list(interval)}


@dataclass(frozen=True)
class Paired:
    """Two models on the same `n` items: mean scores, `difference` = second - first with its interval.

    `p_value`: exact two-sided McNemar test; None where scores are not all 0 or 1.
    """

    n: int
    first: float
    second: float
    difference: float
    interval: Interval
    p_value: float | None


def paired_difference(
    first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray, level: float = LEVEL
) -> Paired:
    """Compares scores (I,) of two models, item by item, in the same order.

    The interval is Wald's for a mean of paired differences after one made-up item was added on which the first model is
    right alone and one on which the second is: for scores of 0 and 1, Bonett & Price 2012, "Adjusted Wald confidence
    interval for a difference of binomial proportions based on paired data". It stays honest where the models agree on every
    item. Raises ValueError for no items, unequal numbers of them, or scores outside 0..1.
    """
    a_I, b_I = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a_I.shape != b_I.shape or not len(a_I):
        raise ValueError(f"paired scores need the same items, one or more; got {a_I.shape} and {b_I.shape}")
    if not all(np.all((x >= 0) & (x <= 1)) for x in (a_I, b_I)):
        raise ValueError("scores must lie between 0 and 1")
    d_I = b_I - a_I
    n = len(d_I)
    centre = float(d_I.sum()) / (n + 2)
    variance = (float(d_I @ d_I) + 2) / (n + 2) - centre**2
    half = float(norm.ppf((1 + level) / 2)) * math.sqrt(variance / (n + 2))
    binary = bool(np.all(np.isin(a_I, (0, 1)) & np.isin(b_I, (0, 1))))
    return Paired(
        n=n,
        first=float(a_I.mean()),
        second=float(b_I.mean()),
        difference=float(d_I.mean()),
        interval=(max(-1.0, centre - half), min(1.0, centre + half)),
        p_value=mcnemar(int((d_I < 0).sum()), int((d_I > 0).sum())) if binary else None,
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p value that both models are equally often the only one that is right (McNemar 1947, binomial)."""
    discordant = only_first + only_second
    return float(binomtest(only_first, discordant).pvalue) if discordant else 1.0


def spread(items: Sequence[T], limit: int) -> tuple[T, ...]:
    """At most `limit` items, evenly over the fixed order (0: all), so that every group keeps its share."""
    if not limit or limit >= len(items):
        return tuple(items)
    return tuple(items[i * len(items) // limit] for i in range(limit))


def plain_rows(rows: Iterable[Row]) -> list[Row]:
    """The scored rows of the exam as it was given, without those with blanked or shuffled pictures."""
    return [row for row in rows if row.get("condition", "normal") == "normal" and row["score"] is not None]
