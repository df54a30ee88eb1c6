"""Noise levels, sizes and guidance scales as vectors: sinusoids (Vaswani et al. 2017, Ho et al.
2020) and the small MLP that diffusion networks put behind them.

Legend: B batch, E embedding width."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from daedal.nn.linear import Linear
from daedal.nn.mlp import activation


def sinusoidal(
    values: Tensor,
    dim: int,
    *,
    cos_first: bool = True,
    shift: float = 0.0,
    max_period: float = 10_000.0,
) -> Tensor:
    """values (B,) -> (B, dim) float32: half sines, half cosines, at frequencies max_period**(-i /
    (dim/2 - shift)).

    `cos_first` is `flip_sin_to_cos` of the config files, `shift` their `freq_shift`; an odd `dim`
    ends in a zero."""
    half = dim // 2
    frequencies = torch.exp(
        torch.arange(half, dtype=torch.float32, device=values.device)
        * (-math.log(max_period) / (half - shift))
    )
    angles = values.float()[:, None] * frequencies  # (B, dim/2)
    parts = [angles.cos(), angles.sin()] if cos_first else [angles.sin(), angles.cos()]
    return torch.cat([*parts, angles.new_zeros(len(angles), dim % 2)], -1)


class TimestepEmbedding(nn.Module):
    """linear_2(act(linear_1(x))). With `cond_dim` a second vector is projected and added before the
    first layer: the guidance scale of guidance-distilled networks (Meng et al. 2023)."""

    def __init__(self, inp: int, out: int, act: str = "silu", cond_dim: int | None = None) -> None:
        super().__init__()
        self.act: Callable[[Tensor], Tensor] = activation(act)
        self.linear_1 = Linear(inp, out)
        self.cond_proj = Linear(cond_dim, inp, bias=False) if cond_dim else None
        self.linear_2 = Linear(out, out)

    # (B, in), (B, cond_dim) -> (B, E)
    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        if cond is not None and self.cond_proj is not None:
            x = x + self.cond_proj(cond)
        return self.linear_2(self.act(self.linear_1(x)))


class Timestep(nn.Module):
    """A noise level as a vector."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.timestep_embedder = TimestepEmbedding(256, dim)

    def level(self, time: Tensor, dtype: torch.dtype) -> Tensor:  # (...) -> (..., E)
        waves = sinusoidal(time.flatten(), 256).to(dtype)
        return self.timestep_embedder(waves).unflatten(0, time.shape)
