"""The training loop: one run from its plan to its last checkpoint.

Special: a run can be killed at any moment and continued, and ends bit for bit where the uninterrupted one ends (on one CPU with
the same number of threads); decoder blocks and the loss are compiled once and shared; a loss or gradient that is not finite
skips its step, and a run that skips `MAX_SKIPPED` in a row, or one in fifty over all, stops as diverged.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from forescale.core.device import has_bfloat16_units, has_compiler
from forescale.data.shards import Batch, Rows
from forescale.model import multimodal
from forescale.model.multimodal import Model
from forescale.model.scaling import RunPlan
from forescale.train.optim import Optimizer
from forescale.train.state import STATE, corrupt, fill, load_state, open_metrics, save_state, weights

MAX_SKIPPED = 10
CURVE_POINTS = 40
# Below this many FLOPs on a CPU, compiling takes longer than it saves. A constant of the plan, never a measured time: whether
# a run is compiled decides its last bits.
COMPILE_FROM_FLOPS = 2e12


class TrainingDiverged(RuntimeError):
    """Too many steps without a finite loss or gradient."""


@dataclass
class Progress:
    """What a run has behind it. Saved with every checkpoint."""

    step: int = 0
    images: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    # Since the last point of the curve: sum of log gradient norms, steps, and each block's sum of squared gradient norms.
    log_gradient_sum: float = 0.0
    gradient_steps: int = 0
    block_squares: list[float] = field(default_factory=list)
    # The last step's loss, and since the last point the sum of squared differences from one step to the next, and how many.
    last_loss: float | None = None
    noise_sum: float = 0.0
    noise_steps: int = 0
    train_seconds: float = 0.0
    # Steps and time after the first of each process, whose compilation and warm-up would distort the rate.
    timed_tokens: int = 0
    timed_flops: float = 0.0
    timed_seconds: float = 0.0


@dataclass(frozen=True)
class Hooks:
    """What the caller adds. `evaluate`: loss on the watch set. `on_point`: sees each point of the curve. `on_step`: progress."""

    evaluate: Callable[[Model], float] | None = None
    on_point: Callable[[dict[str, float]], None] | None = None
    on_step: Callable[[Progress, float], None] | None = None


def to_tensors(batch: Batch, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return tuple(torch.from_numpy(array).to(device) for array in (batch.tokens, batch.targets, batch.pixels))  # type: ignore[return-value]


def autocast(device: torch.device, bfloat16: bool | None = None) -> AbstractContextManager[Any]:
    """Products in bfloat16, sums and weights in float32: on an accelerator, and on a CPU only where `bfloat16` asks for it."""
    bfloat16 = device.type == "cuda" if bfloat16 is None else bfloat16
    return torch.autocast(device.type, torch.bfloat16) if bfloat16 else nullcontext()


class CompiledStep:
    """Forward pass with the blocks and the loss compiled; evaluation stays eager, so it needs no second compilation."""

    def __init__(self, model: Model, compiled: bool) -> None:
        self.model = model
        self.block: Callable[..., torch.Tensor] = _run_block
        self.token_loss: Callable[..., torch.Tensor] = multimodal.token_loss
        if compiled:
            # A worker trains one size after another, and dynamo gives up on a function after eight of them.
            torch._dynamo.reset()
            self.block = torch.compile(_run_block, dynamic=False)
            self.token_loss = torch.compile(multimodal.token_loss, dynamic=False)

    def __call__(self, tokens: torch.Tensor, targets: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        model = self.model
        length = tokens.shape[1]
        cos, sin = model.cos_TC[:length], model.sin_TC[:length]
        x = model.embed(tokens, pixels)
        for block in model.layers:
            x = self.block(block, x, cos, sin)
        return self.token_loss(model.norm(x), model.lm_head.weight, targets, "mean")


def _run_block(block: torch.nn.Module, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    return block(x, cos, sin)


def should_compile(plan: RunPlan, device: torch.device) -> bool:
    """Compiled kernels pay on every accelerator run and on long CPU runs, where there is a compiler."""
    if device.type == "cuda":
        return True
    return plan.flops >= COMPILE_FROM_FLOPS and has_compiler()


def in_bfloat16(plan: RunPlan, device: torch.device) -> bool:
    """Accelerator runs, and the CPU runs that are long enough to compile, where the CPU has units for it (docs/log.md)."""
    if device.type == "cuda":
        return True
    return should_compile(plan, device) and has_bfloat16_units()


def curve_steps(steps: int) -> dict[int, float]:
    """Step -> fraction of the run, at CURVE_POINTS even fractions (short runs have one point a step)."""
    return {max(1, round(steps * i / CURVE_POINTS)): i / CURVE_POINTS for i in range(1, CURVE_POINTS + 1)}


def train(
    plan: RunPlan,
    rows: Rows,
    out_dir: Path,
    *,
    seed: int,
    image_token: int,
    device: torch.device,
    hooks: Hooks | None = None,
    compiled: bool = False,
    bfloat16: bool = False,
    checkpoint_seconds: float = 30.0,
    learning_rate_factor: float = 1.0,
) -> tuple[Model, Progress]:
    """Trains from the first step or from the checkpoint in `out_dir`; returns the trained model.

    `compiled`, `bfloat16`: as `should_compile` and `in_bfloat16` say, or as the run began.
    `learning_rate_factor` multiplies every learning rate: it exists to break a run on purpose, for testing what watches it.
    Raises TrainingDiverged by the rule of the module's docstring, CorruptArtifact if the checkpoint cannot be read.
    """
    hooks = hooks or Hooks()
    model = Model(plan.model, image_token, seed).to(device)
    optimizer = Optimizer(model, plan, bfloat16=bfloat16)
    progress = _resume(out_dir, model, optimizer)
    for point in progress.curve:
        # Whoever watches sees the part before an interruption too.
        if hooks.on_point:
            hooks.on_point(point)
    forward = CompiledStep(model, compiled)
    blocks = [int(name.split(".")[1]) if name.startswith("layers.") else None for name in optimizer.names.values()]
    points = curve_steps(plan.steps)
    flops_token, flops_image = plan.model.flops_per_token(), plan.model.flops_per_image()
    metrics = open_metrics(out_dir / "metrics.jsonl", progress.step)
    last_save, first = time.perf_counter(), True
    model.train()
    try:
        while progress.step < plan.steps:
            started = time.perf_counter()
            batch = rows.batch(progress.step * plan.batch_rows, plan.batch_rows)
            factor = plan.schedule(progress.step)
            with autocast(device, bfloat16):
                loss = forward(*to_tensors(batch, device))
            loss.backward()
            squares = [norm * norm for norm in optimizer.gradient_norms().tolist()]
            loss_value, norm_value = loss.item(), math.sqrt(sum(squares))
            finite = math.isfinite(loss_value) and math.isfinite(norm_value)
            if finite:
                _note_gradients(progress, squares, blocks)
                _note_noise(progress, loss_value)
                optimizer.step(factor * learning_rate_factor)
                progress.skipped_in_a_row = 0
            else:
                model.zero_grad()
                progress.skipped += 1
                progress.skipped_in_a_row += 1
            progress.step += 1
            progress.images += len(batch.pixels)
            seconds = time.perf_counter() - started
            progress.train_seconds += seconds
            if not first:
                progress.timed_tokens += plan.batch_tokens
                progress.timed_flops += plan.batch_tokens * flops_token + len(batch.pixels) * flops_image
                progress.timed_seconds += seconds
            first = False
            tokens = progress.step * plan.batch_tokens
            record: dict[str, Any] = {
                "step": progress.step,
                "tokens": tokens,
                "compute": tokens * flops_token + progress.images * flops_image,
                "loss": loss_value if finite else None,
                "learning_rate": factor * learning_rate_factor * optimizer.rates["muon"],
                "gradient_norm": norm_value if finite else None,
                "seconds": round(progress.train_seconds, 4),
            }
            metrics.write(json.dumps(record) + "\n")
            if progress.skipped_in_a_row >= MAX_SKIPPED or progress.skipped > max(MAX_SKIPPED, plan.steps // 50):
                raise TrainingDiverged(f"{progress.skipped} of {progress.step} steps had no finite loss or gradient")
            if progress.step in points and hooks.evaluate:
                value = hooks.evaluate(model)
                point = {
                    "fraction": points[progress.step],
                    "step": progress.step,
                    "tokens": tokens,
                    "compute": record["compute"],
                    "loss": value,
                    **_gradients_so_far(progress),
                    **_noise_so_far(progress),
                }
                progress.curve.append(point)
                if hooks.on_point:
                    hooks.on_point(point)
            if hooks.on_step:
                hooks.on_step(progress, loss_value)
            if time.perf_counter() - last_save > checkpoint_seconds or progress.step == plan.steps:
                metrics.flush()
                _save(out_dir, model, optimizer, progress)
                last_save = time.perf_counter()
    finally:
        metrics.close()
    model.eval()
    return model, progress


def _note_gradients(progress: Progress, squares: Sequence[float], blocks: Sequence[int | None]) -> None:
    progress.log_gradient_sum += 0.5 * math.log(max(sum(squares), 1e-300))
    progress.gradient_steps += 1
    sums = progress.block_squares or [0.0] * (1 + max(block for block in blocks if block is not None))
    for square, block in zip(squares, blocks):
        if block is not None:
            sums[block] += square
    progress.block_squares = sums


def _gradients_so_far(progress: Progress) -> dict[str, float]:
    """What the gradients did since the last point of the curve: their norm's geometric mean, and which decoder block got least of
    them, as a share of what got most."""
    if not progress.gradient_steps:
        return {}
    sums = progress.block_squares
    least = min(range(len(sums)), key=lambda block: sums[block])
    found = {
        "gradient_norm": math.exp(progress.log_gradient_sum / progress.gradient_steps),
        "least_block": float(least),
        "least_block_share": math.sqrt(sums[least] / max(*sums, 1e-300)),
    }
    progress.log_gradient_sum, progress.gradient_steps, progress.block_squares = 0.0, 0, []
    return found


def _note_noise(progress: Progress, loss: float) -> None:
    if progress.last_loss is not None:
        progress.noise_sum += (loss - progress.last_loss) ** 2
        progress.noise_steps += 1
    progress.last_loss = loss


def _noise_so_far(progress: Progress) -> dict[str, float]:
    """Deviation of one step's training loss in nats since the last point of the curve, from differences between neighbours."""
    if not progress.noise_steps:
        return {}
    noise = math.sqrt(progress.noise_sum / (2 * progress.noise_steps))
    progress.noise_sum, progress.noise_steps = 0.0, 0
    return {"loss_noise": noise}


def _save(out_dir: Path, model: Model, optimizer: Optimizer, progress: Progress) -> None:
    save_state(out_dir / STATE, {"model": weights(model), "optimizer": optimizer.state_tensors()}, vars(progress))


def _resume(out_dir: Path, model: Model, optimizer: Optimizer) -> Progress:
    state = load_state(out_dir / STATE)
    if state is None:
        return Progress()
    groups, facts = state
    try:
        fill(model, groups["model"])
        optimizer.load_state_tensors({name: t.to(model.device) for name, t in groups["optimizer"].items()})
        return Progress(**facts)
    except (KeyError, TypeError, RuntimeError) as error:
        raise corrupt(out_dir / STATE, error) from error
