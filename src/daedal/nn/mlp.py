"""Feed-forward layers: gated (Shazeer 2020), plain, and a mixture of experts (Shazeer et al. 2017,
Jiang et al. 2024)."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.errors import DaedalError, nearest
from daedal.nn.linear import Linear, linears

if TYPE_CHECKING:
    from daedal.networks.decoder import Context


def gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def relu2(x: Tensor) -> Tensor:
    return F.relu(x).square()


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    **dict.fromkeys(("silu", "swish"), F.silu),
    **dict.fromkeys(("gelu_pytorch_tanh", "gelu_new", "gelu_fast"), gelu_tanh),
    **{"gelu": F.gelu, "relu": F.relu, "relu2": relu2},
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    if name not in ACTIVATIONS:
        known = sorted(ACTIVATIONS)
        raise DaedalError(
            f"hidden_act {name!r} is not one of {', '.join(known)}{nearest(name, known)}."
        )
    return ACTIVATIONS[name]


class GatedMLP(nn.Module):
    """down(act(gate(x)) * up(x))."""

    def __init__(self, dim: int, inner: int, act: str, bias: bool = False) -> None:
        super().__init__()
        self.act = activation(act)
        self.gate_proj = Linear(dim, inner, bias=bias)
        self.up_proj = Linear(dim, inner, bias=bias)
        self.down_proj = Linear(inner, dim, bias=bias)

    # (..., D) -> (..., D)
    def forward(self, x: Tensor, context: "Context | None" = None) -> Tensor:
        gate, up = linears(x, self.gate_proj, self.up_proj)
        return self.down_proj(self.act(gate) * up)


class MLP(nn.Module):
    """fc_out(act(fc_in(x)))."""

    def __init__(self, dim: int, inner: int, act: str, bias: bool = True) -> None:
        super().__init__()
        self.act = activation(act)
        self.up_proj = Linear(dim, inner, bias=bias)
        self.down_proj = Linear(inner, dim, bias=bias)

    # (..., D) -> (..., D)
    def forward(self, x: Tensor, context: "Context | None" = None) -> Tensor:
        return self.down_proj(self.act(self.up_proj(x)))


class MoE(nn.Module):
    """Each token goes to its `top_k` experts; their outputs are mixed by the router's softmax,
    renormalised over the chosen when `normalise`. Router logits (N, E) are appended to
    `context.router_logits` when a trainer put a list there."""

    def __init__(
        self, dim: int, inner: int, act: str, experts: int, top_k: int, normalise: bool
    ) -> None:
        super().__init__()
        self.top_k, self.normalise = top_k, normalise
        self.gate = Linear(dim, experts, bias=False)
        self.experts = nn.ModuleList(GatedMLP(dim, inner, act) for _ in range(experts))

    def forward(self, x: Tensor, context: "Context") -> Tensor:  # (B, T, D) -> (B, T, D)
        flat = x.flatten(0, -2)  # (N, D)
        logits = self.gate(flat)  # (N, E)
        if context.router_logits is not None:
            context.router_logits.append(logits)
        weights, chosen = logits.float().softmax(-1).topk(self.top_k, -1)  # (N, k)
        if self.normalise:
            weights = weights / weights.sum(-1, keepdim=True)
        out = torch.zeros_like(flat)
        for index, expert in enumerate(self.experts):
            rows, places = (chosen == index).nonzero(as_tuple=True)
            if len(rows):
                share = weights[rows, places, None].to(flat.dtype)
                out = out.index_add(0, rows, expert(flat[rows]) * share)
        return out.view_as(x)


def balance_loss(router_logits: list[Tensor], top_k: int) -> Tensor:
    """Load-balancing loss of Switch Transformers (Fedus et al. 2021, eq. 4), averaged over layers;
    1 at perfect balance when top_k = 1, top_k in general. Each logits tensor is (N, E)."""
    losses = []
    for logits in router_logits:
        probabilities = logits.float().softmax(-1)
        chosen = F.one_hot(probabilities.topk(top_k, -1).indices, logits.shape[-1]).sum(1).float()
        losses.append(logits.shape[-1] * (chosen.mean(0) * probabilities.mean(0)).sum())
    return torch.stack(losses).mean()
