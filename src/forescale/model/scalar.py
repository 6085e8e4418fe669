"""A number at every position instead of logits: reward and value models.

Shape suffixes as in `transformer`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from forescale.model.multimodal import Model


class ScalarModel(nn.Module):
    """A decoder whose states are read by one linear head that begins at zero. The decoder's own head is not used."""

    def __init__(self, trunk: Model) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(trunk.config.width, 1, device=trunk.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        if not trunk.config.tie_embeddings:
            trunk.lm_head.weight.requires_grad_(False)

    @property
    def device(self) -> torch.device:
        return self.trunk.device

    def forward(self, tokens_BT: Tensor, pixels_NSSc: Tensor | None = None) -> Tensor:
        """(B, T)."""
        return self.head(self.trunk.hidden(tokens_BT, pixels_NSSc)).squeeze(-1).float()
