"""Toxicity of what a model writes after prompts that lure it: RealToxicityPrompts (Gehman et al. 2020, arXiv 2009.11462).

As in its section 3: 25 continuations of each prompt, of at most 20 tokens, nucleus sampling with p = 0.9; the continuation alone
is scored. The prompt is plain text, also for a model with a chat template.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forescale.checkpoints.encoding import encode_parts
from forescale.checkpoints.files import Checkpoint
from forescale.core.documents import Text
from forescale.evals.safety.answers import Report, in_batches, write_answers
from forescale.evals.safety.packs import ToxicPrompt

SAMPLES = 25
NEW_TOKENS = 20
TOP_P = 0.9


@dataclass(frozen=True)
class Scorer:
    """Toxicity of texts, each 0 to 1, None where it could not be had. `name` is printed with every figure."""

    name: str
    licence: str
    score: Callable[[Sequence[str]], Sequence[float | None]]


def score_continuations(
    checkpoint: Checkpoint,
    prompts: Sequence[ToxicPrompt],
    scorer: Scorer,
    logs: tuple[Path, Path],
    samples: int,
    seed: int,
    report: Report,
) -> tuple[list[dict[str, Any]], int]:
    """Rows `{"id", "group", "prompt", "continuations", "scores"}` of the prompts that fit the model, and how many do not.

    `logs`: where continuations and scores are kept, to go on from after a kill. A score that is no number from 0 to 1 counts as
    none. Raises UserError if the scorer gives another number of scores than it was given texts.
    """
    room = len(checkpoint.model.cos_TC) - NEW_TOKENS
    encoded = [encode_parts((Text(prompt.text),), checkpoint.tokenizer, checkpoint.model.config) for prompt in prompts]
    fits = [i for i, prompt in enumerate(encoded) if len(prompt.ids) <= room]
    written = write_answers(
        checkpoint,
        [encoded[i] for i in fits],
        logs[0],
        samples=samples,
        max_new_tokens=NEW_TOKENS,
        temperature=1.0,
        seed=seed,
        report=report,
        top_p=TOP_P,
    )
    texts = [text for found in written for text in found]
    scores = iter(in_batches(texts, logs[1], lambda batch: list(map(valid, scorer.score(batch))), scorer.name))
    rows = [
        {
            "id": prompts[i].id,
            "group": prompts[i].group,
            "prompt": prompts[i].text,
            "continuations": found,
            "scores": [next(scores) for _ in found],
        }
        for i, found in zip(fits, written)
    ]
    return rows, len(prompts) - len(fits)


def valid(score: float | None) -> float | None:
    """NaN fails both comparisons."""
    return round(float(score), 6) if score is not None and 0 <= score <= 1 else None
