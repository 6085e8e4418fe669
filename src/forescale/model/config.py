"""Shapes, parameter counts and exact FLOP counts of one member of the family."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real

from forescale.core.errors import UserError

SIZES = ("vocab_size", "width", "depth", "heads", "kv_heads", "head_dim", "mlp_width", "sequence_length")
VISION_SIZES = ("image_size", "patch_size", "vision_width", "vision_depth", "vision_heads", "vision_mlp_width")
# Tables hold twice as many, as float32, which counts in ones up to 2**24.
MOST_POSITIONS = 2**23


@dataclass(frozen=True)
class ModelConfig:
    """A Qwen3-shaped decoder with a SigLIP-shaped vision tower and a two-layer projector (LLaVA's join).

    Widths and sizes are counts of channels or pixels. A picture takes `image_tokens` places in the sequence; with
    `image_size` 0 there is no tower and the model reads text alone. `tie_embeddings`: the head is the embedding.
    `rope_factors` divide the rotary frequencies one by one (as Llama 3 and LongRoPE stretch them); empty: none.
    """

    vocab_size: int
    width: int
    depth: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_width: int
    sequence_length: int
    image_size: int = 0
    patch_size: int = 0
    vision_width: int = 0
    vision_depth: int = 0
    vision_heads: int = 0
    vision_mlp_width: int = 0
    rope_theta: float = 10_000.0
    norm_epsilon: float = 1e-6
    qk_norm: bool = True
    tie_embeddings: bool = False
    rope_factors: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        self._check_values()
        if self.heads % self.kv_heads:
            raise UserError(
                f"{self.heads} attention heads cannot share {self.kv_heads} key-value heads evenly; choose a divisor."
            )
        if self.has_vision and self.image_size % self.patch_size:
            raise UserError(
                f"image size {self.image_size} is no multiple of patch size {self.patch_size}; choose one that is."
            )
        if self.has_vision and self.vision_width % self.vision_heads:
            raise UserError(f"vision width {self.vision_width} is no multiple of its {self.vision_heads} heads.")
        if self.head_dim % 2:
            raise UserError(f"head size {self.head_dim} is odd; rotary positions need an even one.")
        if self.rope_factors and len(self.rope_factors) != self.head_dim // 2:
            raise UserError(
                f"{len(self.rope_factors)} rotary factors for a head size of {self.head_dim}; give {self.head_dim // 2}."
            )

    def _check_values(self) -> None:
        """Raises UserError for what no model can be built of; configurations come from files of others too."""
        for name in (*SIZES, *(VISION_SIZES if self.image_size else ())):
            size = getattr(self, name)
            least = 0 if name == "vision_depth" else 1
            if not isinstance(size, Integral) or isinstance(size, bool) or size < least:
                raise UserError(f"{name} is {size!r}; it must be a whole number from {least} on.")
        if self.sequence_length > MOST_POSITIONS:
            raise UserError(
                f"sequence_length is {self.sequence_length}; rotary positions are told apart up to {MOST_POSITIONS}."
            )
        numbers = {"norm_epsilon": self.norm_epsilon, "rope_theta": self.rope_theta}
        numbers |= {f"rope_factors[{i}]": factor for i, factor in enumerate(self.rope_factors)}
        for name, number in numbers.items():
            if not isinstance(number, Real) or isinstance(number, bool) or not 0 < number < math.inf:
                raise UserError(f"{name} is {number!r}; it must be a finite number above 0.")
        for name in ("qk_norm", "tie_embeddings"):
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"{name} is {getattr(self, name)!r}; it must be true or false.")

    @property
    def has_vision(self) -> bool:
        return self.image_size > 0

    @property
    def image_tokens(self) -> int:
        return (self.image_size // self.patch_size) ** 2 if self.has_vision else 0

    @property
    def params_embedding(self) -> int:
        return self.vocab_size * self.width

    @property
    def params_decoder(self) -> int:
        """Blocks, final norm and output head; the input embedding, which costs no FLOPs, left out."""
        attention = 2 * self.width * self.head_dim * (self.heads + self.kv_heads)
        norms = 2 * self.width + (2 * self.head_dim if self.qk_norm else 0)
        block = attention + 3 * self.width * self.mlp_width + norms
        return self.depth * block + self.width + self.vocab_size * self.width

    @property
    def params_vision(self) -> int:
        if not self.has_vision:
            return 0
        w, f = self.vision_width, self.vision_mlp_width
        embed = 3 * self.patch_size**2 * w + w + self.image_tokens * w
        block = 4 * (w * w + w) + 2 * w * f + f + w + 4 * w
        projector = w * self.width + self.width + self.width**2 + self.width
        return embed + self.vision_depth * block + projector

    @property
    def params(self) -> int:
        shared = self.params_embedding if self.tie_embeddings else 0
        return self.params_embedding + self.params_decoder + self.params_vision - shared

    @property
    def params_active(self) -> int:
        """Parameters that every text token passes through (blocks and head): the N of the scaling laws."""
        return self.params_decoder

    def flops_per_token(self, forward_only: bool = False) -> int:
        """Matrix-product and attention FLOPs of one token, forward and backward, exact for this code.

        A multiply-add is two operations; the backward pass does each product twice (for its input and for its weight).
        Attention counts all `sequence_length` positions, as torch's own counter does, not the causal half.
        """
        attention = 2 * 2 * self.width * self.head_dim * (self.heads + self.kv_heads)
        scores = 2 * 2 * self.sequence_length * self.heads * self.head_dim
        block = attention + scores + 2 * 3 * self.width * self.mlp_width
        forward = self.depth * block + 2 * self.width * self.vocab_size
        return forward if forward_only else 3 * forward

    def flops_per_image(self, forward_only: bool = False) -> int:
        """The same for one picture: tower and projector. Pixels need no gradient, so the patch embedding counts twice."""
        if not self.has_vision:
            return 0
        w, f, p = self.vision_width, self.vision_mlp_width, self.image_tokens
        embed = 2 * p * 3 * self.patch_size**2 * w
        block = 2 * p * (4 * w * w + 2 * w * f) + 2 * 2 * p * p * w
        rest = self.vision_depth * block + 2 * p * (w * self.width + self.width**2)
        return embed + rest if forward_only else 2 * embed + 3 * rest

    def run_flops(self, tokens: int, images: int) -> int:
        """FLOPs of training on `tokens` tokens that hold `images` pictures."""
        return tokens * self.flops_per_token() + images * self.flops_per_image()

    def training_memory_bytes(self, batch_tokens: int) -> int:
        """An estimate: fp32 weights, gradients, two optimizer moments, and what the backward pass keeps."""
        kept_per_token = (
            self.depth * (14 * self.width + 4 * self.heads * self.head_dim + 4 * self.mlp_width) + 3 * self.vocab_size
        )
        return 16 * self.params + 4 * batch_tokens * kept_per_token
