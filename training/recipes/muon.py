"""Muon in float32: matrices move by their momentum made orthogonal (github.com/KellerJordan/Muon).

As `torch.optim.Muon`, whose products are bfloat16 always, which takes fifty times as long on a
processor without such products. Long matrices are iterated on as their Gram matrix, which is less
work (the same polynomial of it).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
LONG = 2  # from this ratio of the sides on the Gram matrix is less work


def orthogonal(matrix: Tensor) -> Tensor:
    """A matrix [M, N] with its singular values made about 1 (0.7 to 1.2), by five Newton-Schulz
    iterations.
    """
    x = matrix.T if matrix.size(0) > matrix.size(1) else matrix
    x = x / x.norm().clamp(min=1e-7)
    a, b, c = COEFFICIENTS
    if x.size(1) < LONG * x.size(0):
        for _ in range(STEPS):
            gram = x @ x.T
            x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    else:
        gram, factor = x @ x.T, torch.eye(len(x), dtype=x.dtype, device=x.device)
        for _ in range(STEPS):
            polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
            polynomial.diagonal().add_(a)
            factor = polynomial @ factor
            gram = polynomial @ gram @ polynomial
        x = factor @ x
    return x.T if matrix.size(0) > matrix.size(1) else x


class Muon(torch.optim.Optimizer):
    """For weights [M, N] alone; a step is as long as AdamW's (arXiv 2502.16982, section 2.2)."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        weight_decay: float,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                mean = state["momentum_buffer"].lerp_(weight.grad, 1 - group["momentum"])
                update = orthogonal(torch.lerp(weight.grad, mean, group["momentum"]).float())
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                size = 0.2 * max(weight.shape) ** 0.5
                weight.add_(update.to(weight.dtype), alpha=-group["lr"] * size)
