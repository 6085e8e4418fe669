from __future__ import annotations

import pytest

from forescale.forecast.in_context import FORMED, WIDENING, InContext, copying, judge
from forescale.forecast.laws import Points, make_cells
from forescale.forecast.loss import forecast_loss
from forescale.forecast.runs import Run


def run(compute: float, score: float | None, **parts: float) -> Run:
    record = {} if score is None else {"repeat_first_half": 7.0, "repeat_second_half": 7.0 * (1 - score)}
    return Run(f"{compute:g}", compute, 3.0, parts=parts, copying=copying(record))


def judged(ladder: list[Run], target: float) -> InContext:
    return judge(make_cells(ladder)[0], Points.of([target]))


def verdict(*scores: float | None, target: float = 1e14) -> InContext:
    return judged([run(10.0 ** (10 + i / 2), score) for i, score in enumerate(scores)], target)


def test_rungs_that_copy_are_said_to() -> None:
    found = verdict(0.0, 0.2, 0.4, 0.6)
    assert (found.status, found.widening) == ("formed", 1.0)
    assert found.scores[-1]["score"] == pytest.approx(0.6)


@pytest.mark.parametrize("scores", [(0.0, 0.0, 0.0, 0.2), (0.0, 0.0, 0.2, 0.6)])
def test_two_sizes_have_not_formed_it(scores: tuple[float, ...]) -> None:
    assert verdict(*scores).status == "forms beyond the ladder"


def test_a_target_that_will_copy_is_announced_and_widens() -> None:
    found = verdict(0.0, 0.02, 0.04, 0.06)
    assert (found.status, found.widening, found.sudden) == ("forms beyond the ladder", WIDENING, WIDENING)
    # The line goes on by 0.02 for each half decade: five more of them to the target.
    assert found.expected == pytest.approx(0.06 + 5 * 0.02)
    assert "1.5 times as wide" in found.says


def test_nothing_expected_is_said_too() -> None:
    found = verdict(0.01, 0.0, 0.01, 0.0)
    assert found.status == "not expected"
    assert found.expected is not None
    assert found.expected < FORMED


def test_repeated_pairs_that_begin_to_fall_faster_announce_it_before_a_random_string_does() -> None:
    steady, bent = ([0.5 * 10 ** (-0.05 * i) for i in range(7)] for _ in range(2))
    bent[-1] = bent[-2] * 10**-0.12
    for losses, status in ((steady, "not expected"), (bent, "forms beyond the ladder")):
        ladder = [run(10.0 ** (10 + i / 2), 0.02, repeated=loss) for i, loss in enumerate(losses)]
        found = judged(ladder, 1e15)
        assert (found.status, found.widening) == (status, 1.0)
        assert (found.sudden > 1) == (status == "forms beyond the ladder")
    assert "2.4 times" in found.says
    assert found.sudden == pytest.approx(2.4)


def test_too_few_scores_are_unknown() -> None:
    assert verdict(0.5, 0.5, None, None).status == "unknown"


def test_widening_widens_the_interval_alone() -> None:
    runs = [Run(f"r{c:g}", c, 10 * c**-0.05) for c in (1e10, 1e11, 1e12, 1e13)]
    plain, wide = forecast_loss(runs, 1e15), forecast_loss(runs, 1e15, widening=1.5)
    assert wide.predicted == plain.predicted
    assert wide.interval[0] < plain.interval[0]
    assert wide.interval[1] > plain.interval[1]
    assert wide.curve[-1]["low"] == pytest.approx(wide.interval[0])
