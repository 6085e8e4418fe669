"""When does in-context copying form, and what is it worth? Ladder-sized models with and without the induction circuit at the start.

    python -m benchmarks.copying --run runs/laptop --widths 16 32 40 56 80 --out copying.jsonl

Splits the loss on held-out natural text by what stood earlier in the row: `same`: the present token stood there and was followed by
the token that follows now (an induction head knows it), `other`: it was followed by another, `new`: it did not stand there. A line
per run; runs that are there are not run again. `--plain`: only models that start without the circuit.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.learning_rates import IDENTITY, one
from benchmarks.pool import run_all
from forescale.data.shards import Shards
from forescale.model import multimodal
from forescale.model.multimodal import Model
from forescale.model.scaling import LearningRates
from forescale.train.validate import row_losses

ROWS = 128
KINDS = ("new", "other", "same")


def earlier(tokens_NT: np.ndarray, targets_NT: np.ndarray) -> np.ndarray:
    """Index into KINDS of every target."""
    kinds = np.zeros(tokens_NT.shape, dtype=int)
    for row, (tokens, targets) in enumerate(zip(tokens_NT, targets_NT)):
        followed_by: dict[int, int] = {}
        for place, (token, target) in enumerate(zip(tokens.tolist(), targets.tolist())):
            if token in followed_by:
                kinds[row, place] = 2 if followed_by[token] == target else 1
            followed_by[token] = target
    return kinds


def copied(model: Model, shards: Shards) -> dict[str, Any]:
    """`copying`: source -> kind -> [share of targets, loss in nats], for the sources of natural text."""
    found: dict[str, Any] = {}
    for name in ("stdlib", "encyclopedia", "docstrings", "prose"):
        if name in shards.validation:
            rows = shards.validation[name]
            count = min(ROWS, len(rows))
            batch, losses = rows.batch(0, count), row_losses(model, rows, 0, count)
            kinds = earlier(batch.tokens, batch.targets)
            found[name] = {
                kind: [float((kinds == index).mean()), float(np.nanmean(losses[kinds == index]))]
                for index, kind in enumerate(KINDS)
            }
    return {"copying": found}


def with_or_without(job: dict[str, Any]) -> dict[str, Any]:
    if job["circuit"]:
        return one(job, copied)
    with mock.patch.object(multimodal, "start_with_induction"):
        return one(job, copied)


def tell(record: dict[str, Any]) -> str:
    same = ", ".join(f"{name} {kinds['same'][1]:.2f}" for name, kinds in record["copying"].items())
    return (
        f"width {record['width']}, seed {record['seed']}, {'circuit' if record['circuit'] else 'plain'}: "
        f"{record['loss']:.4f}; seen pairs: {same}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="runs/laptop")
    parser.add_argument("--out", type=Path, default=Path("copying.jsonl"))
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32, 40, 56])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--plain", action="store_true")
    options = parser.parse_args()
    rates = dataclasses.asdict(LearningRates())
    jobs = [
        {"run": options.run, "width": width, "seed": seed, "rates": rates, "family": {}, "circuit": circuit}
        for width in sorted(options.widths, reverse=True)
        for seed in range(options.seeds)
        for circuit in ((False,) if options.plain else (False, True))
    ]
    run_all(with_or_without, jobs, (*IDENTITY, "circuit"), options.out, tell)


if __name__ == "__main__":
    main()
