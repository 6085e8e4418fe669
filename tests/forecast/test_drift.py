from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pytest

from forescale.core.config import to_json
from forescale.core.errors import UserError
from forescale.forecast.drift import Alarm, Watcher, predict_band

FRACTIONS = np.linspace(0.025, 1.0, 40)


def smooth(compute: float) -> float:
    return 60 * compute**-0.1 + 1.0


def kinked(compute: float) -> float:
    return 4.6 * (min(compute, 1e13) / 3e11) ** -0.08 * (max(compute, 1e13) / 1e13) ** -0.12


def curve(
    law: Callable[[float], float], compute: float, rng: np.random.Generator, speed: float = 1.0, lift: float = 0.0
) -> list[dict[str, float]]:
    """A run's curve: fast fall, slow fall, a drop while the learning rate decays. `speed` < 1 learns as if at that
    fraction."""
    final = law(compute) * math.exp(0.003 * rng.normal())
    rows = []
    for fraction in FRACTIONS:
        progress = fraction * speed
        shape = 1 + 0.09 * (progress**-0.45 - 1) + 0.05 * (1 - min(1.0, fraction / 0.99)) ** 0.5
        warm = 1 + 0.25 * math.exp(-progress / 0.02)
        noise = math.exp(0.004 * rng.normal())
        rows.append({"fraction": float(fraction), "loss": final * shape * warm * noise * (1 + lift)})
    return rows


def ladder(law: Callable[[float], float], rng: np.random.Generator) -> list[dict[str, object]]:
    return [
        {"compute": float(c), "seed": seed, "curve": curve(law, float(c), rng)}
        for c in np.geomspace(3e11, 9e13, 6)
        for seed in (0, 1)
    ]


def follow(band: object, points: list[dict[str, float]]) -> list[Alarm]:
    watcher = Watcher(band)  # type: ignore[arg-type]
    alarms = (watcher.update(point) for point in points)
    return [alarm for alarm in alarms if alarm is not None]


@pytest.mark.parametrize("law", [smooth, kinked])
@pytest.mark.parametrize("distance", [10, 30])
def test_healthy_targets_pass_and_broken_ones_are_flagged_before_a_quarter(
    law: Callable[[float], float], distance: float
) -> None:
    rng = np.random.default_rng(5)
    target = 9e13 * distance
    band = predict_band(ladder(law, rng), target)
    for _ in range(5):
        assert follow(band, curve(law, target, rng)) == []
    for broken in ({"speed": 0.2}, {"lift": 0.35}):
        alarms = follow(band, curve(law, target, rng, **broken))
        assert alarms
        assert alarms[0].fraction < 0.25
        assert alarms[0].direction == "worse than predicted"


def test_too_good_is_an_alarm_too() -> None:
    rng = np.random.default_rng(0)
    band = predict_band(ladder(smooth, rng), 1e15)
    alarms = follow(band, curve(smooth, 1e15, rng, lift=-0.3))
    assert [alarm.direction for alarm in alarms] == ["better than predicted"]


def test_one_alarm_for_one_exit_and_only_when_sustained() -> None:
    band = predict_band(ladder(smooth, np.random.default_rng(0)), 1e15)
    watcher = Watcher(band)
    high = {fraction: watcher.bounds(fraction)["high"] for fraction in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)}
    assert watcher.update({"fraction": 0.1, "loss": high[0.1] * 1.1}) is None
    assert watcher.update({"fraction": 0.2, "loss": high[0.2] * 1.1}) is None
    assert watcher.update({"fraction": 0.3, "loss": high[0.3] * 0.999}) is None
    for fraction in (0.4, 0.5):
        assert watcher.update({"fraction": fraction, "loss": high[fraction] * 1.1}) is None
    alarm = watcher.update({"fraction": 0.6, "loss": high[0.6] * 1.1})
    assert alarm is not None
    assert alarm.since == 0.4
    assert watcher.update({"fraction": 0.7, "loss": 100.0}) is None


def test_goes_on_from_the_curve_so_far_and_the_band_on_disk() -> None:
    band = predict_band(ladder(smooth, np.random.default_rng(0)), 1e15)
    stored = json.loads(json.dumps(to_json(band)))
    watcher = Watcher(band)
    assert watcher.update({"fraction": 0.1, "loss": 50.0}) is None
    assert watcher.update({"fraction": 0.125, "loss": 50.0}) is None
    again = Watcher(stored)
    for fraction in (0.1, 0.125):
        assert again.update({"fraction": fraction, "loss": 50.0}) is None
    assert again.update({"fraction": 0.125, "loss": 50.0}) is None
    assert again.update({"fraction": 0.15, "loss": 50.0}) is not None


def test_not_a_number_is_an_alarm_at_once() -> None:
    watcher = Watcher(predict_band(ladder(smooth, np.random.default_rng(0)), 1e15))
    alarm = watcher.update({"fraction": 0.02, "loss": math.nan})
    assert alarm is not None
    json.dumps(to_json(alarm))
    assert watcher.update({"fraction": 0.03, "loss": math.nan}) is None


def test_band_widens_with_distance_and_has_a_least_width() -> None:
    curves = ladder(smooth, np.random.default_rng(0))
    widths = []
    for target in (1e14, 1e15, 1e17):
        point = predict_band(curves, target).points[20]
        widths.append(point["high"] / point["low"])
    assert widths == sorted(widths)
    assert widths[0] >= math.exp(0.03)


def test_no_curves_no_band() -> None:
    with pytest.raises(UserError, match="no fraction"):
        predict_band(ladder(smooth, np.random.default_rng(0))[:4], 1e15)
    with pytest.raises(UserError, match="target"):
        predict_band([], math.nan)


def healthy(watcher: Watcher, fraction: float) -> dict[str, float]:
    return {"fraction": fraction, "loss": watcher.bounds(fraction)["predicted"]}


def with_gradients(curves: list[dict[str, object]], norm: float) -> list[dict[str, object]]:
    return [{**entry, "curve": [{**p, "gradient_norm": norm} for p in entry["curve"]]} for entry in curves]  # type: ignore[attr-defined]


def test_a_gradient_norm_that_leaves_its_band_is_an_alarm_though_the_loss_is_fine() -> None:
    rng = np.random.default_rng(0)
    band = predict_band(with_gradients(ladder(smooth, rng), 0.25), 1e15)
    assert band.points[10]["gradient_predicted"] == pytest.approx(0.25)
    watcher = Watcher(band)
    alarms = []
    for point in curve(smooth, 1e15, rng):
        fraction = point["fraction"]
        norm = 0.25 if fraction < 0.5 else 0.6
        alarm = watcher.update({**healthy(watcher, fraction), "gradient_norm": norm})
        alarms += [alarm] if alarm else []
    assert [alarm.direction for alarm in alarms] == ["gradients larger than predicted"]
    assert 0.5 <= alarms[0].since < alarms[0].fraction <= 0.58


def with_noise(
    curves: list[dict[str, object]], noise: float, batch: int, slope: float = 0.0
) -> list[dict[str, object]]:
    """Curves of runs whose training loss has `noise` nats of noise in batches of one token at 1e14 FLOPs, and far more at their
    very beginning."""

    def at(compute: float, fraction: float) -> float:
        return noise * (compute / 1e14) ** slope * (5 if fraction < 0.1 else 1) / batch**0.5

    return [
        {
            **entry,
            "params": entry["compute"] / 6e7,  # type: ignore[operator]
            "tokens": 1e7,
            "curve": [
                {
                    **p,
                    "step": 100 * p["fraction"],
                    "tokens": 100 * p["fraction"] * batch,
                    "loss_noise": at(entry["compute"], p["fraction"]),
                }
                for p in entry["curve"]  # type: ignore[attr-defined]
            ],
        }
        for entry in curves
    ]


@pytest.mark.parametrize(("factor", "direction"), [(4, "smaller"), (0.25, "larger"), (1.3, "")])
def test_the_noise_of_the_training_loss_tells_of_a_wrong_batch(factor: float, direction: str) -> None:
    rng = np.random.default_rng(0)
    curves = with_noise(ladder(smooth, rng), 10.0, 512)
    # A target of 2,000 steps of 4,096 tokens.
    band = predict_band(curves, 1e15, 1e15 / 6 / 8.192e6, 8.192e6, target_steps=2000)
    assert band.points[10]["noise_predicted"] == pytest.approx(10 / 64)
    watcher = Watcher(band)
    alarms = []
    for fraction in np.arange(1, 41) / 40:
        noise = 10 / 64 / factor**0.5 * np.exp(0.15 * rng.normal())
        noise *= 5 if fraction < 0.1 else 1
        alarms.append(watcher.update({**healthy(watcher, fraction), "loss_noise": noise}))
    found = [alarm.direction for alarm in alarms if alarm]
    assert found[:1] == ([f"noise of the training loss {direction} than predicted"] if direction else [])


def test_noise_that_falls_is_followed_half_way_and_noise_that_rises_is_not() -> None:
    bands = {}
    for slope in (-0.1, 0.1):
        curves = with_noise(ladder(smooth, np.random.default_rng(0)), 10.0, 512, slope)
        for target in (1e15, 1e17):
            point = predict_band(curves, target, target / 6 / 8e6, 8e6, target_steps=2000).points[20]
            predicted, high = point["noise_predicted"] * 4000**0.5, point["noise_high"] * 4000**0.5
            bands[slope, target] = predicted, math.log(high / predicted)
    sizes = np.geomspace(3e11, 9e13, 6)[-3:]
    settled = {slope: float(np.exp(np.log(10 * (sizes / 1e14) ** slope).mean())) for slope in (-0.1, 0.1)}
    assert 10 * (1e15 / 1e14) ** -0.1 < bands[-0.1, 1e15][0] < settled[-0.1]
    assert bands[0.1, 1e15][0] == pytest.approx(settled[0.1]) == bands[0.1, 1e17][0]
    assert bands[0.1, 1e17][1] > 1.2 * bands[0.1, 1e15][1]


def test_fewer_steps_a_point_widen_the_band_of_the_noise() -> None:
    curves = with_noise(ladder(smooth, np.random.default_rng(0)), 10.0, 512)
    long, short = (predict_band(curves, 1e15, 2e7, 8e6, target_steps=steps).points[10] for steps in (2000, 200))
    assert short["noise_high"] / short["noise_predicted"] > 1.2 * long["noise_high"] / long["noise_predicted"]
    assert "noise_high" not in predict_band(curves, 1e15, 2e7, 8e6).points[10]


def test_a_block_without_gradients_is_named() -> None:
    watcher = Watcher(predict_band(ladder(smooth, np.random.default_rng(0)), 1e15))
    alarms = [
        watcher.update(
            {**healthy(watcher, fraction), "least_block": 1.0, "least_block_share": 1e-5 if fraction > 0.2 else 0.4}
        )
        for fraction in np.arange(1, 41) / 40
    ]
    raised = [alarm for alarm in alarms if alarm]
    assert [alarm.direction for alarm in raised] == ["block 1 gets no gradient"]
    assert raised[0].fraction == pytest.approx(0.275)


def test_a_band_without_gradients_ignores_them() -> None:
    watcher = Watcher(predict_band(ladder(smooth, np.random.default_rng(0)), 1e15))
    for fraction in (0.1, 0.2, 0.3, 0.4):
        assert watcher.update({**healthy(watcher, fraction), "gradient_norm": 1e6, "loss_noise": 1e6}) is None
