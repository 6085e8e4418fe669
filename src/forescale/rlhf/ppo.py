"""Proximal policy optimisation of a language model against any reward (Schulman et al. 2017; Ouyang et al. 2022, appendix C.4).

Special: pictures in prompts; rewards by named part, and answers whose reward cannot be had are left out and counted; at the first
step ratio 1 and KL 0 exactly (see `rollout`); a run that is killed goes on and ends bit for bit where an uninterrupted one ends;
a policy that runs away from its reference is stopped by a stated rule.

Rules. An answer that does not end within `max_new_tokens` has `penalty` taken off its reward. An empty answer is not shown to the
reward; it gets the lowest reward of its step less `penalty`. When the KL of an answer is above `kl_limit` nats in the mean of
`RUNAWAY_STEPS` steps in a row the run stops, and the policy is the one of the last saved step before them.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from forescale.checkpoints.encoding import Lesson, Prompt
from forescale.checkpoints.files import Checkpoint
from forescale.core.artifacts import atomic_path
from forescale.core.documents import Request
from forescale.core.errors import UserError
from forescale.model.multimodal import Model
from forescale.model.scalar import ScalarModel
from forescale.rewards.combine import Reward
from forescale.rlhf.advantages import (
    advantages,
    explained_variance,
    masked_mean,
    next_beta,
    token_rewards,
    whiten,
)
from forescale.rlhf.rollout import Rollout, encode_requests, logprobs, roll_out, values
from forescale.train.loop import autocast
from forescale.train.sft import conversation_loss, fitting, pack
from forescale.train.state import STATE, corrupt, fill, load_state, open_metrics, save_state, weights
from forescale.train.tune import Tuner

RUNAWAY_STEPS = 3
SHOWN = 4  # samples kept of every step that is shown
SHOW_EVERY = 10


@dataclass(frozen=True)
class PpoConfig:
    """`answers`: a step. `minibatch`: answers an update, `epochs` times over. `beta`: KL coefficient; with `kl_target` (nats an
    answer) it adapts. `kl_limit`: nats an answer, 0 for none. `warmup`: steps over which the learning rate rises; it then stays.
    `sft_conversations`: beside each update, where conversations are given; their loss, times `sft_weight`, is added to the
    policy's (Ouyang et al. 2022, eq. 2, with SFT's conversations in the place of pretraining data)."""

    steps: int = 120
    answers: int = 64
    minibatch: int = 16
    epochs: int = 1
    max_new_tokens: int = 48
    temperature: float = 1.0
    learning_rate: float = 6e-4
    value_learning_rate: float = 3e-3
    warmup: int = 5
    beta: float = 0.3
    kl_target: float = 0.0
    kl_limit: float = 100.0
    gamma: float = 1.0
    lam: float = 0.95
    clip: float = 0.2
    value_clip: float = 0.2
    penalty: float = 1.0
    sft_conversations: int = 4
    sft_weight: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises UserError for settings that make no sense."""
        if min(self.steps, self.answers, self.minibatch, self.epochs, self.max_new_tokens) < 1:
            raise UserError("steps, answers, minibatch, epochs and new tokens are at least 1.")
        if not self.temperature > 0:
            raise UserError("PPO samples, so its temperature is above 0.")
        if self.beta < 0 or self.kl_target < 0 or self.kl_limit < 0 or self.penalty < 0:
            raise UserError("beta, KL target, KL limit and penalty cannot be negative.")
        if self.kl_target and not self.beta:
            raise UserError("an adaptive KL coefficient begins above 0; give beta, or no KL target.")
        if self.sft_conversations < 0 or not 0 <= self.sft_weight < math.inf:
            raise UserError("SFT conversations and their weight are not below 0.")


class RewardFailed(UserError):
    """A reward is not a finite number, or none could be had."""


@dataclass
class Progress:
    """What a run has behind it; saved with its state. `runaway`: steps in a row above the limit."""

    step: int = 0
    beta: float = 0.0
    runaway: int = 0
    left_out: int = 0
    seconds: float = 0.0
    status: str = "running"
    good_step: int = 0


@dataclass(frozen=True)
class Experience:
    """A rollout with what is held fixed while it is learned from; all (B, A) but `scores_B`."""

    rollout: Rollout
    scores_B: Tensor
    old_BA: Tensor
    reference_BA: Tensor
    entropy_BA: Tensor
    values_BA: Tensor
    advantages_BA: Tensor
    returns_BA: Tensor

    def rows(self, index: Tensor) -> Experience:
        tensors = {name: value[index] for name, value in vars(self).items() if isinstance(value, Tensor)}
        return Experience(rollout=self.rollout.rows(index), **tensors)


def policy_loss(new_BA: Tensor, old_BA: Tensor, advantages_BA: Tensor, mask_BA: Tensor, clip: float) -> Tensor:
    """The clipped surrogate, negated (Schulman et al. 2017, eq. 7), in the mean over actions."""
    ratio_BA = (new_BA - old_BA).exp()
    clipped_BA = ratio_BA.clamp(1 - clip, 1 + clip)
    return -masked_mean(torch.minimum(ratio_BA * advantages_BA, clipped_BA * advantages_BA), mask_BA)


def value_loss(new_BA: Tensor, old_BA: Tensor, returns_BA: Tensor, mask_BA: Tensor, clip: float) -> Tensor:
    """Half the squared error, the larger of plain and of the value kept within `clip` of its old one (0: plain)."""
    loss_BA = (new_BA - returns_BA).square()
    if clip:
        kept_BA = old_BA + (new_BA - old_BA).clamp(-clip, clip)
        loss_BA = torch.maximum(loss_BA, (kept_BA - returns_BA).square())
    return 0.5 * masked_mean(loss_BA, mask_BA)


@dataclass
class Ppo:
    """One run: the policy in `checkpoint` is trained in place; `reference` stays; `value` learns beside the policy."""

    checkpoint: Checkpoint
    reference: Model
    value: ScalarModel
    reward: Reward
    requests: Sequence[Request]
    config: PpoConfig
    lessons: Sequence[Lesson] = ()
    prompts: list[Prompt] = field(init=False)

    def __post_init__(self) -> None:
        """Raises UserError if there are no requests, or one does not fit."""
        if not self.requests:
            raise UserError("PPO needs at least one request.")
        self.prompts = encode_requests(self.requests, self.checkpoint, self.config.max_new_tokens)
        self.beside = fitting(self.lessons, len(self.checkpoint.model.cos_TC)) if self.lessons else []
        self.policy = self.checkpoint.model
        self.reference.requires_grad_(False)
        self.policy_tuner = Tuner(self.policy, self.config.learning_rate)
        self.value_tuner = Tuner(self.value, self.config.value_learning_rate)

    def draw(self, step: int) -> list[int]:
        """Which requests a step asks: all in a random order, then all in another."""
        count, wanted = len(self.requests), self.config.answers
        places = range(step * wanted, (step + 1) * wanted)
        orders = {epoch: self._order(epoch) for epoch in {place // count for place in places}}
        return [orders[place // count][place % count] for place in places]

    def _order(self, epoch: int) -> list[int]:
        count = len(self.requests)
        return Random(f"{self.config.seed}/{epoch}").sample(range(count), count)

    def experience(self, step: int, beta: float) -> tuple[Experience, dict[str, Any]]:
        """Answers of this step and what is known of them. Raises RewardFailed for a reward that is not finite, or no rewards."""
        config = self.config
        chosen = self.draw(step)
        rollout = roll_out(
            self.policy,
            self.checkpoint,
            [self.requests[i] for i in chosen],
            [self.prompts[i] for i in chosen],
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            seed=config.seed * 1_000_003 + step,
        )
        scores, parts = self.scores(rollout)
        keep = torch.tensor([i for i, score in enumerate(scores) if score is not None])
        left_out = len(scores) - len(keep)
        rollout = rollout.rows(keep)
        scores_B = torch.tensor([score for score in scores if score is not None], device=self.policy.device)
        old, reference, entropy, value = self._measure(rollout)
        rewards = token_rewards(scores_B, old, reference, rollout.mask_BA, beta)
        advantage, returns = advantages(rewards, value, rollout.mask_BA, config.gamma, config.lam)
        kl_B = ((old - reference) * rollout.mask_BA).sum(1)
        held = rollout.mask_BA
        record = {
            "reward": float(scores_B.mean()),
            "reward_parts": parts,
            "left_out": left_out,
            "kl": float(kl_B.mean()),
            "kl_per_token": float(masked_mean(old - reference, held)),
            "entropy": float(masked_mean(entropy, held)),
            "length": float(held.sum(1).mean()),
            "ended": float(rollout.ended_B.float().mean()),
            "explained_variance": explained_variance(value, returns, held),
            "value": float(masked_mean(value, held)),
            "return": float(masked_mean(returns, held)),
            "sampler_gap": float(((old - rollout.drawn_BA).abs() * held).max()),
        }
        kept = Experience(rollout, scores_B, old, reference, entropy, value, whiten(advantage, held), returns)
        return kept, record

    def scores(self, rollout: Rollout) -> tuple[list[float | None], dict[str, float]]:
        """Each answer's reward by the rules of the module's docstring, and the mean of each part of it."""
        empty = [not case.answer.strip() for case in rollout.cases]
        rows: list[Mapping[str, float] | None] = [None] * len(empty)
        shown = [i for i, blank in enumerate(empty) if not blank]
        given = self.reward([rollout.cases[i] for i in shown]) if shown else []
        for index, row in zip(shown, given, strict=True):
            rows[index] = row
        for row in rows:
            for name, value in (row or {}).items():
                if not math.isfinite(value):
                    raise RewardFailed(
                        f"the reward {name!r} gave {value}, which is no finite number; look at what it was given."
                    )
        found = [row for row in rows if row is not None]
        if shown and not found:
            raise RewardFailed("none of a step's answers could be scored; see whether the judge can be reached.")
        totals = [sum(row.values()) if row is not None else None for row in rows]
        lowest = min((total for total in totals if total is not None), default=0.0)
        scores: list[float | None] = []
        for total, blank, ended in zip(totals, empty, rollout.ended_B.tolist()):
            if blank:
                total = lowest - self.config.penalty
            scores.append(None if total is None else total - (0.0 if ended else self.config.penalty))
        names = found[0] if found else {}
        return scores, {name: sum(row[name] for row in found) / len(found) for name in names}

    def _measure(self, rollout: Rollout) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Old and reference log-probabilities, entropies and values, minibatch by minibatch."""
        columns: list[tuple[Tensor, ...]] = []
        for index in torch.arange(len(rollout.cases)).split(self.config.minibatch):
            part = rollout.rows(index)
            # With gradients on: the layers then compute exactly what they compute while learning.
            with torch.enable_grad(), autocast(self.policy.device):
                old, entropy = logprobs(self.policy, part, self.config.temperature)
                old, entropy = old.detach(), entropy.detach()
                reference = logprobs(self.reference, part, self.config.temperature)[0].detach()
                value = values(self.value, part).detach()
            columns.append((old, reference, entropy, value))
        old, reference, entropy, value = (torch.cat(column) for column in zip(*columns))
        return old, reference, entropy, value

    def learn(self, experience: Experience, step: int) -> dict[str, float]:
        """All epochs over one step's experience."""
        config = self.config
        factor = min(1.0, (step + 1) / max(1, config.warmup))
        sums: dict[str, float] = {}
        updates = 0
        for epoch in range(config.epochs):
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step * 101 + epoch)
            order = torch.randperm(len(experience.scores_B), generator=generator)
            for index in order.split(config.minibatch):
                facts = self._update(experience.rows(index), factor, f"{config.seed}/beside/{step}/{updates}")
                if not updates:
                    sums["first_ratio_error"] = facts["ratio_error"]
                for name in (
                    "policy_loss",
                    "value_loss",
                    "clip_fraction",
                    "approximate_kl",
                    "gradient_norm",
                    "value_gradient_norm",
                    "sft_loss",
                ):
                    if name in facts:
                        sums[name] = sums.get(name, 0.0) + facts[name]
                updates += 1
        return {name: value if name == "first_ratio_error" else value / updates for name, value in sums.items()}

    def _beside(self, draw: str) -> Tensor | None:
        """The loss of conversations drawn by this name, in as few rows as hold them; None if there are none."""
        count = min(self.config.sft_conversations, len(self.beside))
        if not count or not self.config.sft_weight:
            return None
        drawn = Random(draw).sample(self.beside, count)
        rows = pack(drawn, max(self.policy.config.sequence_length, *(len(lesson.ids) for lesson in drawn)))
        length = max(sum(len(drawn[i].ids) for i in row) for row in rows)
        return conversation_loss(self.checkpoint, drawn, rows, length)[0]

    def _update(self, part: Experience, factor: float, draw: str) -> dict[str, float]:
        config, mask = self.config, part.rollout.mask_BA
        with autocast(self.policy.device):
            new, _ = logprobs(self.policy, part.rollout, config.temperature)
            loss = policy_loss(new, part.old_BA, part.advantages_BA, mask, config.clip)
            beside = self._beside(draw)
        (loss if beside is None else loss + config.sft_weight * beside).backward()
        norm = self.policy_tuner.step(factor)
        with autocast(self.policy.device):
            value = values(self.value, part.rollout)
            error = value_loss(value, part.values_BA, part.returns_BA, mask, config.value_clip)
        error.backward()
        value_norm = self.value_tuner.step(factor)
        with torch.no_grad():
            log_ratio = (new - part.old_BA) * mask
            outside = ((log_ratio.exp() - 1).abs() > config.clip).float()
            return {
                "policy_loss": float(loss),
                "value_loss": float(error),
                "clip_fraction": float(masked_mean(outside, mask)),
                # (r - 1) - log r, always above 0 (Schulman 2020, "Approximating KL divergence", k3).
                "approximate_kl": float(masked_mean(log_ratio.exp() - 1 - log_ratio, mask)),
                "ratio_error": float((log_ratio.exp() - 1).abs().max()),
                "gradient_norm": norm,
                "value_gradient_norm": value_norm,
                **({} if beside is None else {"sft_loss": float(beside)}),
            }


def run_ppo(
    ppo: Ppo,
    out_dir: Path,
    on_step: Callable[[int, int, Mapping[str, Any]], None] | None = None,
    save_every_seconds: float = 60.0,
) -> Progress:
    """All steps, from the first or from what is in `out_dir`. Writes `metrics.jsonl` (a step a line) and `samples.jsonl`.

    Raises RewardFailed, TrainingDiverged, CorruptArtifact.
    """
    config = ppo.config
    progress = _resume(out_dir, ppo) or Progress(beta=config.beta)
    ppo.policy.eval()  # nothing here drops out; this says so to whatever is added
    ppo.value.eval()
    saved = time.monotonic()
    if not progress.step:
        _save(out_dir, ppo, progress)
    samples = _samples_until(out_dir / "samples.jsonl", progress.step)
    with open_metrics(out_dir / "metrics.jsonl", progress.step) as metrics, samples.open("a") as shown:
        while progress.step < config.steps and progress.status == "running":
            began = time.monotonic()
            experience, record = ppo.experience(progress.step, progress.beta)
            learned = ppo.learn(experience, progress.step)
            record = {"step": progress.step + 1, "beta": progress.beta, **record, **learned}
            if config.kl_target:
                progress.beta = next_beta(progress.beta, record["kl"], config.kl_target)
            progress.step += 1
            progress.left_out += record["left_out"]
            progress.runaway = progress.runaway + 1 if config.kl_limit and record["kl"] > config.kl_limit else 0
            progress.seconds += time.monotonic() - began
            metrics.write(json.dumps({**record, "seconds": round(progress.seconds, 3)}) + "\n")
            if progress.step % SHOW_EVERY == 0 or progress.step in (1, config.steps):
                for line in _samples(experience, progress.step):
                    shown.write(json.dumps(line) + "\n")
            if on_step:
                on_step(progress.step, config.steps, record)
            if progress.runaway >= RUNAWAY_STEPS:
                progress.status = "kl_runaway"
            elif not progress.runaway and time.monotonic() - saved > save_every_seconds:
                metrics.flush()
                shown.flush()
                _save(out_dir, ppo, progress)
                saved = time.monotonic()
    if progress.status == "kl_runaway":
        state = load_state(out_dir / STATE)
        assert state is not None
        fill(ppo.policy, state[0]["policy"])
        progress.good_step = int(state[1]["step"])
    else:
        progress.status, progress.good_step = "ok", progress.step
    return progress


def _samples(experience: Experience, step: int) -> list[dict[str, Any]]:
    return [
        {
            "step": step,
            "request": case.request.id,
            "category": case.request.category,
            "prompt": "".join(getattr(part, "text", "[picture]") for m in case.request.messages for part in m.parts),
            "answer": case.answer,
            "reward": float(score),
        }
        for case, score in list(zip(experience.rollout.cases, experience.scores_B.tolist()))[:SHOWN]
    ]


def _samples_until(path: Path, step: int) -> Path:
    """The samples cut back to those of the first so many steps."""
    lines = path.read_text().splitlines(keepends=True) if step and path.is_file() else []
    with atomic_path(path) as temporary:
        temporary.write_text("".join(line for line in lines if json.loads(line)["step"] <= step))
    return path


def _save(out_dir: Path, ppo: Ppo, progress: Progress) -> None:
    groups = {
        "policy": weights(ppo.policy),
        "value": weights(ppo.value),
        "policy_optimizer": ppo.policy_tuner.state_tensors(),
        "value_optimizer": ppo.value_tuner.state_tensors(),
    }
    save_state(out_dir / STATE, groups, asdict(progress))


def _resume(out_dir: Path, ppo: Ppo) -> Progress | None:
    state = load_state(out_dir / STATE)
    if state is None:
        return None
    groups, facts = state
    try:
        fill(ppo.policy, groups["policy"])
        fill(ppo.value, groups["value"])
        ppo.policy_tuner.load_state_tensors(groups.get("policy_optimizer", {}))
        ppo.value_tuner.load_state_tensors(groups.get("value_optimizer", {}))
        return Progress(**facts)
    except (KeyError, TypeError, RuntimeError) as error:
        raise corrupt(out_dir / STATE, error) from error
