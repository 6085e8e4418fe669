"""What a run that has not been trained will be able to do: -E_P[log pass_rate(C)] = alpha C^-k over a bucket P of
problems.

The law is the GPT-4 Technical Report's (2303.08774, section 3.2, the displayed equation; there for HumanEval
problems). As there, problems fall into difficulty buckets by how *smaller* models do on them, and a bucket may have
no forecast: the report had none for the hardest. Buckets come from the ladder alone, by the mean over all its runs,
never from the target.

A bucket is forecast only if it has *emerged* on the ladder, decided before the target exists: over 400 bootstraps of
problems and runs the slope of log value on log compute is negative in 95% or more, and the fitted value falls by 5%
or more from the first rung to the last. A bucket that worsens just as clearly (inverse scaling, as Hindsight Neglect
did before GPT-4) is named so and not forecast: the report's own example turned round at the target's scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student

from forescale.core.errors import UserError
from forescale.forecast.intervals import MINIMUM_BELOW, decades
from forescale.forecast.laws import Array, Points, budgets_between, line
from forescale.forecast.runs import group_by_compute

BUCKETS = {1: ("all",), 2: ("easy", "hard"), 3: ("easy", "medium", "hard"), 4: ("easiest", "easy", "hard", "hardest")}
DEFAULT_LEVEL = 0.9
BOOTSTRAPS = 400
SMALLEST_VALUE = 1e-4
"""Nats: values below this (a pass rate above 99.99%) are taken as this in the log; the bucket is solved."""
LARGEST_LOG_PASS_RATE = -50.0
"""Rows below this are held here, so that one hopeless problem does not own its bucket."""
EMERGED_SHARE = 0.95
EMERGED_FALL = 0.05
ERROR_PER_DECADE = 0.10
"""Error of log value that is believed beforehand for each decade looked ahead; capabilities are rougher than losses."""
ERROR_WEIGHT = 3.0
SHORTEST = 0.3
HUBER_DELTA = 0.05

Row = Mapping[str, Any]


@dataclass(frozen=True)
class CapabilityForecast:
    """See docs/artifacts.md; values are mean -log pass rate in nats. `predicted` and `interval` are null under 'no
    forecast'."""

    family: str
    bucket: str
    problem_ids: tuple[str, ...]
    n_problems: int
    points: tuple[dict[str, Any], ...]
    predicted: float | None
    interval: tuple[float, float] | None
    interval_level: float
    law: dict[str, Any]
    baseline_last_rung: float
    curve: tuple[dict[str, float], ...]
    status: str
    warnings: tuple[str, ...]


def make_buckets(rows: Sequence[Row], n_buckets: int = 3) -> dict[tuple[str, str], list[str]]:
    """(family, bucket) -> problem ids, easiest bucket first, from ladder rows alone. Raises UserError for an unknown
    count.

    A family's problems that every run answered are ranked by mean log pass rate over all runs and cut into equal parts.
    """
    if n_buckets not in BUCKETS:
        raise UserError(f"n_buckets is {n_buckets}; it can be {', '.join(map(str, BUCKETS))}.")
    buckets: dict[tuple[str, str], list[str]] = {}
    for family, (names, table, _) in _tables(rows).items():
        difficulty = -table.mean(axis=0)
        order = sorted(range(len(names)), key=lambda index: (round(float(difficulty[index]), 9), names[index]))
        parts = n_buckets if len(names) >= 4 * n_buckets else 1
        for bucket, part in zip(BUCKETS[parts], np.array_split(np.array(order), parts)):
            buckets[family, bucket] = sorted(names[index] for index in part)
    return buckets


def _tables(rows: Sequence[Row]) -> dict[str, tuple[list[str], Array, list[dict[str, Any]]]]:
    """family -> (problem ids, log pass rates (runs, problems), runs); only problems that every run of the family
    has."""
    by_family: dict[str, dict[tuple[str, Any], dict[str, float]]] = {}
    runs: dict[tuple[str, Any], dict[str, Any]] = {}
    for row in rows:
        try:
            key = (str(row["name"]), row.get("seed"))
            compute, value, family = float(row["compute"]), float(row["log_pass_rate"]), str(row["family"])
            problem = str(row["id"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"a capability row lacks or garbles {error}; it needs name, compute, family, id, log_pass_rate."
            ) from None
        if math.isnan(value) or value > 1e-9 or not math.isfinite(compute) or compute <= 0:
            raise UserError(
                f"run {key[0]}, problem {row['id']}: log_pass_rate {value} or compute {compute} is impossible; a log "
                f"pass rate is "
                "at most 0 and compute is above 0."
            )
        size = {name: float(row[name]) for name in ("params", "tokens") if row.get(name) is not None}
        runs[key] = {"name": key[0], "seed": key[1], "compute": compute, **size}
        held = min(max(value, LARGEST_LOG_PASS_RATE), 0.0)
        by_family.setdefault(family, {}).setdefault(key, {})[problem] = held
    tables: dict[str, tuple[list[str], Array, list[dict[str, Any]]]] = {}
    for family, answers in sorted(by_family.items()):
        keys = sorted(answers, key=lambda key: (runs[key]["compute"], key[0], str(key[1])))
        shared = sorted(set.intersection(*(set(answers[key]) for key in keys)))
        if shared:
            table = np.array([[answers[key][problem] for problem in shared] for key in keys])
            tables[family] = shared, table, [runs[key] for key in keys]
    return tables


def forecast_capability(
    rows: Sequence[Row],
    target_compute: float,
    target_params: float | None = None,
    target_tokens: float | None = None,
    *,
    buckets: Mapping[tuple[str, str], Sequence[str]] | None = None,
    level: float = DEFAULT_LEVEL,
    seed: int = 0,
) -> list[CapabilityForecast]:
    """A forecast for each bucket. `rows` are lines of capability.jsonl with `name`, `seed`, `compute` and, where known,
    `params` and `tokens` of their run: where runs and target have these, C is 6 N D (see laws.budget)."""
    if not math.isfinite(target_compute) or target_compute <= 0:
        raise UserError(f"the target's compute is {target_compute:g}; it must be a finite number of FLOPs above 0.")
    chosen = make_buckets(rows) if buckets is None else buckets
    tables = _tables(rows)
    at = Points.of([target_compute], target_params, target_tokens)
    forecasts = []
    for (family, bucket), ids in chosen.items():
        if family not in tables:
            continue
        names, table, runs = tables[family]
        wanted = set(ids)
        index = [i for i, name in enumerate(names) if name in wanted]
        if index:
            part = -table[:, index]
            forecasts.append(_forecast(family, bucket, [names[i] for i in index], part, runs, at, level, seed))
    return forecasts


def _forecast(
    family: str,
    bucket: str,
    ids: list[str],
    values: Array,  # (runs, problems), nats
    runs: list[dict[str, Any]],
    at: Points,
    level: float,
    seed: int,
) -> CapabilityForecast:
    where, at = _where(runs, at)
    groups = group_by_compute(list(where.compute))
    x = np.array([float(np.log(where.budget[group]).mean()) for group in groups])
    means = values.mean(axis=1)
    y = _log(np.array([means[group].mean() for group in groups]))
    points = tuple(
        {**{key: run[key] for key in ("name", "seed", "compute")}, "value": float(mean), "n": len(ids)}
        for run, mean in zip(runs, means)
    )
    warnings: list[str] = []
    boot_x, boot_y = _bootstrap(values, x, groups, seed)
    status = _emerged(x, y, boot_x, boot_y, warnings)
    largest = float(np.exp(x[-1]))
    last_rung = float(means[groups[-1]].mean())
    if len(ids) < 10:
        warnings.append(f"only {len(ids)} problems: a bucket so small says little.")
    if float(y[-1]) <= math.log(SMALLEST_VALUE) + 1e-9:
        warnings.append("the last rung solves this bucket: there is nothing left to forecast.")
    law: dict[str, Any] = {"name": "none", "formula": "", "parameters": {}}
    if status == "no forecast":
        return CapabilityForecast(
            family, bucket, tuple(ids), len(ids), points, None, None, level, law, last_rung, (), status, tuple(warnings)
        )
    weights, per_decade, cuts = _hindsight(x, y)
    target = float(at.compute[0])
    grid = np.geomspace(where.compute.min(), max(target, where.compute.max()), 32)
    budgets = budgets_between(grid, np.append(where.compute, target), np.append(where.budget, at.budget))
    asked = np.log(np.append(budgets, at.budget))
    every = _members(x, y, asked)
    centre = weights @ every
    shaken = np.stack([_members(bx, by, asked)[0] for bx, by in zip(boot_x[:100], boot_y[:100])])
    doubt = (weights[:, None] * (every - centre) ** 2).sum(0) + shaken.var(axis=0)
    far = decades(np.exp(asked), largest) ** 2 + SHORTEST**2
    half = float(student.ppf(0.5 + level / 2, ERROR_WEIGHT + cuts)) * np.sqrt(np.maximum(per_decade**2 * far, doubt))
    predicted, low, high = np.exp(centre), np.exp(centre - half), np.exp(centre + half)
    p, q, _ = line(x, y, np.ones_like(y), HUBER_DELTA)
    law = {
        "name": "capability combination",
        "formula": "-E log pass rate = alpha C^-k; exp(sum of weight x log(law)) over: power, upper power, last rung",
        "parameters": {
            "alpha": float(np.exp(np.clip(p, -700, 700))),
            "k": float(-q),
            **{f"weight of {name}": float(w) for name, w in zip(("power", "upper power", "last rung"), weights)},
            "error_per_decade": per_decade,
        },
    }
    curve = tuple(
        {"compute": float(c), "predicted": float(m), "low": float(a), "high": float(b)}
        for c, m, a, b in zip(grid, predicted, low, high)
    )
    return CapabilityForecast(
        family,
        bucket,
        tuple(ids),
        len(ids),
        points,
        float(predicted[-1]),
        (float(low[-1]), float(high[-1])),
        level,
        law,
        last_rung,
        curve,
        status,
        tuple(warnings),
    )


def _where(runs: Sequence[Mapping[str, Any]], at: Points) -> tuple[Points, Points]:
    """Where the runs and the target stand; without params and tokens unless all have both."""
    columns = (np.array([run.get(name, math.nan) for run in runs]) for name in ("compute", "params", "tokens"))
    where = Points(*columns)
    if np.isfinite(np.concatenate([where.params * where.tokens, at.params * at.tokens])).all():
        return where, at
    return Points.of(where.compute), Points.of(at.compute)


def _log(value: Array) -> Array:
    return np.log(np.maximum(value, SMALLEST_VALUE))


def _bootstrap(values: Array, x: Array, groups: list[list[int]], seed: int) -> tuple[Array, Array]:
    """Rungs' log values with problems, the runs of a rung, and the rungs drawn again: (bootstraps, rungs) each.

    Draws of fewer than three different rungs are drawn again, for they carry no line.
    """
    rng = np.random.default_rng(seed)
    found_x: list[Array] = []
    found_y: list[Array] = []
    while len(found_x) < BOOTSTRAPS:
        rungs = rng.integers(len(groups), size=len(groups))
        if len(set(rungs.tolist())) < min(3, len(groups)):
            continue
        problems = rng.integers(values.shape[1], size=values.shape[1])
        drawn = [rng.choice(groups[rung], size=len(groups[rung])) for rung in rungs]
        found_x.append(x[rungs])
        found_y.append(_log(np.array([values[np.ix_(runs, problems)].mean() for runs in drawn])))
    return np.stack(found_x), np.stack(found_y)


def _slope(x: Array, y: Array) -> Array:
    dx = x - x.mean(-1, keepdims=True)
    return np.asarray((dx * (y - y.mean(-1, keepdims=True))).sum(-1) / np.maximum((dx**2).sum(-1), 1e-300))


def _emerged(x: Array, y: Array, boot_x: Array, boot_y: Array, warnings: list[str]) -> str:
    """The module's rule for whether there is a trend to forecast; says why where there is none."""
    if len(x) < 3:
        warnings.append(f"no forecast: {len(x)} rungs; three or more are needed.")
        return "no forecast"
    slopes = _slope(boot_x, boot_y)
    falling, rising = float((slopes < 0).mean()), float((slopes > 0).mean())
    change = math.expm1(float(_slope(x, y)) * float(x[-1] - x[0]))
    if falling >= EMERGED_SHARE and change <= -EMERGED_FALL:
        return "forecast"
    if rising >= EMERGED_SHARE and change >= EMERGED_FALL:
        warnings.append(
            f"no forecast: it gets worse with scale on the ladder ({change:+.0%} in nats from first rung to last); "
            f"inverse "
            "scaling has turned round at larger scale before, so no law is extrapolated."
        )
    else:
        warnings.append(
            f"no forecast: not emerged on the ladder ({change:+.0%} in nats from first rung to last, falling in "
            f"{falling:.0%} of "
            f"bootstraps; {EMERGED_SHARE:.0%} and {-EMERGED_FALL:.0%} are asked)."
        )
    return "no forecast"


def _members(x: Array, y: Array, at: Array) -> Array:
    """Log predictions of power, upper power, last rung: (3, len(at))."""
    p, q, _ = line(x, y, np.ones_like(y), HUBER_DELTA)
    power = p + q * at
    upper = power
    if len(np.unique(x)) >= 5:
        half = max(3, math.ceil(len(x) / 2))
        pu, qu, _ = line(x[-half:], y[-half:], np.ones(half), HUBER_DELTA)
        upper = pu + qu * at
    return np.stack([power, upper, np.full_like(at, y[-1])])


def _hindsight(x: Array, y: Array) -> tuple[Array, float, int]:
    """Leave-future-out, as for the loss: weights of the members, error per decade of their combination, number of
    cuts."""
    squares: list[Array] = []
    residuals: list[tuple[int, Array, float]] = []
    for cut in range(MINIMUM_BELOW, len(x)):
        residual = _members(x[:cut], y[:cut], x[cut:]) - y[cut:]
        far = ((x[cut:] - x[cut - 1]) / math.log(10)) ** 2 + SHORTEST**2
        squares.append((residual**2 / far).mean(axis=1))
        residuals += [(cut, residual[:, i], float(far[i])) for i in range(len(far))]
    # Beforehand, the law of the literature is believed twice as much as a flat line.
    prior = np.array([1.0, 1.5, 2.0]) * ERROR_PER_DECADE
    scores = (prior**2 + np.sum(squares, axis=0)) / (1 + len(squares)) if squares else prior**2
    weights = scores**-2.0
    weights /= weights.sum()
    total = ERROR_WEIGHT * ERROR_PER_DECADE**2
    for cut in {cut for cut, _, _ in residuals}:
        total += float(np.mean([float(weights @ r) ** 2 / far for c, r, far in residuals if c == cut]))
    return weights, math.sqrt(total / (ERROR_WEIGHT + len(squares))), len(squares)
