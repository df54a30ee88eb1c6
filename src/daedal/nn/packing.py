"""Weights as 4, 8 or 16 bits: how they are rounded and laid out, as pure functions. The layout is
the kernels' own and the one on disk.

Legend: N outputs, K inputs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

GROUP = 32  # inputs that share an int4 scale


def pad(weight: Tensor, rows: int = 1, columns: int = 32) -> Tensor:
    """Zeros to multiples of `rows` and `columns`."""
    return F.pad(weight, (0, -weight.shape[1] % columns, 0, -weight.shape[0] % rows))


def quantize_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K) -> int8 (N, K) and scale (N) fp32, round to nearest."""
    scale = weight.float().abs().amax(1).clamp(min=1e-12) / 127
    return (weight / scale[:, None]).round().to(torch.int8), scale


def int4_scales(groups: Tensor, steps: int = 12) -> Tensor:
    """(..., G) -> (..., 1): the scale of each group that loses least in squares, among those that
    put its extreme weight on level -8 (the side with one level more) or clip it a little."""
    extreme = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))
    best, scale = torch.full_like(extreme, torch.inf), torch.ones_like(extreme)
    for step in range(steps):
        trial = (extreme / -(8.7 - 0.15 * step)).half().float()
        trial = torch.where(trial == 0, 1.0, trial)
        loss = (round_int4(groups, trial) * trial - groups).square().sum(-1, keepdim=True)
        scale, best = torch.where(loss < best, trial, scale), torch.minimum(loss, best)
    return scale


def round_int4(weight: Tensor, scale: Tensor) -> Tensor:
    return (weight / scale).round().clamp(-8, 7)


def pack_int4(levels: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """levels (N, K) in -8..7 and scale (N, K/32), N a multiple of 8 -> bytes (N/8, K/32, 128) and
    fp16 (N/8, K/32, 8). A group's bytes are (4, 8 rows, 4): the low nibble is input 4v+j of row r,
    the high nibble input 16+4v+j."""
    N, K = levels.shape
    # block, group, half, v, r, j
    nibbles = (
        (levels + 8).to(torch.uint8).view(N // 8, 8, K // 32, 2, 4, 4).permute(0, 2, 3, 4, 1, 5)
    )
    packed = nibbles[:, :, 0] | nibbles[:, :, 1] << 4
    return packed.reshape(N // 8, K // 32, 128), scale.half().view(N // 8, 8, K // 32).transpose(
        1, 2
    ).contiguous()


def unpack_int4(packed: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of `pack_int4`: levels (N, K) int8 and scale (N, K/32)."""
    blocks, groups = packed.shape[:2]
    nibbles = torch.stack([packed & 15, packed >> 4], 2).view(blocks, groups, 2, 4, 8, 4)
    levels = nibbles.permute(0, 4, 1, 2, 3, 5).reshape(blocks * 8, groups * 32).to(torch.int8) - 8
    return levels, scale.transpose(1, 2).reshape(blocks * 8, groups)


def packed(weight: Tensor, bits: int) -> tuple[Tensor, Tensor | None]:
    """A weight (N, K) rounded to the nearest of `bits` (4, 8, 16), and its scales."""
    if bits == 16:
        return pad(weight).to(torch.bfloat16), None
    if bits == 8:
        return quantize_int8(pad(weight.float()))
    groups = pad(weight.float(), 8).unflatten(1, (-1, GROUP))
    scale = int4_scales(groups)
    return pack_int4(round_int4(groups, scale).flatten(1), scale[..., 0])


def dense(weight: Tensor, scale: Tensor | None, bits: int) -> Tensor:
    """The weight that a packed form stands for, padding included, in fp32."""
    if bits == 4:
        levels, scales = unpack_int4(weight, scale)  # type: ignore[arg-type]
        return (levels.unflatten(1, (-1, GROUP)) * scales.float()[..., None]).flatten(1)
    return weight.float() if scale is None else weight * scale.float()[:, None]
