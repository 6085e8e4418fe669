"""Changing a trained model: AdamW, a schedule, clipped gradients, exact continuation. What SFT, reward models and PPO share."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from forescale.train.loop import TrainingDiverged, autocast
from forescale.train.state import STATE, corrupt, fill, load_state, open_metrics, save_state, weights

SAVE_EVERY_SECONDS = 60.0
MAX_SKIPPED = 5
CLIP_NORM = 1.0


def linear(step: int, steps: int, warmup_fraction: float) -> float:
    """Factor on the peak rate at a step counted from 0: linear up, then linear down to zero."""
    warmup = max(1, round(warmup_fraction * steps))
    return (step + 1) / warmup if step < warmup else (steps - step) / max(1, steps - warmup + 1)


class Tuner:
    """AdamW over all parameters of a model that learn, without weight decay."""

    def __init__(self, model: nn.Module, learning_rate: float) -> None:
        self.learning_rate = learning_rate
        self.named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.adam = torch.optim.AdamW(
            self.named.values(), lr=learning_rate, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0, fused=True
        )
        self.skipped_in_a_row = 0

    def step(self, factor: float = 1.0) -> float:
        """Updates with the rate times `factor`, clears the gradients, and returns their 2-norm before clipping to 1.

        A gradient that is not finite changes nothing; five in a row raise TrainingDiverged.
        """
        norm = float(torch.nn.utils.clip_grad_norm_(self.named.values(), CLIP_NORM))
        if math.isfinite(norm):
            self.skipped_in_a_row = 0
            for group in self.adam.param_groups:
                group["lr"] = factor * self.learning_rate
            self.adam.step()
        else:
            self.skipped_in_a_row += 1
        self.adam.zero_grad()
        if self.skipped_in_a_row >= MAX_SKIPPED:
            raise TrainingDiverged(
                f"{MAX_SKIPPED} steps in a row had no finite gradient; a lower learning rate than {self.learning_rate:g} may help"
            )
        return norm

    def state_tensors(self) -> dict[str, Tensor]:
        """All state by name, for an exact continuation."""
        return {
            f"{key}.{name}": value
            for name, p in self.named.items()
            for key, value in self.adam.state.get(p, {}).items()
        }

    def load_state_tensors(self, state: Mapping[str, Tensor]) -> None:
        for name, p in self.named.items():
            found = {
                key: state[f"{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq") if f"{key}.{name}" in state
            }
            if found:
                # AdamW keeps the count of steps on the CPU unless told otherwise; fused, beside the parameter.
                self.adam.state[p] = {key: value.to(p.device).clone() for key, value in found.items()}


def fine_tune(
    model: nn.Module,
    steps: int,
    loss_at: Callable[[int], tuple[Tensor, dict[str, float]]],
    out_dir: Path,
    *,
    learning_rate: float,
    warmup_fraction: float,
    device: torch.device,
    on_step: Callable[[int, int, float], None] | None = None,
    save_every_seconds: float = SAVE_EVERY_SECONDS,
) -> None:
    """Trains `model` in place for `steps` steps, going on from what is in `out_dir`, and writes `metrics.jsonl` there.

    `loss_at(step)`: the loss of a step counted from 0, and what else its record holds. `on_step(step, steps, loss)`.
    Raises TrainingDiverged, CorruptArtifact.
    """
    tuner = Tuner(model, learning_rate)
    done = 0
    if state := load_state(out_dir / STATE):
        groups, facts = state
        try:
            fill(model, groups["model"])
            tuner.load_state_tensors(groups.get("optimizer", {}))
            done = int(facts["step"])
        except (KeyError, RuntimeError) as error:
            raise corrupt(out_dir / STATE, error) from error
    model.train()
    saved = time.monotonic()
    with open_metrics(out_dir / "metrics.jsonl", done) as metrics:
        for step in range(done, steps):
            with autocast(device):
                loss, facts = loss_at(step)
            loss.backward()
            norm = tuner.step(linear(step, steps, warmup_fraction))
            value = loss.item()
            record = {"step": step + 1, "loss": value, "gradient_norm": norm, **facts}
            metrics.write(json.dumps({k: v if math.isfinite(v) else None for k, v in record.items()}) + "\n")
            if on_step:
                on_step(step + 1, steps, value)
            if time.monotonic() - saved > save_every_seconds:
                metrics.flush()
                groups = {"model": weights(model), "optimizer": tuner.state_tensors()}
                save_state(out_dir / STATE, groups, {"step": step + 1})
                saved = time.monotonic()
    model.eval()
