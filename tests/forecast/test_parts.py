from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from forescale.forecast.in_context import FORMED, has_formed
from forescale.forecast.laws import Points, fit_floor, make_cells
from forescale.forecast.loss import fit_loss, forecast_loss
from forescale.forecast.parts import BY_PARTS, FEWEST_SIZES, FORMING, fit_parts, laws_by_part, split, weight_of_parts
from forescale.forecast.runs import Run

TARGET = 1e14


def true_parts(compute: float) -> dict[str, float]:
    """A steady part, one that falls suddenly at 1e12 and then steadily, one with a floor, and a small one."""
    x = math.log10(compute / 1e12)
    formed = 1 / (1 + math.exp(-12 * x))
    return {
        "new": 2.3 * 10 ** (-0.08 * x),
        "repeated": (1 - formed) * 0.30 * 10 ** (-0.13 * x) + formed * 0.16 * 10 ** (-0.18 * x),
        "problems: sums": 0.13 + 0.05 * 10 ** (-0.3 * x),
        "problems: facts": 0.03 + 0.05 * 10 ** (-0.15 * x),
        "pictures": 0.12 * 10 ** (-0.15 * x),
    }


def runs(largest: float, sizes: int = 13, noise: float = 0.001) -> list[Run]:
    generator = np.random.default_rng(0)
    found = []
    for compute in np.geomspace(2e10, largest, sizes):
        parts = {name: value * math.exp(noise * generator.normal()) for name, value in true_parts(compute).items()}
        score = 0.2 if compute > 2e12 else 0.03
        found.append(Run(f"{compute:.2e}", float(compute), sum(parts.values()), parts=parts, copying=score))
    return found


def weights(ladder: list[Run]) -> dict[str, float]:
    combination = fit_loss(ladder).combination
    return dict(zip((law.name for law in combination.laws), combination.weights))


def test_split_adds_up_and_leaves_out_what_is_not_there() -> None:
    result = {
        "weights": {"code": 0.6, "sums": 0.2, "facts": 0.2},
        "loss_by_source": {"code": 3.0, "sums": 1.5, "facts": 1.0},
        "repeated_by_source": {"code": 0.5, "sums": 0.4, "facts": 0.1},
    }
    kinds = {"code": ("text", "pack"), "sums": ("text", "curriculum"), "facts": ("text", "almanac")}
    parts = split(result, kinds)
    assert parts == pytest.approx({"new": 1.5, "repeated": 0.3, "problems: sums": 0.3, "problems: facts": 0.2})
    drawn = split(result, {**kinds, "sums": ("vision", "curriculum"), "facts": ("vision", "pack")})
    assert drawn == pytest.approx({"new": 1.5, "repeated": 0.3, "problems: sums": 0.3, "pictures": 0.2})
    alone = split(result, {**kinds, "sums": ("vision", "curriculum")}, "text")
    assert alone == pytest.approx({"new": 1.875, "repeated": 0.375, "problems: facts": 0.25})


def test_once_copying_has_formed_the_sum_forecasts_what_no_law_of_the_whole_does() -> None:
    ladder = runs(1e13)
    truth = sum(true_parts(TARGET).values())
    summed = forecast_loss(ladder, TARGET)
    whole = forecast_loss([Run(run.name, run.compute, run.loss) for run in ladder], TARGET)
    assert weights(ladder)[BY_PARTS] == 1
    assert abs(math.log(summed.predicted / truth)) < 0.01
    assert abs(math.log(whole.predicted / truth)) > 3 * abs(math.log(summed.predicted / truth))
    assert summed.interval[0] < truth < summed.interval[1]
    assert not [warning for warning in summed.warnings if warning.startswith("the floor")]
    assert {entry["name"] for entry in summed.ensemble} == {"power", "upper power", "power+floor", BY_PARTS}


def test_below_the_sizes_that_copy_the_curve_goes_through_those_that_do_not() -> None:
    ladder = runs(1e13)
    by_compute = {point["compute"]: point["predicted"] for point in forecast_loss(ladder, TARGET).curve}
    for compute, predicted in by_compute.items():
        assert abs(math.log(predicted / sum(true_parts(compute).values()))) < 0.06


def test_while_it_forms_the_sum_and_the_whole_share_the_forecast_and_before_the_whole_has_it() -> None:
    shares = weights(runs(1e12))
    assert shares[BY_PARTS] == FORMING
    assert sum(shares.values()) == pytest.approx(1)
    assert BY_PARTS not in weights(runs(3e11))


def test_a_short_ladder_or_one_without_parts_is_forecast_whole() -> None:
    assert weight_of_parts(make_cells(runs(1e13, sizes=FEWEST_SIZES - 1))[0]) == 0
    assert BY_PARTS not in weights(runs(1e12, sizes=FEWEST_SIZES - 1))
    ladder = runs(1e13)
    assert BY_PARTS not in weights([*ladder[:-1], Run("x", ladder[-1].compute, ladder[-1].loss)])


def test_far_beyond_a_ladder_that_copies_the_floor_takes_over_the_parts_of_text() -> None:
    cells, _ = make_cells(runs(1e13))

    def shares(decades: float) -> dict[str, bool]:
        """Whether each part is forecast by its law with a floor alone."""
        at = Points.of([1e13 * 10**decades])
        found: dict[str, bool] = {}
        for name, law in laws_by_part(cells).items():
            part = replace(cells, loss=cells.parts[name], parts={})
            seen = part.take(cells.copying >= FORMED) if name not in ("new", "pictures") else part
            found[name] = law.log_predict(at)[0] == pytest.approx(fit_floor(seen).log_predict(at)[0], abs=1e-9)
        return found

    problems = {"problems: sums": True, "problems: facts": True}
    assert shares(1.1) == {"new": False, "repeated": False, "pictures": False, **problems}
    assert shares(2.1) == {"new": True, "repeated": True, "pictures": False, **problems}


def test_a_loss_of_which_copying_is_no_part_is_summed_at_once() -> None:
    drawn = ("problems: sums", "problems: facts", "pictures")
    ladder = [
        Run(
            run.name,
            run.compute,
            sum(run.parts[name] for name in drawn),
            parts={name: run.parts[name] for name in drawn},
        )
        for run in runs(3e11)
    ]
    assert weights(ladder)[BY_PARTS] == 1
    truth = sum(true_parts(TARGET)[name] for name in drawn)
    assert abs(math.log(forecast_loss(ladder, TARGET).predicted / truth)) < 0.05


def test_formed_means_the_largest_and_two_more() -> None:
    cells, _ = make_cells(runs(1e13))
    assert has_formed(cells)
    assert not has_formed(cells.take(cells.compute < 3e12))
    unknown, _ = make_cells([Run(run.name, run.compute, run.loss, parts=run.parts) for run in runs(1e13)])
    assert not has_formed(unknown)


def test_a_seeds_mean_keeps_the_sum_and_the_spread_is_no_larger_than_the_parts() -> None:
    ladder = [
        Run(f"{run.name}-{seed}", run.compute, run.loss, seed=seed, parts=run.parts)
        for run in runs(1e13)
        for seed in (0, 1)
    ]
    cells, _ = make_cells(ladder)
    assert fit_parts(cells).formula == "L = new + pictures + problems + repeated"
    assert sum(cells.parts.values()) == pytest.approx(cells.loss)
    assert 0 < fit_parts(cells).log_spread(Points.of([TARGET]))[0] < 0.1
