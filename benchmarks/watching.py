"""Does the watch flag broken runs and leave healthy ones alone?

    python benchmarks/watching.py --run runs/laptop --target 1e12 --out benchmarks/results/watching.json

Takes the rungs of a finished run folder with at most a tenth of `--target`, predicts the band of a target of that compute, then
trains healthy targets (other seeds) and targets whose learning rates are multiplied by the factors given, and says when each was
flagged. A run is stopped early once it has been flagged.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import tempfile
from pathlib import Path
from typing import Any

from forescale.core.artifacts import read_json, write_json
from forescale.core.device import cpus, worker_environment
from forescale.forecast.drift import predict_band


class Flagged(Exception):
    pass


def one(job: dict[str, Any]) -> dict[str, Any]:
    import torch

    from forescale.data.shards import Shards
    from forescale.forecast.drift import Watcher
    from forescale.model.scaling import Family
    from forescale.train.loop import Hooks, train
    from forescale.train.validate import validate

    torch.set_num_threads(1)
    run = Path(job["run"])
    shards = Shards(run / "shards", run / "data")
    facts = shards.facts
    family = Family(vocab_size=facts["vocab_size"], sequence_length=facts["sequence_length"])
    plan = family.plan_for(job["target"], facts["images_per_token"])
    watcher = Watcher(job["band"])
    alarms, curve = [], []

    def watch(point: dict[str, float]) -> None:
        curve.append([point["fraction"], point["loss"]])
        alarm = watcher.update(point["fraction"], point["loss"])
        if alarm:
            alarms.append(vars(alarm))
            raise Flagged

    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Flagged):
        train(
            plan,
            shards.train,
            Path(folder),
            seed=job["seed"],
            image_token=facts["image_token"],
            device=torch.device("cpu"),
            hooks=Hooks(evaluate=lambda model: validate(model, shards, 2).loss, on_point=watch),
            checkpoint_seconds=1e9,
            learning_rate_factor=job["factor"],
        )
    record = {key: job[key] for key in ("seed", "factor", "target")}
    return {**record, "width": plan.model.width, "flops": plan.flops, "alarms": alarms, "curve": curve}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="runs/laptop")
    parser.add_argument("--target", type=float, default=1e12)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/watching.json"))
    parser.add_argument("--healthy", type=int, default=5)
    parser.add_argument("--factors", type=float, nargs="+", default=[10.0, 0.1])
    options = parser.parse_args()
    results = [read_json(path) for path in sorted(Path(options.run).glob("rungs/*/result.json"))]
    rungs = [r for r in results if r["status"] == "ok" and r["compute"] <= options.target / 10]
    band = json.loads(json.dumps(vars(predict_band(rungs, options.target))))
    print(f"band from {len(rungs)} rungs, the largest {max(r['compute'] for r in rungs):.3g} FLOPs")
    base = {"run": options.run, "target": options.target, "band": band}
    jobs = [{**base, "seed": 0, "factor": factor} for factor in options.factors]
    jobs += [{**base, "seed": 100 + i, "factor": 1.0} for i in range(options.healthy)]
    os.environ.update(worker_environment(1))
    records = []
    with multiprocessing.get_context("spawn").Pool(cpus()) as pool:
        for record in pool.imap_unordered(one, jobs):
            records.append(record)
            when = f"flagged at {record['alarms'][0]['fraction']:.1%}" if record["alarms"] else "not flagged"
            print(f"learning rate x{record['factor']:g}, seed {record['seed']}: {when}", flush=True)
    write_json(options.out, {"band": band, "rungs": [r["name"] for r in rungs], "runs": records})


if __name__ == "__main__":
    main()
