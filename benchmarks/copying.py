"""How much of a model's loss is in-context copying? Ladder-sized models, their loss split by what stood earlier in the row.

    python -m benchmarks.copying --run runs/laptop --widths 16 32 56 80 --out copying.jsonl

Held-out natural text. `same`: the present token stood earlier in the row and was followed by the token that follows now (an
induction head knows it), `other`: it was followed by another, `new`: it did not stand there. A line per run; runs that are there
are not run again. `--checkpoint`: also a trained model of that run, such as its target.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning_rates import IDENTITY, one
from benchmarks.pool import run_all
from forescale.checkpoints.files import load_checkpoint
from forescale.data.shards import Shards
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


def train_and_split(job: dict[str, Any]) -> dict[str, Any]:
    return one(job, copied)


def words(found: dict[str, Any]) -> str:
    return "; ".join(
        f"{name} " + ", ".join(f"{kind} {loss:.3f} ({share:.0%})" for kind, (share, loss) in kinds.items())
        for name, kinds in found["copying"].items()
    )


def tell(record: dict[str, Any]) -> str:
    found = "diverged" if record["loss"] is None else f"{record['loss']:.4f}; {words(record)}"
    return f"width {record['width']}, seed {record['seed']}: {found}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="runs/laptop")
    parser.add_argument("--out", type=Path, default=Path("copying.jsonl"))
    parser.add_argument("--widths", type=int, nargs="*", default=[16, 32, 56])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--checkpoint", type=Path)
    options = parser.parse_args()
    rates = dataclasses.asdict(LearningRates())
    jobs = [
        {"run": options.run, "width": width, "seed": seed, "rates": rates, "family": {}}
        for width in sorted(options.widths, reverse=True)
        for seed in range(options.seeds)
    ]
    run_all(
        train_and_split,
        jobs,
        IDENTITY,
        options.out,
        tell,
    )
    if options.checkpoint:
        run = Path(options.run)
        model = load_checkpoint(options.checkpoint).model
        print(f"{options.checkpoint}: {words(copied(model, Shards(run / 'shards', run / 'data')))}")


if __name__ == "__main__":
    main()
