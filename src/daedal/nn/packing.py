"""Weights packed for inference: the kinds of packing, how a weight is rounded to one and what it
stands for. Pure functions; the layouts are the kernels' own and those on disk.

Kinds are `int8` (a scale a row), `bf16`, and the blocks of daedal.nn.blocks.

Legend: N outputs, K inputs."""

import torch
import torch.nn.functional as F
from torch import Tensor

from daedal.errors import DaedalError
from daedal.nn import blocks

BITS = {"int8": 8, "bf16": 16} | {name: int(kind.bits) for name, kind in blocks.KINDS.items()}


def pad(weight: Tensor) -> Tensor:
    """Zeros to a multiple of 32 columns."""
    return F.pad(weight, (0, -weight.shape[1] % 32))


def shapes(kind: str, rows: int, columns: int) -> tuple[tuple[int, ...], torch.dtype]:
    """Shape and dtype of a weight (N, K) packed as `kind`."""
    if kind not in BITS:
        raise DaedalError(
            f"weights packed as {kind!r} are not supported; choose {', '.join(BITS)}."
        )
    if kind in blocks.KINDS:
        return (rows, blocks.row_bytes(columns, kind)), torch.uint8
    return (rows, columns + -columns % 32), torch.int8 if kind == "int8" else torch.bfloat16


def quantize_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K) -> int8 (N, K) and scale (N) fp32, round to nearest."""
    scale = weight.float().abs().amax(1).clamp(min=1e-12) / 127
    return (weight / scale[:, None]).round().to(torch.int8), scale


def packed(weight: Tensor, kind: str) -> tuple[Tensor, Tensor | None]:
    """A weight (N, K) rounded to `kind`, and its scales if they stand apart."""
    if kind in blocks.KINDS:
        return blocks.to_blocks(weight, kind), None
    if kind == "bf16":
        return pad(weight).to(torch.bfloat16), None
    return quantize_int8(pad(weight.float()))


def dense(weight: Tensor, scale: Tensor | None, kind: str) -> Tensor:
    """The weight that a packed form stands for, padding included, in fp32."""
    if kind in blocks.KINDS:
        return blocks.unpack(weight, kind)
    return weight.float() if scale is None else weight * scale.float()[:, None]
