"""A whole run so small that tests can afford it: no network, no packs, two families, a target of a few 1e9 FLOPs.

Run as a program (`python -m tests.micro OUT`) so that tests can kill it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from forescale.core.artifacts import read_json
from forescale.data.config import DataConfig, SourceConfig
from forescale.evals.capability import CapabilityConfig
from forescale.evals.suite import ExamsConfig
from forescale.ladder.rungs import LadderConfig
from forescale.model.scaling import Family
from forescale.recipes import Recipe, TargetConfig
from forescale.rewards.model import RewardModelConfig
from forescale.rlhf.ppo import PpoConfig
from forescale.rlhf.stages import AlignmentConfig
from forescale.tokenizer.stage import TokenizerConfig
from forescale.train.sft import SftConfig

FAMILIES = ("recall", "functions", "shape_color")


def recipe(compute: float = 8e9) -> Recipe:
    sources = (
        SourceConfig("stdlib", weight=0.4, max_characters=300_000),
        *(SourceConfig(family, "curriculum", weight=0.2, count=200) for family in FAMILIES),
    )
    return Recipe(
        name="micro",
        target=TargetConfig(compute=compute),
        data=DataConfig(sources=sources),
        tokenizer=TokenizerConfig(vocab_size=300),
        family=Family(vocab_size=300, sequence_length=64, min_depth=1, tokens_per_param=4.0, batch_tokens_base=256),
        ladder=LadderConfig(caps=(2.0,), spacing=1.4, rungs=4, seeds=1, seeds_large=1),
        capability=CapabilityConfig(problems=12, samples=2, max_new_tokens=32, exams=("counting",)),
        exams=ExamsConfig(exams=("color-shape", "curriculum", "almanac", "functions"), limit=12),
        alignment=AlignmentConfig(
            conversations=("world:60",),
            preferences=("world:60",),
            requests=("world:24",),
            rankings=("world:90",),
            labels=("world:120",),
            sft=SftConfig(epochs=1, row_tokens=128),
            reward_model=RewardModelConfig(),
            ppo=PpoConfig(steps=2, answers=6, minibatch=3, max_new_tokens=8),
        ),
        families=FAMILIES,
        validation_rows=2,
    )


def numbers(out: Path) -> dict[str, object]:
    """Everything that a run found out, without clock times."""
    found: dict[str, object] = {}
    for path in [*sorted(out.glob("rungs/*/result.json")), out / "target" / "result.json"]:
        found[str(path.relative_to(out))] = read_json(path)
        found[str(path.parent.relative_to(out)) + "/capability"] = (path.parent / "capability.jsonl").read_text()
    for path in sorted(out.glob("forecasts/*/forecast.json")):
        found[str(path.relative_to(out))] = {k: v for k, v in read_json(path).items() if k != "seal"}
    return found


if __name__ == "__main__":
    from forescale import pipeline

    pipeline.run(recipe(), Path(sys.argv[1]))
