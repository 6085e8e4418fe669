"""Items a second of a few-shot multiple-choice exam: ours against lm_eval's own `hf` model, same rows, threads and process.

    python -m benchmarks.exam_speed --checkpoint runs/smol --hf exported/smol --exams mmlu commonsenseqa --limit 400

Ours is everything from the items to their rows on disk (prompts, tokens, scores); lm_eval's is its model alone, from requests
that are already put together to their scores (tokens, scores), at the batch size that was fastest on a few rows. Loading is in
neither. Both are warmed up on those rows.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from benchmarks.lm_eval_tasks import arguments, both, requests_of, write
from forescale.checkpoints.files import Checkpoint
from forescale.core.statistics import spread
from forescale.evals.examine import examine
from forescale.evals.exams.catalogue import find_exam
from forescale.evals.task import Letters, Task

BATCH_SIZES = (1, 8, 16)
TRIAL = 16  # rows of the warm-up


def timed(run: Callable[[], Any]) -> tuple[Any, float, float]:
    """(result, seconds on the clock, seconds of processor time)."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def ours(checkpoint: Checkpoint, task: Task) -> dict[str, int]:
    """Choice by item."""
    with tempfile.TemporaryDirectory() as folder:
        return {row["id"]: row["choice"] for row in examine(checkpoint, task, Path(folder) / "rows.jsonl")}


def instances(task: Task) -> list[Instance]:
    return [
        Instance(request_type="loglikelihood", doc={"id": item.id}, arguments=arguments, idx=i)
        for item in task.dataset.items
        for i, arguments in enumerate(requests_of(item, task))
    ]


def theirs(lm: HFLM, requests: Sequence[Instance], batch_size: int) -> dict[str, int]:
    """Choice by item."""
    lm.batch_size_per_gpu = batch_size
    logs: dict[str, list[float]] = {}
    for request, (logprob, _) in zip(requests, lm.loglikelihood(list(requests), disable_tqdm=True)):
        logs.setdefault(request.doc["id"], []).append(logprob)
    return {i: int(np.argmax(values)) for i, values in logs.items()}


def one(name: str, checkpoint: Checkpoint, lm: HFLM, options: argparse.Namespace) -> dict[str, Any]:
    dataset = find_exam(name, options.shots)
    task = Task(replace(dataset, items=spread(dataset.items, options.limit)), Letters(options.shots))
    trial = replace(task, dataset=replace(task.dataset, items=spread(task.dataset.items, TRIAL)))
    seconds = {}
    for batch_size in BATCH_SIZES:
        theirs(lm, instances(trial)[:8], batch_size)
        seconds[batch_size] = timed(lambda size=batch_size: theirs(lm, instances(trial), size))[1]
    best = min(seconds, key=seconds.__getitem__)
    ours(checkpoint, trial)
    mine, wall, cpu = timed(lambda: ours(checkpoint, task))
    requests = instances(task)
    other, their_wall, their_cpu = timed(lambda: theirs(lm, requests, best))
    n = len(task.dataset.items)
    prompts = [len(checkpoint.tokenizer.encode(requests_of(item, task)[0][0])) for item in task.dataset.items]
    return {
        "exam": name,
        "shots": options.shots,
        "n": n,
        "mean_prompt_tokens": float(np.mean(prompts)),
        "ours": {"seconds": wall, "cpu_seconds": cpu, "items_per_second": n / wall},
        "lm_eval": {
            "seconds": their_wall,
            "cpu_seconds": their_cpu,
            "items_per_second": n / their_wall,
            "batch_size": best,
            "trial_seconds_by_batch_size": {str(size): value for size, value in seconds.items()},
        },
        "times_faster": their_wall / wall,
        "times_less_cpu": their_cpu / cpu,
        "same_choices": float(np.mean([mine[i] == other[i] for i in mine])),
    }


def main() -> None:
    parser = arguments(__doc__, ["mmlu", "commonsenseqa"], 400, "exam_speed.json")
    parser.add_argument("--shots", type=int, default=5)
    options = parser.parse_args()
    checkpoint, lm = both(options, 1)
    records = []
    for name in options.exams:
        record = one(name, checkpoint, lm, options)
        records.append(record)
        print(
            f"{name}, {record['shots']} shots, {record['n']} items of {record['mean_prompt_tokens']:.0f} tokens: "
            f"ours {record['ours']['items_per_second']:.2f} items/s, lm_eval {record['lm_eval']['items_per_second']:.2f} "
            f"(batch size {record['lm_eval']['batch_size']}); {record['times_faster']:.1f} times as many, "
            f"{record['times_less_cpu']:.1f} by processor time; same choices {record['same_choices']:.2%}",
            flush=True,
        )
    write(options, records)


if __name__ == "__main__":
    main()
