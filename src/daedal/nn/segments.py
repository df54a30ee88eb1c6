"""Packed rows without cross-talk: several texts in one row, each at positions from 0 and seeing
itself only.

    hidden = network.hidden(tokens, cache=Segments(numbers))     # tokens, numbers (B, T); a new
    number begins a new text

It stands where a step of a KV cache stands (daedal.nn.cache), so a network needs no mask for it and
no attention is spent between texts."""

from typing import Unpack

import torch
from torch import Tensor

from daedal.nn.attention import Scores, attend


class Segments:
    """`positions` and `lengths` (B, T) and `attend` are what a network uses. A row's end ends its
    last text."""

    def __init__(self, numbers: Tensor) -> None:
        begins = torch.ones_like(numbers, dtype=torch.bool)
        begins[:, 1:] = numbers[:, 1:] != numbers[:, :-1]
        starts = begins.flatten().nonzero()[:, 0]  # (n,)
        counts = torch.diff(starts, append=starts.new_tensor([numbers.numel()]))
        self.sizes = counts.tolist()
        self.lengths = counts.repeat_interleave(counts).view(numbers.shape)
        places = torch.arange(numbers.numel(), device=numbers.device)
        self.positions = (places - starts.repeat_interleave(counts)).view(numbers.shape)

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, **scores: Unpack[Scores]
    ) -> Tensor:
        """q (B, T, H, K), k and v (B, T, Hkv, K) -> like q."""
        parts = zip(*(t.flatten(0, 1)[None].split(self.sizes, 1) for t in (q, k, v)), strict=True)
        outs = [attend(*part, **scores) for part in parts]
        return torch.cat(outs, 1).view(q.shape)
