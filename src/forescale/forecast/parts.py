"""A law that is a sum: each part of the loss is forecast by its own laws, and the parts are added.

A loss over a mixture is no power law where its parts fall at different rates, and least of all where one of them falls suddenly.
These parts are told apart, each as what it adds to the loss:

    new        natural text: tokens that do not repeat a pair of their context
    repeated   natural text: tokens that follow the one before them as they did the last time in the context. They are what
               in-context copying (Olsson et al. 2022) is worth: flat before it forms, then steep, then flat again
    problems   generated documents, written or drawn, each source for itself: random numbers and names, which have a floor (so the
               law is the one with a floor, and every source has its own), and answers that repeat them, which copying lowers
    pictures   other documents with pictures

Where copying has formed (`in_context.py`), the laws of the repeated part and of problems are drawn through those sizes alone that
copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from forescale.forecast.in_context import FORMED, REPEATED, forming, has_formed
from forescale.forecast.intervals import IN_COMPUTE, Fitter, decades, fit_each
from forescale.forecast.laws import FLOORED, Array, Cells, FittedLaw, Points, fit_floor

BY_PARTS = "by parts"
PROBLEMS = "problems: "
PICTURES = "pictures"
FEWEST_SIZES = 5
"""A part is less steady than the whole, and fewer sizes do not tell its bends."""
NEAR, FAR = 1.2, 2.0
"""Decades beyond the largest size between which the law with a floor takes over a text part of a ladder that copies: it fell faster
while copying formed, and laws without a floor go on so. Over 1.1 decades (`laptop` from 1/12) the mean of the laws was right, over
2.1 (`overnight` from 1/116) the law with a floor was nearest (docs/log.md)."""
FORMING = 0.5
"""The weight of the sum while copying forms: no law knows then what it will be worth."""


def split(result: Mapping[str, Any], kinds: Mapping[str, tuple[str, str]], only: str | None = None) -> dict[str, float]:
    """What each part adds to a run's loss, or to that of the modality `only`, in nats; parts that it does not hold are left out.

    `result`: a rung's `loss_by_source`, `repeated_by_source` and `weights`; `kinds`: source -> (modality, kind), as in data.json.
    """
    weights = {name: weight for name, weight in result["weights"].items() if only in (None, kinds[name][0])}
    total = sum(weights.values())
    parts = dict.fromkeys(("new", REPEATED, PICTURES), 0.0)
    for name, weight in weights.items():
        loss, copied, share = result["loss_by_source"][name], result["repeated_by_source"][name], weight / total
        modality, kind = kinds[name]
        if kind in ("curriculum", "almanac"):
            parts[PROBLEMS + name] = share * loss
        elif modality == "vision":
            parts[PICTURES] += share * loss
        else:
            parts["new"] += share * (loss - copied)
            parts[REPEATED] += share * copied
    return {name: value for name, value in parts.items() if value > 0}


def weight_of_parts(cells: Cells) -> float:
    """The share of the sum in the forecast: all where copying has formed or is no part of it, FORMING where it is forming, none
    before: then the repeated part gives no sign of what will become of it, and the sum is too high (docs/log.md)."""
    if len(cells.parts) < 2 or len(cells) < FEWEST_SIZES:
        return 0.0
    if has_formed(cells) or REPEATED not in cells.parts:
        return 1.0
    return 0.0 if forming(cells) is None else FORMING


def _mean(cells: Cells, fitters: Sequence[Fitter], settles: bool) -> FittedLaw:
    """Laws that weigh the same: weights from hindcasts forecast parts no better (docs/log.md), as is often so (Stock & Watson 2004,
    "Combination forecasts of output growth"). Where the part `settles`, the law with a floor takes over from NEAR decades beyond
    the largest size on, and has all the weight at FAR."""
    laws = fit_each(fitters, cells)
    floored = np.array([law.name == FLOORED for law in laws])
    largest = float(cells.budget.max())

    def weights(points: Points) -> Array:
        """Of each law at each point: (laws, points)."""
        far = settles * np.clip((decades(points.budget, largest) - NEAR) / (FAR - NEAR), 0, 1)
        return (1 - far) / len(laws) + np.outer(floored, far)

    def predict(points: Points) -> Array:
        return np.asarray((weights(points) * [law.log_predict(points) for law in laws]).sum(axis=0))

    def spread(points: Points) -> Array:
        return np.sqrt((weights(points) * np.square([law.log_spread(points) for law in laws])).sum(axis=0))

    return FittedLaw("mean", " or ".join(law.formula for law in laws), {}, predict, spread)


def _joined(below: FittedLaw, above: FittedLaw, border: float) -> FittedLaw:
    """One law below a budget and another from there on."""

    def predict(points: Points) -> Array:
        return np.where(points.budget < border, below.log_predict(points), above.log_predict(points))

    def spread(points: Points) -> Array:
        return np.where(points.budget < border, below.log_spread(points), above.log_spread(points))

    return FittedLaw("joined", f"{above.formula}, from {border:.3g} on", {}, predict, spread)


def laws_by_part(cells: Cells) -> dict[str, FittedLaw]:
    """The law of each part."""
    fitted = {}
    formed = has_formed(cells)
    for name, values in cells.parts.items():
        part = replace(cells, loss=values, parts={})
        problems = name.startswith(PROBLEMS)
        fitters = (fit_floor,) if problems else IN_COMPUTE
        settles = formed and name != PICTURES
        fitted[name] = _mean(part, fitters, settles)
        if formed and (problems or name == REPEATED):
            copies = part.take(cells.copying >= FORMED)
            fitted[name] = _joined(fitted[name], _mean(copies, fitters, settles), float(copies.budget.min()))
    return fitted


def fit_parts(cells: Cells) -> FittedLaw:
    """The sum of the parts' forecasts."""
    fitted = laws_by_part(cells)

    def each(points: Points) -> Array:
        return np.stack([law.log_predict(points) for law in fitted.values()])

    def predict(points: Points) -> Array:
        return np.asarray(np.logaddexp.reduce(each(points), axis=0))

    def spread(points: Points) -> Array:
        # Parts err each for itself: the shares of their own doubts add up in squares.
        shares = np.exp(each(points) - predict(points))
        doubts = np.stack([law.log_spread(points) for law in fitted.values()])
        return np.sqrt(((shares * doubts) ** 2).sum(axis=0))

    kinds = dict.fromkeys(name.partition(":")[0] for name in fitted)
    return FittedLaw(BY_PARTS, "L = " + " + ".join(kinds), {}, predict, spread)
