"""Do our exams give what lm_eval gives? Item by item, on the same items, prompts and weights.

    python -m benchmarks.lm_eval_parity --checkpoint runs/smol --hf exported/smol --exams mmlu openbookqa

`--checkpoint` is a checkpoint of ours, `--hf` the same weights as a Hugging Face directory (`forescale export`). lm_eval's own
`hf` model (float32, on the CPU) and our `examine` are given the same items; lm_eval puts its prompts together from its own
templates, and every request that it logs must equal ours byte by byte.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

# The items are local files.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import lm_eval
import numpy as np
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from benchmarks.lm_eval_tasks import arguments, both, requests_of, write, write_task
from forescale.checkpoints.files import Checkpoint
from forescale.core.statistics import spread
from forescale.evals.examine import examine
from forescale.evals.exams.catalogue import find_exam
from forescale.evals.suite import SOLVERS
from forescale.evals.task import Task, describe


def theirs(lm: HFLM, task: Task, folder: Path) -> dict[str, list[float]]:
    """Log-probability of each option by item, from lm_eval. Raises RuntimeError if it asked anything else than we do."""
    name = f"exam-{task.dataset.name}"
    results = lm_eval.simple_evaluate(
        model=lm,
        tasks=[write_task(task, name, folder)],
        task_manager=TaskManager(include_defaults=False),
        bootstrap_iters=0,
        log_samples=True,
    )
    items = {item.id: item for item in task.dataset.items}
    found: dict[str, list[float]] = {}
    for sample in results["samples"][name]:
        item = items[sample["doc"]["id"]]
        asked = [tuple(arguments) for arguments in sample["arguments"]]
        if asked != requests_of(item, task):
            raise RuntimeError(f"{item.id}: lm_eval asks {asked[0]!r}, we ask {requests_of(item, task)[0]!r}")
        found[item.id] = [float(answer[0]) for answer in sample["filtered_resps"]]
    if found.keys() != items.keys():
        raise RuntimeError(f"lm_eval answered {len(found)} of {len(items)} items")
    return found


def compare(task: Task, ours: Sequence[dict[str, Any]], others: dict[str, list[float]]) -> dict[str, Any]:
    """Figures of one exam; `acc_norm` divides by the options' characters."""
    lengths = {item.id: np.array([len(option) for option in item.options]) for item in task.dataset.items}
    correct = {item.id: item.correct[0] for item in task.dataset.items}
    record: dict[str, Any] = {"exam": task.dataset.name, "asked": describe(task.solver), "n": len(ours)}
    for metric in ("acc", "acc_norm"):
        if metric == "acc_norm" and "letter" in describe(task.solver):
            continue
        choices = []
        for row in ours:
            by = lengths[row["id"]] if metric == "acc_norm" else 1
            pair = (np.array(row["log_probabilities"]) / by, np.array(others[row["id"]]) / by)
            choices.append((row["id"], *(int(logs.argmax()) for logs in pair)))
        record[metric] = {
            "ours": float(np.mean([mine == correct[i] for i, mine, _ in choices])),
            "lm_eval": float(np.mean([other == correct[i] for i, _, other in choices])),
            "same_choices": float(np.mean([mine == other for _, mine, other in choices])),
            "other_choices": [i for i, mine, other in choices if mine != other],
        }
    gaps = [np.abs(np.array(row["log_probabilities"]) - others[row["id"]]).max() for row in ours]
    return {**record, "largest_difference": float(max(gaps)), "mean_difference": float(np.mean(gaps))}


def one(name: str, checkpoint: Checkpoint, lm: HFLM, options: argparse.Namespace) -> dict[str, Any]:
    solver = SOLVERS[name] if options.shots < 0 else replace(SOLVERS[name], shots=options.shots)
    dataset = find_exam(name, solver.shots)
    task = Task(replace(dataset, items=spread(dataset.items, options.limit)), solver)
    with tempfile.TemporaryDirectory() as folder:
        mine = examine(checkpoint, task, Path(folder) / "ours.jsonl")
        return compare(task, mine, theirs(lm, task, Path(folder)))


def main() -> None:
    parser = arguments(__doc__, ["mmlu", "openbookqa"], 0, "lm_eval_parity.json")
    parser.add_argument("--shots", type=int, default=-1, help="worked examples; -1 for each exam's own number")
    parser.add_argument("--batch-size", type=int, default=8, help="of lm_eval's model")
    options = parser.parse_args()
    checkpoint, lm = both(options, options.batch_size)
    records = []
    for name in options.exams:
        record = one(name, checkpoint, lm, options)
        records.append(record)
        for metric in ("acc", "acc_norm"):
            if metric in record:
                figures = record[metric]
                print(
                    f"{name}, {record['asked']}, {metric}: ours {figures['ours']:.4f}, lm_eval {figures['lm_eval']:.4f}; "
                    f"same choices {figures['same_choices']:.2%} of {record['n']}; "
                    f"log-probabilities within {record['largest_difference']:.1e}",
                    flush=True,
                )
    write(options, records)


if __name__ == "__main__":
    main()
