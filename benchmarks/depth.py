"""How deep should a model be? The loss at equal compute against depth, for each budget.

    python -m benchmarks.depth --run runs/overnight --out depth.jsonl --budgets 2.5e13 1e14 --depths 3 4 6

Each budget buys, at each depth, the width that takes it at the family's tokens per parameter. A line per run; runs that are there
are not run again. Prints a table.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from benchmarks.learning_rates import one
from benchmarks.pool import run_all
from forescale.model.scaling import LearningRates

IDENTITY = ("run", "budget", "seed", "rates", "family")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="runs/laptop")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/depth.jsonl"))
    parser.add_argument("--budgets", type=float, nargs="+", default=[2.5e13, 1e14])
    parser.add_argument("--depths", type=int, nargs="+", default=[3, 4, 6])
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    rates = dataclasses.asdict(LearningRates())
    jobs = [
        {"run": options.run, "budget": budget, "seed": seed, "rates": rates, "family": {"min_depth": depth}}
        for budget in options.budgets
        for depth in options.depths
        for seed in range(options.seeds)
    ]
    done = run_all(one, jobs, IDENTITY, options.out, tell)
    for job in jobs:
        print(tell(next(record for record in done if all(record[key] == job[key] for key in IDENTITY))))


def tell(record: dict[str, Any]) -> str:
    loss = "diverged" if record["loss"] is None else f"{record['loss']:.4f}"
    return f"{record['budget']:8.3g} depth {record['family']['min_depth']} width {record['width']} seed {record['seed']}: {loss}"


if __name__ == "__main__":
    main()
