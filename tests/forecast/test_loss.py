from __future__ import annotations

import importlib.util
import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forescale.core.config import to_json
from forescale.core.errors import UserError
from forescale.forecast.laws import Points, fit_floor, fit_nd, fit_power, make_cells
from forescale.forecast.loss import fit_loss, forecast_loss, local_exponents, predict_curve
from forescale.forecast.runs import Run
from forescale.forecast.verb import forecast_table, render_text

ROOT = Path(__file__).resolve().parents[2]
PUBLIC = ROOT / ".." / "shared" / "data" / "open-lm-scaling"


def ladder(law, computes, noise=0.003, seeds=1, rng=0) -> list[Run]:
    generator = np.random.default_rng(rng)
    return [
        Run(f"{c:.2e}-{s}", float(c), float(law(c) * math.exp(noise * generator.normal())), seed=s)
        for c in computes
        for s in range(seeds)
    ]


def test_power_law_is_recovered() -> None:
    fitted = fit_power(make_cells(ladder(lambda c: 20 * c**-0.06, np.geomspace(1e12, 1e15, 8)))[0])
    assert fitted.parameters["b"] == pytest.approx(-0.06, abs=0.002)
    assert fitted.parameters["a"] == pytest.approx(20, rel=0.08)


def test_floor_is_recovered_where_the_data_hold_it() -> None:
    law = lambda c: 300 * c**-0.15 + 1.7  # noqa: E731
    fitted = fit_floor(make_cells(ladder(law, np.geomspace(1e12, 1e18, 14), noise=0.0005))[0])
    assert fitted.parameters["c"] == pytest.approx(1.7, abs=0.1)
    assert fitted.parameters["b"] == pytest.approx(-0.15, abs=0.01)
    assert float(np.exp(fitted.log_predict(Points.of([1e20]))[0])) == pytest.approx(law(1e20), rel=0.02)


@pytest.mark.parametrize("tied", [False, True])
def test_chinchilla_law_is_recovered(tied: bool) -> None:
    rng = np.random.default_rng(0)
    runs = []
    beta = 0.34 if tied else 0.28
    law = lambda n, d: 1.69 + 406.4 / n**0.34 + 410.7 / d**beta  # noqa: E731
    for n in np.geomspace(1e7, 1e9, 5):
        for ratio in (5, 20, 80, 320):
            d = n * ratio
            runs.append(Run("r", 6 * n * d, law(n, d) * math.exp(0.002 * rng.normal()), n, d))
    fitted = fit_nd(make_cells(runs)[0], tied=tied)
    assert fitted.parameters["alpha"] == pytest.approx(0.34, abs=0.05)
    assert fitted.parameters["beta"] == pytest.approx(beta, abs=0.05)
    assert fitted.parameters["E"] == pytest.approx(1.69, abs=0.15)
    n, d = 1e10, 2e11
    forecast = forecast_loss(runs, 6 * n * d, target_params=n, target_tokens=d)
    assert forecast.predicted == pytest.approx(law(n, d), rel=0.02)
    assert {"N,D", "N,D tied"} <= {member["name"] for member in forecast.ensemble}


def test_local_exponents_pass_over_rungs_that_are_near() -> None:
    # Neighbours 1.4 times apart with noise of 1%: between them the exponent would be anything.
    runs = ladder(lambda c: 20 * c**-0.06, np.geomspace(1e12, 1e15, 21), noise=0.01)
    rows = local_exponents(make_cells(runs)[0])
    assert all(2.5 * 0.999 <= row["to"] / row["from"] < 3 for row in rows)
    assert [row["from"] for row in rows[1:]] == [row["to"] for row in rows[:-1]]
    assert rows[-1]["to"] == pytest.approx(runs[-1].compute)
    assert np.mean([row["exponent"] for row in rows]) == pytest.approx(-0.06, abs=0.005)
    short = local_exponents(make_cells(runs[:3])[0])
    assert [(row["from"], row["to"]) for row in short] == [pytest.approx((runs[0].compute, runs[2].compute))]


def test_one_outlier_does_not_own_the_line() -> None:
    runs = ladder(lambda c: 20 * c**-0.06, np.geomspace(1e12, 1e15, 8), noise=0.001)
    runs[3] = Run("bad", runs[3].compute, runs[3].loss * 1.3)
    assert fit_power(make_cells(runs)[0]).parameters["b"] == pytest.approx(-0.06, abs=0.004)


def test_floor_beats_the_plain_line_and_both_are_shown() -> None:
    law = lambda c: 300 * c**-0.15 + 1.7  # noqa: E731
    forecast = forecast_loss(ladder(law, np.geomspace(1e12, 1e15, 8)), 1e17)
    truth = law(1e17)
    assert abs(forecast.predicted / truth - 1) < 0.5 * abs(forecast.baseline_loglog_line / truth - 1)
    assert forecast.interval[0] <= truth <= forecast.interval[1]
    assert forecast.baseline_last_rung > truth > forecast.baseline_loglog_line
    assert any("not steady" in warning for warning in forecast.warnings)


@pytest.mark.parametrize("kind", ["power", "floor", "bigfloor"])
def test_intervals_hold_on_synthetic_ladders(kind: str) -> None:
    laws = {
        "power": lambda c: 20 * c**-0.06,
        "floor": lambda c: 60 * c**-0.10 + 1.0,
        "bigfloor": lambda c: 300 * c**-0.15 + 1.7,
    }
    inside, widths = [], []
    rng = np.random.default_rng(3)
    for repeat in range(25):
        low = 10 ** rng.uniform(11, 12.5)
        computes = np.geomspace(low, low * 200, 6)
        forecast = forecast_loss(ladder(laws[kind], computes, rng=repeat), computes[-1] * 20)
        observed = laws[kind](computes[-1] * 20) * math.exp(0.003 * rng.normal())
        inside.append(forecast.interval[0] <= observed <= forecast.interval[1])
        widths.append(forecast.interval[1] / forecast.interval[0] - 1)
    assert np.mean(inside) >= 0.8
    assert np.median(widths) < 0.2


def test_interval_widens_with_distance_and_level() -> None:
    runs = ladder(lambda c: 20 * c**-0.06, np.geomspace(1e12, 1e14, 6), seeds=2)
    widths = []
    for target in (1e14, 1e15, 1e16, 1e18):
        low, high = forecast_loss(runs, target).interval
        widths.append(high / low)
    assert widths == sorted(widths)
    assert widths[0] > 1.005
    wide, narrow = forecast_loss(runs, 1e15, level=0.98).interval, forecast_loss(runs, 1e15, level=0.6).interval
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_kink_is_named_and_followed() -> None:
    def law(c: float) -> float:
        return 4.6 * (min(c, 1e13) / 3e11) ** -0.08 * (max(c, 1e13) / 1e13) ** -0.12

    forecast = forecast_loss(ladder(law, np.geomspace(3e11, 3e14, 8)), 6e15)
    truth = law(6e15)
    assert any("not steady" in warning for warning in forecast.warnings)
    assert abs(forecast.predicted / truth - 1) < abs(forecast.baseline_loglog_line / truth - 1)
    assert forecast.interval[0] <= truth <= forecast.interval[1]


def test_shape_is_the_contract() -> None:
    forecast = to_json(forecast_loss(ladder(lambda c: 60 * c**-0.1 + 1, np.geomspace(1e12, 1e14, 5)), 1e15))
    json.dumps(forecast, allow_nan=False)
    assert set(forecast) == {
        "predicted", "interval", "interval_level", "law", "ensemble", "floor_sensitivity", "local_exponents",
        "baseline_last_rung", "baseline_loglog_line", "curve", "n_runs", "warnings",
    }  # fmt: skip
    assert set(forecast["law"]) == {"name", "formula", "parameters"}
    assert sum(member["weight"] for member in forecast["ensemble"]) == pytest.approx(1)
    assert len(forecast["local_exponents"]) == 4
    assert forecast["curve"][-1]["predicted"] == pytest.approx(forecast["predicted"])


def test_same_runs_in_any_order_give_the_same_forecast() -> None:
    runs = ladder(lambda c: 60 * c**-0.1 + 1, np.geomspace(1e12, 1e14, 6), seeds=2)
    assert forecast_loss(runs, 1e16).predicted == pytest.approx(forecast_loss(runs[::-1], 1e16).predicted, rel=1e-12)


@pytest.mark.parametrize(
    ("computes", "seeds", "target", "words"),
    [
        ([1e12, 1e13, 1e14], 1, 1e15, "few rungs"),
        ([1e12, 1e13, 1e14], 1, 1e15, "one seed"),
        ([1e12, 2e12, 4e12], 1, 1e13, "short range"),
        ([1e12, 1e13, 1e14], 1, 1e17, "1e+03 times"),
        ([1e12, 1e13, 1e14], 1, 5e13, "interpolation"),
    ],
)
def test_warnings(computes: list[float], seeds: int, target: float, words: str) -> None:
    forecast = forecast_loss(ladder(lambda c: 20 * c**-0.06, computes, seeds=seeds), target)
    assert any(words in warning for warning in forecast.warnings), forecast.warnings


def test_floor_that_decides_is_said() -> None:
    forecast = forecast_loss(ladder(lambda c: 20 * c**-0.06, [1e12, 2e12, 4e12, 8e12], noise=0.001), 1e17)
    assert any("floor" in warning for warning in forecast.warnings), forecast.warnings


def test_bad_targets() -> None:
    runs = ladder(lambda c: 20 * c**-0.06, [1e12, 1e13, 1e14])
    for target in (0.0, -1.0, math.nan, math.inf, 1e11, 1e60):
        with pytest.raises(UserError):
            forecast_loss(runs, target)
    with pytest.raises(UserError, match="both"):
        forecast_loss(runs, 1e15, target_params=1e9)
    with pytest.raises(UserError, match="level"):
        forecast_loss(runs, 1e15, level=1.0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.floats(1e3, 1e25), st.floats(1e-3, 1e3)), min_size=3, max_size=10))
def test_any_positive_runs_give_finite_numbers(rows: list[tuple[float, float]]) -> None:
    runs = [Run(str(i), c, loss) for i, (c, loss) in enumerate(rows)]
    try:
        forecast = forecast_loss(runs, max(run.compute for run in runs) * 10)
    except UserError:
        return
    low, high = forecast.interval
    assert 0 <= low <= forecast.predicted <= high
    json.dumps(to_json(forecast))


def test_curve_and_speed() -> None:
    rng = np.random.default_rng(0)
    runs = []
    for n in np.geomspace(1e7, 1e9, 6):
        for ratio in (5, 20, 40, 80, 320):
            runs.append(
                Run(
                    "r",
                    6 * n * n * ratio,
                    1.7 + 400 / n**0.34 + 410 / (n * ratio) ** 0.28 + 0.002 * rng.normal(),
                    n,
                    n * ratio,
                )
            )
    started = time.perf_counter()
    forecast_loss(runs, 1e23, target_params=1e10, target_tokens=2e11)
    assert time.perf_counter() - started < 4
    model = fit_loss(runs[:15])
    curve = predict_curve(model, 1e22)
    assert all(point["low"] < point["predicted"] < point["high"] for point in curve)


def test_verb(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("compute,loss\n1e18,3.9\n3e18,3.6\n1e19,3.3\n3e19,3.08\n1e20,2.86\n")
    table = forecast_table(path, 1e21)
    json.dumps(table, allow_nan=False)
    text = render_text(table)
    for word in ("forecast loss", "log-log line", "last rung", "if the floor were", "warning: "):
        assert word in text


@pytest.mark.skipif(not PUBLIC.is_dir(), reason="the public runs of Gadre et al. 2024 are not beside the repository")
def test_public_7b_runs_are_forecast_better_than_by_the_line() -> None:
    spec = importlib.util.spec_from_file_location("public", ROOT / "benchmarks" / "forecast_public_runs.py")
    assert spec is not None
    assert spec.loader is not None
    public = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(public)
    for corpus in public.CORPORA:
        runs = public.load(PUBLIC, corpus, public.OWN_LOSS[corpus])
        target = next(run for run in runs if "7b" in run.name)
        for mode in ("family", "all"):
            row = public.hindcast(runs, target, 10, mode)
            assert row["inside"]
            assert abs(row["error"]) < 0.07
            assert abs(row["error"]) < abs(row["error_line"])


def test_a_prior_holds_the_exponents_where_few_runs_do_not_tell_them() -> None:
    at = Points.of([1.0], 1e10, 2e11)
    truth = math.log(1.7 + 400 * 1e10**-0.34 + 410 * 2e11**-0.28)
    errors: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(10):
        rng = np.random.default_rng(seed)
        runs = [
            Run(f"{n}/{d}", 6 * n * d, (1.7 + 400 * n**-0.34 + 410 * d**-0.28) * math.exp(rng.normal(0, 0.01)), n, d)
            for n in (1e7, 3e7, 1e8)
            for d in (2e8, 6e8, 2e9)
        ]
        for prior, found in errors.items():
            fitted = fit_nd(make_cells(runs)[0], prior=prior)
            found.append(abs(float(fitted.log_predict(at)[0]) - truth))
            if prior:
                assert abs(fitted.parameters["alpha"] - 0.34) < 0.12
                assert abs(fitted.parameters["beta"] - 0.28) < 0.12
    assert np.mean(errors[True]) < 0.7 * np.mean(errors[False])


def test_laws_are_in_params_times_tokens_where_they_are_known() -> None:
    # Exact FLOPs of small models are mostly attention over the context, which buys no loss: in them this law bends.
    def run(params: float) -> Run:
        tokens = 8 * params
        compute = 6 * params * tokens * (1 + 5e4 / params)
        return Run(f"n{params:g}", compute, 40 * (6 * params * tokens) ** -0.08, params, tokens)

    runs, target = [run(n) for n in (7e3, 1.5e4, 2.5e4, 4.2e4, 8e4)], run(1.3e6)
    known = forecast_loss(runs, target.compute, target_params=target.params, target_tokens=target.tokens)
    assert known.predicted == pytest.approx(target.loss, rel=0.01)
    assert [row["exponent"] for row in known.local_exponents] == pytest.approx([-0.08] * 4, rel=1e-6)
    assert "6 N D" in known.ensemble[0]["formula"]
    # The curve passes where the runs are, though 6 N D is no fixed share of compute.
    assert next(p["predicted"] for p in known.curve) == pytest.approx(runs[0].loss, rel=0.01)
    alone = forecast_loss(runs, target.compute)
    assert "6 N D" not in alone.ensemble[0]["formula"]
    assert abs(alone.predicted / target.loss - 1) > 0.03
    # Without the runs' own sizes the target's are of no use.
    bare = [Run(r.name, r.compute, r.loss) for r in runs]
    asked = forecast_loss(bare, target.compute, target_params=target.params, target_tokens=target.tokens)
    assert asked.predicted == pytest.approx(alone.predicted, rel=1e-9)


def test_what_is_believed_of_laws_moves_their_weights() -> None:
    runs = [Run(f"r{c:g}", c, 10 * c**-0.05) for c in (1e10, 1e11, 1e12, 1e13)]
    believed = {"power": 0.005, "power+floor": 0.05}
    weights = [
        {law["name"]: law["weight"] for law in forecast_loss(runs, 1e15, believed=errors).ensemble}
        for errors in (None, believed, dict(zip(believed, reversed(believed.values()))))
    ]
    assert weights[1]["power"] > weights[0]["power"] > weights[2]["power"]
    assert weights[1]["power"] > 0.9
