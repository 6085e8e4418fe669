from __future__ import annotations

import io

import pytest

from forescale.core import progress


def lines(monkeypatch: pytest.MonkeyPatch, points: list[tuple[float, float]]) -> list[str]:
    """What is printed where (seconds, share) come one after the other."""
    clock = iter([0.0, *(seconds for seconds, _ in points)])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    stream = io.StringIO()
    meter = progress.Meter("target", stream)
    for _, share in points:
        meter.update(share)
    return stream.getvalue().splitlines()


def test_time_left_is_judged_by_what_this_process_did(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lines(monkeypatch, [(20, 0.5), (40, 0.6)]) == ["  target:  50%", "  target:  60%, 1m20s left"]


def test_a_suspended_machine_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    steady = [(20.0 * i, 0.01 * i) for i in range(1, 21)]
    after = [(seconds + 7200, share) for seconds, share in [(20.0 * i, 0.01 * i) for i in range(21, 40)]]
    printed = lines(monkeypatch, steady + after)
    assert "h" in printed[20].split("%")[1]
    assert printed[-1] == "  target:  39%, 20m20s left"


def test_no_time_is_promised_where_nothing_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lines(monkeypatch, [(20, 0.5), (40, 0.5), (900, 0.5)])[1:] == ["  target:  50%"] * 2


def test_a_run_of_days_has_a_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = lines(monkeypatch, [(100.0 * i, 1e-4 * i) for i in range(1, 9)])
    assert printed[-1] == "  target:   0%, 277h33m left"
