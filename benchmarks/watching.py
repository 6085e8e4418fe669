"""Does the watch flag broken runs and leave healthy ones alone?

    python -m benchmarks.watching --run runs/laptop --target 2.7e12 --out watching.json

Takes the rungs of a finished run folder with at most a tenth of `--target`, predicts the band of a target of that compute, then
trains healthy targets (other seeds) and ones that are broken on purpose, twice each: the learning rate three times or a tenth of
what it should be, data that turns into random tokens in the middle, four times or a quarter of the batch, and a decoder block that
dies at 5% of the run. A run ends when it has been flagged. Each is a line of `--out`; runs that are there are not run again.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pool import run_all
from forescale.core.artifacts import read_json
from forescale.data.shards import Batch, Rows, Shards
from forescale.forecast.drift import Watcher, predict_band

BREAKS = ("rate x3", "rate x0.1", "random data from the middle", "batch x4", "batch x0.25", "dead block")


class Flagged(Exception):
    pass


class RandomFrom(Rows):
    """Rows whose tokens, pictures' places kept, are random from row `first` on."""

    def __init__(self, rows: Rows, first: int, vocab_size: int) -> None:
        self.__dict__.update(vars(rows))
        self.first, self.vocab_size = first, vocab_size

    def batch(self, first: int, rows: int) -> Batch:
        batch = super().batch(first, rows)
        if first < self.first:
            return batch
        rng = np.random.default_rng(first)
        random = rng.integers(6, self.vocab_size, batch.tokens.shape)
        tokens = np.where(batch.tokens == self.image_token, batch.tokens, random)
        return Batch(tokens, np.where(batch.targets < 0, batch.targets, random), batch.pixels)


def one(job: dict[str, Any]) -> dict[str, Any]:
    import torch

    from forescale.model.multimodal import Model
    from forescale.model.scaling import Family
    from forescale.train.loop import Hooks, in_bfloat16, should_compile, train
    from forescale.train.validate import validate

    torch.set_num_threads(1)
    run, what = Path(job["run"]), job["break"]
    shards = Shards(run / "shards", run / "data")
    facts = shards.facts
    family = Family(vocab_size=facts["vocab_size"], sequence_length=facts["sequence_length"])
    plan = family.plan_for(job["target"], facts["images_per_token"])
    rows: Rows = shards.train
    if what.startswith("batch"):
        factor = float(what.split("x")[1])
        broken = max(1, round(plan.batch_rows * factor))
        plan = dataclasses.replace(plan, batch_rows=broken, steps=round(plan.steps * plan.batch_rows / broken))
    if what.startswith("random"):
        rows = RandomFrom(rows, plan.steps // 2 * plan.batch_rows, facts["vocab_size"])
    watcher = Watcher(job["band"])
    alarms: list[dict[str, Any]] = []
    curve: list[dict[str, float]] = []

    def evaluate(model: Model) -> float:
        if what == "dead block" and len(curve) == 1:
            block = model.layers[1]
            for norm in (block.input_layernorm, block.post_attention_layernorm):
                norm.weight.requires_grad_(False).zero_()
        return validate(model, shards, 2).loss

    def watch(point: dict[str, float]) -> None:
        curve.append(point)
        alarm = watcher.update(point)
        if alarm:
            alarms.append(vars(alarm))
            raise Flagged

    device = torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Flagged):
        train(
            plan,
            rows,
            Path(folder),
            seed=job["seed"],
            image_token=facts["image_token"],
            device=device,
            hooks=Hooks(evaluate=evaluate, on_point=watch),
            compiled=should_compile(plan, device),
            bfloat16=in_bfloat16(plan, device),
            checkpoint_seconds=1e9,
            learning_rate_factor=float(what.split("x")[1]) if what.startswith("rate") else 1.0,
        )
    record = {key: job[key] for key in ("seed", "break", "target")}
    return {**record, "width": plan.model.width, "flops": plan.flops, "alarms": alarms, "curve": curve}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="runs/laptop")
    parser.add_argument("--target", type=float, default=2.7e12)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/watching.jsonl"))
    parser.add_argument("--healthy", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=2, help="of each broken kind; a wrong batch has one of either")
    options = parser.parse_args()
    results = [read_json(path) for path in sorted(Path(options.run).glob("rungs/*/result.json"))]
    rungs = [r for r in results if r["status"] == "ok" and r["compute"] <= options.target / 10]
    from forescale.model.scaling import Family

    facts = read_json(Path(options.run) / "shards" / "shards.json")
    plan = Family(vocab_size=facts["vocab_size"]).plan_for(options.target, facts["images_per_token"])
    band = predict_band(rungs, plan.flops, plan.model.params_active, plan.tokens, target_steps=plan.steps)
    middle = band.points[len(band.points) // 2]
    times = middle["gradient_high"] / middle["gradient_predicted"]
    print(
        f"band from {len(rungs)} rungs, the largest {max(r['compute'] for r in rungs):.3g} FLOPs; half-way the loss "
        f"+-{middle['high'] / middle['predicted'] - 1:.1%}, the gradient norm x{times:.2f}"
    )
    base = {"run": options.run, "target": options.target, "band": json.loads(json.dumps(vars(band)))}
    kinds = [(what, seed) for seed in range(options.seeds) for what in BREAKS if not what.startswith("batch")]
    kinds += [(what, 0) for what in BREAKS if what.startswith("batch")]
    kinds += [("nothing", 100 + i) for i in range(options.healthy)]
    jobs = [{**base, "break": what, "seed": seed} for what, seed in kinds]

    def tell(record: dict[str, Any]) -> str:
        alarm = record["alarms"][0] if record["alarms"] else None
        says = f"flagged at {alarm['fraction']:.1%}: {alarm['direction']}" if alarm else "not flagged"
        return f"{record['break']}, seed {record['seed']}: {says}"

    done = run_all(one, jobs, ("target", "break", "seed"), options.out, tell)
    healthy = [r for r in done if r["break"] == "nothing"]
    broken = [r for r in done if r["break"] != "nothing"]
    early = sum(bool(r["alarms"]) and r["alarms"][0]["fraction"] < 0.5 for r in broken)
    false = sum(bool(r["alarms"]) for r in healthy)
    print(
        f"{early} of {len(broken)} broken runs flagged before half of the budget; {false} of {len(healthy)} healthy ones flagged"
    )


if __name__ == "__main__":
    main()
