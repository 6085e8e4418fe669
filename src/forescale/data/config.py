"""What the data stage is asked for: which sources, how much of each, how they weigh."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from forescale.core.errors import UserError
from forescale.data.almanac import CUTOFF, check_cutoff
from forescale.data.readers import DOCSTRING_PACKAGES, ReadOptions

Kind = Literal["pack", "folder", "jsonl", "parquet", "curriculum", "almanac"]


@dataclass(frozen=True)
class SourceConfig:
    """One source of documents.

    `name` is the pack's or the family's own name where `kind` is "pack" or "curriculum", else any name. `weight` is
    relative to the other sources' and counts tokens, not documents. 0 means no limit for `max_characters` and
    `max_documents`; both take the beginning of a fixed shuffled order (of JSON lines and Parquet: of the file).
    """

    name: str
    kind: Kind = "pack"
    weight: float = 1.0
    path: str = ""
    """Folder, file, `*` pattern or fsspec URL (folder, jsonl, parquet)."""
    max_characters: int = 0
    max_documents: int = 0
    count: int = 2000
    """Problems (curriculum) or documents (almanac) to generate."""
    cutoff: int = CUTOFF
    """The last year that is told of (almanac)."""
    languages: tuple[str, ...] = ("en",)
    """Of the encyclopedia: en, fr, es."""
    packages: tuple[str, ...] = DOCSTRING_PACKAGES
    """Whose source or docstrings are read, where installed (libraries, docstrings)."""
    skip_bad_images: bool = False
    """Leave out rows whose picture is unreadable (counted in data.json) instead of stopping (jsonl, parquet)."""
    license: str = ""
    """Of the user's own data, for the report."""

    def read_options(self, image_size: int) -> ReadOptions:
        return ReadOptions(image_size=image_size, languages=self.languages, packages=self.packages)


@dataclass(frozen=True)
class DataConfig:
    """The data stage. Each source's validation set is `validation_fraction` of its documents, within the two limits."""

    sources: tuple[SourceConfig, ...] = ()
    image_size: int = 48
    validation_fraction: float = 0.05
    max_validation_documents: int = 500
    max_validation_characters: int = 300_000
    seed: int = 0
    """Of the curriculum's problems; the split does not depend on it."""
    require_network_packs: bool = False
    """Stop if a pack cannot be downloaded, instead of going on with the other sources."""

    def check(self) -> None:
        """Raises UserError for the first setting that makes no sense."""
        if not self.sources:
            raise UserError("there is nothing to train on: name at least one data source.")
        names = [source.name for source in self.sources]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"two data sources are called '{twice[0]}'; give each its own name.")
        if not 1 <= self.image_size <= 1024:
            raise UserError(f"image_size is {self.image_size}; choose 1 to 1024 pixels.")
        if not 0 < self.validation_fraction <= 0.5:
            raise UserError(f"validation_fraction is {self.validation_fraction}; choose more than 0 and at most 0.5.")
        if self.max_validation_documents < 1 or self.max_validation_characters < 1:
            raise UserError("max_validation_documents and max_validation_characters must be at least 1.")
        for source in self.sources:
            if not source.name or "/" in source.name or source.name.startswith("."):
                raise UserError(f"'{source.name}' cannot name a data source; use letters, digits, '-' and '_'.")
            if source.kind not in get_args(Kind):
                kinds = ", ".join(get_args(Kind))
                raise UserError(f"source '{source.name}' is of kind '{source.kind}'; choose from {kinds}.")
            if not (math.isfinite(source.weight) and source.weight > 0):
                raise UserError(f"source '{source.name}' weighs {source.weight}; give a number above 0.")
            too_few = source.kind in ("curriculum", "almanac") and source.count < 2
            if source.max_characters < 0 or source.max_documents < 0 or too_few:
                raise UserError(f"source '{source.name}': limits must be 0 (none) or more, and count at least 2.")
            if source.kind == "almanac":
                check_cutoff(source.cutoff)
            if source.kind in ("folder", "jsonl", "parquet") and not source.path:
                raise UserError(f"source '{source.name}' of kind '{source.kind}' needs a path.")


@dataclass(frozen=True)
class DataStageConfig:
    """What the data stage runs with, and is keyed by: the configuration, and what its sources were when it was asked.

    `fingerprint` changes when the user's files, an installed package that is read, or what could be downloaded changes.
    Made by `forescale.data.prepare.stage_config`.
    """

    config: DataConfig
    fingerprint: dict[str, Any] = field(default_factory=dict)
