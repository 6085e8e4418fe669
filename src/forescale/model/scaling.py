"""The scaling rules: from a width or a compute budget to everything else about a run. The only file that knows them.

Sources. Width and learning rates: Yang et al. 2022 (muP, table 8) for the vectors, embedding and head under Adam; for hidden
matrices Muon's orthogonal update scaled by sqrt(max(1, rows / columns)) (Jordan 2024; Bernstein & Newhouse 2024), whose best
rate grows with the square root of the batch and does not move with width. Tokens: a constant number per active parameter
(Hoffmann et al. 2022, approach 2). Batch: proportional to the square root of the tokens, near the exponents of DeepSeek LLM
(0.33 in compute) and of Bergsma et al. 2025 (0.4 in tokens). Schedule: linear warm-up, then linear decay to zero (Bergsma et al.
2025, "Straight to zero").
The measured evidence for each number is in docs/log.md; docs/model.md explains the rules.

Measured exponents of the best value over the rule's (`python -m benchmarks.transfer`, docs/model.md), in width at fixed tokens per
parameter: Muon -0.23, head 0.00, embedding -0.19, batch +0.40; in tokens per parameter: Muon +0.01, head +0.09, embedding +0.05
from 8 on, batch +0.44; in depth: Muon -0.43. The vectors' curves are too flat to have a best value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from forescale.core.errors import UserError
from forescale.model.config import ModelConfig

BASE_WIDTH = 32
BASE_TOKENS = 1e5


@dataclass(frozen=True)
class LearningRates:
    """Peak learning rates. `muon`: hidden matrices, for a run of BASE_TOKENS. The rest is AdamW's; `head` is for BASE_WIDTH."""

    muon: float = 0.019
    embedding: float = 0.3
    head: float = 0.08
    vector: float = 0.0075


@dataclass(frozen=True)
class Family:
    """What all runs of a ladder and their target share."""

    vocab_size: int = 1024
    sequence_length: int = 128
    image_size: int = 48
    patch_size: int = 12
    vision_depth: int = 1
    head_dim: int = 32
    min_depth: int = 3
    tokens_per_param: float = 16.0
    batch_tokens_base: int = 512
    warmup_fraction: float = 0.05
    learning_rates: LearningRates = LearningRates()

    def __post_init__(self) -> None:
        """Raises UserError for a family that has no members."""
        for name in (
            "vocab_size",
            "sequence_length",
            "image_size",
            "patch_size",
            "head_dim",
            "min_depth",
            "batch_tokens_base",
        ):
            if getattr(self, name) < 1:
                raise UserError(f"the family's {name} is {getattr(self, name)}; it must be at least 1.")
        if not (self.tokens_per_param > 0 and math.isfinite(self.tokens_per_param)):
            raise UserError(f"the family's tokens_per_param is {self.tokens_per_param:g}; it must be a number above 0.")
        if self.vision_depth < 0 or not 0 <= self.warmup_fraction < 1:
            raise UserError(
                "the family's vision_depth cannot be negative, and its warmup_fraction must be at least 0 and below 1."
            )
        for name, rate in vars(self.learning_rates).items():
            if not (rate > 0 and math.isfinite(rate)):
                raise UserError(f"the learning rate of the group {name} is {rate:g}; it must be a number above 0.")
        model = self.shape(BASE_WIDTH)
        if model.image_tokens + 2 > model.sequence_length:
            raise UserError(
                f"a picture takes {model.image_tokens} tokens and does not fit a sequence of {model.sequence_length}; "
                "use longer sequences, smaller pictures or larger patches."
            )

    def shape(self, width: int) -> ModelConfig:
        """The model of this width. Head size is fixed and heads are as many as fit the width, each with its own keys and values:
        a second head for small models doubles their FLOPs and bends the ladder (docs/log.md)."""
        heads = max(1, math.floor(width / self.head_dim + 0.5))
        vision_heads = max(1, width // self.head_dim)
        while width % vision_heads:
            vision_heads -= 1
        mlp_width = 8 * max(1, round(width / 3))
        if mlp_width % 256 == 0:
            # Rows of 2,048 bytes fall on the same few cache sets: at width 192 a step took three times as long with an MLP of
            # 512 as with 520 (docs/log.md).
            mlp_width += 8
        return ModelConfig(
            vocab_size=self.vocab_size,
            width=width,
            depth=max(self.min_depth, width // 96),
            heads=heads,
            kv_heads=heads,
            head_dim=self.head_dim,
            mlp_width=mlp_width,
            sequence_length=self.sequence_length,
            image_size=self.image_size,
            patch_size=self.patch_size,
            vision_width=width,
            vision_depth=self.vision_depth,
            vision_heads=vision_heads,
            vision_mlp_width=4 * width,
        )

    def batch_rows(self, tokens: float) -> int:
        """Sequences a step for a run of so many tokens: `batch_tokens_base` at 100,000 tokens, growing as the square root."""
        return max(2, round(self.batch_tokens_base * math.sqrt(tokens / BASE_TOKENS) / self.sequence_length))

    def plan(self, width: int, images_per_token: float, tokens: float | None = None) -> RunPlan:
        """The run of this width, at the family's tokens per active parameter unless `tokens` says otherwise."""
        model = self.shape(width)
        tokens = self.tokens_per_param * model.params_active if tokens is None else tokens
        rows = self.batch_rows(tokens)
        steps = max(20, round(tokens / (rows * self.sequence_length)))
        return RunPlan(model, steps, rows, self.learning_rates, self.warmup_fraction, images_per_token)

    def plan_for(self, flops: float, images_per_token: float) -> RunPlan:
        """The member whose width is nearest to what `flops` buys, with tokens such that the FLOPs come out within a step.

        Raises UserError if the budget is below the smallest member.
        """
        check_budget(flops)
        widths = self.widths()
        if self.plan(widths[-1], images_per_token).flops < flops / 2:
            raise UserError(
                f"a budget of {flops:.3g} FLOPs is above the largest model of the family "
                f"({self.plan(widths[-1], images_per_token).flops:.3g}); give less, or more tokens per parameter."
            )
        if flops < self.plan(widths[0], images_per_token).flops / 2:
            raise UserError(
                f"a budget of {flops:.3g} FLOPs is below the smallest model of the family "
                f"({self.plan(widths[0], images_per_token).flops:.3g}); give more compute or fewer tokens per parameter."
            )
        plans = []
        for width in widths:
            plan = self.plan(width, images_per_token)
            plans.append((abs(math.log(plan.flops / flops)), width, plan))
            if plan.flops > 4 * flops:
                break
        _, width, plan = min(plans, key=lambda item: item[:2])
        return self.plan(width, images_per_token, tokens=flops / plan.flops * plan.tokens)

    def widths(self) -> list[int]:
        """The widths that may be trained: finer where models are small, coarser as they grow."""
        small = [*range(4, 33, 2), *range(36, 97, 4), *range(104, 513, 8)]
        return small + [64 * i for i in range(9, 65)]


def check_budget(flops: float) -> None:
    """Raises UserError for what is not a number of FLOPs."""
    if not (flops > 0 and math.isfinite(flops)):
        raise UserError(
            f"a compute budget of {flops:g} FLOPs cannot be; give a finite number above zero, such as 1e14."
        )


@dataclass(frozen=True)
class RunPlan:
    """Everything that decides a run but its data and its seed."""

    model: ModelConfig
    steps: int
    batch_rows: int
    learning_rates: LearningRates
    warmup_fraction: float
    images_per_token: float

    @property
    def batch_tokens(self) -> int:
        return self.batch_rows * self.model.sequence_length

    @property
    def tokens(self) -> int:
        return self.steps * self.batch_tokens

    @property
    def flops(self) -> int:
        """Expected from the mixture's share of pictures; the exact count, from the shards, is in the run's result."""
        return self.model.run_flops(self.tokens, round(self.images_per_token * self.tokens))

    def peak_rates(self) -> dict[str, float]:
        """Learning rate of each parameter group: Muon's grows as the fourth root of the tokens, which is the square root of the
        batch; the head's falls as 1 / width; the others stay."""
        rates = self.learning_rates
        return {
            "muon": rates.muon * (self.tokens / BASE_TOKENS) ** 0.25,
            "embedding": rates.embedding,
            "head": rates.head * BASE_WIDTH / self.model.width,
            "vector": rates.vector,
        }

    def schedule(self, step: int) -> float:
        """Factor on the peak rates at a step counted from 0."""
        warmup = max(1, round(self.warmup_fraction * self.steps))
        if step < warmup:
            return (step + 1) / warmup
        return (self.steps - step) / (self.steps - warmup + 1)


def parameter_group(name: str, ndim: int) -> str:
    """Which optimizer group a parameter of the model belongs to."""
    if name == "embed_tokens.weight":
        return "embedding"
    if name == "lm_head.weight":
        return "head"
    if ndim < 2 or name.startswith(("vision.patch_embedding", "vision.position_embedding")):
        return "vector"
    return "muon"
