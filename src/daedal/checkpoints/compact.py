"""Weights of any kind of layer in 8 or 4 bits, in files. They are expanded when read, so the network
computes as if they had been rounded; daedal.nn.quantized is for those that compute packed.

A matrix or kernel W (out, in, ...) is stored as `W.int8` with a scale for each output row, or as
`W.int4`, two neighbours of the second axis a byte, with a scale for every 64 values of a row;
`W.scale` are the scales, in fp16. Vectors and small tensors are kept in fp16."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

INT8, INT4, SCALE = ".int8", ".int4", ".scale"
LEAST = 1024  # values, below which a tensor is kept in half precision
GROUP = 64  # values of a row with one scale, of 4 bits
CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)  # shares of the largest value that are tried as the end

Bits = Callable[[str], int]  # disk name -> 8 or 4


def eight(name: str) -> int:
    """All in 8 bits."""
    del name
    return 8


def compacted(
    stream: Iterable[tuple[str, Tensor]], bits: Bits = eight
) -> Iterator[tuple[str, Tensor]]:
    """(disk name, tensor) pairs in so many bits; 8 where 4 do not divide."""
    for disk, tensor in stream:
        if tensor.dim() < 2 or tensor.numel() < LEAST or not tensor.is_floating_point():
            yield disk, tensor.half() if tensor.is_floating_point() else tensor
            continue
        fits = tensor[0].numel() % GROUP == 0 and tensor.shape[1] % 2 == 0
        width = 4 if bits(disk) == 4 and fits else 8
        values, scale = rounded(tensor.float(), width)
        if width == 4:
            values = (values[:, 0::2] + 8) | (values[:, 1::2] + 8) << 4
        yield (
            disk + (INT4 if width == 4 else INT8),
            values.to(torch.uint8 if width == 4 else torch.int8),
        )
        yield disk + SCALE, scale


def rounded(tensor: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Integers of a tensor's shape, and the scales (rows, groups) whose squared error is least."""
    rows, top = tensor.flatten(1), 2 ** (bits - 1) - 1
    groups = rows.unflatten(1, (-1, GROUP if bits == 4 else rows.shape[1]))
    largest = groups.abs().amax(-1, keepdim=True).clamp(min=1e-7)
    best, least = largest, torch.full_like(largest, torch.inf)
    for clip in CLIPS if bits == 4 else CLIPS[:1]:
        scale = (largest * clip / top).half().float()
        error = (((groups / scale).round().clamp(-top, top) * scale - groups) ** 2).sum(
            -1, keepdim=True
        )
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    values = (groups / best).round().clamp(-top, top).to(torch.int16)
    return values.view_as(tensor), best[..., 0].half()


def expanded(stream: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """The pairs with what `compacted` wrote as fp32, and all else as it is."""
    values: dict[str, Tensor] = {}
    scales: dict[str, Tensor] = {}
    for disk, tensor in stream:
        if disk.endswith((INT8, INT4)):
            values[disk[: -len(INT8)]] = unpacked(tensor) if disk.endswith(INT4) else tensor
        elif disk.endswith(SCALE) and tensor.dtype == torch.float16 and tensor.dim() == 2:
            scales[disk.removesuffix(SCALE)] = tensor
        else:
            yield disk, tensor
    for stem, scale in scales.items():
        if stem not in values:  # a parameter of that name
            yield stem + SCALE, scale
            continue
        whole = values.pop(stem)
        groups = whole.float().flatten(1).unflatten(1, (scale.shape[1], -1))
        yield stem, (groups * scale.float()[..., None]).view_as(whole)
    yield from ((stem + INT8, tensor) for stem, tensor in values.items())


def unpacked(pairs: Tensor) -> Tensor:
    """(out, in / 2, ...) bytes -> (out, in, ...)."""
    both = torch.stack([pairs & 15, pairs >> 4], 2).to(torch.int8) - 8
    return both.flatten(1, 2)
