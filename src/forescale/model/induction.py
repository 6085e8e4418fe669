"""Starts a decoder with an induction circuit, so that in-context copying need not form by chance.

Left to itself, copying (Olsson et al. 2022, "In-context Learning and Induction Heads") forms suddenly and at a step that depends on
the initial weights: two targets of 1e14 FLOPs on the same data were 2% apart for that reason alone, and no ladder can foresee it
(docs/log.md). Weights that begin near what training finds anyway are an old remedy (Trockman & Kolter 2023, "Mimetic
Initialization of Self-Attention Layers"). Only numbers change: the shape of the model, its FLOPs and its files stay what they are.

The circuit, in the first head of the first two blocks:
1. Token embeddings get a mean of 1. Block 0's queries and keys turn that mean into a fixed vector each, which rotary positions
   align at a distance of one: the head looks at the previous token and writes what it was into directions that block 1 reads.
2. Block 1's query is the present token, its key what block 0 wrote: the head looks at what followed the last time. It writes that
   token where the output head reads it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from forescale.model.transformer import Block

# Measured together on ladder sizes (docs/log.md).
MEAN = 1.0
# Frequencies that tell a distance of one from others, and how far the mean's part of a query or key stands above the rest.
FREQUENCIES = 3
STRENGTH = 3.0
# Gain of q_norm and k_norm where the circuit lives; the remains of random weights in block 1's head.
GAIN = 2.0
REMAINS = 0.3
# Sizes of what the two heads write, and of the logit of a token that is copied.
WRITTEN_BEFORE, WRITTEN_AFTER, LOGIT = 2.0, 2.0, 4.0
SMALLEST_HEAD = 8


@torch.no_grad()
def start_with_induction(
    embedding_VD: Tensor, blocks: Iterable[nn.Module], head_VD: Tensor, frequencies: Tensor, generator: torch.Generator
) -> None:
    """Adds the circuit to weights that were drawn at random, with output projections and head zero.

    `frequencies`: (head_dim / 2,) radians a position. Leaves alone a decoder that cannot hold the circuit: one block, no
    QK-norm, tiny heads.
    """
    attentions = [block.self_attn for block in blocks if isinstance(block, Block)][:2]
    width = embedding_VD.shape[1]
    if len(attentions) < 2 or not attentions[0].qk_norm or attentions[0].head_dim < SMALLEST_HEAD:
        return
    first, second = attentions
    head_dim, half = first.head_dim, first.head_dim // 2
    # Orthonormal directions; the first is the mean's.
    drawn = torch.cat((torch.ones(width, 1), torch.randn(width, width - 1, generator=generator)), dim=1)
    basis = torch.linalg.qr(drawn)[0].T
    small, large = max(1, min(half // 2, (width - 1) // 3)), min(head_dim, (width - 1) // 2)
    token_RD, previous_RD = basis[1 : small + 1], basis[small + 1 : 2 * small + 1]
    read_RD, copied_RD = basis[1 : large + 1], basis[-large:]
    # The normalised embedding's deviation, and its mean's share.
    size = math.sqrt(1 + MEAN**2)

    angles = frequencies[:FREQUENCIES]
    query, key = torch.zeros(head_dim), torch.zeros(head_dim)
    query[:FREQUENCIES] = 1.0
    key[:FREQUENCIES], key[half : half + FREQUENCIES] = angles.cos(), angles.sin()
    high = [*range(FREQUENCIES), *range(half, half + FREQUENCIES)]
    to_one = STRENGTH * math.sqrt(head_dim / FREQUENCIES) * size / (MEAN * width)
    first.q_proj.weight[:head_dim] += to_one * query[:, None]
    first.k_proj.weight[:head_dim] += to_one * key[:, None]
    first.v_proj.weight[:small] = token_RD
    first.o_proj.weight[:, :small] = WRITTEN_BEFORE * size * previous_RD.T

    # The slowest frequencies hardly turn within the context: there, tokens are compared whatever their distance.
    slowest = half - (small + 1) // 2
    low = [slowest + index // 2 + half * (index % 2) for index in range(small)]
    for matrix, what in ((second.q_proj.weight, token_RD), (second.k_proj.weight, previous_RD)):
        matrix[:head_dim] *= REMAINS
        matrix[low] += STRENGTH * what
    second.v_proj.weight[:large] = read_RD
    second.o_proj.weight[:, :large] = WRITTEN_AFTER * copied_RD.T
    for attention, places in ((first, high), (second, low)):
        attention.q_norm.weight[places] *= GAIN
        attention.k_norm.weight[places] *= GAIN
    if head_VD is not embedding_VD:
        # At tiny widths few directions are left, and a logit from them would be noise.
        head_VD += LOGIT / max(large, half) * (embedding_VD @ read_RD.T) @ copied_RD
    embedding_VD += MEAN
