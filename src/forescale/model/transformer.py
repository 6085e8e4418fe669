"""The decoder: RMSNorm, rotary positions, QK-norm, grouped-query attention, SwiGLU, no biases (the Qwen3 shape).

Shape suffixes: B batch, T positions, D width, H heads, K key-value heads, C head size, F MLP width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from forescale.model.config import ModelConfig


class RMSNorm(nn.Module):
    """Root-mean-square norm with a gain (Zhang & Sennrich 2019, eq. 4)."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        # Under autocast products come in bfloat16; torch has no fused norm of mixed types, and says so.
        return F.rms_norm(x.to(self.weight.dtype), (x.shape[-1],), self.weight, self.epsilon)


def rotary_frequencies(head_dim: int, theta: float, factors: tuple[float, ...] = ()) -> Tensor:
    """(head_dim / 2,) radians a position, fastest first. `factors`: (head_dim / 2,) divisors, or none."""
    frequencies = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim)
    return frequencies / torch.tensor(factors, device="cpu") if factors else frequencies


def rotary_tables(length: int, head_dim: int, theta: float, factors: tuple[float, ...] = ()) -> tuple[Tensor, Tensor]:
    """Cosines and sines of shape (length, head_dim), the two halves alike (Su et al. 2021; half-split layout).

    Always real numbers, also where weights are not yet.
    """
    frequencies = rotary_frequencies(head_dim, theta, factors)
    angles = torch.outer(torch.arange(length, dtype=torch.float32, device="cpu"), frequencies)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x_BTHC: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`cos`, `sin`: (T, C) where all rows have the same positions, (B, T, C) where each has its own."""
    first, second = x_BTHC.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return x_BTHC * cos[..., None, :] + turned * sin[..., None, :]


class KVCache:
    """Keys and values of every block for a batch of sequences that grow together.

    `keys[i]`, `values[i]`: (B, K, capacity, C). `length` positions are filled. `start_B`: first real position of each row
    (rows are padded on the left).
    """

    def __init__(
        self, config: ModelConfig, batch: int, capacity: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        shape = (batch, config.kv_heads, capacity, config.head_dim)
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.depth)]
        self.values = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.depth)]
        self.length = 0
        self.start_B = torch.zeros(batch, dtype=torch.long, device=device)

    def extend(self, block: int, k_BKTC: Tensor, v_BKTC: Tensor) -> tuple[Tensor, Tensor]:
        end = self.length + k_BKTC.shape[2]
        self.keys[block][:, :, self.length : end] = k_BKTC
        self.values[block][:, :, self.length : end] = v_BKTC
        return self.keys[block][:, :, :end], self.values[block][:, :, :end]

    def advance(self, length: int) -> None:
        self.length += length

    def mask(self, length: int) -> Tensor:
        """(B, 1, length, filled + length): causal, without the padding on the left."""
        device = self.start_B.device
        keys = torch.arange(self.length + length, device=device)
        queries = torch.arange(self.length, self.length + length, device=device)
        mask = (keys[None, :] <= queries[:, None])[None, None] & (keys >= self.start_B[:, None])[:, None, None]
        # A padded query sees itself, so that no row of the softmax is empty.
        return mask | (keys[None, :] == queries[:, None])[None, None]


class Prefix:
    """Keys and values of a beginning that all rows of a batch share, computed once. Read only: rows do not add to it.

    `keys[i]`, `values[i]`: (1, K, length, C).
    """

    def __init__(self, cache: KVCache) -> None:
        self.length = cache.length
        self.keys = [k[:, :, : cache.length] for k in cache.keys]
        self.values = [v[:, :, : cache.length] for v in cache.values]

    def extend(self, block: int, k_BKTC: Tensor, v_BKTC: Tensor) -> tuple[Tensor, Tensor]:
        rows = k_BKTC.shape[0]
        keys, values = (t[block].expand(rows, -1, -1, -1) for t in (self.keys, self.values))
        return torch.cat((keys, k_BKTC), dim=2), torch.cat((values, v_BKTC), dim=2)

    def advance(self, length: int) -> None:
        pass


Cache = KVCache | Prefix


def attend(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    """torch's attention; in float32 on a CPU, where its bfloat16 one takes five times as long backward (docs/log.md)."""
    if q.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), **options)
    return F.scaled_dot_product_attention(q, k, v, **options)


class Attention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        self.q_proj = nn.Linear(config.width, self.heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(config.width, self.kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(config.width, self.kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.head_dim, config.width, bias=False)
        self.qk_norm = config.qk_norm
        if config.qk_norm:
            self.q_norm = RMSNorm(self.head_dim, config.norm_epsilon)
            self.k_norm = RMSNorm(self.head_dim, config.norm_epsilon)

    def forward(
        self,
        x_BTD: Tensor,
        cos: Tensor,
        sin: Tensor,
        cache: Cache | None = None,
        block: int = 0,
        mask: Tensor | None = None,
    ) -> Tensor:
        batch, length, _ = x_BTD.shape
        learns = torch.is_grad_enabled()
        if learns:
            # One product for the three projections: at small widths the number of calls costs more than their size.
            qkv = F.linear(x_BTD, torch.cat((self.q_proj.weight, self.k_proj.weight, self.v_proj.weight)))
            qkv = qkv.view(batch, length, self.heads + 2 * self.kv_heads, self.head_dim)
            q_BTHC, k_BTKC, v_BTKC = qkv.split((self.heads, self.kv_heads, self.kv_heads), dim=2)
        else:
            # A large model that writes a token at a time would copy all its weights for each.
            parts = (self.q_proj(x_BTD), self.k_proj(x_BTD), self.v_proj(x_BTD))
            q_BTHC, k_BTKC, v_BTKC = (part.unflatten(-1, (-1, self.head_dim)) for part in parts)
        if self.qk_norm:
            q_BTHC, k_BTKC = self.q_norm(q_BTHC), self.k_norm(k_BTKC)
        q_BTHC, k_BTKC = rotate(q_BTHC, cos, sin), rotate(k_BTKC, cos, sin)
        q, k, v = q_BTHC.transpose(1, 2), k_BTKC.transpose(1, 2), v_BTKC.transpose(1, 2)
        if cache is not None:
            k, v = cache.extend(block, k, v)
        grouped = self.heads != self.kv_heads and not learns
        if self.heads != self.kv_heads and learns:
            k = k.repeat_interleave(self.heads // self.kv_heads, dim=1)
            v = v.repeat_interleave(self.heads // self.kv_heads, dim=1)
        y = attend(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped)
        return self.o_proj(y.transpose(1, 2).reshape(batch, length, -1))


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer 2020, eq. 6)."""

    def __init__(self, width: int, mlp_width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, mlp_width, bias=False)
        self.up_proj = nn.Linear(width, mlp_width, bias=False)
        self.down_proj = nn.Linear(mlp_width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            gate, up = F.linear(x, torch.cat((self.gate_proj.weight, self.up_proj.weight))).chunk(2, dim=-1)
        else:
            gate, up = self.gate_proj(x), self.up_proj(x)
        return self.down_proj(F.silu(gate) * up)


class Block(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.width, config.norm_epsilon)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.width, config.norm_epsilon)
        self.mlp = SwiGLU(config.width, config.mlp_width)

    def forward(
        self,
        x_BTD: Tensor,
        cos: Tensor,
        sin: Tensor,
        cache: Cache | None = None,
        block: int = 0,
        mask: Tensor | None = None,
    ) -> Tensor:
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), cos, sin, cache, block, mask)
        return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))
