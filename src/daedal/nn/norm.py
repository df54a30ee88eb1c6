"""Normalisation: RMSNorm (Zhang & Sennrich 2019) and LayerNorm, with weights that follow the
activations' dtype."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """x / rms(x) * (weight + offset). `offset=1` is Gemma's form, whose stored weight is
    zero-centred."""

    def __init__(self, dim: int, eps: float = 1e-6, offset: float = 0.0) -> None:
        super().__init__()
        self.eps, self.offset = eps, offset
        self.weight = nn.Parameter(torch.full((dim,), 1.0 - offset))

    def forward(self, x: Tensor) -> Tensor:  # (..., D) -> (..., D)
        weight = self.weight + self.offset if self.offset else self.weight
        return F.rms_norm(x, x.shape[-1:], weight.to(x.dtype), self.eps)


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` whose weight and bias follow the dtype of the input."""

    def forward(self, x: Tensor) -> Tensor:  # (..., D) -> (..., D)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), bias, self.eps)
