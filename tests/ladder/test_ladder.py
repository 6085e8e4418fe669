from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from forescale.core.artifacts import Manifest, Stage
from forescale.core.errors import UserError
from forescale.ladder import plan
from forescale.ladder.executor import Job, run_jobs
from forescale.ladder.rungs import LadderConfig, rungs_for, within_cap
from forescale.model.scaling import Family


@dataclass(frozen=True)
class Config:
    behaviour: str
    folder: str


def behave(config: Config, inputs, out_dir: Path) -> None:
    """Stage for these tests: succeeds, fails once, fails always, or dies once."""
    tries = Path(config.folder) / f"{out_dir.name}.tries"
    tried = tries.exists()
    tries.write_text("again" if tried else "once")
    if config.behaviour == "user":
        raise UserError("mend this.")
    if config.behaviour == "always" or (config.behaviour == "once" and not tried):
        raise RuntimeError("broken")
    if config.behaviour == "dies" and not tried:
        os.kill(os.getpid(), signal.SIGKILL)
    if config.behaviour == "slow":
        time.sleep(60)
    (out_dir / "threads.txt").write_text(f"{os.environ['OMP_NUM_THREADS']} {len(os.sched_getaffinity(0))}")


STAGE = Stage("behave", behave)


def jobs_of(tmp_path: Path, *behaviours: str) -> list[Job]:
    return [
        Job(f"j{i}", STAGE, Config(b, str(tmp_path)), {}, tmp_path / f"j{i}", 1.0) for i, b in enumerate(behaviours)
    ]


def test_a_failure_is_tried_once_more_and_then_given_up_while_the_rest_goes_on(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, "fine", "once", "always", "dies")
    run_jobs(jobs, workers=2, threads=1)
    assert [job.done for job in jobs] == [True, True, False, True]
    assert [job.attempts for job in jobs] == [1, 2, 2, 2]
    assert "broken" in (jobs[2].error or "")
    assert (tmp_path / "j0" / "threads.txt").read_text() == "1 1"
    assert Manifest.load(tmp_path / "j3").stage == "behave"


def test_an_error_of_the_users_stops_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="mend this"):
        run_jobs(jobs_of(tmp_path, "user"), workers=1, threads=1)
    assert (tmp_path / "j0.tries").read_text() == "once"


def test_rungs_lie_on_the_frontier_below_every_cap() -> None:
    family, config = Family(), LadderConfig()
    rungs = rungs_for(family, config, 1e14, 0.005)
    assert max(rung.plan.flops for rung in rungs) <= 1e13
    for rung in rungs:
        assert rung.plan.tokens / rung.plan.model.params_active == pytest.approx(family.tokens_per_param, rel=0.05)
    for cap in config.caps:
        sizes = {rung.plan.flops for rung in rungs if within_cap(rung.plan.flops, 1e14, cap)}
        assert len(sizes) >= 3
    assert len({rung.name for rung in rungs}) == len(rungs)
    for rung in rungs:
        same = [other for other in rungs if other.plan == rung.plan]
        assert len(same) == (config.seeds if rung.plan.flops <= 1e14 / 200 else config.seeds_large)


def test_the_estimate_knows_precision_and_what_measuring_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "matmul_peak", lambda device, bfloat16: 2e11)
    monkeypatch.setattr(plan, "cpus", lambda: 2)
    found = {}
    for units in (False, True):
        monkeypatch.setattr(plan, "in_bfloat16", lambda run, device, units=units: units and run.flops > 2e12)
        found[units] = plan.estimate(Family(), LadderConfig(workers=2), 1e14)
    exact, mixed = found[False], found[True]
    assert exact["target_seconds"] == pytest.approx(1e14 / (0.45 * 2e11), rel=0.05)
    assert mixed["target_seconds"] < 0.75 * exact["target_seconds"]
    assert mixed["ladder_seconds"] < exact["ladder_seconds"]
    # Ten seconds a run are spent on measuring it, on two workers.
    assert exact["ladder_seconds"] > 5 * len(exact["rungs"])
    assert "target" in plan.render(exact)


@pytest.mark.parametrize(
    ("config", "flops", "message"),
    [
        (LadderConfig(caps=(1.0,)), 1e14, "above 1"),
        (LadderConfig(spacing=1.0), 1e14, "spacing"),
        (LadderConfig(seeds=0), 1e14, "seed"),
        (LadderConfig(caps=(1e6,)), 1e14, "raise the target's compute or lower the cap"),
    ],
)
def test_impossible_ladders_are_refused(config: LadderConfig, flops: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        rungs_for(Family(), config, flops, 0.005)
