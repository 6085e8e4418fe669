"""One run of the ladder, or its target: train, validate, measure capabilities, and write what docs/artifacts.md says."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from forescale.checkpoints.files import save_checkpoint
from forescale.core.artifacts import Stage, read_json, utc_now, write_json, write_text
from forescale.core.device import matmul_peak, peak_memory_bytes, pick_device, reset_peak_memory
from forescale.data.shards import Rows, Shards
from forescale.evals.capability import CapabilityConfig, measure, show
from forescale.forecast.drift import Watcher
from forescale.model.multimodal import Model
from forescale.model.scaling import RunPlan
from forescale.tokenizer.bpe import SPECIAL, Tokenizer
from forescale.train.loop import Hooks, Progress, TrainingDiverged, in_bfloat16, should_compile, train
from forescale.train.validate import repeat_losses, validate

# Called with ("progress", (steps done, steps there are, loss)) and ("alarm", the Alarm as a dict).
Report = Callable[[str, Any], None]


@dataclass(frozen=True)
class RungConfig:
    """`watch_rows`: validation rows of each source on the live curve. `learning_rate_factor` is 1 but for broken-on-purpose runs.

    `threads` is part of the identity, since it decides the order of sums and so the last bits.
    """

    name: str
    plan: RunPlan
    seed: int
    threads: int
    families: tuple[str, ...]
    capability: CapabilityConfig = CapabilityConfig()
    watch_rows: int = 2
    samples: bool = False
    learning_rate_factor: float = 1.0


_report: Report | None = None


def set_report(report: Report | None) -> None:
    """Where this process's runs tell how far they are."""
    global _report
    _report = report


def exact_flops(plan: RunPlan, rows: Rows) -> int:
    """FLOPs of this run on these rows, with the pictures that they really hold."""
    return plan.model.run_flops(plan.tokens, rows.images_in(plan.steps * plan.batch_rows))


def run_rung(config: RungConfig, inputs: Mapping[str, Path], out_dir: Path) -> None:
    """Stage `rung`: inputs `data`, `tokenizer`, `shards`, and for a watched target `forecast`."""
    device = pick_device()
    if device.type == "cpu":
        torch.set_num_threads(config.threads)
    plan = config.plan
    shards = Shards(inputs["shards"], inputs["data"])
    tokenizer = Tokenizer.load(inputs["tokenizer"] / "tokenizer.json")
    flops = exact_flops(plan, shards.train)
    compiled = should_compile(plan, device)
    # A run that began on another machine goes on in the precision that it began with.
    begun = out_dir / "run.json"
    bfloat16 = read_json(begun).get("precision") == "bfloat16" if begun.is_file() else in_bfloat16(plan, device)
    peak = matmul_peak(device, bfloat16) if config.samples else None
    reset_peak_memory(device)
    started_at, attempts = _first_step(out_dir)
    _describe(config, flops, bfloat16, out_dir)

    watched = read_json(inputs["forecast"] / "forecast.json") if "forecast" in inputs else None
    watcher = Watcher(watched["band"]) if watched else None
    # Beside the times, since a seal has one: what is trained stays the same bytes whenever its forecast was sealed.
    seal = {"forecast_seal": watched["seal"]["sha256"]} if watched else {}
    alarms: list[dict[str, Any]] = []

    def watch(point: dict[str, float]) -> None:
        alarm = watcher.update(point) if watcher else None
        if alarm:
            alarms.append(dataclasses.asdict(alarm))
            if _report:
                _report("alarm", alarms[-1])

    def step(progress: Progress, loss: float) -> None:
        if _report:
            _report("progress", (progress.step, plan.steps, loss))

    hooks = Hooks(evaluate=lambda model: validate(model, shards, config.watch_rows).loss, on_point=watch, on_step=step)
    notes: list[str] = []
    try:
        model, progress = train(
            plan,
            shards.train,
            out_dir,
            seed=config.seed,
            image_token=tokenizer.image,
            device=device,
            hooks=hooks,
            compiled=compiled,
            bfloat16=bfloat16,
            learning_rate_factor=config.learning_rate_factor,
        )
    except TrainingDiverged as error:
        write_json(
            out_dir / "result.json",
            {
                "name": config.name,
                "seed": config.seed,
                "compute": flops,
                "status": "failed",
                "alarm": alarms[0] if alarms else None,
                "notes": [str(error)],
            },
        )
        write_json(out_dir / "timing.json", {"started_at": started_at, "finished_at": utc_now(), **seal})
        return
    if progress.skipped:
        notes.append(f"{progress.skipped} steps were skipped for a loss or gradient that was not finite.")
    alarm = alarms[0] if alarms else None
    _write_result(config, model, shards, tokenizer, progress, flops, alarm, notes, out_dir)
    rate = progress.timed_flops / progress.timed_seconds if progress.timed_seconds else 0.0
    write_json(
        out_dir / "timing.json",
        {
            "started_at": started_at,
            "finished_at": utc_now(),
            "seconds": round(progress.train_seconds, 3),
            "tokens_per_second": progress.timed_tokens / progress.timed_seconds if progress.timed_seconds else 0.0,
            "flops_per_second": rate,
            "matmul_peak_flops_per_second": peak,
            "utilisation": rate / peak if peak else None,
            "peak_memory_bytes": peak_memory_bytes(device),
            "threads": config.threads,
            "device": str(device),
            "compiled": compiled,
            "attempts": attempts,
            **seal,
        },
    )


STAGE = Stage("rung", run_rung, version=3, volatile=frozenset({"metrics.jsonl", "timing.json"}))


def _first_step(out_dir: Path) -> tuple[str, int]:
    """When this run began to train, kept over interruptions, and which attempt this is."""
    path = out_dir / ".started.json"
    before: dict[str, Any] = read_json(path) if path.is_file() else {"started_at": utc_now(), "attempts": 0}
    write_json(path, {**before, "attempts": before["attempts"] + 1})
    return before["started_at"], before["attempts"] + 1


def _describe(config: RungConfig, flops: int, bfloat16: bool, out_dir: Path) -> None:
    plan = config.plan
    write_json(
        out_dir / "run.json",
        {
            "name": config.name,
            "seed": config.seed,
            "width": plan.model.width,
            "depth": plan.model.depth,
            "params": plan.model.params_active,
            "params_total": plan.model.params,
            "params_vision": plan.model.params_vision,
            "params_non_embedding": plan.model.params - plan.model.params_embedding,
            "tokens": plan.tokens,
            "steps": plan.steps,
            "batch_tokens": plan.batch_tokens,
            "sequence_length": plan.model.sequence_length,
            "flops": flops,
            "flops_vision": flops - plan.model.run_flops(plan.tokens, 0),
            "threads": config.threads,
            "precision": "bfloat16" if bfloat16 else "float32",
            "memory_bytes_estimate": plan.model.training_memory_bytes(plan.batch_tokens),
            "learning_rates": plan.peak_rates(),
            "learning_rate_factor": config.learning_rate_factor,
            "model": plan.model,
        },
    )


def _write_result(
    config: RungConfig,
    model: Model,
    shards: Shards,
    tokenizer: Tokenizer,
    progress: Progress,
    flops: int,
    alarm: dict[str, Any] | None,
    notes: list[str],
    out_dir: Path,
) -> None:
    validation = validate(model, shards)
    first, second = repeat_losses(model, tokenizer.end, len(SPECIAL))
    records = measure(model, tokenizer, config.families, config.capability)
    write_text(out_dir / "capability.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    if config.samples:
        shown = show(model, tokenizer, config.families)
        write_text(out_dir / "samples.jsonl", "".join(json.dumps(sample) + "\n" for sample in shown))
        save_checkpoint(model, tokenizer, out_dir / "checkpoint")
    gradients = ("gradient_norm", "loss_noise", "least_block", "least_block_share")
    columns = ("fraction", "step", "tokens", "compute", "loss", *gradients)
    lines = [",".join(columns)] + [",".join(str(point.get(c, "")) for c in columns) for point in progress.curve]
    write_text(out_dir / "curve.csv", "\n".join(lines) + "\n")
    write_json(
        out_dir / "result.json",
        {
            "name": config.name,
            "seed": config.seed,
            "compute": flops,
            "params": config.plan.model.params_active,
            "tokens": config.plan.tokens,
            "loss": validation.loss,
            "bits_per_byte": validation.bits_per_byte,
            "loss_by_source": validation.loss_by_source,
            "loss_by_modality": validation.loss_by_modality,
            "repeated_by_source": validation.repeated_by_source,
            "weights": validation.weights,
            "curve": progress.curve,
            "in_context": {
                "late_minus_early": validation.late_minus_early,
                "repeat_first_half": first,
                "repeat_second_half": second,
            },
            "status": "ok",
            "alarm": alarm,
            "notes": notes,
        },
    )
