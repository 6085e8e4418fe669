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
from numpy.typing import NDArray

from forescale.core.errors import UserError
from forescale.forecast.ability_laws import MEMBERS, LossPath, take_route
from forescale.forecast.intervals import MINIMUM_BELOW, decades
from forescale.forecast.laws import Array, Points, budgets_between
from forescale.forecast.runs import MINIMUM_COMPUTES, Run, group_by_compute

BUCKETS = {1: ("all",), 2: ("easy", "hard"), 3: ("easy", "medium", "hard"), 4: ("easiest", "easy", "hard", "hardest")}
DEFAULT_LEVEL = 0.9
BOOTSTRAPS = 400
SMALLEST_VALUE = 1e-4
"""Nats: values below this (a pass rate above 99.99%) are taken as this in the log; the bucket is solved."""
LARGEST_LOG_PASS_RATE = -50.0
"""Rows below this are held here, so that one hopeless problem does not own its bucket."""
EMERGED_SHARE = 0.95
EMERGED_FALL = 0.05

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
    route: str
    routes: tuple[dict[str, Any], ...]
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
        size = {name: float(row[name]) for name in ("params", "tokens", "loss") if row.get(name) is not None}
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
    believed: Mapping[str, float] | None = None,
    sudden: float = 1.0,
) -> list[CapabilityForecast]:
    """A forecast for each bucket. `rows` are lines of capability.jsonl with `name`, `seed`, `compute` and, where known,
    `params` and `tokens` of their run: where runs and target have these, C is 6 N D (see laws.budget). `believed`: of the laws of
    the loss, for the route through it (see `intervals.law_weights`). `sudden`: how many times as far intervals reach to the better
    side, where the target forms what the ladder has not (see `in_context.judge`)."""
    if not math.isfinite(target_compute) or target_compute <= 0:
        raise UserError(f"the target's compute is {target_compute:g}; it must be a finite number of FLOPs above 0.")
    chosen = make_buckets(rows) if buckets is None else buckets
    tables = _tables(rows)
    paths: dict[tuple[str, ...], LossPath | None] = {}
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
            key = tuple(f"{run['name']} {run['seed']}" for run in runs)
            if key not in paths:
                paths[key] = _loss_path(runs, at, believed)
            these = [names[i] for i in index]
            forecasts.append(_forecast(family, bucket, these, part, runs, at, level, seed, paths[key], sudden))
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
    path: LossPath | None,
    sudden: float,
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
    boot_index, boot_y = _bootstrap(values, groups, seed)
    status = _emerged(x, y, x[boot_index], boot_y, warnings)
    last_rung = float(means[groups[-1]].mean())
    if len(ids) < 10:
        warnings.append(f"only {len(ids)} problems: a bucket so small says little.")
    if float(y[-1]) <= math.log(SMALLEST_VALUE) + 1e-9:
        warnings.append("the last rung solves this bucket: there is nothing left to forecast.")
    law: dict[str, Any] = {"name": "none", "formula": "", "parameters": {}}
    if status == "no forecast":
        return CapabilityForecast(
            family,
            bucket,
            tuple(ids),
            len(ids),
            points,
            None,
            None,
            level,
            law,
            last_rung,
            (),
            "",
            (),
            status,
            tuple(warnings),
        )
    target = float(at.compute[0])
    grid = np.geomspace(where.compute.min(), max(target, where.compute.max()), 32)
    budgets = budgets_between(grid, np.append(where.compute, target), np.append(where.budget, at.budget))
    places = np.append(budgets, at.budget)
    far, asked = decades(places, float(where.budget.max())), np.log(places)
    again = list(zip(boot_index[:100], boot_y[:100]))
    later = {cut: x[cut:] for cut in range(MINIMUM_BELOW, len(x))}
    routes = [take_route("compute", x, y, later, asked, far, x, [(x[i], v) for i, v in again], level)]
    if path is not None:
        scale = np.sqrt(places / at.budget)
        losses = path.at(Points(np.append(grid, target), at.params * scale, at.tokens * scale))
        boots = [(path.rungs[i], v) for i, v in again]
        routes.append(take_route("loss", path.rungs, y, path.ahead, losses, far, x, boots, level))
    chosen = min(range(len(routes)), key=lambda index: routes[index].per_decade)
    best = routes[chosen]
    # An ability may stall: beyond the ladder the interval always reaches back to the last rung (docs/log.md).
    stalled = np.where(far > 0, last_rung, 0.0)
    better = np.where(far > 0, sudden, 1.0)
    bounds = [
        (np.exp(r.log_value - better * r.half), np.maximum(np.exp(r.log_value + r.half), stalled)) for r in routes
    ]
    predicted, (low, high) = np.exp(best.log_value), bounds[chosen]
    law = {
        "name": "capability combination",
        "formula": f"-E log pass rate = alpha {'C^-k' if best.name == 'compute' else 'L^k'}; exp(sum of weight x log(law)) over: "
        + ", ".join(MEMBERS),
        "parameters": {
            "alpha": best.alpha,
            "k": best.k,
            **{f"weight of {name}": float(w) for name, w in zip(MEMBERS, best.weights)},
            "error_per_decade": best.per_decade,
        },
    }
    said = tuple(
        {
            "name": route.name,
            "predicted": float(np.exp(route.log_value[-1])),
            "interval": [float(bound[-1]) for bound in pair],
            "error_per_decade": route.per_decade,
        }
        for route, pair in zip(routes, bounds)
    )
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
        best.name,
        said,
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


def _loss_path(runs: Sequence[Mapping[str, Any]], at: Points, believed: Mapping[str, float] | None) -> LossPath | None:
    """None where not every run has its loss, or there are too few for a law."""
    if (
        any("loss" not in run for run in runs)
        or len(group_by_compute([run["compute"] for run in runs])) < MINIMUM_COMPUTES
    ):
        return None
    known = [Run(r["name"], r["compute"], r["loss"], r.get("params"), r.get("tokens"), r["seed"]) for r in runs]
    return LossPath.of(known, at, believed)


def _log(value: Array) -> Array:
    return np.log(np.maximum(value, SMALLEST_VALUE))


def _bootstrap(values: Array, groups: list[list[int]], seed: int) -> tuple[NDArray[np.int64], Array]:
    """Rungs, problems and the runs of a rung drawn again: which rungs, and their log values, (bootstraps, rungs) each.

    Draws of fewer than three different rungs are drawn again, for they carry no line.
    """
    rng = np.random.default_rng(seed)
    found: list[NDArray[np.int64]] = []
    found_y: list[Array] = []
    while len(found) < BOOTSTRAPS:
        rungs = rng.integers(len(groups), size=len(groups))
        if len(set(rungs.tolist())) < min(3, len(groups)):
            continue
        problems = rng.integers(values.shape[1], size=values.shape[1])
        drawn = [rng.choice(groups[rung], size=len(groups[rung])) for rung in rungs]
        found.append(rungs)
        found_y.append(_log(np.array([values[np.ix_(runs, problems)].mean() for runs in drawn])))
    return np.stack(found), np.stack(found_y)


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
