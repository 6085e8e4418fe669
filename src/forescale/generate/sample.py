"""Batched sampling with a key-value cache. Prompts may hold pictures and may differ in length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from forescale.core.documents import Image, Part, Text
from forescale.model.multimodal import Model
from forescale.model.transformer import KVCache
from forescale.tokenizer.bpe import Tokenizer


@dataclass(frozen=True)
class Prompt:
    """Token ids with image tokens in place, and the pictures: uint8 (n, S, S, 3)."""

    ids: tuple[int, ...]
    pixels: np.ndarray


def encode_parts(parts: Sequence[Part], tokenizer: Tokenizer, image_tokens: int, image_size: int) -> Prompt:
    """A document's beginning: the end token that precedes every document, then its parts."""
    ids, pixels = [tokenizer.end], []
    for part in parts:
        if isinstance(part, Text):
            ids += tokenizer.encode(part.text)
        elif isinstance(part, Image):
            ids += [tokenizer.image] * image_tokens
            pixels.append(part.pixels)
    shape = (0, image_size, image_size, 3)
    return Prompt(tuple(ids), np.stack(pixels) if pixels else np.zeros(shape, np.uint8))


@torch.inference_mode()
def sample(
    model: Model,
    prompts: Sequence[Prompt],
    *,
    end_token: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    seed: int = 0,
) -> list[list[int]]:
    """New token ids of each prompt, without the end token that stopped them. Temperature 0 takes the likeliest token.

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
    rows = [[end_token] * (longest - len(p.ids)) + list(p.ids) for p in prompts]
    pixels = np.concatenate([p.pixels for p in prompts])
    logits = model(torch.tensor(rows, device=device), torch.from_numpy(pixels).to(device), cache)[:, -1]
    out: list[list[int]] = [[] for _ in prompts]
    alive = torch.ones(len(prompts), dtype=torch.bool, device=device)
    for position in range(max_new_tokens):
        logits = logits.float()
        logits[:, model.image_token] = -torch.inf
        if temperature == 0:
            tokens = logits.argmax(-1)
        else:
            tokens = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)[:, 0]
        alive = alive & (tokens != end_token)
        for row, (token, lives) in enumerate(zip(tokens.tolist(), alive.tolist())):
            if lives:
                out[row].append(token)
        if position + 1 == max_new_tokens or not alive.any():
            break
        logits = model(tokens[:, None], None, cache)[:, -1]
    return out
