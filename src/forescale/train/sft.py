"""Supervised fine-tuning: a model learns the assistant's side of conversations.

Special: rows are packed with whole conversations that cannot see one another (each has its own positions and its own mask), and
only what the assistant wrote, with the token that ends it, is learned. Rows of the pretraining data go beside them, so that what
was learned there is not forgotten (Ouyang et al. 2022, section 3.5, do so in PPO).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from forescale.checkpoints.encoding import Lesson
from forescale.checkpoints.files import Checkpoint
from forescale.core.artifacts import write_json
from forescale.core.errors import UserError
from forescale.data.shards import Batch, Rows
from forescale.model.multimodal import IGNORE, Model
from forescale.train.loop import to_tensors
from forescale.train.tune import fine_tune


@dataclass(frozen=True)
class SftConfig:
    """`learning_rate`: peak. `row_tokens`: length of packed rows (0: as the model was trained). `pretraining_rows`: of pretraining
    data beside each batch, where there is some; their mean loss, times `pretraining_weight`, is added to that of the
    conversations. `seed`: of the order."""

    epochs: int = 3
    learning_rate: float = 3e-3
    batch_rows: int = 4
    row_tokens: int = 0
    pretraining_rows: int = 2
    pretraining_weight: float = 0.2
    warmup_fraction: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises UserError for settings that make no sense."""
        if self.epochs < 1 or self.batch_rows < 1 or not self.learning_rate > 0:
            raise UserError("epochs and batch rows are at least 1, and the learning rate is above 0.")
        if self.row_tokens < 0 or self.pretraining_rows < 0 or not self.pretraining_weight >= 0:
            raise UserError("row tokens, pretraining rows and their weight are not below 0.")


class Packed(NamedTuple):
    """R rows of T tokens. `targets_RT` is IGNORE where nothing is learned, `segments_RT` numbers conversations (-1: padding),
    `positions_RT` counts within one. `pixels_NSSc`: the pictures in reading order."""

    tokens_RT: np.ndarray
    targets_RT: np.ndarray
    segments_RT: np.ndarray
    positions_RT: np.ndarray
    pixels_NSSc: np.ndarray


def pack(lessons: Sequence[Lesson], length: int) -> list[list[int]]:
    """Which lessons stand in which row: longest first, each in the first row with room (first-fit decreasing).

    Rows come in the order of their first lesson. Raises ValueError for a lesson longer than a row.
    """
    rows: list[tuple[list[int], int]] = []
    for index in sorted(range(len(lessons)), key=lambda i: -len(lessons[i].ids)):
        need = len(lessons[index].ids)
        if need > length:
            raise ValueError(f"a lesson of {need} tokens in rows of {length}")
        for place, (members, left) in enumerate(rows):
            if need <= left:
                rows[place] = ([*members, index], left - need)
                break
        else:
            rows.append(([index], length - need))
    return [members for members, _ in rows]


def fill_rows(lessons: Sequence[Lesson], rows: Sequence[Sequence[int]], length: int, pad: int) -> Packed:
    """Arrays of these rows."""
    shape = (len(rows), length)
    tokens, targets = np.full(shape, pad, np.int64), np.full(shape, IGNORE, np.int64)
    segments, positions = np.full(shape, -1, np.int64), np.zeros(shape, np.int64)
    pixels = []
    for r, members in enumerate(rows):
        at = 0
        for number, index in enumerate(members):
            lesson = lessons[index]
            end = at + len(lesson.ids)
            ids = np.array(lesson.ids)
            tokens[r, at:end] = ids
            # A place's target is the token after it, where that was the assistant's and is of the same conversation.
            targets[r, at : end - 1] = np.where(lesson.learned[1:], ids[1:], IGNORE)
            segments[r, at:end] = number
            positions[r, at:end] = np.arange(len(ids))
            pixels.append(lesson.pixels)
            at = end
    return Packed(tokens, targets, segments, positions, np.concatenate(pixels))


def packed_states(model: Model, packed: Packed) -> tuple[Tensor, Tensor]:
    """Final states (M, D) of the places whose next token is learned, and those tokens (M,)."""
    tokens, targets, segments, positions = (torch.from_numpy(array).to(model.device) for array in packed[:4])
    same = segments[:, :, None] == segments[:, None, :]
    mask = (same & torch.ones(same.shape[1:], dtype=torch.bool, device=same.device).tril())[:, None]
    pixels = torch.from_numpy(packed.pixels_NSSc).to(model.device)
    x_RTD = model.hidden(tokens, pixels, None, positions, mask)
    learned = targets != IGNORE
    return x_RTD[learned], targets[learned]


def fitting(lessons: Sequence[Lesson], length: int) -> list[Lesson]:
    """Those that fit a row. Raises UserError if none does."""
    fits = [lesson for lesson in lessons if len(lesson.ids) <= length]
    if not fits:
        raise UserError(f"none of the {len(lessons)} conversations fits a row of {length} tokens; use longer rows.")
    return fits


def conversation_loss(
    checkpoint: Checkpoint, lessons: Sequence[Lesson], rows: Sequence[Sequence[int]], length: int
) -> tuple[Tensor, int]:
    """Mean cross-entropy in nats of what rows (indices of lessons) of `length` tokens teach, and how many tokens that is."""
    packed = fill_rows(lessons, rows, length, checkpoint.tokenizer.end)
    x_MD, targets_M = packed_states(checkpoint.model, packed)
    return F.cross_entropy(checkpoint.model.lm_head(x_MD).float(), targets_M), len(targets_M)


def tune(
    checkpoint: Checkpoint,
    lessons: Sequence[Lesson],
    config: SftConfig,
    out_dir: Path,
    on_step: Callable[[int, int, float], None] | None = None,
    pretraining: Rows | None = None,
) -> Model:
    """Trains the checkpoint's model in place on all lessons that fit a row; goes on from what is in `out_dir`.

    `pretraining`: rows that the model's own pretraining was laid out in. Writes `metrics.jsonl`. `on_step(step, steps, loss)`.
    Raises UserError if no lesson fits, TrainingDiverged, CorruptArtifact.
    """
    model = checkpoint.model
    length = config.row_tokens or model.config.sequence_length
    fits = fitting(lessons, length)
    schedule = batches(fits, config, length)

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        loss, learned = conversation_loss(checkpoint, fits, schedule[step], length)
        facts = {"learned_tokens": learned, "conversation_loss": loss.item()}
        if pretraining is not None and config.pretraining_rows:
            tokens, targets, pixels = to_tensors(draw(pretraining, step, config), model.device)
            beside = model.loss(tokens, targets, pixels)
            loss, facts["pretraining_loss"] = loss + config.pretraining_weight * beside, beside.item()
        return loss, facts

    fine_tune(
        model,
        len(schedule),
        loss_at,
        out_dir,
        learning_rate=config.learning_rate,
        warmup_fraction=config.warmup_fraction,
        device=model.device,
        on_step=on_step,
    )
    left_out = len(lessons) - len(fits)
    write_json(
        out_dir / "result.json",
        {"conversations": len(fits), "too_long": left_out, "row_tokens": length, "steps": len(schedule)},
    )
    return model


def draw(pretraining: Rows, step: int, config: SftConfig) -> Batch:
    """Rows that stand together, from a place that is drawn anew for every step."""
    count = min(config.pretraining_rows, len(pretraining))
    first = Random(f"{config.seed}/pretraining/{step}").randrange(len(pretraining) - count + 1)
    return pretraining.batch(first, count)


def batches(lessons: Sequence[Lesson], config: SftConfig, length: int) -> list[list[list[int]]]:
    """For every step the rows of its batch. An epoch packs the lessons in another order; its last batch may be small."""
    steps: list[list[list[int]]] = []
    for epoch in range(config.epochs):
        rng = Random(f"{config.seed}/{epoch}")
        order = rng.sample(range(len(lessons)), len(lessons))
        rows = [[order[i] for i in row] for row in pack([lessons[i] for i in order], length)]
        rng.shuffle(rows)
        steps += [rows[i : i + config.batch_rows] for i in range(0, len(rows), config.batch_rows)]
    return steps
