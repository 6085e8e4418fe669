"""The vision tower: a SigLIP-shaped ViT (LayerNorm, biases, tanh-GELU, learned positions) and LLaVA's two-layer projector.

Shape suffixes: N pictures, P patches, D channels, H heads, C head size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from forescale.model.config import ModelConfig
from forescale.model.transformer import attend


class VisionBlock(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.vision_width
        self.heads = config.vision_heads
        self.layer_norm1 = nn.LayerNorm(width, eps=1e-6)
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.layer_norm2 = nn.LayerNorm(width, eps=1e-6)
        self.fc1 = nn.Linear(width, config.vision_mlp_width)
        self.fc2 = nn.Linear(config.vision_mlp_width, width)

    def forward(self, x_NPD: Tensor) -> Tensor:
        n, p, d = x_NPD.shape
        h = self.layer_norm1(x_NPD)
        q, k, v = (f(h).view(n, p, self.heads, -1).transpose(1, 2) for f in (self.q_proj, self.k_proj, self.v_proj))
        y = attend(q, k, v).transpose(1, 2).reshape(n, p, d)
        x_NPD = x_NPD + self.out_proj(y)
        return x_NPD + self.fc2(F.gelu(self.fc1(self.layer_norm2(x_NPD)), approximate="tanh"))


class VisionTower(nn.Module):
    """Pixels uint8 (N, S, S, 3) to patch features (N, P, vision_width)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.patch = config.patch_size
        self.patch_embedding = nn.Linear(3 * config.patch_size**2, config.vision_width)
        self.position_embedding = nn.Parameter(torch.zeros(config.image_tokens, config.vision_width))
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.vision_depth))

    def forward(self, pixels_NSSc: Tensor) -> Tensor:
        n, size, _, _ = pixels_NSSc.shape
        side = size // self.patch
        # SigLIP's normalisation (mean and deviation 0.5), and its convolution's channel-first order within a patch.
        x = pixels_NSSc.to(self.patch_embedding.weight.dtype) / 127.5 - 1.0
        x = x.view(n, side, self.patch, side, self.patch, 3).permute(0, 1, 3, 5, 2, 4).reshape(n, side * side, -1)
        x = self.patch_embedding(x) + self.position_embedding
        for block in self.blocks:
            x = block(x)
        return x


class Projector(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(config.vision_width, config.width)
        self.linear_2 = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.gelu(self.linear_1(x)))
