"""`forescale sft`, `forescale reward`, `forescale ppo`: the stages of alignment on any model, one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from forescale.checkpoints.files import find_checkpoint
from forescale.core.artifacts import MANIFEST, Stage, read_json, sha256_file
from forescale.core.errors import UserError
from forescale.data import tuning
from forescale.rewards.model import RewardModelConfig
from forescale.rewards.rbrm import FitConfig
from forescale.rlhf.ppo import PpoConfig
from forescale.rlhf.stages import (
    PPO,
    RBRM,
    REWARD,
    SFT,
    PpoStageConfig,
    RewardStageConfig,
    SftStageConfig,
    rbrm_config,
)
from forescale.train.sft import SftConfig

Model = Annotated[Positional[Path], arg(metavar="MODEL")]


@dataclass(frozen=True)
class Sft:
    """Tune a model on conversations.  Example:

    forescale sft models/smollm2 --data conversations.jsonl --out tuned --sft.learning-rate 1e-4
    """

    model: Model
    """a run folder, or a checkpoint folder"""
    data: tuple[str, ...]
    """files of messages (docs/conversations.md), or world:N, curriculum:N, encyclopedia:N"""
    out: Path
    """folder of the tuned model; the same folder again goes on where it stopped"""
    pretraining: Path | None = None
    """the run folder that the model comes from, whose training rows go beside the conversations so that it forgets less"""
    sft: SftConfig = SftConfig(learning_rate=1e-4)


@dataclass(frozen=True)
class RewardFlags:
    """Fit a reward model to preferences.  Example:

    forescale reward tuned --data pairs.jsonl --out reward
    """

    model: Model
    """the model that it begins as: a run folder, or a checkpoint folder"""
    data: tuple[str, ...]
    """files of pairs or rankings (docs/conversations.md), or world:N"""
    out: Path
    """folder of the reward model; the same folder again goes on where it stopped"""
    reward_model: RewardModelConfig = RewardModelConfig(learning_rate=1e-5)


@dataclass(frozen=True)
class PpoFlags:
    """Align a model by PPO with a reward model, an RBRM, or both.  Examples:

    forescale ppo tuned --requests prompts.jsonl --reward reward --out aligned

    forescale ppo models/smollm2 --requests prompts.jsonl --rankings ranked.jsonl --labels pyrit-refusals --out aligned
    """

    model: Model
    """the model to align, which is also the reference: a run folder, or a checkpoint folder"""
    requests: tuple[str, ...]
    """files of prompts (docs/conversations.md), or world:N"""
    out: Path
    """folder of the aligned model; the same folder again goes on where it stopped"""
    conversations: tuple[str, ...] = ()
    """whose SFT loss goes beside PPO's updates, so that what SFT taught is kept: what `forescale sft --data` takes"""
    reward: Path | None = None
    """a reward model, of `forescale reward`"""
    rankings: tuple[str, ...] = ()
    """ranked answers with categories, for the weights of an RBRM: files of pairs or rankings, or world:N"""
    rubric: str = "refusals"
    """of the RBRM: a TOML file, or the name of one that comes with forescale"""
    judge: str = "rules"
    """rules, a checkpoint folder, or the address of an OpenAI-compatible endpoint"""
    judge_model: str = ""
    """the endpoint's name of its model"""
    labels: tuple[str, ...] = ()
    """people's labels that the judge is measured on first: files, packs, or world:N"""
    force_judge: bool = False
    """use a judge whose agreement with people is below the floor"""
    least_rankings: int = FitConfig.least_rankings
    """rankings of a category below which no weights of the RBRM are fitted to it"""
    force_reward: bool = False
    """train although worse answers would earn as much as better ones, by the table that is printed before the first step"""
    ppo: PpoConfig = PpoConfig(learning_rate=1e-5, value_learning_rate=3e-5)


def sft(flags: Sft) -> Path:
    """Returns the folder. Raises UserError for a model or data that cannot be."""
    config = SftStageConfig(flags.data, flags.sft, tuning.fingerprints(flags.data))
    inputs = {"base": flags.model}
    if flags.pretraining is not None:
        rows = {name: flags.pretraining / name for name in ("data", "shards")}
        if missing := [path for path in rows.values() if not (path / MANIFEST).is_file()]:
            raise UserError(f"{missing[0]} is not there; --pretraining takes the folder of a run of `forescale run`.")
        inputs |= rows
    return _make(SFT, config, inputs, flags.out)


def reward(flags: RewardFlags) -> Path:
    """Returns the folder. Raises UserError for a model or data that cannot be."""
    config = RewardStageConfig(flags.data, flags.reward_model, tuning.fingerprints(flags.data))
    return _make(REWARD, config, {"sft": flags.model}, flags.out)


def ppo(flags: PpoFlags) -> Path:
    """Returns the folder. Raises UserError for a model, data, judge or reward that cannot be."""
    if flags.reward is None and not flags.rankings:
        raise UserError("PPO needs a reward: --reward FOLDER, or --rankings to fit an RBRM on, or both.")
    if flags.rankings and not flags.labels:
        raise UserError(
            "a judge is measured before it is used: give people's labels with --labels, such as pyrit-refusals."
        )
    inputs = {"sft": flags.model}
    if flags.reward is not None:
        inputs["reward"] = flags.reward
    if flags.rankings:
        rbrm = rbrm_config(
            flags.rubric,
            flags.judge,
            flags.judge_model,
            flags.rankings,
            flags.labels,
            flags.force_judge,
            flags.least_rankings,
        )
        _make(RBRM, rbrm, inputs, flags.out / "rbrm")
        inputs = {**inputs, "rbrm": flags.out / "rbrm"}
    files = tuning.fingerprints((*flags.requests, *flags.conversations))
    config = PpoStageConfig(flags.requests, flags.ppo, flags.conversations, flags.force_reward, files)
    return _make(PPO, config, inputs, flags.out / "ppo")


def _make(stage: Stage, config: Any, inputs: dict[str, Path], out: Path) -> Path:
    """Makes the stage. Models that no stage made, as imported ones, are known by their weights instead of by a manifest."""
    plain = {name: path for name, path in inputs.items() if not (path / MANIFEST).is_file()}
    weights = {name: sha256_file(find_checkpoint(path) / "model.safetensors") for name, path in plain.items()}
    config = replace(config, files={**config.files, **weights})

    def run(config: Any, made: Mapping[str, Path], out_dir: Path) -> None:
        stage.run(config, {**made, **plain}, out_dir)

    replace(stage, run=run).make(config, {name: p for name, p in inputs.items() if name not in plain}, out)
    return out


def render_reward(folder: Path) -> str:
    """A line for people about a reward model."""
    found = read_json(folder / "reward_report.json")
    if found["accuracy"] is None:
        return f"{folder}: fitted to {found['pairs']} pairs; none were held out."
    low, high = found["interval"]
    return (
        f"{folder}: fitted to {found['pairs']} pairs; of {found['held_out']} held-out pairs {found['accuracy']:.1%} are ordered as "
        f"people did ({low:.1%} to {high:.1%}, chance 50%)."
    )
