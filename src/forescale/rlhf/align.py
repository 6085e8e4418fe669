"""From a base model to an aligned one, step by step: what the stages and the comparison of arms share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from forescale.checkpoints.encoding import Lesson, encode_lesson
from forescale.checkpoints.files import Checkpoint
from forescale.core.documents import Answered, Conversation, Request
from forescale.data.shards import Rows
from forescale.model.scalar import ScalarModel
from forescale.rewards.combine import Reward
from forescale.rewards.guard import fit_guarded
from forescale.rewards.model import RewardModel
from forescale.rewards.rbrm import FitConfig, Ranking, Weights
from forescale.rewards.rubrics import Rubric
from forescale.rewards.verdicts import Judge
from forescale.rlhf.ppo import Ppo, PpoConfig, Progress, run_ppo
from forescale.train.sft import SftConfig, tune

# By how many of the reward model's deviations the better answer of a pair should win: with one, what the RBRM adds is too little
# to be learned beside it (docs/log.md).
MARGIN = 2.0
OnStep = Callable[[int, int, float], None]


def copy_of(checkpoint: Checkpoint) -> Checkpoint:
    """One whose model can be trained without changing the other's."""
    model = copy.deepcopy(checkpoint.model).requires_grad_(True)
    return Checkpoint(model, checkpoint.tokenizer, checkpoint.name, checkpoint.source)


def train_sft(
    base: Checkpoint,
    conversations: Sequence[Conversation],
    config: SftConfig,
    out_dir: Path,
    on_step: OnStep | None = None,
    pretraining: Rows | None = None,
) -> Checkpoint:
    """The base model, in place, tuned on conversations. Raises UserError as `encode_lesson` and `tune` do."""
    tune(base, lessons_of(conversations, base), config, out_dir, on_step, pretraining)
    return base


def lessons_of(conversations: Sequence[Conversation], checkpoint: Checkpoint) -> list[Lesson]:
    """As the checkpoint's model reads them. Raises UserError as `encode_lesson` does."""
    return [encode_lesson(c.messages, checkpoint.tokenizer, checkpoint.model.config) for c in conversations]


def fit_rbrm(
    judge: Judge,
    rubric: Rubric,
    ranked: Sequence[Sequence[Answered]],
    reward_model: RewardModel | None,
    least_rankings: int = FitConfig.least_rankings,
) -> Weights:
    """Weights from answers ranked by people, best first, as the judge sees them.

    Rankings with an answer that judge or reward model cannot score are left out. Raises UserError as `fit_guarded` does.
    """
    flat = [case for row in ranked for case in row]
    verdicts = iter(judge(flat))
    scores = iter(reward_model(flat) if reward_model else [0.0] * len(flat))
    rankings = []
    for row in ranked:
        judged = [(next(verdicts), next(scores)) for _ in row]
        if all(verdict is not None and score is not None for verdict, score in judged):
            rankings.append(
                Ranking(
                    row[0].request.category,
                    tuple(verdict for verdict, _ in judged if verdict is not None),
                    tuple(score for _, score in judged if score is not None) if reward_model else (),
                )
            )
    return fit_guarded(rankings, judge.name, rubric, FitConfig(margin=MARGIN, least_rankings=least_rankings))


def align(
    tuned: Checkpoint,
    requests: Sequence[Request],
    reward: Reward,
    reward_model: RewardModel | None,
    config: PpoConfig,
    out_dir: Path,
    on_step: Callable[[int, int, Mapping[str, Any]], None] | None = None,
    conversations: Sequence[Conversation] = (),
) -> tuple[Checkpoint, Progress]:
    """PPO from the tuned model, which stays as it is and is the reference, with SFT's loss on conversations, if given, beside
    it. The value model begins as the reward model where there
    is one (Ouyang et al. 2022, appendix C.4), else as the tuned one."""
    policy = copy_of(tuned)
    value = ScalarModel(copy_of(reward_model.checkpoint if reward_model else tuned).model)
    ppo = Ppo(policy, tuned.model, value, reward, requests, config, lessons_of(conversations, tuned))
    progress = run_ppo(ppo, out_dir, on_step)
    return policy, progress
