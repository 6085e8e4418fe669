"""What other programs on the machine cost a target that trains with a thread a core.

    forescale run quick --out runs/quick --until forecast
    python -m benchmarks.busy --run runs/quick

Trains the target of `--recipe` for `--steps` steps, each cell in a process of its own: by OpenMP's waiting policy, on an idle
machine and beside as many processes as it has cores that do nothing but compute. Cells are interleaved over `--rounds`. GNU OpenMP
spins at its barriers by default: a thread whose partner lost its core burns its own until the partner is back. Prints seconds a
step (wall clock, median of the steps after the first ten) and writes every cell to `--out`. Ends with 1 where the policy that
forescale sets is more than three times as slow beside others as alone.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from forescale.core.artifacts import write_json
from forescale.core.device import cpus

POLICIES: dict[str, dict[str, str]] = {
    "forescale": {},
    "active": {"OMP_WAIT_POLICY": "ACTIVE"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "library": {"GOMP_SPINCOUNT": "300000"},
    "spin 1000": {"GOMP_SPINCOUNT": "1000"},
    "spin 3000": {"GOMP_SPINCOUNT": "3000"},
    "spin 10000": {"GOMP_SPINCOUNT": "10000"},
    "spin 100000": {"GOMP_SPINCOUNT": "100000"},
}
WARM_UP = 10
BAR = 3.0


def spin(end: float) -> None:
    while time.time() < end:
        sum(i * i for i in range(10_000))


class Enough(Exception):
    """The steps or the seconds of a cell are spent."""


def train_steps(run: Path, recipe_name: str, steps: int, seconds: float) -> list[float]:
    """Seconds of each step after the first `WARM_UP`."""
    import torch

    from forescale.data.shards import Shards
    from forescale.pipeline import make_plan
    from forescale.recipes import get_recipe
    from forescale.train.loop import Hooks, in_bfloat16, should_compile, train

    torch.set_num_threads(cpus())
    shards = Shards(run / "shards", run / "data")
    plan = make_plan(get_recipe(recipe_name), run / "shards", run / "data").target
    plan = dataclasses.replace(plan, steps=max(plan.steps, WARM_UP + steps + 1))
    times: list[float] = []

    def step(progress: object, loss: float) -> None:
        times.append(time.perf_counter())
        if len(times) > WARM_UP + steps or (len(times) > WARM_UP + 2 and times[-1] - times[WARM_UP] > seconds):
            raise Enough

    device = torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Enough):
        train(
            plan,
            shards.train,
            Path(folder),
            seed=0,
            image_token=shards.facts["image_token"],
            device=device,
            hooks=Hooks(on_step=step),
            compiled=should_compile(plan, device),
            bfloat16=in_bfloat16(plan, device),
            checkpoint_seconds=1e9,
        )
    after = times[WARM_UP:]
    return [later - earlier for earlier, later in itertools.pairwise(after)]


def cell(options: argparse.Namespace, policy: str, busy: int) -> float:
    # Removed where a policy names them empty: what is set in the shell would decide the comparison.
    environment = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    environment |= POLICIES[policy]
    words = [sys.executable, "-m", "benchmarks.busy", "--run", str(options.run), "--recipe", options.recipe]
    words += ["--steps", str(options.steps), "--seconds", str(options.seconds), "--child"]
    others = [multiprocessing.Process(target=spin, args=(time.time() + 3600,), daemon=True) for _ in range(busy)]
    for other in others:
        other.start()
    try:
        said = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    finally:
        for other in others:
            other.kill()
            other.join()
    return statistics.median(json.loads(said.splitlines()[-1]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/quick"), help="a run folder that holds data and shards")
    parser.add_argument("--recipe", default="quick")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=45.0, help="a cell ends after so many, however few its steps")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=list(POLICIES))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/busy.json"))
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(train_steps(options.run, options.recipe, options.steps, options.seconds)))
        return 0
    found: dict[str, dict[str, list[float]]] = {policy: {"idle": [], "busy": []} for policy in options.policies}
    for _ in range(options.rounds):
        for policy in options.policies:
            for load, busy in (("idle", 0), ("busy", cpus())):
                found[policy][load].append(cell(options, policy, busy))
                write_json(options.out, found)
                print(f"{policy:12} {load}: {found[policy][load][-1]:.3f} s a step", flush=True)
    ratios = {policy: min(loads["busy"]) / min(loads["idle"]) for policy, loads in found.items()}
    print(f"\n{'policy':12} {'idle':>8} {'busy':>8} {'times':>6}")
    for policy, loads in found.items():
        print(f"{policy:12} {min(loads['idle']):8.3f} {min(loads['busy']):8.3f} {ratios[policy]:6.1f}")
    return int(ratios.get("forescale", 0.0) > BAR)


if __name__ == "__main__":
    raise SystemExit(main())
