"""Blocks of weights, as GGUF files hold them: what the types are, how they are unpacked, how
weights are rounded to them. Pure functions on tensors.

    rows = to_blocks(weight, "q4_k")     # (N, K) -> uint8 (N, K / 256 * 144)
    unpack(rows, "q4_k")                 # -> (N, K) fp32

A block is 32 or 256 weights of one row. The K types divide 256 weights into groups of 16 or 32,
whose scales (and minimums) are integers times one fp16 number a block. The `gguf` package specifies
the types; rounding minimises a weighted squared error, as llama.cpp's does.

Legend: N outputs, K inputs, G weights of a group, n groups."""

from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from daedal.errors import DaedalError


class Kind(NamedTuple):
    """A type of block: its number in a GGUF file, its weights and its bytes."""

    number: int
    weights: int
    size: int

    @property
    def bits(self) -> float:  # of a weight
        return 8 * self.size / self.weights


KINDS = {
    "q4_0": Kind(2, 32, 18),
    "q4_1": Kind(3, 32, 20),
    "q5_0": Kind(6, 32, 22),
    "q5_1": Kind(7, 32, 24),
    "q8_0": Kind(8, 32, 34),
    "q2_k": Kind(10, 256, 84),
    "q3_k": Kind(11, 256, 110),
    "q4_k": Kind(12, 256, 144),
    "q5_k": Kind(13, 256, 176),
    "q6_k": Kind(14, 256, 210),
    "iq4_nl": Kind(20, 32, 18),
    "iq4_xs": Kind(23, 256, 136),
}
CHUNK = 1 << 18  # weights that are rounded at a time, so that they stay in cache


def row_bytes(columns: int, kind: str) -> int:
    """Bytes of a row of K weights, which must be whole blocks."""
    of = KINDS[kind]
    if columns % of.weights:
        raise DaedalError(
            f"a row of {columns} weights is not whole blocks of {kind}, which hold {of.weights}."
        )
    return columns // of.weights * of.size


def columns_of(rows: Tensor, kind: str) -> int:
    return rows.shape[1] // KINDS[kind].size * KINDS[kind].weights


def unpack(rows: Tensor, kind: str) -> Tensor:
    """Rows of blocks, uint8 (N, bytes) -> the weights that they stand for, (N, K) fp32."""
    from gguf import GGMLQuantizationType, quants  # 40 ms, for who needs it

    values = quants.dequantize(rows.cpu().numpy(), GGMLQuantizationType(KINDS[kind].number))
    return torch.from_numpy(np.ascontiguousarray(values)).to(rows.device)


# ---- rounding ------------------------------------------------------------------------------------


def to_blocks(weight: Tensor, kind: str) -> Tensor:
    """Round a weight (N, K) to blocks, uint8 (N, bytes): q4_k, q6_k, q5_0 or q8_0."""
    if kind not in ROUNDED:
        raise DaedalError(
            f"weights are not rounded to {kind!r}; choose {', '.join(sorted(ROUNDED))}."
        )
    of, width = KINDS[kind], row_bytes(weight.shape[1], kind)
    blocks = weight.detach().reshape(-1, of.weights)
    out = torch.empty(len(blocks), of.size, dtype=torch.uint8)
    step = CHUNK // of.weights
    for start in range(0, len(blocks), step):
        out[start : start + step] = ROUNDED[kind](blocks[start : start + step].float())
    return out.view(len(weight), width)


def half_bytes(values: Tensor) -> Tensor:  # (n,) -> the bytes of fp16, (n, 2)
    return values.half().view(torch.uint8).view(-1, 2)


def as_half(values: Tensor) -> Tensor:
    """What fp16 keeps of finite values, in fp32."""
    return values.clamp(-65504, 65504).half().float()


def inverse(values: Tensor) -> Tensor:  # 1 / v, and 0 of 0
    return torch.where(values == 0, 0.0, 1 / values)


def extreme_of(x: Tensor, dim: int) -> Tensor:
    """The value that is furthest from 0, its sign kept."""
    high, low = x.amax(dim), x.amin(dim)  # argmax is four times slower
    return torch.where(high >= -low, high, low)


def best_symmetric(x: Tensor, top: int, steps: int) -> Tensor:
    """x (G, n) -> scales (n,) of levels -top .. top - 1. Tried are those that put the extreme weight
    on -top or clip it a little; each is then fitted by least squares, weighted by x^2."""
    weight = x.square()
    extreme = extreme_of(x, 0)
    best, scale = torch.zeros_like(extreme), torch.zeros_like(extreme)
    level, weighted, product = (torch.empty_like(x) for _ in range(3))
    for step in range(steps):
        trial = -(top + 0.15 * (step - steps // 2)) * inverse(extreme)
        torch.mul(x, trial, out=level).round_().clamp_(-top, top - 1)
        torch.mul(weight, level, out=weighted)
        xl, ll = torch.mul(weighted, x, out=product).sum(0), weighted.mul_(level).sum(0)
        fitted = xl * inverse(ll)
        better = xl * fitted > best
        scale, best = torch.where(better, fitted, scale), torch.where(better, xl * fitted, best)
    return scale


def best_affine(x: Tensor, top: int, steps: int) -> tuple[Tensor, Tensor]:
    """x (G, n) -> (scale, least), each (n,) and at least 0, of x = scale * level - least with levels
    0 .. top. Scales from the range and a little beside it are tried, each fitted by weighted least
    squares; large weights count more."""
    weight = x.square().mean(0).sqrt() + x.abs()
    w, wx, wxx = weight.sum(0), (weight * x).sum(0), (weight * x).mul_(x).sum(0)
    low = x.amin(0).clamp(max=0)
    span = x.amax(0) - low
    best, scale, least = torch.full_like(low, torch.inf), span / top, -low
    level, weighted, product = (torch.empty_like(x) for _ in range(3))
    for step in range(steps):
        trial = (top - 0.9 + 1.8 * step / (steps - 1)) * inverse(span)
        torch.sub(x, low, out=level).mul_(trial).round_().clamp_(0, top)
        wl = torch.mul(weight, level, out=weighted).sum(0)
        wlx = torch.mul(weighted, x, out=product).sum(0)
        wll = weighted.mul_(level).sum(0)
        s, m = fitted(w, wx, wl, wlx, wll)
        loss = wxx - 2 * s * wlx - 2 * m * wx + s * s * wll + 2 * s * m * wl + m * m * w
        better = (loss < best) & (s > 0)
        best = torch.where(better, loss, best)
        scale, least = torch.where(better, s, scale), torch.where(better, -m, least)
    return scale, least


def fitted(w: Tensor, wx: Tensor, wl: Tensor, wlx: Tensor, wll: Tensor) -> tuple[Tensor, Tensor]:
    """(s, m), m at most 0, that minimise the weighted squares of x - s * level - m, from weighted
    sums: w of 1, wx of x, wl of the levels, wlx of both, wll of the levels' squares."""
    det = w * wll - wl * wl
    det = inverse(torch.where(det < 1e-5 * w * wll, 0.0, det))  # levels that are all the same
    s, m = (w * wlx - wx * wl) * det, (wll * wx - wl * wlx) * det
    return torch.where(m > 0, wlx * inverse(wll), s), m.clamp(max=0)


def groups_of(blocks: Tensor, size: int) -> Tensor:
    """(n, weights) -> (G, n * groups): a group is a column, so that sums run along lanes."""
    return blocks.reshape(-1, size).mT.contiguous()


class Q4K(NamedTuple):
    """The grid of q4_k blocks: fp16 numbers d and dmin (n,), and 6-bit integers scale and least
    (n, 8) of them. A weight is d * scale * level - dmin * least, level 0 .. 15."""

    d: Tensor
    dmin: Tensor
    scale: Tensor
    least: Tensor
    top = 15

    @classmethod
    def of(cls, blocks: Tensor) -> Self:  # (n, 256)
        scale, least = (t.view(-1, 8) for t in best_affine(groups_of(blocks, 32), 15, 3))
        (d, scale), (dmin, least) = whole_scales(scale, 63), whole_scales(least, 63)
        return cls(d, dmin, scale, least)

    def steps(self) -> tuple[Tensor, Tensor]:
        """(step, minimum) of each group, (n, 8)."""
        return self.d[:, None] * self.scale, self.dmin[:, None] * self.least

    def pack(self, blocks: Tensor) -> Tensor:
        """(n, 256) -> bytes (n, 144): d, dmin, the eight pairs of 6 bits, nibbles."""
        q = levels_of(blocks, self).view(-1, 4, 2, 32)
        s, m = self.scale.to(torch.uint8), self.least.to(torch.uint8)
        pairs = [
            s[:, :4] | s[:, 4:] >> 4 << 6,
            m[:, :4] | m[:, 4:] >> 4 << 6,
            (s[:, 4:] & 15) | m[:, 4:] << 4,
        ]
        nibbles = (q[:, :, 0] | q[:, :, 1] << 4).flatten(1)
        return torch.cat([half_bytes(self.d), half_bytes(self.dmin), *pairs, nibbles], 1)


class Q50(NamedTuple):
    """The grid of q5_0 blocks: a weight is d * (level - 16), level 0 .. 31, with d (n,) in fp16."""

    d: Tensor
    top = 31

    @classmethod
    def of(cls, blocks: Tensor) -> Self:  # (n, 32)
        return cls(as_half(best_symmetric(blocks.mT.contiguous(), 16, 9)))

    def steps(self) -> tuple[Tensor, Tensor]:
        """(step, minimum) of each group, (n, 1)."""
        return self.d[:, None], 16 * self.d[:, None]

    def pack(self, blocks: Tensor) -> Tensor:
        """(n, 32) -> bytes (n, 22): d, 32 high bits, nibbles of weights i and i + 16."""
        q = levels_of(blocks, self)
        places = torch.arange(8, dtype=torch.uint8)
        high = ((q >> 4).view(-1, 4, 8) << places).sum(2, dtype=torch.uint8)
        return torch.cat([half_bytes(self.d), high, (q[:, :16] & 15) | q[:, 16:] << 4], 1)


Grid = Q4K | Q50
GRIDS: dict[str, type[Q4K] | type[Q50]] = {"q4_k": Q4K, "q5_0": Q50}


def levels_of(blocks: Tensor, grid: Grid) -> Tensor:
    """(n, weights) -> the nearest levels, uint8 (n, weights)."""
    step, least = grid.steps()
    x = blocks.unflatten(1, (step.shape[1], -1)) + least[..., None]
    level = x.mul_(inverse(step)[..., None]).round_().clamp_(0, grid.top)
    return level.to(torch.uint8).flatten(1)


def whole_scales(values: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """values (n, groups), at least 0 -> (one fp16 number a block, integers up to `top` of it)."""
    d = as_half(values.amax(1) / top)
    return d, (values * inverse(d)[:, None]).round_().clamp_(0, top)


def round_q6_k(blocks: Tensor) -> Tensor:
    """(n, 256) -> bytes (n, 210): low nibbles, high pairs of bits, sixteen int8 scales, fp16."""
    x = groups_of(blocks, 16)
    scale = best_symmetric(x, 32, 3).view(-1, 16)
    d = as_half(extreme_of(scale, 1) / -128)
    whole = (scale * inverse(d)[:, None]).round_().clamp_(-128, 127)
    by = inverse(whole * d[:, None])[..., None]
    level = (blocks.view(-1, 16, 16) * by).round_().clamp_(-32, 31).add_(32)
    q = level.to(torch.uint8).view(-1, 2, 4, 32)  # halves of 128 weights, their quarters
    low, high = q & 15, q >> 4
    nibbles = torch.cat([low[:, :, 0] | low[:, :, 2] << 4, low[:, :, 1] | low[:, :, 3] << 4], 2)
    pairs = high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6
    scales = whole.to(torch.int8).view(torch.uint8)
    return torch.cat([nibbles.flatten(1), pairs.flatten(1), scales, half_bytes(d)], 1)


def round_q8_0(blocks: Tensor) -> Tensor:
    """(n, 32) -> bytes (n, 34): fp16 scale, int8."""
    d = as_half(blocks.abs().amax(1) / 127)
    level = (blocks * inverse(d)[:, None]).round_().clamp_(-127, 127).to(torch.int8)
    return torch.cat([half_bytes(d), level.view(torch.uint8)], 1)


ROUNDED = {
    "q4_k": lambda blocks: Q4K.of(blocks).pack(blocks),
    "q5_0": lambda blocks: Q50.of(blocks).pack(blocks),
    "q6_k": round_q6_k,
    "q8_0": round_q8_0,
}
