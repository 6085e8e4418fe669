"""Sweeps learning rates on ladder-sized models, never on a target.

    python -m benchmarks.learning_rates --run runs/laptop --out benchmarks/results/learning_rates.jsonl

For each width, every group's rate is moved alone by factors of two around the family's default, at the family's tokens per
parameter (or `--tokens-per-param`). A line per run; runs that are there are not run again. Prints a table.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.pool import run_all
from forescale.data.shards import Shards
from forescale.model.multimodal import Model
from forescale.model.scaling import Family, LearningRates
from forescale.train.loop import TrainingDiverged, in_bfloat16, should_compile, train
from forescale.train.validate import repeat_losses, validate

IDENTITY = ("run", "width", "seed", "rates", "family")
GROUPS = ("muon", "embedding", "head", "vector")


def one(job: dict[str, Any], measure: Callable[[Model, Shards], dict[str, Any]] | None = None) -> dict[str, Any]:
    """Trains the job's run (of its width, or of what its `budget` in FLOPs buys) and validates it; `measure` adds to the record
    what else is to be known of the model."""
    torch.set_num_threads(1)
    run, cpu = Path(job["run"]), torch.device("cpu")
    shards = Shards(run / "shards", run / "data")
    facts = shards.facts
    family = Family(
        vocab_size=facts["vocab_size"],
        sequence_length=facts["sequence_length"],
        learning_rates=LearningRates(**job["rates"]),
        **job["family"],
    )
    images = facts["images_per_token"]
    plan = family.plan_for(job["budget"], images) if "budget" in job else family.plan(job["width"], images)
    with tempfile.TemporaryDirectory() as folder:
        try:
            model, progress = train(
                plan,
                shards.train,
                Path(folder),
                seed=job["seed"],
                image_token=facts["image_token"],
                device=cpu,
                compiled=should_compile(plan, cpu),
                bfloat16=in_bfloat16(plan, cpu),
                checkpoint_seconds=1e9,
            )
        except TrainingDiverged:
            return {**job, "width": plan.model.width, "loss": None}
    result = validate(model, shards)
    return {
        **job,
        "width": plan.model.width,
        "compute": plan.flops,
        "params": plan.model.params_active,
        "tokens": plan.tokens,
        "steps": plan.steps,
        "batch_tokens": plan.batch_tokens,
        "loss": result.loss,
        "bits_per_byte": result.bits_per_byte,
        "loss_by_modality": result.loss_by_modality,
        "loss_by_source": result.loss_by_source,
        "repeated_by_source": result.repeated_by_source,
        "repeat": repeat_losses(model, facts["end_token"], 6),
        "seconds": progress.train_seconds,
        **(measure(model, shards) if measure else {}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="runs/laptop")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/learning_rates.jsonl"))
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--groups", nargs="+", default=list(GROUPS), choices=GROUPS)
    parser.add_argument("--factors", type=float, nargs="+", default=[0.25, 0.5, 1.0, 2.0, 4.0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--family", default="{}", help="JSON of Family fields to change")
    parser.add_argument("--rates", default="{}", help="JSON of base rates to change")
    options = parser.parse_args()
    base = dataclasses.asdict(dataclasses.replace(LearningRates(), **json.loads(options.rates)))
    jobs = []
    for width in options.widths:
        for group in options.groups:
            for factor in options.factors:
                for seed in range(options.seeds):
                    rates = {**base, group: base[group] * factor}
                    job = {
                        "run": options.run,
                        "width": width,
                        "seed": seed,
                        "rates": rates,
                        "family": json.loads(options.family),
                    }
                    if job not in jobs:
                        jobs.append(job)

    def tell(record: dict[str, Any]) -> str:
        moved = {k: v for k, v in record["rates"].items() if v != base[k]}
        return f"{record['width']} {moved or 'base'} {record['family']} {record['loss'] and round(record['loss'], 4)}"

    done = run_all(one, jobs, IDENTITY, options.out, tell)
    for width in options.widths:
        for group in options.groups:
            row = []
            for factor in options.factors:
                rates = {**base, group: base[group] * factor}
                losses = [
                    r["loss"]
                    for r in done
                    if r["width"] == width
                    and r["rates"] == rates
                    and r["family"] == json.loads(options.family)
                    and r["loss"]
                ]
                row.append(
                    f"{base[group] * factor:g}: {sum(losses) / len(losses):.4f}"
                    if losses
                    else f"{base[group] * factor:g}: -"
                )
            print(f"width {width:4} {group:10}", "  ".join(row))


if __name__ == "__main__":
    main()
