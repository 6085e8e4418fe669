"""Batched sampling with a key-value cache. Prompts may hold pictures and may differ in length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from forescale.checkpoints.encoding import Prompt
from forescale.model.multimodal import Model
from forescale.model.transformer import KVCache


@dataclass(frozen=True)
class Sampled:
    """What a model wrote: ids without the one that ended them, that one (None: it was cut off), and the natural logs of the
    probabilities that all of them were drawn with, the ending one's last."""

    ids: list[int]
    end: int | None
    logprobs: list[float]


def sample(
    model: Model,
    prompts: Sequence[Prompt],
    *,
    stop: Sequence[int],
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    stop_when: Callable[[list[int]], bool] | None = None,
) -> list[list[int]]:
    """New token ids of each prompt, without the one of `stop` that ended them. As `generate`."""
    written = generate(
        model,
        prompts,
        stop=stop,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        stop_when=stop_when,
    )
    return [one.ids for one in written]


@torch.inference_mode()
def generate(
    model: Model,
    prompts: Sequence[Prompt],
    *,
    stop: Sequence[int],
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    stop_when: Callable[[list[int]], bool] | None = None,
) -> list[Sampled]:
    """What the model writes after each prompt, up to one of `stop`. Temperature 0 takes the likeliest token; `top_p` samples
    from its `nucleus`.

    `stop_when` sees what a row has written so far and says whether that is enough.

    Raises ValueError if a prompt with its continuation does not fit the model's positions.
    """
    longest = max(len(prompt.ids) for prompt in prompts)
    capacity = longest + max_new_tokens
    if capacity > len(model.cos_TC):
        raise ValueError(f"{capacity} positions asked of a model that has {len(model.cos_TC)}")
    device = model.device
    generator = torch.Generator(device).manual_seed(seed)
    cache = KVCache(model.config, len(prompts), capacity, device, torch.float32)
    cache.start_B = torch.tensor([longest - len(p.ids) for p in prompts], device=device)
    rows = [[stop[0]] * (longest - len(p.ids)) + list(p.ids) for p in prompts]
    pixels = np.concatenate([p.pixels for p in prompts])
    logits = model(torch.tensor(rows, device=device), torch.from_numpy(pixels).to(device), cache)[:, -1]
    out = [Sampled([], None, []) for _ in prompts]
    ends = torch.tensor(list(stop), device=device)
    alive = torch.ones(len(prompts), dtype=torch.bool, device=device)
    for position in range(max_new_tokens):
        logits = logits.float()
        if model.config.has_vision:
            logits[:, model.image_token] = -torch.inf
        logprobs = (logits / temperature if temperature else logits).log_softmax(-1)
        if top_p < 1:
            logprobs = nucleus(logprobs, top_p)
        if temperature == 0:
            tokens = logits.argmax(-1)
        else:
            tokens = torch.multinomial(logprobs.exp(), 1, generator=generator)[:, 0]
        chosen = logprobs.gather(1, tokens[:, None])[:, 0].tolist()
        for row, (token, lives, ends_it) in enumerate(
            zip(tokens.tolist(), alive.tolist(), torch.isin(tokens, ends).tolist())
        ):
            if not lives:
                continue
            out[row].logprobs.append(chosen[row])
            if ends_it:
                out[row] = replace(out[row], end=token)
                alive[row] = False
                continue
            out[row].ids.append(token)
            if stop_when and stop_when(out[row].ids):
                alive[row] = False
        if position + 1 == max_new_tokens or not alive.any():
            break
        logits = model(tokens[:, None], None, cache)[:, -1]
    return out


def nucleus(logprobs_BV: torch.Tensor, p: float) -> torch.Tensor:
    """Log-probabilities of the fewest likeliest tokens that have at least `p` of the probability, made to sum to 1 (Holtzman et al.
    2020, section 3.1); -inf for the others."""
    probabilities, order = logprobs_BV.exp().sort(dim=-1, descending=True)
    out = (probabilities.cumsum(-1) - probabilities >= p).gather(-1, order.argsort(-1))
    return logprobs_BV.masked_fill(out, -torch.inf).log_softmax(-1)
