"""The reward model: a trained model with a scalar head, fitted to preferences (Bradley-Terry) and normalised.

Loss of a pair: -log sigmoid(r_chosen - r_rejected - margin) (Ouyang et al. 2022, eq. 1; margin: Touvron et al. 2023, eq. 2).
An answer's reward is read at the token that ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from forescale.checkpoints.encoding import Lesson, encode_lesson
from forescale.checkpoints.files import REWARD, Checkpoint, read_checkpoint, save_checkpoint, save_weights
from forescale.core.artifacts import read_json, write_json
from forescale.core.documents import Answered, Message, Preference, Text
from forescale.core.errors import CorruptArtifact, UserError
from forescale.model.scalar import ScalarModel
from forescale.train.tune import fine_tune

BATCH_TOKENS = 8192


@dataclass(frozen=True)
class RewardModelConfig:
    """`learning_rate`: peak. `batch_pairs`: pairs a step. `seed`: of the order."""

    epochs: int = 1
    learning_rate: float = 1e-3
    batch_pairs: int = 16
    warmup_fraction: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises UserError for settings that make no sense."""
        if self.epochs < 1 or self.batch_pairs < 1 or not self.learning_rate > 0:
            raise UserError("epochs and batch pairs are at least 1, and the learning rate is above 0.")


class RewardModel:
    """Scores answers. `mean` and `std` of the reference answers are taken out, so that rewards of different models compare."""

    def __init__(self, scalar: ScalarModel, checkpoint: Checkpoint, mean: float = 0.0, std: float = 1.0) -> None:
        self.scalar, self.checkpoint = scalar, checkpoint
        self.mean, self.std = mean, std

    def __call__(self, cases: Sequence[Answered]) -> list[float | None]:
        """Normalised rewards; None for an answer that is empty or too long to be read."""
        lessons = [self._lesson(case) for case in cases]
        found = [i for i, lesson in enumerate(lessons) if lesson is not None]
        values = raw_rewards(self.scalar, [lesson for lesson in lessons if lesson is not None])
        rewards: list[float | None] = [None] * len(cases)
        for index, value in zip(found, values):
            rewards[index] = (value - self.mean) / self.std
        return rewards

    def _lesson(self, case: Answered) -> Lesson | None:
        if not case.answer.strip():
            return None
        messages = (*case.request.messages, Message("assistant", (Text(case.answer),)))
        lesson = encode_lesson(messages, self.checkpoint.tokenizer, self.checkpoint.model.config)
        return lesson if len(lesson.ids) <= len(self.scalar.trunk.cos_TC) else None

    def normalise(self, reference: Sequence[Answered]) -> None:
        """Sets mean and standard deviation to those of these answers. Raises UserError if there are fewer than two."""
        self.mean, self.std = 0.0, 1.0
        values = [value for value in self(reference) if value is not None]
        if len(values) < 2:
            raise UserError("normalising a reward model needs at least two reference answers.")
        self.mean, self.std = float(np.mean(values)), float(np.std(values)) or 1.0

    def save(self, folder: Path) -> None:
        save_checkpoint(self.scalar.trunk, self.checkpoint.tokenizer, folder, self.checkpoint.source)
        save_weights(dict(self.scalar.head.state_dict()), folder / "head.safetensors")
        write_json(folder / REWARD, {"mean": self.mean, "std": self.std})


def load_reward_model(folder: Path) -> RewardModel:
    """Raises UserError if the folder holds no reward model, CorruptArtifact if it is damaged."""
    if not (folder / REWARD).is_file():
        raise UserError(f"{folder} holds no reward model (no {REWARD}); train one with `forescale reward`.")
    checkpoint, facts = read_checkpoint(folder, folder.resolve().name), read_json(folder / REWARD)
    scalar = ScalarModel(checkpoint.model)
    try:
        scalar.head.load_state_dict(load_file(folder / "head.safetensors"))
        return RewardModel(scalar.eval(), checkpoint, float(facts["mean"]), float(facts["std"]))
    except (OSError, SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise CorruptArtifact(f"{folder} holds no readable reward model ({error}); train it again.") from error


def pad(lessons: Sequence[Lesson], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens (B, T) filled up on the right, pixels, and the place of each one's last token (B,)."""
    longest = max(len(lesson.ids) for lesson in lessons)
    tokens = torch.tensor([[*x.ids, *[x.ids[-1]] * (longest - len(x.ids))] for x in lessons], device=device)
    pixels = torch.from_numpy(np.concatenate([x.pixels for x in lessons])).to(device)
    return tokens, pixels, torch.tensor([len(x.ids) - 1 for x in lessons], device=device)


def _last_values(scalar: ScalarModel, lessons: Sequence[Lesson]) -> Tensor:
    tokens, pixels, last = pad(lessons, scalar.device)
    # What fills a row up may hold no picture, and an answer's last token never is one.
    return scalar(tokens, pixels).gather(1, last[:, None])[:, 0]


@torch.inference_mode()
def raw_rewards(scalar: ScalarModel, lessons: Sequence[Lesson]) -> list[float]:
    """Before normalising, in batches of like length."""
    order = sorted(range(len(lessons)), key=lambda i: len(lessons[i].ids))
    values = [0.0] * len(lessons)
    while order:
        size = max(1, BATCH_TOKENS // len(lessons[order[-1]].ids))
        batch, order = order[-size:], order[:-size]
        for index, value in zip(batch, _last_values(scalar, [lessons[i] for i in batch]).tolist()):
            values[index] = value
    return values


def pair_lessons(pair: Preference, checkpoint: Checkpoint) -> tuple[Lesson, Lesson]:
    """Chosen and rejected. Raises UserError as `encode_lesson` does."""
    chosen, rejected = (
        encode_lesson(
            (*pair.request.messages, Message("assistant", (Text(text),))), checkpoint.tokenizer, checkpoint.model.config
        )
        for text in (pair.chosen, pair.rejected)
    )
    return chosen, rejected


def train_reward_model(
    checkpoint: Checkpoint,
    pairs: Sequence[Preference],
    config: RewardModelConfig,
    out_dir: Path,
    on_step: Callable[[int, int, float], None] | None = None,
) -> RewardModel:
    """Fits the checkpoint's model, in place, to pairs; goes on from what is in `out_dir`. Not normalised yet.

    Pairs that do not fit the model's positions are left out. Writes `metrics.jsonl`. Raises UserError if there are no pairs,
    TrainingDiverged, CorruptArtifact.
    """
    encoded = [(*both, pair.margin) for pair in pairs if fits(both := pair_lessons(pair, checkpoint), checkpoint)]
    if not encoded:
        raise UserError(
            f"none of the {len(pairs)} preferences fits the model's {len(checkpoint.model.cos_TC)} positions."
        )
    scalar = ScalarModel(checkpoint.model)
    order = [
        index
        for epoch in range(config.epochs)
        for index in Random(f"{config.seed}/{epoch}").sample(range(len(encoded)), len(encoded))
    ]
    steps = [order[i : i + config.batch_pairs] for i in range(0, len(order), config.batch_pairs)]

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        rows = [encoded[i] for i in steps[step]]
        margins = torch.tensor([row[2] for row in rows], device=scalar.device)
        values = _last_values(scalar, [row[0] for row in rows] + [row[1] for row in rows])
        chosen, rejected = values.chunk(2)
        accuracy = (chosen > rejected).float().mean().item()
        return -F.logsigmoid(chosen - rejected - margins).mean(), {"accuracy": accuracy}

    fine_tune(
        scalar,
        len(steps),
        loss_at,
        out_dir,
        learning_rate=config.learning_rate,
        warmup_fraction=config.warmup_fraction,
        device=scalar.device,
        on_step=on_step,
    )
    return RewardModel(scalar, checkpoint)


def fits(lessons: Sequence[Lesson], checkpoint: Checkpoint) -> bool:
    """Whether the model can read all of them."""
    return max(len(lesson.ids) for lesson in lessons) <= len(checkpoint.model.cos_TC)


def margins_of(model: RewardModel, pairs: Sequence[Preference]) -> list[float]:
    """Reward of the chosen less that of the rejected answer, in the units that the loss was fitted in (before normalising), of
    the pairs that fit the model's positions."""
    encoded = [pair_lessons(pair, model.checkpoint) for pair in pairs]
    values = raw_rewards(model.scalar, [lesson for both in encoded if fits(both, model.checkpoint) for lesson in both])
    return [chosen - rejected for chosen, rejected in zip(values[::2], values[1::2])]
