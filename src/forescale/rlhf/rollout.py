"""Answers of a policy and everything that PPO asks about their tokens, through one forward path.

Special: log-probabilities of old policy, reference and learning policy come out of the same function with the same shapes, the
old ones and the reference's too with gradients on, so that at the first step the ratio is exactly 1 and the KL exactly 0.

Shape suffixes: B answers, T tokens of prompt and answer, A actions (tokens of an answer with the one that ends it), D, V.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from forescale.checkpoints.encoding import Prompt, encode_chat
from forescale.checkpoints.files import Checkpoint
from forescale.core.documents import Answered, Request
from forescale.core.errors import UserError
from forescale.generate.sample import Sampled, generate
from forescale.model.multimodal import Model
from forescale.model.scalar import ScalarModel


@dataclass(frozen=True)
class Rollout:
    """Answers side by side.

    `tokens_BT` is filled up on the right; `actions_BA` are the places whose next token was chosen, `chosen_BA` those tokens;
    `mask_BA` is 1.0 where there is one. `ended_B`: whether the model ended its answer itself. `pictures_B`: how many
    pictures each one's prompt holds, of `pixels_NSSc` in order. `drawn_BA`: log-probabilities that the sampler drew with."""

    cases: tuple[Answered, ...]
    tokens_BT: Tensor
    pixels_NSSc: Tensor
    pictures_B: Tensor
    actions_BA: Tensor
    chosen_BA: Tensor
    mask_BA: Tensor
    ended_B: Tensor
    drawn_BA: Tensor

    def rows(self, index: Tensor) -> Rollout:
        """Some of the answers, in that order, with the same padding."""
        starts = torch.cat((torch.zeros(1, dtype=torch.long), self.pictures_B.cumsum(0)))
        pixels = [self.pixels_NSSc[starts[i] : starts[i + 1]] for i in index.tolist()]
        tensors = {
            name: getattr(self, name)[index]
            for name in ("tokens_BT", "pictures_B", "actions_BA", "chosen_BA", "mask_BA", "ended_B", "drawn_BA")
        }
        return replace(
            self, cases=tuple(self.cases[i] for i in index.tolist()), pixels_NSSc=torch.cat(pixels), **tensors
        )


def encode_requests(requests: Sequence[Request], checkpoint: Checkpoint, max_new_tokens: int) -> list[Prompt]:
    """Raises UserError for a request that leaves the model no room for an answer."""
    prompts = []
    positions = len(checkpoint.model.cos_TC)
    for request in requests:
        prompt = encode_chat(request.messages, checkpoint.tokenizer, checkpoint.model.config)
        if len(prompt.ids) + max_new_tokens > positions:
            raise UserError(
                f"request {request.id!r} has {len(prompt.ids)} tokens and leaves no room for {max_new_tokens} more in "
                f"{positions} positions; leave it out or allow shorter answers."
            )
        prompts.append(prompt)
    return prompts


def roll_out(
    model: Model,
    checkpoint: Checkpoint,
    requests: Sequence[Request],
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> Rollout:
    """One answer to each request, sampled with a key-value cache from `model` as it is now."""
    written = generate(
        model,
        prompts,
        stop=checkpoint.tokenizer.roles.stop,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
    )
    return lay_out(model, checkpoint, requests, prompts, written)


def lay_out(
    model: Model,
    checkpoint: Checkpoint,
    requests: Sequence[Request],
    prompts: Sequence[Prompt],
    written: Sequence[Sampled],
) -> Rollout:
    """What was written, as tensors."""
    answers = [one.ids if one.end is None else [*one.ids, one.end] for one in written]
    rows = [[*prompt.ids, *answer] for prompt, answer in zip(prompts, answers)]
    length, actions = max(map(len, rows)), max(map(len, answers))
    end = checkpoint.tokenizer.end
    device = model.device

    def grid(values: Sequence[Sequence[float]], width: int, fill: float, dtype: torch.dtype) -> Tensor:
        return torch.tensor([[*v, *[fill] * (width - len(v))] for v in values], dtype=dtype, device=device)

    places = [range(len(p.ids) - 1, len(p.ids) - 1 + len(a)) for p, a in zip(prompts, answers)]
    return Rollout(
        cases=tuple(Answered(request, checkpoint.tokenizer.decode(one.ids)) for request, one in zip(requests, written)),
        tokens_BT=grid(rows, length, end, torch.long),
        pixels_NSSc=torch.from_numpy(np.concatenate([p.pixels for p in prompts])).to(device),
        pictures_B=torch.tensor([len(p.pixels) for p in prompts]),
        actions_BA=grid(places, actions, 0, torch.long),
        chosen_BA=grid(answers, actions, 0, torch.long),
        mask_BA=grid([[1.0] * len(a) for a in answers], actions, 0.0, torch.float32),
        ended_B=torch.tensor([one.end is not None for one in written], device=device),
        drawn_BA=grid([one.logprobs for one in written], actions, 0.0, torch.float32),
    )


def logprobs(model: Model, rollout: Rollout, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the chosen tokens and entropies of their distributions, in nats, both (B, A), zero outside the mask.

    The distribution is the one that the sampler drew from: at its temperature, and never a picture's token.
    """
    x_BTD = model.hidden(rollout.tokens_BT, rollout.pixels_NSSc)
    index = rollout.actions_BA[:, :, None].expand(-1, -1, x_BTD.shape[-1])
    logits_BAV = model.lm_head(x_BTD.gather(1, index)).float()
    if model.config.has_vision:
        picture = torch.zeros(logits_BAV.shape[-1], dtype=torch.bool, device=logits_BAV.device)
        picture[model.image_token] = True
        logits_BAV = logits_BAV.masked_fill(picture, torch.finfo(torch.float32).min)
    all_BAV = (logits_BAV / temperature).log_softmax(-1)
    chosen_BA = all_BAV.gather(2, rollout.chosen_BA[:, :, None])[:, :, 0]
    with torch.no_grad():
        entropy_BA = -(all_BAV.exp() * all_BAV).sum(-1)
    return chosen_BA * rollout.mask_BA, entropy_BA * rollout.mask_BA


def values(model: ScalarModel, rollout: Rollout) -> Tensor:
    """Values of the states in which the actions were chosen: (B, A), zero outside the mask."""
    return model(rollout.tokens_BT, rollout.pixels_NSSc).gather(1, rollout.actions_BA) * rollout.mask_BA
