"""Loss on held-out rows, by source and by modality, and the in-context scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from forescale.data.shards import Rows, Shards
from forescale.model.multimodal import IGNORE, Model
from forescale.train.loop import autocast, to_tensors


@torch.inference_mode()
def row_losses(model: Model, rows: Rows, first: int, count: int, at_once: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Loss in nats of every target of rows `first` to `first + count`, NaN where there is no target, and which targets repeat a
    pair of their row: two tables (count, length)."""
    losses, repeated = [], []
    for start in range(first, first + count, at_once):
        batch = rows.batch(start, min(at_once, first + count - start))
        tokens, targets, pixels = to_tensors(batch, model.device)
        with autocast(model.device):
            loss = model.loss(tokens, targets, pixels, reduction="none").float()
        losses.append(loss.masked_fill(targets == IGNORE, math.nan).cpu().numpy())
        repeated.append(repeats(batch.tokens, batch.targets))
    return np.concatenate(losses), np.concatenate(repeated)


def repeats(tokens_NT: np.ndarray, targets_NT: np.ndarray) -> np.ndarray:
    """Which targets follow the present token as they did the last time that it stood in the row: what an induction head (Olsson
    et al. 2022) knows. Shape (N, T), bool."""
    found = np.zeros(tokens_NT.shape, dtype=bool)
    for row, (tokens, targets) in enumerate(zip(tokens_NT.tolist(), targets_NT.tolist())):
        followed_by: dict[int, int] = {}
        for place, (token, target) in enumerate(zip(tokens, targets)):
            found[row, place] = followed_by.get(token) == target
            followed_by[token] = target
    return found


@dataclass(frozen=True)
class Validation:
    """Losses in nats per token; `loss` is the mean over sources by their weight in the mixture, `late_minus_early`
    over those that have targets in both quarters of a row (None where none has). `repeated_by_source`: how much
    of a source's loss is of targets that repeat a pair of their row."""

    loss: float
    bits_per_byte: float
    loss_by_source: dict[str, float]
    loss_by_modality: dict[str, float]
    repeated_by_source: dict[str, float]
    weights: dict[str, float]
    late_minus_early: float | None


def weighted(values: Mapping[str, float], weights: Mapping[str, float]) -> float:
    total = sum(weights[name] for name in values)
    return sum(values[name] * weights[name] for name in values) / total


def validate(model: Model, shards: Shards, rows_each: int | None = None) -> Validation:
    """Over all validation rows, or the first `rows_each` of every source."""
    sources: dict[str, Any] = shards.facts["sources"]
    weights = {name: facts["weight"] for name, facts in sources.items()}
    bytes_per_token = {name: facts["bytes_per_token"] for name, facts in sources.items()}
    losses, contrast, repeated = {}, {}, {}
    was_training = model.training
    model.eval()
    for name, rows in shards.validation.items():
        count = min(len(rows), rows_each or len(rows))
        table, again = row_losses(model, rows, 0, count)
        losses[name] = float(np.nanmean(table))
        repeated[name] = float(np.nanmean(np.where(again, table, 0.0 * table)))
        quarter = table.shape[1] // 4
        late, early = table[:, -quarter:], table[:, quarter : 2 * quarter]
        if not (np.isnan(late).all() or np.isnan(early).all()):
            contrast[name] = float(np.nanmean(late) - np.nanmean(early))
    model.train(was_training)
    by_modality = {}
    for modality in ("text", "vision"):
        members = {name: losses[name] for name in losses if sources[name]["modality"] == modality}
        if members:
            by_modality[modality] = weighted(members, weights)
    loss = weighted(losses, weights)
    return Validation(
        loss=loss,
        bits_per_byte=loss / weighted({name: bytes_per_token[name] for name in losses}, weights) / math.log(2),
        loss_by_source=losses,
        loss_by_modality=by_modality,
        repeated_by_source=repeated,
        weights={name: weights[name] for name in losses},
        late_minus_early=weighted(contrast, weights) if contrast else None,
    )


@torch.inference_mode()
def repeat_losses(
    model: Model, end_token: int, first_plain: int, sequences: int = 32, seed: int = 0
) -> tuple[float, float]:
    """Loss in nats per token on the first and on the second copy of a random string that stands twice in the context.

    Equal: nothing is copied; a second of 0: in-context copying has formed (Olsson et al. 2022's measure).
    """
    half = model.config.sequence_length // 4
    generator = np.random.default_rng(seed)
    string = generator.integers(first_plain, model.config.vocab_size, (sequences, half))
    tokens = np.concatenate([np.full((sequences, 1), end_token), string, string], axis=1)
    inputs = torch.from_numpy(tokens[:, :-1]).to(model.device)
    targets = torch.from_numpy(tokens[:, 1:].copy()).to(model.device)
    was_training = model.training
    model.eval()
    with autocast(model.device):
        losses = model.loss(inputs, targets, reduction="none").float()
    model.train(was_training)
    return float(losses[:, :half].mean()), float(losses[:, half:].mean())
