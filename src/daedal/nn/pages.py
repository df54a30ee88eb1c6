"""Attention over pages of keys and values (Kwon et al. 2023), for all sequences of a step in one
call a layer.

`sdpa` gathers the pages that the queries can see and calls PyTorch's scaled dot product attention
under a mask; it runs anywhere. `flex` reads the pages where they lie: FlexAttention (Dong et al.
2024) walks the blocks that the page table names, and a mask asks for the place of each key in its
own sequence. It is one fused kernel on a GPU; elsewhere the same maths runs unfused, for tests.

Legend: B sequences, T new tokens each (padded), H heads, Hkv key heads, K head dim, P pages of a
table, n pages of the pool, S key places, R blocks of queries."""

import functools
from collections.abc import Callable
from typing import Unpack

import torch
from torch import Tensor
from torch.nn.attention import flex_attention as flex_module
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from daedal.nn.attention import Scores, weighted

QUERIES = 128  # rows of a block of queries, the size that flex's kernels are tuned for
PAGE_SIZES = {"sdpa": 16, "flex": 128}  # a tile of flex's kernels lies within one page


class Pages:
    """The page tables of B sequences that get up to T new tokens each.

    `tables` (B, P) name the pages of a sequence in order, 0 past its end; `starts` (B,) say how
    many tokens it has already. What every layer needs alike is made once and kept. With `fixed`
    shapes come again and again, so that a kernel of their own pays."""

    def __init__(
        self, tables: Tensor, starts: Tensor, new: int, size: int, fixed: bool = False
    ) -> None:
        self.tables, self.starts, self.new, self.size = tables, starts, new, size
        self.fixed = fixed
        self.queries = starts[:, None] + torch.arange(new, device=starts.device)  # (B, T)
        self._kept: dict[tuple[object, ...], tuple[Tensor, Tensor]] = {}
        self._masks: dict[tuple[int | None, int], BlockMask] = {}

    def walk(self, first: Tensor, rows: int, window: int | None) -> Tensor:
        """Page numbers in the sequence (..., W) that `rows` queries from position `first` (...) on
        can see, each range beginning with the first page that any of them sees; W is the same for
        all, so some lie past the end."""
        wanted = self.tables.shape[1]
        if window is None:
            begin = torch.zeros_like(first)
        else:
            begin = (first + 1 - window).clamp(min=0) // self.size
            wanted = min(wanted, (window + rows - 2) // self.size + 2)
        return begin[..., None] + torch.arange(wanted, device=first.device)

    def held(self, window: int | None, groups: int) -> tuple[Tensor, Tensor]:
        """(pages (B, W) to gather, mask (B, 1, groups * T, W * size): which of their places each
        query sees, once for each query head of a group)."""
        if (key := ("held", window, groups)) not in self._kept:
            pages = self.walk(self.starts, self.new, window)  # (B, W)
            places = pages[..., None] * self.size + torch.arange(self.size, device=pages.device)
            at, of = places.flatten(1)[:, None], self.queries[..., None]  # (B, 1, S), (B, T, 1)
            seen = at <= of if window is None else (at <= of) & (at > of - window)
            found = self.tables.gather(1, pages.clamp(max=self.tables.shape[1] - 1))
            self._kept[key] = found, seen[:, None].repeat(1, 1, groups, 1)
        return self._kept[key]

    def block_mask(self, window: int | None, count: int) -> BlockMask:
        """What flex reads of a pool of `count` pages: the pages of each block of queries, and for
        each key its place in the sequence."""
        if (window, count) not in self._masks:
            self._masks[window, count] = self._block_mask(window, count)
        return self._masks[window, count]

    def _block_mask(self, window: int | None, count: int) -> BlockMask:
        first = self.queries[:, ::QUERIES]  # (B, R)
        pages = self.walk(first, min(self.new, QUERIES), window)  # (B, R, W)
        last = (first + QUERIES - 1).clamp(max=self.queries[:, -1:])
        # a padded query may lie past the table, whose last page must not be read twice
        end, begin = self.tables.shape[1] - 1, pages[..., 0]
        number = ((last // self.size).clamp(max=end) - begin + 1).clamp(min=0).int()
        within = pages.clamp(max=end)
        found = self.tables[:, None].expand(-1, pages.shape[1], -1).gather(2, within).int()
        sizes = (QUERIES, self.size)
        return BlockMask.from_kv_blocks(
            number[:, None],
            found[:, None].contiguous(),
            BLOCK_SIZE=sizes,
            mask_mod=self._mask_mod(window, count),
            seq_lengths=(self.new, count * self.size),
            compute_q_blocks=False,
        )

    def _mask_mod(self, window: int | None, count: int) -> Callable[..., Tensor]:
        """Whether query i of sequence b sees the key at a place of the pool."""
        begins, size = self._begins(count), self.size
        starts = self.starts

        def seen(b: Tensor, h: Tensor, i: Tensor, place: Tensor) -> Tensor:
            begin = begins[b, place // size]
            at, query = begin + place % size, starts[b] + i
            return (begin >= 0) & (at <= query)

        def near(b: Tensor, h: Tensor, i: Tensor, place: Tensor) -> Tensor:
            at = begins[b, place // size] + place % size
            return seen(b, h, i, place) & (at > starts[b] + i - window)

        return seen if window is None else near

    def _begins(self, count: int) -> Tensor:
        """(B, n): the place of a page's first key in each sequence, negative where it has no part
        of it."""
        B, P = self.tables.shape
        begins = self.tables.new_full((B, count), -1)
        order = torch.arange(0, P * self.size, self.size, device=begins.device).expand(B, P)
        begins.scatter_(1, self.tables, order)
        begins[:, 0] = -1  # the spare page
        return begins


def sdpa(q: Tensor, keys: Tensor, values: Tensor, pages: Pages, **scores: Unpack[Scores]) -> Tensor:
    """q (B, T, H, K), keys and values (Hkv, n, size, K) -> like q."""
    (B, T, H, K), G = q.shape, keys.shape[0]
    found, seen = pages.held(scores.get("window"), H // G)
    # (B, Hkv, S, K)
    k, v = (t[:, found].flatten(2, 3).transpose(0, 1).to(q.dtype) for t in (keys, values))
    # the queries of one key head side by side, so that no kernel need know of groups
    grouped = q.view(B, T, G, H // G, K).permute(0, 2, 3, 1, 4).flatten(2, 3)
    out = weighted(grouped, k, v, seen, scores["scale"], scores.get("softcap"))
    return out.unflatten(2, (H // G, T)).permute(0, 3, 1, 2, 4).flatten(2, 3)


def flex(q: Tensor, keys: Tensor, values: Tensor, pages: Pages, **scores: Unpack[Scores]) -> Tensor:
    """q (B, T, H, K), keys and values (Hkv, n, size, K) of the same dtype -> like q."""
    softcap = scores.get("softcap")

    def capped(score: Tensor, *at: Tensor) -> Tensor:
        return torch.tanh(score / softcap) * softcap

    out = fused(q.device.type, pages.fixed)(
        q.transpose(1, 2),
        keys.flatten(1, 2)[None],
        values.flatten(1, 2)[None],
        score_mod=None if softcap is None else capped,
        block_mask=pages.block_mask(scores.get("window"), keys.shape[1]),
        scale=scores["scale"],
        enable_gqa=q.shape[2] != keys.shape[0],
    )
    return out.transpose(1, 2)


@functools.cache
def fused(device: str, fixed: bool) -> Callable[..., Tensor]:
    """FlexAttention as one kernel: compiled for each shape where shapes are `fixed` (its quicker
    form for decoding splits the keys by the size of the batch, which it must know); elsewhere a
    second shape makes one for all that follow. (Told at once that shapes change, the compiler takes
    the size of a page and the window for changing too.)"""
    if device != "cuda":
        flex_module._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG = True  # the plain maths, untraced
        return flex_attention
    # each window, cap and fixed shape is one; past the limit torch would run unfused
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    return torch.compile(flex_attention, dynamic=False if fixed else None)


FORMS = {"sdpa": sdpa, "flex": flex}
