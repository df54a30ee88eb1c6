"""Guidance: several predictions of x0 become one. Pure functions on tensors of one shape (B, ...),
state passed in and out.

Classifier-free guidance goes further along the line from a worse prediction to a better one. What
the worse one is gives the method its name: no prompt (Ho & Salimans 2022); a negative prompt, its
prediction simply in place of the empty one; a weaker network (autoguidance, Karras et al. 2024);
the same network with its attention perturbed (Ahn et al. 2024). x0, eps, v and velocity are related
linearly at a level, so the line is the same in all of them; what is not linear (`rescaled`, `apg`,
thresholding) is defined here on x0.

Two conventions exist for the scale; here 1 is the prediction itself and 0 the worse one. cond + s
(cond - uncond) is cfg(cond, uncond, 1 + s)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from daedal.processes.noise import Level


def cfg(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """uncond + scale (cond - uncond) (Ho & Salimans 2022, eq. 6, whose w is scale - 1). `uncond`
    may as well be a negative prompt's."""
    return uncond + scale * (cond - uncond)


def autoguidance(good: Tensor, weak: Tensor, scale: float) -> Tensor:
    """cfg between two networks with the same prompt, the other smaller or less trained (Karras et
    al. 2024, eq. 3)."""
    return cfg(good, weak, scale)


def composed(uncond: Tensor, conds: Sequence[Tensor], scales: Sequence[float]) -> Tensor:
    """Several prompts at once, each with its scale: AND; a negative scale: NOT (Liu et al. 2022,
    eq. 11 and 13)."""
    return uncond + sum(
        (scale * (cond - uncond) for cond, scale in zip(conds, scales, strict=True)),
        torch.zeros_like(uncond),
    )


def perturbed(guided: Tensor, cond: Tensor, worse: Tensor, scale: float) -> Tensor:
    """Perturbed-attention guidance on top of a guided (or plain) prediction: `worse` is cond's
    prompt through a network whose self-attention maps are identities (Ahn et al. 2024, eq. 14 and
    16). Skip-layer guidance combines in the same way."""
    return guided + scale * (cond - worse)


def rescaled(guided: Tensor, cond: Tensor, amount: float) -> Tensor:
    """Give the guided prediction the spread of `cond`, by `amount` from 0 to 1: strong guidance
    over-exposes (Lin et al. 2024, eq. 15, 16). On what the network itself outputs it is the paper's
    (and diffusers'); on x0 it works alike."""
    dims = tuple(range(1, cond.ndim))
    match = guided * (cond.std(dims, keepdim=True) / guided.std(dims, keepdim=True))
    return amount * match + (1 - amount) * guided


def active(level: Level, low: float = 0.0, high: float = math.inf) -> bool:
    """Whether guidance applies at a level: only for sigma / alpha in (low, high] (Kynkäänniemi et
    al. 2024). Outside, cond alone is better, and the other prediction need not be made."""
    ratio = float(level.sigma) / float(level.alpha) if level.alpha else math.inf
    return low < ratio <= high


def apg(
    cond: Tensor,
    uncond: Tensor,
    scale: float,
    average: Tensor | None = None,
    eta: float = 0.0,
    norm: float = 0.0,
    momentum: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Adaptive projected guidance (Sadat et al. 2024, algorithm 1): (guided, average for the next
    step). The part of the update along cond, which saturates colours, is weighted by `eta`; its
    norm is at most `norm` (0: any); a negative `momentum` favours what is new. eta 1 with neither
    is cfg."""
    dims = tuple(range(1, cond.ndim))
    update = cond - uncond if average is None else cond - uncond + momentum * average
    average = update
    if norm:
        update = update * (norm / torch.linalg.vector_norm(update, dim=dims, keepdim=True)).clamp(
            max=1
        )
    unit = cond / torch.linalg.vector_norm(cond, dim=dims, keepdim=True).clamp(
        min=torch.finfo(cond.dtype).tiny
    )
    along = (update * unit).sum(dims, keepdim=True) * unit
    return cond + (scale - 1) * (update + (eta - 1) * along), average


def dynamic_threshold(x0: Tensor, quantile: float = 0.995, largest: float = 1.0) -> Tensor:
    """Clip x0 (B, ...) to a quantile of its sizes, image by image, and bring it back into [-1, 1]
    (Saharia et al. 2022, section 2.3). The bound lies between 1 and `largest`."""
    bound = (
        torch.stack([image.abs().float().quantile(quantile) for image in x0.flatten(1)])
        .clamp(1, largest)
        .to(x0.dtype)
    )
    bound = bound.view(-1, *[1] * (x0.ndim - 1))  # (B, 1, ...)
    return x0.clamp(-bound, bound) / bound
