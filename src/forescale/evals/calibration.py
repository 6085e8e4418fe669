"""Calibration of multiple choice: how often is what gets probability p right?

Two views of the same rows. *Pooled over letters*, as the GPT-4 report draws it (figure 8): the probability of every
option is a prediction, the event is that this option is right. *Top-1*: only the chosen option's probability counts.

The expected calibration error is ECE = E |P(right | p) - p|. Its plain binned estimate, sum over bins of |gap|, is biased
upwards, because noise does not cancel inside |.|: a perfectly calibrated model never gets 0, and no bootstrap of it covers
the truth. So estimate and interval come from inverting a test. The vector of bin gaps is normal about the true one, with the
covariance C of items (options of one item depend on each other, so items are the units, not options). Let true gaps be
theta * e, e the observed direction with sum |e| = 1; then the statistic T = sum over bins |gap| is distributed as

    T*(theta) = sum over bins |theta e + noise|,  noise ~ N(0, C),  e_b = sign(D_b) sqrt(D_b^2 + 2 C_bb) / sum

which grows stochastically with theta (Anderson 1955), so that each level has one theta. The interval is all theta under which
the observed T lies between the 2.5% and 97.5% quantiles, and the estimate the theta of which T is the median. The
direction is padded with noise because observed gaps are more uneven than true ones. For the upper end, a T below its median
at theta = 0 counts as that median (a power-constrained limit, Cowan et al. 2011): a lucky exam is no proof. Measured
coverage: docs/calibration.md.

N: predictions. I: items. B: bins. S: simulated gap vectors.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq

from forescale.core.errors import UserError
from forescale.core.statistics import LEVEL, Interval, Row, mean_interval, plain_rows, wilson

DIAGRAM_BINS = 10
FEWEST_IN_BIN = 20
FEWEST_BINS = 2
DRAWS = 4096
SEED = 20230315
DIRECTION_PADDING = 2.0


@dataclass(frozen=True, eq=False)
class Predictions:
    """`probability_N` that something is right, whether it was (`right_N`, 0 or 1), and whose item it is (`item_N`, 0..I-1)."""

    probability_N: np.ndarray
    right_N: np.ndarray
    item_N: np.ndarray

    @property
    def n_items(self) -> int:
        return int(self.item_N.max()) + 1


@dataclass(frozen=True)
class CalibrationError:
    """`estimate` (median-unbiased) and `interval` of the ECE; `binned`: the plain biased figure on the same bins."""

    estimate: float
    interval: Interval
    binned: float


def predictions(rows: Iterable[Row]) -> tuple[Predictions, Predictions] | None:
    """Pooled and top-1 predictions of the rows that hold log-probabilities of two options or more; None if there are none.

    Rows with several right options are left out: probabilities that sum to 1 over the options say which one is right, so
    even a perfectly calibrated model could not give each of two right ones what it deserves.

    Probabilities are normalised over the item's options. The chosen option is the row's `choice`, else the likeliest.
    Raises UserError, naming the item, for log-probabilities that are not numbers or are all minus infinity.
    """
    probabilities: list[np.ndarray] = []
    rights: list[np.ndarray] = []
    chosen: list[int] = []
    for row in plain_rows(rows):
        values = row["log_probabilities"]
        if values is None or len(values) < 2 or len(row["correct"]) != 1:
            continue
        logs = np.asarray(values, dtype=np.float64)
        if np.isnan(logs).any() or not np.isfinite(logs.max()):
            raise UserError(f"item {row['id']!r} has log-probabilities {list(values)}; examine the model again.")
        weights = np.exp(logs - logs.max())
        probabilities.append(weights / weights.sum())
        rights.append(np.isin(np.arange(len(logs)), row["correct"]).astype(np.float64))
        chosen.append(int(logs.argmax()) if row["choice"] is None else int(row["choice"]))
    if not chosen:
        return None
    sizes = [len(p) for p in probabilities]
    items = np.arange(len(chosen))
    pooled = Predictions(np.concatenate(probabilities), np.concatenate(rights), np.repeat(items, sizes))
    at = np.cumsum([0, *sizes[:-1]]) + np.array(chosen)
    return pooled, Predictions(pooled.probability_N[at], pooled.right_N[at], items)


def equal_mass_bins(probability_N: np.ndarray, bins: int) -> np.ndarray:
    """The bin (0, 1, ...) of each prediction: about equally many in each, equal probabilities together, none empty."""
    edges = np.unique(np.quantile(probability_N, np.arange(1, bins) / bins))
    return np.unique(np.searchsorted(edges, probability_N, side="right"), return_inverse=True)[1]


def default_bins(n: int) -> int:
    """Bins for the estimate: 1.5 n^(1/3), since wide bins hide gaps of opposite sign, with at least 20 predictions each."""
    return max(1, min(round(1.5 * n ** (1 / 3)), n // FEWEST_IN_BIN))


def gaps(predicted: Predictions, bin_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Signed gaps D_b = sum over the bin of (p - right) / N, shape (B,), and their covariance C between exams, (B, B).

    C is the delta method's for totals of independent items over a random N. Where a bin's events are nearly all alike their
    variance is taken with one success and one failure added, or a bin without a single error would be thought certain.
    """
    bins, items, n = int(bin_N.max()) + 1, predicted.n_items, len(bin_N)
    residual_N = predicted.probability_N - predicted.right_N
    cell_N = predicted.item_N * bins + bin_N
    total_IB = np.bincount(cell_N, weights=residual_N, minlength=items * bins).reshape(items, bins)
    gap_B = total_IB.sum(0) / n
    centred_IB = (total_IB - np.bincount(predicted.item_N, minlength=items)[:, None] * gap_B) / n
    covariance_BB = centred_IB.T @ centred_IB * (items / max(1, items - 1))
    count_B = np.bincount(bin_N, minlength=bins)
    right_B = np.bincount(bin_N, weights=predicted.right_N, minlength=bins)
    smoothed_B = (right_B + 1) * (count_B - right_B + 1) / (count_B + 2) ** 2
    plain_B = right_B / count_B * (1 - right_B / count_B)
    covariance_BB[np.diag_indices(bins)] += (count_B / n) ** 2 * np.maximum(0, smoothed_B - plain_B) / count_B
    return gap_B, covariance_BB


def calibration_error(predicted: Predictions, bins: int | None = None, level: float = LEVEL) -> CalibrationError:
    """Estimate and interval of E |P(right | p) - p| by inverting the test of the module's first lines."""
    bin_N = equal_mass_bins(predicted.probability_N, bins or default_bins(len(predicted.probability_N)))
    gap_B, covariance_BB = gaps(predicted, bin_N)
    observed = float(np.abs(gap_B).sum())
    values, vectors = np.linalg.eigh(covariance_BB)
    half_SB = np.random.default_rng(SEED).standard_normal((DRAWS // 2, len(gap_B)))
    noise_SB = half_SB @ (vectors * np.sqrt(np.maximum(values, 0))).T
    noise_SB = np.concatenate([noise_SB, -noise_SB])
    direction_B = np.sqrt(gap_B**2 + DIRECTION_PADDING * np.diag(covariance_BB))
    if not direction_B.any():
        # Every exam gives these very gaps: of two options that always get one half each, always one is right.
        return CalibrationError(0.0, (0.0, 0.0), 0.0)
    direction_B = np.where(gap_B < 0, -direction_B, direction_B) / direction_B.sum()

    def quantile_of_statistic(theta: float, quantile: float) -> float:
        return float(np.quantile(np.abs(theta * direction_B + noise_SB).sum(1), quantile))

    def theta_at(quantile: float, statistic: float) -> float:
        """The theta under which `statistic` is this quantile of T*; 0 if it is too small for any."""

        def excess(theta: float) -> float:
            return quantile_of_statistic(theta, quantile) - statistic

        # No T* is below theta minus its noise, so the root lies below this.
        most = statistic + float(np.abs(noise_SB).sum(1).max()) + 1e-9
        return 0.0 if excess(0.0) >= 0 else min(1.0, float(brentq(excess, 0.0, most, xtol=1e-6)))

    low, estimate = theta_at((1 + level) / 2, observed), theta_at(0.5, observed)
    # Gaps smaller than noise alone makes them are luck, and no proof of more than the usual luck would prove.
    high = theta_at((1 - level) / 2, max(observed, quantile_of_statistic(0.0, 0.5)))
    return CalibrationError(estimate, (low, high), observed)


def brier(predicted: Predictions, level: float = LEVEL) -> tuple[float, Interval]:
    """Mean of (p - right)^2 over predictions (Brier 1950, for one event), items as units of its interval."""
    squared_N = (predicted.probability_N - predicted.right_N) ** 2
    counts_I = np.bincount(predicted.item_N)
    return mean_interval(np.bincount(predicted.item_N, weights=squared_N) / counts_I, counts_I, level)


def reliability(predicted: Predictions, level: float = LEVEL) -> list[dict[str, Any]]:
    """At most ten equal-mass bins, each with its range and mean of p, how often it was right, and Wilson's interval.

    The options of an item are counted as if they were independent: at most one is right, so pooled intervals are, if
    anything, wide.
    """
    n = len(predicted.probability_N)
    bin_N = equal_mass_bins(predicted.probability_N, max(1, min(DIAGRAM_BINS, n // FEWEST_IN_BIN)))
    found = []
    for index in range(int(bin_N.max()) + 1):
        p, right = predicted.probability_N[bin_N == index], predicted.right_N[bin_N == index]
        share = float(right.mean())
        found.append(
            {
                "low": float(p.min()),
                "high": float(p.max()),
                "n": len(p),
                "confidence": float(p.mean()),
                "accuracy": share,
                "interval": list(wilson(share, len(p), level)),
            }
        )
    return found


def calibration(rows: Iterable[Row]) -> dict[str, Any] | None:
    """The `calibration` object of `exams.json` for rows of one task or of many together; None if none can be used.

    Of fewer predictions than two bins need, `ece`, `ece_interval` and `ece_binned` are None.
    """
    views = predictions(rows)
    if views is None:
        return None
    return {"n_items": views[0].n_items, "pooled": view(views[0]), "top1": view(views[1])}


def view(predicted: Predictions) -> dict[str, Any]:
    n = len(predicted.probability_N)
    # In one bin gaps of opposite sign cancel: no figure at all rather than one that says next to nothing, and looks sure.
    error = calibration_error(predicted) if default_bins(n) >= FEWEST_BINS else None
    score, interval = brier(predicted)
    return {
        "n": n,
        "ece": error and error.estimate,
        "ece_interval": error and list(error.interval),
        "ece_binned": error and error.binned,
        "brier": score,
        "brier_interval": list(interval),
        "bins": reliability(predicted),
    }
