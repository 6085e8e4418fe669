"""The flags of `forescale run` and `forescale plan`: the parts of a recipe that are worth a flag. The rest is Python."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from forescale.core.errors import UserError
from forescale.data.config import Kind, SourceConfig
from forescale.evals.capability import CapabilityConfig
from forescale.ladder.rungs import LadderConfig
from forescale.model.scaling import Family
from forescale.recipes.recipe import Recipe, TargetConfig

KINDS: dict[str, Kind] = {".jsonl": "jsonl", ".parquet": "parquet"}


@dataclass(frozen=True)
class RunFlags:
    """Train a ladder, seal a forecast, train its target, draw the report."""

    target: TargetConfig
    family: Family
    ladder: LadderConfig
    capability: CapabilityConfig
    out: Path | None = None
    """run folder (default: runs/RECIPE); the same folder again goes on where it stopped"""
    corpus: tuple[str, ...] = ()
    """your own text: folders, .jsonl or .parquet files, local or any fsspec path"""
    corpus_weight: float = 0.5
    """share of the mixture that goes to --corpus"""

    @staticmethod
    def of(recipe: Recipe) -> RunFlags:
        return RunFlags(recipe.target, recipe.family, recipe.ladder, recipe.capability)

    def apply(self, recipe: Recipe, command: str) -> Recipe:
        """The recipe with these flags. Raises UserError for a weight outside 0 to 1."""
        sources = recipe.data.sources
        if self.corpus:
            if not 0 < self.corpus_weight <= 1:
                raise UserError(f"--corpus-weight is a share above 0 and at most 1, got {self.corpus_weight:g}.")
            share = self.corpus_weight / len(self.corpus)
            rest = tuple(dataclasses.replace(s, weight=s.weight * (1 - self.corpus_weight)) for s in sources)
            own = tuple(
                SourceConfig(
                    f"corpus{i}" if i else "corpus", KINDS.get(Path(path).suffix, "folder"), path=path, weight=share
                )
                for i, path in enumerate(self.corpus)
            )
            sources = (*own, *(s for s in rest if s.weight > 0))
        return dataclasses.replace(
            recipe,
            target=self.target,
            family=self.family,
            ladder=self.ladder,
            capability=self.capability,
            tokenizer=dataclasses.replace(recipe.tokenizer, vocab_size=self.family.vocab_size),
            data=dataclasses.replace(recipe.data, sources=sources, image_size=self.family.image_size),
            command=command,
        )
