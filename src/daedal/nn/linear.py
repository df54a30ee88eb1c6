"""Linear layers with fp32 master weights and a compute dtype that follows the activations (no autocast)."""

import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """`nn.Linear` whose weight is cast to the dtype of its input: fp32 masters, bf16 compute."""

    def forward(self, x: Tensor) -> Tensor:  # (..., in) -> (..., out)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


def linears(x: Tensor, *modules: nn.Module) -> tuple[Tensor, ...]:
    """Several projections of one input. Quantised modules share one kernel call and one quantisation of `x`."""
    together = getattr(modules[0], "call_together", None)
    return together(x, modules) if together else tuple(module(x) for module in modules)
