"""Sampling: log-probabilities are those of the distribution that was drawn from, and nuclei are the smallest."""

from __future__ import annotations

import math

import pytest
import torch
from tests.checkpoints.small import TOKENIZER, checkpoint

from forescale.checkpoints.encoding import encode_parts
from forescale.core.documents import Text
from forescale.generate.sample import generate, nucleus, sample

SMALL = checkpoint()
PROMPTS = [encode_parts((Text(text),), TOKENIZER, SMALL.model.config) for text in ("def add(x", "the cat", "How many?")]
ENDS = TOKENIZER.roles.stop


def test_a_nucleus_is_the_fewest_tokens_of_enough_probability() -> None:
    generator = torch.Generator().manual_seed(0)
    logprobs = torch.randn(5, 40, generator=generator).mul(2).log_softmax(-1)
    kept = nucleus(logprobs, 0.9)
    assert torch.allclose(kept.exp().sum(-1), torch.ones(5), atol=1e-6)
    for row, before in zip(kept, logprobs.exp()):
        inside = row.isfinite()
        assert 1 < inside.sum() < 40
        assert before[inside].sum() >= 0.9
        assert before[inside].sum() - before[inside].min() < 0.9
        assert before[inside].min() >= before[~inside].max()
        assert torch.allclose(row[inside].exp(), before[inside] / before[inside].sum(), atol=1e-6)


def test_with_hardly_any_probability_to_keep_sampling_is_greedy() -> None:
    greedy = sample(SMALL.model, PROMPTS, stop=ENDS, max_new_tokens=12, temperature=0.0)
    assert sample(SMALL.model, PROMPTS, stop=ENDS, max_new_tokens=12, top_p=1e-6, seed=3) == greedy


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_logprobs_are_those_of_what_was_drawn_from(top_p: float) -> None:
    written = generate(SMALL.model, PROMPTS, stop=ENDS, max_new_tokens=10, temperature=0.7, top_p=top_p, seed=1)
    for prompt, one in zip(PROMPTS, written):
        tokens = [*one.ids, one.end] if one.end is not None else one.ids
        assert len(tokens) == len(one.logprobs)
        with torch.no_grad():
            logits = SMALL.model(torch.tensor([[*prompt.ids, *tokens]]), None)[0, len(prompt.ids) - 1 : -1]
        logits[:, SMALL.model.image_token] = -math.inf
        logprobs = nucleus((logits / 0.7).log_softmax(-1), top_p) if top_p < 1 else (logits / 0.7).log_softmax(-1)
        expected = logprobs.gather(1, torch.tensor(tokens)[:, None])[:, 0]
        assert torch.allclose(torch.tensor(one.logprobs), expected, atol=1e-4)
