"""What a recipe is, and the ones that ship. Defaults stand on the measurements in docs/log.md."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from forescale.core.errors import UserError
from forescale.data.config import DataConfig, SourceConfig
from forescale.data.curriculum import FAMILIES, modality
from forescale.evals.capability import CapabilityConfig
from forescale.evals.safety.stage import SafetyConfig
from forescale.evals.suite import CODE, OWN, ExamsConfig
from forescale.ladder.rungs import LadderConfig
from forescale.model.scaling import Family
from forescale.rlhf.stages import AlignmentConfig
from forescale.tokenizer.stage import TokenizerConfig
from forescale.train.sft import SftConfig

# Root mean square errors of log loss per decade of 6 N D, over six forecasts of two recorded ladders of the former family, with 8
# tokens a parameter (docs/log.md, 2026-11-24): declared before any ladder of this family was trained.
LAW_ERRORS = (("power", 0.012), ("upper power", 0.016), ("power+floor", 0.043))
Until = Literal["forecast", "target", "report"]


@dataclass(frozen=True)
class TargetConfig:
    """`compute`: FLOPs of the target, vision included. `seed`: of its initial weights."""

    compute: float
    seed: int = 0


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run.

    `seed`: of everything up to the target (problems, order of documents, initial weights). `validation_rows`: rows of each source
    that losses are measured on. `believed`: what laws missed by on recorded ladders
    (forecast/stage.py). `safety`: what sft and ppo are asked beside the world's requests, if anything. `until`: where this call
    stops; it is no part of what the run is.
    """

    name: str
    target: TargetConfig
    data: DataConfig
    tokenizer: TokenizerConfig = TokenizerConfig()
    family: Family = Family()
    ladder: LadderConfig = LadderConfig()
    capability: CapabilityConfig = CapabilityConfig()
    families: tuple[str, ...] = FAMILIES
    exams: ExamsConfig = ExamsConfig()
    alignment: AlignmentConfig = AlignmentConfig()
    safety: SafetyConfig | None = None
    validation_rows: int = 256
    believed: tuple[tuple[str, float], ...] = LAW_ERRORS
    seed: int = 0
    command: str = field(default="", compare=False)
    until: Until = field(default="report", compare=False)


# Shares of the mixture in tokens. Natural text carries the loss; the curriculum carries the capabilities. No text is read twice in
# a run of 1e14 FLOPs: a target that reads again what its rungs read once does worse on new text than they promise (docs/log.md).
TEXT_PACKS = {"stdlib": 0.24, "docstrings": 0.205, "encyclopedia": 0.13, "prose": 0.095}
PICTURE_PACKS = {"emoji": 0.03, "digits": 0.02}
# So a run of 1e15, which reads three times as much, reads more of what there is more of; stdlib and encyclopedia 1.4 times.
TEXT_PACKS_LONG = {"libraries": 0.335, "stdlib": 0.11, "docstrings": 0.155, "encyclopedia": 0.065, "prose": 0.04}
PICTURE_PACKS_LONG = {"emoji": 0.01, "digits": 0.005}
CURRICULUM = 0.25
ALMANAC = 0.03
# Exams of packs that runs of 1e14 FLOPs and more are given beside our own.
PACKS = ("mmlu", "openbookqa", "commonsenseqa", "piqa", "boolq", "asdiv", "school")


def mixture(
    characters: int,
    problems: int,
    emoji: int = 0,
    text: Mapping[str, float] = TEXT_PACKS,
    pictures: Mapping[str, float] = PICTURE_PACKS,
) -> tuple[SourceConfig, ...]:
    """The sources of every shipped recipe: at most `characters` of each text pack and `emoji` pictures (0: all of them),
    `problems` of each curriculum family (half as many where they are drawn, for those are longer) and documents of the almanac."""
    packs = [SourceConfig(name, weight=weight, max_characters=characters) for name, weight in text.items()]
    packs += [SourceConfig(name, weight=weight, max_documents=emoji) for name, weight in pictures.items()]
    share = CURRICULUM / len(FAMILIES)
    packs.append(SourceConfig("almanac", "almanac", weight=ALMANAC, count=problems))
    counts = {family: problems if modality(family) == "text" else problems // 2 for family in FAMILIES}
    return (*packs, *(SourceConfig(family, "curriculum", weight=share, count=n) for family, n in counts.items()))


def quick() -> Recipe:
    """A whole run in a few minutes on two cores: what `make demo` does."""
    return Recipe(
        name="quick",
        target=TargetConfig(compute=8e12),
        data=DataConfig(sources=mixture(characters=3_000_000, problems=5_000, emoji=2_000)),
        tokenizer=TokenizerConfig(sample_characters=3_000_000),
        ladder=LadderConfig(caps=(30.0,), spacing=1.5, rungs=7, seeds=2, seeds_large=2),
        capability=CapabilityConfig(problems=60, samples=4),
        alignment=AlignmentConfig(
            conversations=("world:4000", "curriculum:50"),
            preferences=("world:3000",),
            requests=("world:1000",),
            rankings=("world:300",),
            labels=("world:300",),
            sft=SftConfig(learning_rate=4e-3),
        ),
    )


def laptop() -> Recipe:
    """1e14 FLOPs: within an hour on two cores."""
    return Recipe(
        name="laptop",
        target=TargetConfig(compute=1e14),
        data=DataConfig(sources=mixture(characters=12_000_000, problems=20_000)),
        ladder=LadderConfig(spacing=1.45, rungs=17),
        exams=ExamsConfig(exams=(*OWN, *PACKS, *CODE), limit=400),
        # Request sets and jailbreaks are longer than such a model was trained to read.
        safety=SafetyConfig(sets=(), toxicity=50),
    )


def overnight() -> Recipe:
    """1e15 FLOPs: hours on two cores, forecast from rungs of a hundredth of it."""
    return dataclasses.replace(
        laptop(),
        name="overnight",
        target=TargetConfig(compute=1e15),
        data=DataConfig(sources=mixture(40_000_000, 60_000, text=TEXT_PACKS_LONG, pictures=PICTURE_PACKS_LONG)),
        ladder=LadderConfig(caps=(100.0, 1000.0), spacing=1.45, rungs=17),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {"quick": quick, "laptop": laptop, "overnight": overnight}


def get_recipe(name: str) -> Recipe:
    """Raises UserError for a name that is not a recipe."""
    if name not in RECIPES:
        raise UserError(f"there is no recipe {name!r}; the recipes are {', '.join(RECIPES)}.")
    return RECIPES[name]()
