"""Weights as 8-bit integers in files, of any kind of layer: a matrix or kernel W is stored as
`W.int8` with a scale for each output row, `W.scale`. They are expanded when read, so the network
computes as if they had been rounded; daedal.nn.quantized is for those that compute packed."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

INT8, SCALE = ".int8", ".scale"
LEAST = 1024  # values, below which a tensor is kept in half precision


def compacted(stream: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """(disk name, tensor) pairs in 8 bits and, of vectors and small tensors, in fp16."""
    for disk, tensor in stream:
        if tensor.dim() < 2 or tensor.numel() < LEAST or not tensor.is_floating_point():
            yield disk, tensor.half() if tensor.is_floating_point() else tensor
            continue
        rows = tensor.float().flatten(1)
        scale = (rows.abs().amax(1, keepdim=True) / 127).clamp(min=1e-8).half()
        yield (
            disk + INT8,
            (rows / scale.float()).round().clamp(-127, 127).to(torch.int8).view_as(tensor),
        )
        yield disk + SCALE, scale[:, 0]


def expanded(stream: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """The pairs with what `compacted` wrote as fp32, and all else as it is."""
    values: dict[str, Tensor] = {}
    scales: dict[str, Tensor] = {}
    for disk, tensor in stream:
        if disk.endswith(INT8):
            values[disk.removesuffix(INT8)] = tensor
        elif disk.endswith(SCALE) and tensor.dtype == torch.float16 and tensor.dim() == 1:
            scales[disk.removesuffix(SCALE)] = tensor
        else:
            yield disk, tensor
    for stem, scale in scales.items():
        if stem not in values:  # a parameter of that name
            yield stem + SCALE, scale
            continue
        wide = values.pop(stem).float()
        yield stem, wide * scale.float().view(-1, *[1] * (wide.dim() - 1))
    yield from ((stem + INT8, tensor) for stem, tensor in values.items())
