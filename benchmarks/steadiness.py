"""How steady is the exponent of a family? One change at a time from the shipped one, on ladder-sized models.

    python -m benchmarks.steadiness --run runs/laptop --widths 4 8 12 20 32 40 --family '{"min_depth": 2}' --out steadiness.jsonl

Trains each width (`--seeds` each) on the shards of a finished run and prints the loss, its local exponents against exact FLOPs and
against 6 N D, and the spread between seeds, for all tokens, text and pictures. A line per run;
runs that are there are not run again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning_rates import IDENTITY, one
from benchmarks.pool import run_all
from forescale.model.scaling import LearningRates


def table(records: list[dict[str, Any]]) -> str:
    by_size: dict[float, list[dict[str, Any]]] = {}
    for record in records:
        by_size.setdefault(record["compute"], []).append(record)
    sizes = [by_size[compute] for compute in sorted(by_size)]
    computes = np.log([size[0]["compute"] for size in sizes])
    products = np.log([6.0 * size[0]["params"] * size[0]["tokens"] for size in sizes])
    lines = [
        "width      " + " ".join(f"{size[0]['width']:8}" for size in sizes),
        "FLOPs      " + " ".join(f"{size[0]['compute']:8.2g}" for size in sizes),
        "/ 6 N D    " + " ".join(f"{ratio:8.2f}" for ratio in np.exp(computes - products)),
        "steps      " + " ".join(f"{size[0]['steps']:8}" for size in sizes),
    ]
    for name in ("all", *sizes[0][0]["loss_by_modality"]):
        logs = [np.log([r["loss"] if name == "all" else r["loss_by_modality"][name] for r in size]) for size in sizes]
        means = np.array([values.mean() for values in logs])
        lines.append(f"{name:10} " + " ".join(f"{value:8.4f}" for value in np.exp(means)))
        for label, x in (("exact", computes), ("6 N D", products)):
            lines.append(f"  {label:16} " + " ".join(f"{slope:8.3f}" for slope in np.diff(means) / np.diff(x)))
        lines.append("  seeds    " + " ".join(f"{values.std():8.4f}" for values in logs))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="runs/laptop")
    parser.add_argument("--out", type=Path, default=Path("steadiness.jsonl"))
    parser.add_argument("--widths", type=int, nargs="+", default=[4, 8, 12, 20, 32, 40])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--family", default="{}", help="JSON of Family fields to change")
    parser.add_argument("--rates", default="{}", help="JSON of learning rates to change")
    options = parser.parse_args()
    family = json.loads(options.family)
    rates = dataclasses.asdict(dataclasses.replace(LearningRates(), **json.loads(options.rates)))
    jobs = [
        {"run": options.run, "width": width, "seed": seed, "rates": rates, "family": family}
        for seed in range(options.seeds)
        for width in sorted(options.widths, reverse=True)
    ]
    done = run_all(one, jobs, IDENTITY, options.out, lambda r: f"width {r['width']}, seed {r['seed']}: {r['loss']}")
    found = [r for r in done if {key: r[key] for key in IDENTITY} in jobs and r["loss"] is not None]
    print(table(found))


if __name__ == "__main__":
    main()
