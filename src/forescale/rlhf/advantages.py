"""Rewards by token, generalized advantage estimation, and the KL coefficient's controller.

Shape suffixes: B answers, A actions (tokens of an answer, the one that ends it included), padded on the right.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Of the adaptive controller (Ziegler et al. 2019, section 2.2).
KL_GAIN = 0.1
KL_ERROR = 0.2


def token_rewards(scores_B: Tensor, logprobs_BA: Tensor, reference_BA: Tensor, mask_BA: Tensor, beta: float) -> Tensor:
    """-beta (log pi - log pi_ref) at every action, and the score at the last one (Ouyang et al. 2022, eq. 2, by token)."""
    rewards_BA = -beta * (logprobs_BA - reference_BA) * mask_BA
    last_B = mask_BA.sum(1).long() - 1
    return rewards_BA.scatter_add(1, last_B[:, None], scores_B[:, None].to(rewards_BA.dtype))


def advantages(
    rewards_BA: Tensor, values_BA: Tensor, mask_BA: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Advantages and returns (Schulman et al. 2016, eq. 16; the answer's end is terminal), zero outside the mask.

    `rewards_BA` is zero where the mask is.
    """
    values_BA = values_BA * mask_BA
    found = torch.zeros_like(values_BA)
    after_B = torch.zeros_like(values_BA[:, 0])
    next_B = torch.zeros_like(after_B)
    for a in reversed(range(values_BA.shape[1])):
        delta_B = rewards_BA[:, a] + gamma * next_B - values_BA[:, a]
        after_B = (delta_B + gamma * lam * after_B) * mask_BA[:, a]
        found[:, a] = after_B
        next_B = values_BA[:, a]
    return found, found + values_BA


def whiten(x_BA: Tensor, mask_BA: Tensor) -> Tensor:
    """Mean 0 and standard deviation 1 over the mask, zero outside it."""
    count = mask_BA.sum()
    mean = (x_BA * mask_BA).sum() / count
    variance = ((x_BA - mean).square() * mask_BA).sum() / count
    return (x_BA - mean) * (variance + 1e-8).rsqrt() * mask_BA


def masked_mean(x_BA: Tensor, mask_BA: Tensor) -> Tensor:
    return (x_BA * mask_BA).sum() / mask_BA.sum()


def explained_variance(values_BA: Tensor, returns_BA: Tensor, mask_BA: Tensor) -> float:
    """1 - Var(return - value) / Var(return) over the mask; 0 where the returns do not vary."""
    held = mask_BA.bool()
    returns, rest = returns_BA[held], (returns_BA - values_BA)[held]
    variance = returns.var(unbiased=False)
    return float(1 - rest.var(unbiased=False) / variance) if variance > 1e-12 else 0.0


def next_beta(beta: float, kl: float, target: float) -> float:
    """The adaptive controller's next coefficient: up where the KL of an answer is above its target, down where it is below."""
    error = min(max(kl / target - 1, -KL_ERROR), KL_ERROR)
    return beta * (1 + KL_GAIN * error)
