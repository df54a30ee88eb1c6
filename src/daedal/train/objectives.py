"""Objectives as pure functions of tensors."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


class LinearCrossEntropy(Function):
    """sum over rows of -log softmax(h W^T)[target] + z * logsumexp^2, without ever holding all
    logits: the gradient of each chunk is made while its logits are at hand (Hsu et al. 2024,
    "Liger"), so memory is one chunk and nothing is computed twice."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        z: float,
        softcap: float | None,
        chunk: int,
    ) -> Tensor:
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        matrix, total = weight.to(hidden.dtype), hidden.new_zeros((), dtype=torch.float32)
        for start in range(0, len(hidden), chunk):
            h, goal = hidden[start : start + chunk], targets[start : start + chunk]
            logits = (h @ matrix.mT).float()  # (n, V)
            if softcap is not None:
                logits = logits.div_(softcap).tanh_().mul_(softcap)
            kept, goal = goal >= 0, goal.clamp(min=0)[:, None]
            slope = None if softcap is None else 1 - (logits / softcap).square()
            picked, top = logits.gather(1, goal)[:, 0], logits.amax(-1)
            # softmax, not yet divided by its sum; from here on in place, one pass an operation
            weights = logits.sub_(top[:, None]).exp_()
            mass = weights.sum(-1)
            logsumexp = top + mass.log()
            total += (logsumexp - picked + z * logsumexp.square()).masked_fill(~kept, 0).sum()
            grad = weights.mul_((kept * (1 + 2 * z * logsumexp) / mass)[:, None])
            grad.scatter_add_(1, goal, -kept[:, None].to(grad.dtype))
            grad = (grad if slope is None else grad * slope).to(hidden.dtype)
            grad_hidden[start : start + chunk] = grad @ matrix
            grad_weight += grad.mT @ h
        ctx.save_for_backward(grad_hidden, grad_weight.to(weight.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grad.to(grad_hidden.dtype), grad_weight * grad, None, None, None, None


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    z: float = 0.0,
    softcap: float | None = None,
    chunk: int = 1024,
) -> Tensor:
    """Sum of next-token losses in nats. hidden (..., D), weight (V, D), targets (...) int64 with
    -100 where there is no loss; `z` is the weight of the z-loss (Chowdhery et al. 2022), which
    keeps logsumexp near zero."""
    return LinearCrossEntropy.apply(
        hidden.flatten(0, -2), weight, targets.flatten(), z, softcap, chunk
    )
