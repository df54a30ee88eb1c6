"""Muon for matrices and kernels, AdamW for the rest, one learning-rate dial for each.

Muon (Jordan et al. 2024): momentum, then the nearest orthogonal matrix by Newton-Schulz with the
coefficients of Polar Express (Amsel et al. 2025), scaled so that an update's RMS matches across
shapes. Matrices of one shape are orthogonalised in one batch. A kernel of a convolution (out, in,
h, w) is the matrix (out, in h w) that it multiplies patches with."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from daedal.train.recipe.base import OptimizerRecipe

# (a, b, c) of x <- a x + (b xx' + c (xx')^2) x, for singular values in [1e-3, 1], 5 steps
POLAR = (
    (8.205160414005569, -22.901934987056034, 16.460724910180303),
    (4.066395159942774, -2.861154088635325, 0.5183995205669136),
    (3.9095949044178213, -2.823384403092387, 0.5250370026160194),
    (3.285564346024082, -2.3681265210015355, 0.4644902393982634),
    (2.2779304461183393, -1.6446515741880906, 0.4007860713141346),
)
# where a network's blocks stand, between what reads and what writes
HIDDEN = (".layers.", ".resnets.", ".downsamplers.", ".upsamplers.")


def orthogonal(update: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The orthogonal factor U V^T of update (..., m, n), to a few percent; `dtype` is that of the
    matrix products."""
    x = update.to(dtype)
    wide = x.shape[-2] <= x.shape[-1]
    x = x if wide else x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * 1.01 + 1e-7)
    for a, b, c in POLAR:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x if wide else x.mT).to(update.dtype)


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised. `lr` is for an update of unit RMS gain: the step is lr *
    sqrt(max(1, m/n)) * U V^T. `weight_decay` is decoupled. `dtype` of the Newton-Schulz products:
    bf16 where the device has units for it."""

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            shapes: dict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    shapes[len(p), p.numel() // len(p)].append(p)
            for (m, n), params in shapes.items():
                moved = [whole(self.momentum(p, group["momentum"])).flatten(1) for p in params]
                updates = orthogonal(torch.stack(moved), self.dtype)  # (k, m, n)
                updates = updates * (group["lr"] * max(1.0, m / n) ** 0.5)
                for p, update in zip(params, updates, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    update = update.view(p.shape)
                    if isinstance(p, DTensor):
                        update = distribute_tensor(update, p.device_mesh, p.placements)
                    p.sub_(update)

    def momentum(self, p: nn.Parameter, beta: float) -> Tensor:
        state = self.state[p]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p)
        state["momentum_buffer"].lerp_(p.grad, 1 - beta)
        return p.grad.lerp(state["momentum_buffer"], beta)


def whole(tensor: Tensor) -> Tensor:
    """The full matrix of a sharded update: orthogonalisation needs all of it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def matrices_and_rest(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Muon's parameters (weights of hidden linears and convolutions) and AdamW's (what reads and
    writes, norms, biases, routers)."""
    muon = [
        p for name, p in network.named_parameters()
        if p.dim() in (2, 4) and any(part in f".{name}" for part in HIDDEN) and not name.endswith("mlp.gate.weight")
    ]  # fmt: skip
    chosen = set(map(id, muon))
    return muon, [p for p in network.parameters() if id(p) not in chosen]


def build_optimizers(
    recipe: OptimizerRecipe, network: nn.Module, width: int, dtype: torch.dtype
) -> list[torch.optim.Optimizer]:
    """[Muon, AdamW], or [AdamW] alone where the recipe says "adamw", on a network of this width.
    Vectors and embeddings are not decayed."""
    matrix_lr, adam_lr = recipe.rates(width)
    matrices, rest = matrices_and_rest(network)
    adam = {"betas": recipe.betas, "eps": 1e-10}
    adam["fused"] = not any(isinstance(p, DTensor) for p in rest)
    plain: list[dict[str, Any]] = [{"params": rest, "lr": adam_lr, "weight_decay": 0.0}]
    if recipe.name == "adamw":
        decayed = {"params": matrices, "lr": adam_lr, "weight_decay": recipe.weight_decay}
        return [torch.optim.AdamW([decayed, *plain], **adam)]
    muon = Muon(matrices, matrix_lr, recipe.momentum, recipe.weight_decay, dtype)
    return [muon, torch.optim.AdamW(plain, **adam)]
