"""Weight norm (Salimans & Kingma 2016) in files: a weight stored as its magnitude and its direction.
Networks here hold the plain weight; three spellings are read, and that is written which the family's
own reader takes."""

from collections.abc import Iterator

import torch
from torch import Tensor

# endings of (magnitude, direction), of which the weight is magnitude * direction / |direction|
SPELLINGS = (
    ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    ("weight_g", "weight_v"),
)
NEWEST, OLD = SPELLINGS


def folded(stream: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """(disk name, tensor) pairs with each magnitude and direction made one weight."""
    waiting: dict[str, dict[str, Tensor]] = {}
    for disk, tensor in stream:
        end = next((end for pair in SPELLINGS for end in pair if disk.endswith(f".{end}")), "")
        if not end:
            yield disk, tensor
            continue
        stem = disk.removesuffix(end)
        parts = waiting.setdefault(stem, {})
        parts[end] = tensor
        if len(parts) == 2:
            pair = waiting.pop(stem)
            g, v = next((pair[g], pair[v]) for g, v in SPELLINGS if g in pair)
            yield f"{stem}weight", product(g, v)
    for stem, parts in waiting.items():  # half of a pair: an unmatched tensor
        yield from ((stem + end, tensor) for end, tensor in parts.items())


def product(g: Tensor, v: Tensor) -> Tensor:
    """g * v / |v|; the norm is over all axes that g has at 1."""
    axes = [axis for axis in range(v.dim()) if g.shape[axis] == 1 and v.shape[axis] != 1]
    return (g.float() * v.float() / norm(v, axes)).to(v.dtype)


def parts(disk: str, weight: Tensor, old: bool = False) -> Iterator[tuple[str, Tensor]]:
    """A plain weight as the two tensors that a file of normed weights holds, over all axes but the
    first; `old` in the spelling of torch before 2.0, which diffusers keeps."""
    stem = disk.removesuffix("weight")
    magnitude, direction = OLD if old else NEWEST
    yield f"{stem}{magnitude}", norm(weight, list(range(1, weight.dim()))).to(weight.dtype)
    yield f"{stem}{direction}", weight


def norm(weight: Tensor, axes: list[int]) -> Tensor:
    squared = weight.float() ** 2
    return torch.sqrt(squared.sum(axes, keepdim=True) if axes else squared)
