"""Advantages, rewards by token and the KL controller, against their definitions."""

from __future__ import annotations

import pytest
import torch

from forescale.rlhf.advantages import (
    advantages,
    explained_variance,
    next_beta,
    token_rewards,
    whiten,
)
from forescale.rlhf.ppo import policy_loss, value_loss

MASK = torch.tensor([[1.0, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])


def test_rewards_of_tokens_sum_to_the_score_less_the_kl() -> None:
    generator = torch.Generator().manual_seed(0)
    logprobs, reference = (torch.randn(3, 4, generator=generator) * MASK for _ in range(2))
    scores = torch.tensor([1.0, -2.0, 0.5])
    rewards = token_rewards(scores, logprobs, reference, MASK, 0.3)
    assert torch.allclose(rewards.sum(1), scores - 0.3 * (logprobs - reference).sum(1), atol=1e-6)
    assert (rewards * (1 - MASK)).abs().max() == 0
    # The score stands at the last action.
    assert rewards[2, 0] == pytest.approx(0.5 - 0.3 * float(logprobs[2, 0] - reference[2, 0]))


def test_advantages_are_the_discounted_sums_of_their_definition() -> None:
    generator = torch.Generator().manual_seed(1)
    rewards, values = (torch.randn(3, 4, generator=generator) * MASK for _ in range(2))
    gamma, lam = 0.9, 0.8
    found, returns = advantages(rewards, values, MASK, gamma, lam)
    for b, length in enumerate(MASK.sum(1).int().tolist()):
        padded = [*values[b, :length].tolist(), 0.0]
        deltas = [float(rewards[b, a]) + gamma * padded[a + 1] - padded[a] for a in range(length)]
        for a in range(length):
            expected = sum((gamma * lam) ** k * deltas[a + k] for k in range(length - a))
            assert float(found[b, a]) == pytest.approx(expected, abs=1e-6)
            assert float(returns[b, a]) == pytest.approx(expected + padded[a], abs=1e-6)
    assert (found * (1 - MASK)).abs().max() == 0


def test_with_lambda_one_returns_are_the_rewards_to_come() -> None:
    rewards = torch.tensor([[0.0, -0.5, 2.0]])
    values = torch.tensor([[3.0, -1.0, 0.7]])
    _, returns = advantages(rewards, values, torch.ones(1, 3), 1.0, 1.0)
    assert torch.allclose(returns, torch.tensor([[1.5, 1.5, 2.0]]))


def test_whitening_looks_at_what_the_mask_holds() -> None:
    x = torch.tensor([[1.0, 5.0, 3.0, 7.0], [2.0, 4.0, 1e6, 1e6], [9.0, -1e6, 0.0, 0.0]])
    white = whiten(x, MASK)
    held = white[MASK.bool()]
    assert float(held.mean()) == pytest.approx(0, abs=1e-6)
    assert float(held.std(unbiased=False)) == pytest.approx(1, abs=1e-5)
    assert (white * (1 - MASK)).abs().max() == 0


def test_explained_variance() -> None:
    returns = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    mask = torch.ones(1, 4)
    assert explained_variance(returns, returns, mask) == pytest.approx(1)
    assert explained_variance(torch.full((1, 4), 2.5), returns, mask) == pytest.approx(0)
    assert explained_variance(returns, torch.ones(1, 4), mask) == 0.0


def test_the_kl_coefficient_goes_towards_its_target_and_never_jumps() -> None:
    assert next_beta(0.1, 6.0, 6.0) == pytest.approx(0.1)
    assert next_beta(0.1, 600.0, 6.0) == pytest.approx(0.1 * 1.02)
    assert next_beta(0.1, -5.0, 6.0) == pytest.approx(0.1 * 0.98)


def test_gradient_of_the_clipped_objective_against_finite_differences() -> None:
    generator = torch.Generator().manual_seed(2)

    def draw(scale: float) -> torch.Tensor:
        return scale * torch.randn(6, 5, generator=generator, dtype=torch.float64)

    old, advantage = draw(1.0), draw(1.0)
    mask = (torch.rand(6, 5, generator=generator) < 0.8).double()
    # Half of the ratios lie outside the clip, none within a finite difference of its edge.
    new = (old + draw(0.3)).requires_grad_()
    ratio = (new - old).exp()
    assert 0.2 < float(((ratio.detach() - 1).abs() > 0.2).double().mean()) < 0.8
    assert float(((ratio.detach() - 1).abs() - 0.2).abs().min()) > 1e-4
    assert torch.autograd.gradcheck(lambda x: policy_loss(x, old, advantage, mask, 0.2), (new,), eps=1e-6, atol=1e-7)
    values = draw(1.0).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: value_loss(x, old, advantage, mask, 0.2), (values,), eps=1e-6, atol=1e-7)


def test_the_clipped_objective_gives_nothing_for_going_further() -> None:
    ones, zeros = torch.ones(1, 1), torch.zeros(1, 1)
    inside, outside = torch.tensor([[0.1]]), torch.tensor([[0.5]])
    assert float(policy_loss(inside, zeros, ones, ones, 0.2)) == pytest.approx(-float(inside.exp()))
    assert float(policy_loss(outside, zeros, ones, ones, 0.2)) == pytest.approx(-1.2)
    # What is bad and has become likelier is held back in full.
    assert float(policy_loss(outside, zeros, -ones, ones, 0.2)) == pytest.approx(float(outside.exp()))
