"""Muon for hidden matrices and AdamW for everything else, with state that goes to and from plain tensors.

Why not `torch.optim.Muon`: it iterates in bfloat16 one matrix at a time, which on a CPU without bfloat16 units takes 50 times
as long as the same iteration in float32 over stacks of equal shapes (docs/decisions.md).
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn

from forescale.model.scaling import RunPlan, parameter_group

# Coefficients of the quintic Newton-Schulz iteration (Jordan 2024), 5 steps.
NS_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NS_STEPS = 5


def orthogonalise(g_NRC: Tensor, bfloat16: bool = False) -> Tensor:
    """The nearest semi-orthogonal matrix of each in a stack (N, rows, columns), approximately (singular values 0.7 to 1.2)."""
    a, b, c = NS_COEFFICIENTS
    x = g_NRC.to(torch.bfloat16) if bfloat16 else g_NRC
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    for _ in range(NS_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(g_NRC.dtype)


class Optimizer:
    """One step for every parameter of a model under its plan's learning rates; Muon's iteration in bfloat16 where asked, as in the
    reference implementation."""

    def __init__(self, model: nn.Module, plan: RunPlan, momentum: float = 0.95, bfloat16: bool = False) -> None:
        self.bfloat16 = bfloat16
        self.momentum = momentum
        self.rates = plan.peak_rates()
        self.names: dict[torch.Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
        groups: dict[str, list[nn.Parameter]] = defaultdict(list)
        for name, parameter in model.named_parameters():
            groups[parameter_group(name, parameter.ndim)].append(parameter)
        self.matrices = groups.pop("muon")
        self.buffers = [torch.zeros_like(p) for p in self.matrices]
        by_shape: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, p in enumerate(self.matrices):
            # A matrix and its transpose orthogonalise alike, so wide and tall ones share a stack.
            by_shape[(min(p.shape), max(p.shape))].append(index)
        self.stacks = list(by_shape.values())
        self.adam = torch.optim.AdamW(
            [{"params": params, "lr": self.rates[group], "name": group} for group, params in groups.items()],
            betas=(0.9, 0.95),
            eps=1e-10,
            weight_decay=0.0,
            fused=True,
        )

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """Updates all parameters with every rate times `factor`, then clears the gradients."""
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.matrices]
        torch._foreach_mul_(self.buffers, self.momentum)
        torch._foreach_add_(self.buffers, grads, alpha=1 - self.momentum)
        # Nesterov, as in the reference implementation.
        ahead = torch._foreach_mul(self.buffers, self.momentum)
        torch._foreach_add_(ahead, grads, alpha=1 - self.momentum)
        for stack in self.stacks:
            wide = torch.stack([ahead[i] if ahead[i].shape[0] <= ahead[i].shape[1] else ahead[i].mT for i in stack])
            for i, update in zip(stack, orthogonalise(wide, self.bfloat16).unbind()):
                p = self.matrices[i]
                rows, columns = p.shape
                scale = max(1.0, rows / columns) ** 0.5
                p.add_(update if rows <= columns else update.mT, alpha=-factor * self.rates["muon"] * scale)
                p.grad = None
        for group in self.adam.param_groups:
            group["lr"] = factor * self.rates[group["name"]]
        self.adam.step()
        self.adam.zero_grad()

    def gradient_norms(self) -> Tensor:
        """2-norm of the gradient of each parameter, in the order of `names`; 0 where it has none."""
        some = next(iter(self.names))
        none = torch.zeros((), device=some.device, dtype=some.dtype)
        return torch.stack(torch._foreach_norm([none if p.grad is None else p.grad for p in self.names]))

    def state_tensors(self) -> dict[str, Tensor]:
        """All state by name, for an exact continuation."""
        state = {f"muon.{self.names[p]}": buffer for p, buffer in zip(self.matrices, self.buffers)}
        for parameter, values in self.adam.state.items():
            for key, value in values.items():
                state[f"adam.{key}.{self.names[parameter]}"] = value
        return state

    @torch.no_grad()
    def load_state_tensors(self, state: dict[str, Tensor]) -> None:
        for p, buffer in zip(self.matrices, self.buffers):
            buffer.copy_(state[f"muon.{self.names[p]}"])
        for group in self.adam.param_groups:
            for p in group["params"]:
                name = self.names[p]
                self.adam.state[p] = {
                    key: state[f"adam.{key}.{name}"].clone()
                    for key in ("step", "exp_avg", "exp_avg_sq")
                    if f"adam.{key}.{name}" in state
                }
