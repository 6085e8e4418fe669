from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from forescale.core.config import to_json
from forescale.core.errors import UserError
from forescale.forecast.capability import forecast_capability, make_buckets


def rows_of(
    family: str, value: Any, rungs: int = 6, seeds: int = 2, problems: int = 60, noise: float = 0.05, rng: int = 0
):
    """Problems' difficulty is lognormal about `value(compute)` nats."""
    generator = np.random.default_rng(rng)
    hardness = generator.lognormal(0, 0.5, problems)
    return [
        {
            "name": f"rung{i}-{seed}", "seed": seed, "compute": float(c), "family": family, "id": f"p{j:03}",
            "log_pass_rate": -float(value(c) * hardness[j] * math.exp(noise * generator.normal())),
            "method": "teacher-forced",
        }
        for i, c in enumerate(np.geomspace(1e12, 1e14, rungs))
        for seed in range(seeds)
        for j in range(problems)
    ]  # fmt: skip


def test_known_law_is_recovered_and_covered() -> None:
    forecasts = forecast_capability(rows_of("sum", lambda c: 3 * (c / 1e12) ** -0.12), 1e15)
    assert [forecast.bucket for forecast in forecasts] == ["easy", "medium", "hard"]
    for forecast in forecasts:
        assert forecast.status == "forecast"
        last = forecast.baseline_last_rung
        assert forecast.law["parameters"]["k"] == pytest.approx(0.12, abs=0.02)
        truth = last * 10**-0.12
        assert forecast.predicted == pytest.approx(truth, rel=0.06)
        assert forecast.interval is not None
        assert forecast.interval[0] < truth < forecast.interval[1]
        assert forecast.curve[-1]["predicted"] == pytest.approx(forecast.predicted)
    values = [forecast.predicted for forecast in forecasts]
    assert values == sorted(values)  # type: ignore[type-var]
    json.dumps(to_json(forecasts), allow_nan=False)


def test_the_interval_always_reaches_back_to_the_last_rung() -> None:
    rows = rows_of("steep", lambda c: 9 * (c / 1e12) ** -0.5, rungs=9)
    for target in (1e15, 1e18):
        for forecast in forecast_capability(rows, target):
            assert forecast.interval is not None
            assert forecast.interval[1] >= forecast.baseline_last_rung
            assert all(route["interval"][1] >= forecast.baseline_last_rung for route in forecast.routes)
            assert forecast.predicted < 0.5 * forecast.baseline_last_rung


def test_what_may_come_suddenly_reaches_further_to_the_better_side_alone() -> None:
    rows = rows_of("sum", lambda c: 3 * (c / 1e12) ** -0.12)
    for plain, sudden in zip(forecast_capability(rows, 1e15), forecast_capability(rows, 1e15, sudden=2.5)):
        assert sudden.predicted == plain.predicted
        assert sudden.interval is not None
        assert plain.interval is not None
        assert sudden.interval[1] == plain.interval[1]
        reach = [math.log(plain.predicted / forecast.interval[0]) for forecast in (plain, sudden)]
        assert reach[1] == pytest.approx(2.5 * reach[0])
        # On the ladder itself nothing is widened.
        assert sudden.curve[0] == plain.curve[0]


def test_the_route_through_the_loss_believes_what_the_forecast_of_the_loss_believes() -> None:
    # Losses that a floor fits and a power law does not; what is believed of the laws decides how far the target's falls.
    rows = [
        {**row, "loss": 2 + 2 * (row["compute"] / 1e12) ** -0.3}
        for row in rows_of("sum", lambda c: 3 * (c / 1e12) ** -0.12)
    ]
    through = {}
    for law, other in (("power", "power+floor"), ("power+floor", "power")):
        believed = {law: 1e-4, other: 1.0, "upper power": 1.0}
        forecasts = forecast_capability(rows, 1e18, believed=believed, buckets=make_buckets(rows, 1))
        through[law] = next(r["predicted"] for r in forecasts[0].routes if r["name"] == "loss")
    assert through["power"] < 0.9 * through["power+floor"]


def test_not_emerged_and_inverse_are_not_forecast() -> None:
    rows = rows_of("flat", lambda c: 5.0) + rows_of("worse", lambda c: 2 * (c / 1e12) ** 0.05)
    for forecast in forecast_capability(rows, 1e15):
        assert forecast.status == "no forecast"
        assert forecast.predicted is None
        assert forecast.baseline_last_rung > 0
        assert any(("worse" if forecast.family == "worse" else "not emerged") in text for text in forecast.warnings)


def test_false_emergence_is_rare() -> None:
    found = sum(
        forecast.status == "forecast"
        for seed in range(10)
        for forecast in forecast_capability(rows_of("flat", lambda c: 5.0, seeds=1, noise=0.3, rng=seed), 1e15)
    )
    assert found <= 3


def test_buckets_come_from_the_ladder_and_are_ordered() -> None:
    rows = rows_of("sum", lambda c: 3 * (c / 1e12) ** -0.12, problems=31)
    buckets = make_buckets(rows)
    assert [name for _, name in buckets] == ["easy", "medium", "hard"]
    assert sorted(problem for ids in buckets.values() for problem in ids) == sorted({row["id"] for row in rows})
    mean = {
        name: np.mean([-r["log_pass_rate"] for r in rows if r["id"] in set(ids)]) for (_, name), ids in buckets.items()
    }
    assert mean["easy"] < mean["medium"] < mean["hard"]
    assert make_buckets(rows[::-1]) == buckets
    assert [name for _, name in make_buckets(rows, 1)] == ["all"]
    with pytest.raises(UserError, match="n_buckets"):
        make_buckets(rows, 9)


def test_solved_problems_few_rungs_and_bad_rows() -> None:
    solved = forecast_capability(rows_of("easy", lambda c: 1e-7 if c > 5e13 else 1.0 * (c / 1e12) ** -0.3), 1e15)
    for forecast in solved:
        if forecast.predicted is not None:
            assert math.isfinite(forecast.predicted)
            assert forecast.predicted >= 0
        assert any("solves" in text for text in forecast.warnings)
    two = forecast_capability(rows_of("sum", lambda c: 3 * (c / 1e12) ** -0.12, rungs=2), 1e15)
    assert {forecast.status for forecast in two} == {"no forecast"}
    rows = rows_of("sum", lambda c: 3.0, rungs=3, problems=3)
    with pytest.raises(UserError, match="at most 0"):
        forecast_capability([{**rows[0], "log_pass_rate": 0.5}, *rows[1:]], 1e15)
    with pytest.raises(UserError, match="lacks"):
        forecast_capability([{"name": "x"}], 1e15)
    hopeless = [{**row, "log_pass_rate": -math.inf} for row in rows]
    json.dumps(to_json(forecast_capability(hopeless, 1e15)), allow_nan=False)
