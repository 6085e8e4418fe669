"""The whole model: pictures stand in the token sequence where they stood in the document.

Shape suffixes as in `transformer` and `vision`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from forescale.model.config import ModelConfig
from forescale.model.induction import start_with_induction
from forescale.model.transformer import Block, Cache, KVCache, RMSNorm, rotary_frequencies, rotary_tables
from forescale.model.vision import Projector, VisionTower

IGNORE = -100


class Model(nn.Module):
    """Decoder, vision tower and projector.

    Every hidden matrix begins at 1 / sqrt(fan-in), output projections and the head at zero, but for one head in each of the first
    two blocks (`induction`): at the first step all else is the identity and the loss is near log(vocabulary), whatever
    the width or depth. `seed` None leaves the weights as they come, for a model whose weights are loaded.
    """

    cos_TC: Tensor
    sin_TC: Tensor

    def __init__(self, config: ModelConfig, image_token: int, seed: int | None = 0) -> None:
        super().__init__()
        self.config = config
        self.image_token = image_token
        self.embed_tokens = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = RMSNorm(config.width, config.norm_epsilon)
        self.lm_head = nn.Linear(config.width, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.lm_head.weight = self.embed_tokens.weight
        if config.has_vision:
            self.vision = VisionTower(config)
            self.projector = Projector(config)
        cos, sin = rotary_tables(2 * config.sequence_length, config.head_dim, config.rope_theta, config.rope_factors)
        self.register_buffer("cos_TC", cos, persistent=False)
        self.register_buffer("sin_TC", sin, persistent=False)
        if seed is not None:
            self._initialise(seed)

    @torch.no_grad()
    def _initialise(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                if name.endswith("bias"):
                    parameter.zero_()
            elif name == "embed_tokens.weight":
                parameter.normal_(0.0, 1.0, generator=generator)
            elif name.endswith(
                ("o_proj.weight", "down_proj.weight", "out_proj.weight", "fc2.weight", "lm_head.weight")
            ):
                parameter.zero_()
            elif name.endswith("position_embedding"):
                parameter.normal_(0.0, 0.5, generator=generator)
            else:
                parameter.normal_(0.0, 1.0 / math.sqrt(parameter.shape[1]), generator=generator)
        config = self.config
        frequencies = rotary_frequencies(config.head_dim, config.rope_theta, config.rope_factors)
        start_with_induction(self.embed_tokens.weight, self.layers, self.lm_head.weight, frequencies, generator)

    @property
    def device(self) -> torch.device:
        return self.lm_head.weight.device

    def embed(self, tokens_BT: Tensor, pixels_NSSc: Tensor | None) -> Tensor:
        """Token embeddings (B, T, D) with the pictures' patch features in place of image tokens, in reading order.

        Raises ValueError if the batch holds another number of image tokens than its pictures fill.
        """
        x_BTD = self.embed_tokens(tokens_BT)
        if pixels_NSSc is None or not len(pixels_NSSc):
            return x_BTD
        places = (tokens_BT.reshape(-1) == self.image_token).nonzero().squeeze(1)
        if len(places) != len(pixels_NSSc) * self.config.image_tokens:
            raise ValueError(
                f"{len(places)} image tokens for {len(pixels_NSSc)} pictures of {self.config.image_tokens}"
            )
        features = self.projector(self.vision(pixels_NSSc)).flatten(0, 1)
        return x_BTD.flatten(0, 1).index_copy(0, places, features.to(x_BTD.dtype)).view_as(x_BTD)

    def hidden(
        self,
        tokens_BT: Tensor,
        pixels_NSSc: Tensor | None = None,
        cache: Cache | None = None,
        positions_BT: Tensor | None = None,
        mask_B1TS: Tensor | None = None,
    ) -> Tensor:
        """Final normalised states (B, T, D).

        With a KVCache the tokens continue it, and rows may be padded on the left. Rows that branch (several continuations of
        one beginning, side by side) come with their own positions and with a mask of the keys, the cache's first, that each
        position may see.
        """
        length = tokens_BT.shape[1]
        offset = cache.length if cache else 0
        if positions_BT is None:
            cos, sin = self.cos_TC[offset : offset + length], self.sin_TC[offset : offset + length]
        else:
            cos, sin = self.cos_TC[positions_BT], self.sin_TC[positions_BT]
        if mask_B1TS is None and isinstance(cache, KVCache):
            mask_B1TS = cache.mask(length)
        x_BTD = self.embed(tokens_BT, pixels_NSSc)
        for index, block in enumerate(self.layers):
            x_BTD = block(x_BTD, cos, sin, cache, index, mask_B1TS)
        if cache is not None:
            cache.advance(length)
        return self.norm(x_BTD)

    def forward(self, tokens_BT: Tensor, pixels_NSSc: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """Logits (B, T, V)."""
        return self.lm_head(self.hidden(tokens_BT, pixels_NSSc, cache))

    def loss(
        self, tokens_BT: Tensor, targets_BT: Tensor, pixels_NSSc: Tensor | None = None, reduction: str = "mean"
    ) -> Tensor:
        """Cross-entropy in nats over targets that are not IGNORE; (B, T) of them with `reduction="none"`."""
        return token_loss(self.hidden(tokens_BT, pixels_NSSc), self.lm_head.weight, targets_BT, reduction)


def token_loss(x_BTD: Tensor, head_VD: Tensor, targets_BT: Tensor, reduction: str) -> Tensor:
    logits = F.linear(x_BTD, head_VD).flatten(0, 1)
    loss = F.cross_entropy(logits.float(), targets_BT.reshape(-1), ignore_index=IGNORE, reduction=reduction)
    return loss.view_as(targets_BT) if reduction == "none" else loss
