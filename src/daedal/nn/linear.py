"""Linear layers with fp32 master weights and a compute dtype that follows the activations (no
autocast).

Nothing here fills its weights when it is built: they are loaded, or drawn by
`Decoder.init_weights`. (torch's own initialisation costs seconds, and on the meta device imports
its compiler.)"""

import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """`nn.Linear` whose weight is cast to the dtype of its input: fp32 masters, bf16 compute."""

    def reset_parameters(self) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:  # (..., in) -> (..., out)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class Embedding(nn.Embedding):
    """`nn.Embedding` that is not filled when built."""

    def reset_parameters(self) -> None:
        pass


def linears(x: Tensor, *modules: nn.Module) -> tuple[Tensor, ...]:
    """Several projections of one input. Quantised modules share one kernel call and one
    quantisation of `x`."""
    together = getattr(modules[0], "call_together", None)
    return together(x, modules) if together else tuple(module(x) for module in modules)
