"""Stage `tokenizer`: trains the BPE on the training documents of the `data` artifact."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from forescale.core.artifacts import Stage
from forescale.core.errors import UserError
from forescale.tokenizer.bpe import Tokenizer


@dataclass(frozen=True)
class TokenizerConfig:
    """`sample_characters`: how much of the training text the merges are learned from, taken evenly over the documents."""

    vocab_size: int = 1024
    sample_characters: int = 8_000_000


def _texts(path: Path, share: float) -> Iterator[str]:
    owed = 0.0
    with path.open(encoding="utf-8") as file:
        for line in file:
            owed += share
            if owed >= 1:
                owed -= 1
                yield from (part["text"] for part in json.loads(line)["parts"] if "text" in part)


def train(config: TokenizerConfig, inputs: Mapping[str, Path], out_dir: Path) -> None:
    """Raises UserError if there is no text at all."""
    path = inputs["data"] / "documents.jsonl"
    share = min(1.0, config.sample_characters / max(1, path.stat().st_size))
    texts = _texts(path, share)
    first = next(texts, None)
    if first is None:
        raise UserError(f"{path} holds no text to train a tokenizer on; check the sources.")
    Tokenizer.train(itertools.chain([first], texts), config.vocab_size).save(out_dir / "tokenizer.json")


STAGE = Stage("tokenizer", train)
