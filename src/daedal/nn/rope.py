"""Rotary position embeddings (Su et al. 2021) and the ways to stretch them past the trained
context: linear (Chen et al. 2023), dynamic NTK, YaRN (Peng et al. 2023), LongRoPE (Ding et al.
2024) and Llama 3.1's.

Each scaling is a function from a `Rope` to (inverse frequencies, attention factor); `tables` turns
positions into cosines and sines. Dynamic NTK and LongRoPE depend on how long the whole sequence is,
so `tables` is told that length per token."""

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from daedal.errors import DaedalError, nearest


@dataclass(frozen=True)
class Rope:
    """What fixes the rotation: `dim` rotated channels of a head, base `theta`, the trained context,
    and a scaling."""

    dim: int
    theta: float
    max_positions: int
    # rope_scaling of config.json as sorted pairs (hashable)
    scaling: tuple[tuple[str, Any], ...] = field(default=())

    @property
    def type(self) -> str:
        options = dict(self.scaling)
        return options.get("rope_type") or options.get("type") or "default"

    def option(self, name: str, default: Any = None) -> Any:
        value = dict(self.scaling).get(name)
        return default if value is None else value

    @property
    def original(self) -> int:
        return self.option("original_max_position_embeddings", self.max_positions)


def base_frequencies(rope: Rope, theta: float | None = None) -> Tensor:
    """theta^(-2i/dim) for i < dim/2, float32 (dim/2,)."""
    return 1.0 / (theta or rope.theta) ** (torch.arange(0, rope.dim, 2).float() / rope.dim)


def default(rope: Rope, length: int) -> tuple[Tensor, float]:
    return base_frequencies(rope), 1.0


def linear(rope: Rope, length: int) -> tuple[Tensor, float]:
    return base_frequencies(rope) / rope.option("factor"), 1.0


def dynamic(rope: Rope, length: int) -> tuple[Tensor, float]:
    """NTK-aware base growth with the length of the sequence in hand."""
    factor, length = rope.option("factor"), max(length, rope.max_positions)
    stretch = factor * length / rope.max_positions - (factor - 1)
    return base_frequencies(rope, rope.theta * stretch ** (rope.dim / (rope.dim - 2))), 1.0


def llama3(rope: Rope, length: int) -> tuple[Tensor, float]:
    """Long wavelengths divided by the factor, short ones kept, a linear blend between."""
    freqs = base_frequencies(rope)
    low, high = rope.option("low_freq_factor"), rope.option("high_freq_factor")
    turns = rope.original * freqs / (2 * math.pi)  # rotations over the trained context
    keep = ((turns - low) / (high - low)).clamp(0, 1)
    return keep * freqs + (1 - keep) * freqs / rope.option("factor"), 1.0


def yarn(rope: Rope, length: int) -> tuple[Tensor, float]:
    """Interpolate the channels that turn less than beta_slow times over the trained context, keep
    those above beta_fast."""
    factor = rope.option("factor") or rope.max_positions / rope.original

    def channel(turns: float) -> float:
        wavelength = rope.original / (turns * 2 * math.pi)
        return rope.dim * math.log(wavelength) / (2 * math.log(rope.theta))

    low, high = channel(rope.option("beta_fast", 32)), channel(rope.option("beta_slow", 1))
    if rope.option("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.dim - 1)
    ramp = (torch.arange(rope.dim // 2).float() - low) / (high - low if high > low else 0.001)
    keep = 1 - ramp.clamp(0, 1)
    freqs = base_frequencies(rope)
    return keep * freqs + (1 - keep) * freqs / factor, yarn_attention_factor(rope, factor)


def yarn_attention_factor(rope: Rope, factor: float) -> float:
    def mscale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    given = rope.option("attention_factor")
    top = rope.option("mscale")
    bottom = rope.option("mscale_all_dim")
    if given is not None:
        return given
    return mscale(top) / mscale(bottom) if top and bottom else mscale(1)


def longrope(rope: Rope, length: int) -> tuple[Tensor, float]:
    """Per-channel factors found by search: one set below the trained context, another above it."""
    which = "long_factor" if length > rope.original else "short_factor"
    freqs = base_frequencies(rope) / torch.tensor(rope.option(which), dtype=torch.float32)
    factor = rope.option("factor") or rope.max_positions / rope.original
    grown = math.sqrt(1 + math.log(factor) / math.log(rope.original)) if factor > 1 else 1.0
    return freqs, rope.option("attention_factor", grown)


SCALINGS = {each.__name__: each for each in (default, linear, dynamic, llama3, yarn, longrope)}
SCALINGS["su"] = longrope


@lru_cache(maxsize=64)
def frequencies(rope: Rope, length: int) -> tuple[Tensor, float]:
    """Inverse frequencies (dim/2,) float32 and the factor on cos and sin, for a sequence of
    `length` tokens."""
    if rope.type not in SCALINGS:
        known = sorted(SCALINGS)
        raise DaedalError(
            f"rope_scaling type {rope.type!r} is not one of {', '.join(known)}{nearest(rope.type, known)}."
        )
    return SCALINGS[rope.type](rope, length)


@lru_cache(maxsize=64)
def placed(rope: Rope, device: torch.device) -> tuple[Tensor, float]:
    """`frequencies` that depend on no length, on a device: copied there once, since a graph of a
    step cannot hold a copy from the CPU."""
    freqs, factor = frequencies(rope, 0)
    return freqs.to(device), factor


def tables(
    rope: Rope, positions: Tensor, lengths: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """cos and sin, each (B, T, 1, dim/2), of positions (B, T). `lengths`, (B, 1) or (B, T), is how
    long the sequence of each row or token is in all; only the length-dependent scalings look at it.
    """
    if rope.type in ("dynamic", "longrope", "su"):
        lengths = positions.amax(-1, keepdim=True) + 1 if lengths is None else lengths
        totals, which = lengths.unique(return_inverse=True)
        pairs = [frequencies(rope, total) for total in totals.tolist()]
        # (B, 1|T, dim/2)
        freqs = torch.stack([pair[0] for pair in pairs]).to(positions.device)[which]
        factor = pairs[0][1]
    else:
        freqs, factor = placed(rope, positions.device)
    angles = (positions.float()[..., None] * freqs)[:, :, None]  # (B, T, 1, dim/2)
    return (angles.cos() * factor).to(dtype), (angles.sin() * factor).to(dtype)


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first 2*R channels of x (B, T, H, K) as halves (i, i+R); the rest pass through."""
    rotated = 2 * cos.shape[-1]
    first, second = x[..., :rotated].chunk(2, -1)
    parts = [first * cos - second * sin, second * cos + first * sin]
    if rotated < x.shape[-1]:
        parts.append(x[..., rotated:])
    return torch.cat(parts, -1)
