"""The flags of `forescale run` and `forescale plan`: the parts of a recipe that are worth a flag. The rest is Python."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from forescale.core.errors import UserError
from forescale.data.config import Kind, SourceConfig
from forescale.data.sources import JSONL_SUFFIXES, PARQUET_SUFFIXES
from forescale.evals.capability import CapabilityConfig
from forescale.ladder.rungs import LadderConfig
from forescale.model.scaling import Family
from forescale.recipes.recipe import Recipe, TargetConfig, Until
from forescale.rlhf.stages import AlignmentConfig


def kind_of(path: str) -> Kind:
    """What a corpus is, by how its name ends."""
    if path.endswith(JSONL_SUFFIXES):
        return "jsonl"
    return "parquet" if path.endswith(PARQUET_SUFFIXES) else "folder"


@dataclass(frozen=True)
class RunFlags:
    """Train a ladder, seal a forecast, train its target, align it, examine it, draw the report."""

    target: TargetConfig
    family: Family
    ladder: LadderConfig
    capability: CapabilityConfig
    alignment: AlignmentConfig
    out: Path | None = None
    """run folder (default: runs/RECIPE); the same folder again goes on where it stopped"""
    corpus: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """your own data, repeatable: a local folder of text, or .jsonl or .parquet files anywhere that fsspec reads"""
    corpus_weight: float = 0.5
    """share of the mixture that goes to --corpus"""
    seed: int = 0
    """of everything up to the target: problems, order of documents, initial weights"""
    until: Until = "report"
    """stop after the sealed forecast (before the target is paid for) or after the target; run again without it to go on"""

    @staticmethod
    def of(recipe: Recipe) -> RunFlags:
        return RunFlags(recipe.target, recipe.family, recipe.ladder, recipe.capability, recipe.alignment)

    def apply(self, recipe: Recipe, command: str) -> Recipe:
        """The recipe with these flags. Raises UserError for a weight outside 0 to 1."""
        sources = recipe.data.sources
        if self.corpus:
            if not 0 < self.corpus_weight <= 1:
                raise UserError(f"--corpus-weight is a share above 0 and at most 1, got {self.corpus_weight:g}.")
            share = self.corpus_weight / len(self.corpus)
            rest = tuple(dataclasses.replace(s, weight=s.weight * (1 - self.corpus_weight)) for s in sources)
            own = tuple(
                SourceConfig(f"corpus{i}" if i else "corpus", kind_of(path), path=path, weight=share)
                for i, path in enumerate(self.corpus)
            )
            sources = (*own, *(s for s in rest if s.weight > 0))
        return dataclasses.replace(
            recipe,
            target=self.target,
            family=self.family,
            ladder=self.ladder,
            capability=self.capability,
            alignment=self.alignment,
            tokenizer=dataclasses.replace(recipe.tokenizer, vocab_size=self.family.vocab_size),
            data=dataclasses.replace(recipe.data, sources=sources, image_size=self.family.image_size),
            # Another mixture's ladders say little of this one's.
            believed=() if self.corpus else recipe.believed,
            seed=self.seed,
            until=self.until,
            command=command,
        )
