"""Alignment as stages:  target -> sft -> reward -> rbrm -> ppo,  and the behaviour of what comes out.

sft/        checkpoint/ result.json metrics.jsonl
reward/     the reward model's folder, and reward_report.json: accuracy and calibration on held-out pairs
rbrm/       weights.json, agreement.json: the judge was measured against people's labels before it was used
ppo/        checkpoint/ result.json metrics.jsonl samples.jsonl reward_preview.json: what answers would have earned before
behaviour/  behaviour.json, rows.jsonl: what a model does on held-out requests
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from forescale.checkpoints.files import Checkpoint, find_checkpoint, load_checkpoint, read_facts, save_checkpoint
from forescale.core.artifacts import Stage, read_json, write_json, write_text
from forescale.core.device import pick_device
from forescale.core.documents import Answered, Preference
from forescale.core.errors import UserError
from forescale.core.progress import meter, say
from forescale.core.statistics import wilson
from forescale.data import preferences, tuning, world
from forescale.data.shards import Rows, Shards
from forescale.evals.behaviour import behaviour, summary
from forescale.evals.calibration import Predictions, view
from forescale.rewards.agreement import agreement, require
from forescale.rewards.combine import Scorer, Sum
from forescale.rewards.guard import require_order
from forescale.rewards.labelled import load_labelled
from forescale.rewards.model import (
    RewardModel,
    RewardModelConfig,
    load_reward_model,
    margins_of,
    train_reward_model,
)
from forescale.rewards.rbrm import FitConfig, Rbrm, Weights
from forescale.rewards.rubrics import load_rubric
from forescale.rewards.verb import make_judge
from forescale.rlhf.align import align, fit_rbrm, train_sft
from forescale.rlhf.ppo import PpoConfig
from forescale.rlhf.preview import preview, render
from forescale.train.sft import SftConfig

HELD_OUT = 0.1
PREVIEW = "reward_preview.json"


@dataclass(frozen=True)
class SftStageConfig:
    """`data`: names with counts, and files. `files`: what those files are."""

    data: tuple[str, ...]
    sft: SftConfig
    files: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RewardStageConfig:
    data: tuple[str, ...]
    model: RewardModelConfig
    files: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RbrmStageConfig:
    """`judge`: rules, a checkpoint, or an address. `labels`: people's labels that it is measured on. `rubric_sha256` of what the
    rubric says. `force`: use a judge below the floor. `least_rankings`: of each category."""

    rubric: str
    rubric_sha256: str
    rankings: tuple[str, ...]
    labels: tuple[str, ...]
    judge: str = "rules"
    judge_model: str = ""
    seed: int = 0
    force: bool = False
    least_rankings: int = FitConfig.least_rankings
    files: dict[str, Any] = field(default_factory=dict)


def rbrm_config(
    rubric: str,
    judge: str,
    judge_model: str,
    rankings: tuple[str, ...],
    labels: tuple[str, ...],
    force: bool,
    least_rankings: int,
) -> RbrmStageConfig:
    """With what the rubric and the files are now. Raises UserError for a rubric that cannot be read."""
    return RbrmStageConfig(
        rubric=rubric,
        rubric_sha256=load_rubric(rubric).sha256,
        rankings=rankings,
        labels=labels,
        judge=judge,
        judge_model=judge_model,
        force=force,
        least_rankings=least_rankings,
        files=tuning.fingerprints((*rankings, *labels)),
    )


@dataclass(frozen=True)
class PpoStageConfig:
    """`force_reward`: train although the preview finds the reward's order wrong."""

    requests: tuple[str, ...]
    ppo: PpoConfig
    conversations: tuple[str, ...] = ()
    force_reward: bool = False
    files: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class BehaviourConfig:
    seed: int = 0


@dataclass(frozen=True)
class AlignmentConfig:
    """What a run is aligned on, and how. Names with counts are generated; files are the user's own (docs/alignment.md)."""

    conversations: tuple[str, ...] = ("world:4000", "curriculum:125")
    """for SFT, and beside PPO's updates: world:N, curriculum:N of each family, encyclopedia:N, or files of messages"""
    preferences: tuple[str, ...] = ("world:6600",)
    """for the reward model: world:N, or files of pairs or rankings"""
    requests: tuple[str, ...] = ("world:2000",)
    """that PPO asks: world:N, or files"""
    rankings: tuple[str, ...] = ("world:600",)
    """that the RBRM's weights are fitted to: world:N, or files of pairs or rankings with categories"""
    labels: tuple[str, ...] = ("world:600",)
    """people's labels that the judge is measured on before it is used: world:N, files, or packs"""
    rubric: str = "world"
    """a rubric's TOML file, or the name of one that comes with forescale"""
    judge: str = "rules"
    """rules, a checkpoint folder, or the address of an OpenAI-compatible endpoint"""
    judge_model: str = ""
    """the endpoint's name of its model"""
    force_judge: bool = False
    """use a judge whose agreement with people is below the floor"""
    least_rankings: int = FitConfig.least_rankings
    """rankings of a category below which no weights are fitted to it"""
    force_reward: bool = False
    """train although worse answers would earn as much as better ones"""
    sft: SftConfig = SftConfig()
    reward_model: RewardModelConfig = RewardModelConfig()
    ppo: PpoConfig = PpoConfig()

    def stages(self) -> tuple[SftStageConfig, RewardStageConfig, RbrmStageConfig, PpoStageConfig]:
        """The stages' configurations. Raises UserError for a rubric that cannot be read."""
        files = tuning.fingerprints
        rbrm = rbrm_config(
            self.rubric, self.judge, self.judge_model, self.rankings, self.labels, self.force_judge, self.least_rankings
        )
        return (
            SftStageConfig(self.conversations, self.sft, files(self.conversations)),
            RewardStageConfig(self.preferences, self.reward_model, files(self.preferences)),
            rbrm,
            PpoStageConfig(
                self.requests,
                self.ppo,
                self.conversations,
                self.force_reward,
                files((*self.requests, *self.conversations)),
            ),
        )


def run_sft(config: SftStageConfig, inputs: Mapping[str, Path], out_dir: Path) -> None:
    base = load_checkpoint(inputs["base"], pick_device())
    conversations = tuning.load_conversations(config.data, config.sft.seed, base.model.config.image_size)
    pretraining = pretraining_rows(inputs["shards"], inputs["data"], base) if "shards" in inputs else None
    with meter("sft") as bar:

        def on_step(step: int, steps: int, loss: float) -> None:
            bar.update(step / steps, f"loss {loss:.3f}")

        tuned = train_sft(base, conversations, config.sft, out_dir, on_step, pretraining)
    save_checkpoint(tuned.model, tuned.tokenizer, out_dir / "checkpoint", base.source)


def pretraining_rows(shards_dir: Path, data_dir: Path, base: Checkpoint) -> Rows:
    """Of the run that the model comes from. Raises UserError if it cannot be that run; CorruptArtifact."""
    shards, config = Shards(shards_dir, data_dir), base.model.config
    facts, size = shards.facts, read_json(data_dir / "data.json")["image_size"]
    theirs = (facts["vocab_size"], facts["image_token"], facts["image_tokens"], size if config.has_vision else 0)
    if theirs != (config.vocab_size, base.tokenizer.image, config.image_tokens, config.image_size):
        raise UserError(
            f"{shards_dir} was laid out for another model than {base.name}; give the run that it comes from."
        )
    return shards.train


def run_reward(config: RewardStageConfig, inputs: Mapping[str, Path], out_dir: Path) -> None:
    tuned = load_checkpoint(inputs["sft"], pick_device())
    pairs = tuning.load_preferences(config.data, config.model.seed, tuned.model.config.image_size)
    kept = [pair for pair in pairs if not preferences.held_out(pair.request.id, HELD_OUT)]
    apart = [pair for pair in pairs if preferences.held_out(pair.request.id, HELD_OUT)]
    with meter("reward model") as bar:
        model = train_reward_model(
            tuned, kept, config.model, out_dir, lambda step, n, loss: bar.update(step / n, f"loss {loss:.3f}")
        )
    # Rewards are normalised on answers that people wrote or saw, preferred or not, and that the model was not fitted to.
    sides = apart or kept
    model.normalise([Answered(pair.request, text) for pair in sides for text in (pair.chosen, pair.rejected)])
    model.save(out_dir)
    write_json(out_dir / "reward_report.json", reward_report(model, len(kept), apart))


def reward_report(model: RewardModel, trained_on: int, apart: Sequence[Preference]) -> dict[str, Any]:
    """Held-out pairs: how many are ordered as people did, and how far the model's own probabilities can be believed."""
    margins = margins_of(model, apart) if apart else []
    right = [margin > 0 for margin in margins]
    accuracy = sum(right) / len(right) if right else None
    # sigmoid(margin) is the probability that the chosen one is chosen; the model's pick has the larger of it and its rest.
    confidence = [1 / (1 + math.exp(-abs(margin))) for margin in margins]
    predicted = (
        Predictions(np.array(confidence), np.array(right, float), np.arange(len(right))) if len(right) > 1 else None
    )
    return {
        "pairs": trained_on,
        "held_out": len(right),
        "accuracy": accuracy,
        "interval": list(wilson(accuracy or 0.0, len(right))),
        "chance": 0.5,
        "calibration": view(predicted) if predicted else None,
        "mean": model.mean,
        "std": model.std,
    }


def run_rbrm(config: RbrmStageConfig, inputs: Mapping[str, Path], out_dir: Path) -> None:
    rubric = load_rubric(config.rubric)
    judge = make_judge(config.judge, rubric, config.judge_model)
    reward_model = load_reward_model(inputs["reward"]) if "reward" in inputs else None
    size = read_facts(find_checkpoint(inputs["sft"]) / "config.json")["model"]["image_size"]
    figures = agreement(judge, labels_of(config.labels, config.seed, size))
    write_json(out_dir / "agreement.json", figures)
    spec = {"rubric": config.rubric, "judge": config.judge, "judge_model": config.judge_model}
    write_json(out_dir / "judge.json", spec)
    say(
        f"  judge {judge.name} agrees with people in {figures['binary']['accuracy']:.1%} of {figures['n']} answers "
        f"(refusal or not; floor {figures['floor']:.0%})"
    )
    require(figures, config.force)
    ranked = tuning.load_rankings(config.rankings, config.seed, size)
    fit_rbrm(judge, rubric, ranked, reward_model, config.least_rankings).save(out_dir / "weights.json")


def labels_of(specs: Sequence[str], seed: int, image_size: int) -> list[Any]:
    """People's labels: `world:N`, files, or packs. Raises UserError as `load_labelled` does."""
    found: list[Any] = []
    for spec in specs:
        name, _, count = spec.partition(":")
        if name == world.SOURCE and count.isdigit():
            found += world.judged(int(count), seed, image_size)
        else:
            found += load_labelled(spec)
    return found


def run_ppo_stage(config: PpoStageConfig, inputs: Mapping[str, Path], out_dir: Path) -> None:
    tuned = load_checkpoint(inputs["sft"], pick_device())
    parts: dict[str, Scorer] = {}
    reward_model = load_reward_model(inputs["reward"]) if "reward" in inputs else None
    if reward_model:
        parts["reward_model"] = reward_model
    rbrm = load_rbrm(inputs["rbrm"]) if "rbrm" in inputs else None
    if rbrm:
        parts["rbrm"] = rbrm
    size = tuned.model.config.image_size
    requests = tuning.load_requests(config.requests, config.ppo.seed, size)
    specs = config.conversations
    conversations = tuning.load_conversations(specs, config.ppo.seed, size) if specs else []
    if not (out_dir / PREVIEW).is_file():
        found = preview(tuned, requests, Sum(parts), rbrm, config.ppo)
        say(render(found))
        if found.wrong and not config.force_reward:
            write_json(out_dir / f".{PREVIEW}", found.to_json())
            raise UserError(
                f"the reward teaches what the rubric does not want: {'; '.join(found.wrong)}. Mend the rankings, the judge or the "
                f"reward model, or give --force-reward; {out_dir / f'.{PREVIEW}'} has the figures and an answer of each kind."
            )
        write_json(out_dir / PREVIEW, found.to_json())
    with meter("ppo") as bar:

        def on_step(step: int, steps: int, record: Mapping[str, Any]) -> None:
            bar.update(step / steps, f"reward {record['reward']:.2f}, KL {record['kl']:.2f}")

        policy, progress = align(tuned, requests, Sum(parts), reward_model, config.ppo, out_dir, on_step, conversations)
    if progress.status != "ok":
        say(
            f"  PPO was stopped at step {progress.step}: the KL of an answer stayed above {config.ppo.kl_limit:g} nats; the "
            f"model of step {progress.good_step} is kept."
        )
    save_checkpoint(policy.model, policy.tokenizer, out_dir / "checkpoint", tuned.source)
    write_json(out_dir / "result.json", {k: v for k, v in vars(progress).items() if k != "seconds"})


def load_rbrm(folder: Path) -> Rbrm:
    """Of an RBRM's folder. Raises UserError as its parts do."""
    judged = read_json(folder / "judge.json")
    rubric = load_rubric(judged["rubric"])
    judge = make_judge(judged["judge"], rubric, judged["judge_model"])
    weights = Weights.load(folder / "weights.json")
    require_order(weights, rubric)
    return Rbrm(judge, weights, rubric)


def run_behaviour(config: BehaviourConfig, inputs: Mapping[str, Path], out_dir: Path) -> None:
    checkpoint = load_checkpoint(inputs["model"], pick_device())
    held_out = world.evaluation(checkpoint.model.config.image_size)
    with meter("behaviour") as bar:
        rows = behaviour(checkpoint, held_out, config.seed, on_batch=bar.update)
    write_text(out_dir / "rows.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    figures = summary(rows)
    write_json(out_dir / "behaviour.json", figures)
    wrong = ", ".join(f"{name} {figures[name]['incorrect']['value']:.1%}" for name in world.CATEGORIES)
    say(f"  not what the policy wants, of held-out requests: {wrong}")


SFT = Stage("sft", run_sft)
REWARD = Stage("reward", run_reward)
RBRM = Stage("rbrm", run_rbrm, version=2)
PPO = Stage("ppo", run_ppo_stage, volatile=frozenset({"metrics.jsonl"}))
BEHAVIOUR = Stage("behaviour", run_behaviour)
