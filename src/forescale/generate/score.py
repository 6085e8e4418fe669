"""Log-probabilities of continuations: what multiple-choice exams ask of a model.

Special: what prompts share is computed once. Prompts are sorted and cut into groups whose common beginning (worked examples,
a reading passage) runs through the model a single time; the continuations of one prompt stand side by side in one row, each
seeing the prompt and itself; rows are batched so that little is padding; and the head is applied only where a log-probability
is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from forescale.checkpoints.encoding import Prompt
from forescale.core.errors import UserError
from forescale.model.multimodal import Model
from forescale.model.transformer import KVCache, Prefix

# Tokens of one forward pass, and logits of one product with the head (256 MB of them).
BATCH_TOKENS = 4096
HEAD_LOGITS = 2**26
# How far the search for the best cut looks back, in prompts; longer groups come from joining neighbours.
GROUP = 256
# What a group and a pass cost beyond their tokens (launching, copying keys, small products), in tokens.
GROUP_COST = 24
PASS_COST = 64


@dataclass(frozen=True)
class Query:
    """A prompt, and the continuations whose log-probability after it is asked for."""

    prompt: Prompt
    continuations: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        """Raises ValueError if there is no continuation, or if the prompt or one of them is empty."""
        if not self.prompt.ids or not self.continuations or not all(self.continuations):
            raise ValueError("a query needs a prompt of at least one token, and continuations that are not empty")


class Scored(NamedTuple):
    """Natural log of a continuation's probability, and whether each of its tokens is the likeliest."""

    logprob: float
    greedy: bool


@torch.inference_mode()
def score(
    model: Model,
    queries: Sequence[Query],
    on_scored: Callable[[int, list[Scored]], None] | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> list[list[Scored]]:
    """Every continuation of every query, scored. `on_scored(i, values)` is called as they come.

    Raises UserError if a prompt with its longest continuation does not fit the model's positions.
    """
    positions = len(model.cos_TC)
    for query in queries:
        longest = len(query.prompt.ids) + max(map(len, query.continuations))
        if longest > positions + 1:
            raise UserError(
                f"{longest} tokens asked of a model that has {positions} positions; use fewer worked examples."
            )
    result: list[list[Scored]] = [[] for _ in queries]
    for shared, members in groups([query.prompt for query in queries], model.image_token):
        prefix = _prefix(model, queries[members[0]].prompt.ids[:shared]) if shared else None
        for batch in _batches(queries, members, shared, batch_tokens):
            rows = [_Row(queries[i], shared) for i in batch]
            for i, values in zip(batch, _pass(model, rows, prefix)):
                result[i] = values
                if on_scored:
                    on_scored(i, values)
    return result


def groups(prompts: Sequence[Prompt], image_token: int = -1) -> list[tuple[int, list[int]]]:
    """(length of the shared beginning, indices) of a cut of the sorted prompts that costs the fewest tokens.

    A shared beginning ends before the first picture and at least one token before the end of each prompt. Prompts that share
    nothing are one group of their own, the last, with length 0. The cut is the cheapest of all up to `GROUP` prompts.
    """
    order = sorted(range(len(prompts)), key=lambda i: prompts[i].ids)
    # The most that each may share, and what it shares with its predecessor.
    most = [_most(prompts[i], image_token) for i in order]
    common = [0] + [_common(prompts[a].ids, prompts[b].ids) for a, b in pairwise(order)]
    # Saved at best by a cut of the first so many, and where its last group begins.
    best, cut = [0] * (len(order) + 1), [0] * (len(order) + 1)
    for end in range(1, len(order) + 1):
        best[end], cut[end], shared = best[end - 1], end - 1, most[end - 1]
        for start in range(end - 2, max(-1, end - 1 - GROUP), -1):
            shared = min(shared, most[start], common[start + 1])
            if not shared:
                break
            saved = best[start] + shared * (end - start - 1) - GROUP_COST
            if saved > best[end]:
                best[end], cut[end] = saved, start
    pieces, end = [], len(order)
    while end:
        pieces.append((cut[end], end))
        end = cut[end]
    alone: list[int] = []
    joined: list[tuple[int, int, int]] = []
    for start, end in reversed(pieces):
        if end - start == 1:
            alone.append(order[start])
            continue
        shared = min(most[start:end] + common[start + 1 : end])
        # Groups that only the search's reach has parted.
        while joined and joined[-1][1] == start:
            before, _, length = joined[-1]
            both = min(length, shared, common[start])
            apart = length * (start - before - 1) + shared * (end - start - 1) - GROUP_COST
            if both * (end - before - 1) <= apart:
                break
            joined.pop()
            start, shared = before, both
        joined.append((start, end, shared))
    found = [(shared, order[start:end]) for start, end, shared in joined]
    return [*found, (0, alone)] if alone else found


def _most(prompt: Prompt, image_token: int) -> int:
    """How long a beginning it may share."""
    if len(prompt.pixels) and image_token in prompt.ids:
        return min(len(prompt.ids) - 1, prompt.ids.index(image_token))
    return len(prompt.ids) - 1 if not len(prompt.pixels) else 0


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    n = 0
    for x, y in zip(a, b):
        if x != y:
            break
        n += 1
    return n


def _prefix(model: Model, ids: Sequence[int]) -> Prefix:
    cache = KVCache(model.config, 1, len(ids), model.device, model.lm_head.weight.dtype)
    model.hidden(torch.tensor([ids], device=model.device), None, cache)
    return Prefix(cache)


def _batches(queries: Sequence[Query], members: Sequence[int], shared: int, batch_tokens: int) -> list[list[int]]:
    """Rows of similar length together: the cut of the sorted rows with the least padding and the fewest passes.

    At most `batch_tokens` with padding and, for the copies of the shared keys, an eighth of the beginning a row; a single row
    may be longer.
    """
    length = {
        i: len(queries[i].prompt.ids) - shared + sum(len(c) - 1 for c in queries[i].continuations) for i in members
    }
    order = sorted(members, key=length.__getitem__)
    best, cut = [0] + [-1] * len(order), [0] * (len(order) + 1)
    for end in range(1, len(order) + 1):
        longest = length[order[end - 1]]
        for start in range(end - 1, -1, -1):
            rows = end - start
            if rows > 1 and rows * (longest + shared // 8) > batch_tokens:
                break
            cost = best[start] + rows * longest + PASS_COST
            if best[end] < 0 or cost < best[end]:
                best[end], cut[end] = cost, start
    batches, end = [], len(order)
    while end:
        batches.append(order[cut[end] : end])
        end = cut[end]
    return batches[::-1]


class _Row:
    """One query's tokens after the shared beginning: the rest of the prompt, then every continuation but its last token."""

    def __init__(self, query: Query, shared: int) -> None:
        trunk = query.prompt.ids[shared:]
        self.tokens = list(trunk)
        self.positions = list(range(shared, shared + len(trunk)))
        # 0 for the trunk, then a number for each continuation: a token sees the trunk and its own.
        self.branch = [0] * len(trunk)
        self.pixels = query.prompt.pixels
        # For each continuation: (place in the row whose state predicts it, the token).
        self.asked: list[list[tuple[int, int]]] = []
        for number, continuation in enumerate(query.continuations, 1):
            places = [len(trunk) - 1]
            for depth, token in enumerate(continuation[:-1]):
                places.append(len(self.tokens))
                self.tokens.append(token)
                self.positions.append(shared + len(trunk) + depth)
                self.branch.append(number)
            self.asked.append(list(zip(places, continuation)))


def _pass(model: Model, rows: Sequence[_Row], prefix: Prefix | None) -> list[list[Scored]]:
    device = model.device
    longest, shared = max(len(row.tokens) for row in rows), prefix.length if prefix else 0

    def padded(values: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
        return torch.tensor([[*v, *[fill] * (longest - len(v))] for v in values], device=device)

    tokens, positions = padded([r.tokens for r in rows], 0), padded([r.positions for r in rows], 0)
    if model.config.has_vision:
        # Padding must not look like a picture's place.
        tokens = padded([r.tokens for r in rows], 0 if model.image_token else 1)
    branch = padded([r.branch for r in rows], -1)
    order = torch.arange(longest, device=device)
    sees = (branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None])
    # Added to the scores, as every block's attention would make it of a boolean mask.
    mask = torch.zeros(len(rows), 1, longest, shared + longest, device=device, dtype=model.lm_head.weight.dtype)
    mask[..., shared:].masked_fill_(~(sees & (order[None, :] <= order[:, None]))[:, None], -torch.inf)
    pixels = torch.from_numpy(np.concatenate([row.pixels for row in rows])).to(device)
    x_BTD = model.hidden(tokens, pixels, prefix, positions, mask)
    # Each place once, however many continuations begin there.
    places = sorted({(b, place) for b, row in enumerate(rows) for asked in row.asked for place, _ in asked})
    index = {place: i for i, place in enumerate(places)}
    where = torch.tensor(places, device=device)
    picks = [(index[b, place], token) for b, row in enumerate(rows) for asked in row.asked for place, token in asked]
    values, likeliest = _head(model, x_BTD[where[:, 0], where[:, 1]], torch.tensor(picks, device=device))
    result: list[list[Scored]] = []
    done = 0
    for row in rows:
        scored = []
        for asked in row.asked:
            end = done + len(asked)
            scored.append(Scored(sum(values[done:end]), all(likeliest[done:end])))
            done = end
        result.append(scored)
    return result


def _head(model: Model, x_ND: torch.Tensor, picks_M2: torch.Tensor) -> tuple[list[float], list[bool]]:
    """For each pick (row of `x_ND`, token): the token's log-probability, and whether it is the likeliest.

    In pieces of `HEAD_LOGITS`: all the logits of a long text would not fit into memory.
    """
    chosen = torch.empty(len(picks_M2), device=x_ND.device)
    likeliest = torch.empty(len(picks_M2), dtype=torch.bool, device=x_ND.device)
    size = max(1, HEAD_LOGITS // model.config.vocab_size)
    for start in range(0, len(x_ND), size):
        logits = model.lm_head(x_ND[start : start + size]).float()
        here = ((picks_M2[:, 0] >= start) & (picks_M2[:, 0] < start + size)).nonzero()[:, 0]
        rows, tokens = picks_M2[here, 0] - start, picks_M2[here, 1]
        chosen[here] = logits[rows, tokens] - logits.logsumexp(-1)[rows]
        likeliest[here] = logits.argmax(-1)[rows] == tokens
    return chosen.double().tolist(), likeliest.tolist()
