"""Paged keys and values (Kwon et al. 2023): fixed blocks handed out one by one, so memory follows
what sequences really hold.

A full block is named by a hash of its tokens and the block before it; another sequence with the
same beginning shares it, counted. A freed block keeps its name until it is needed for something
else, so a prompt seen a while ago still costs nothing. Memory is taken when blocks are first used.

Block 0 is nobody's: tables are padded with it, and rows without a request write to it.

Legend: N flat tokens of a ragged call, B sequences, T new tokens of each (padded), P blocks of a
table, Hkv key heads, K head dim."""

import hashlib
import itertools
import logging
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor

from daedal.errors import DaedalError
from daedal.networks.decoder import DecoderConfig
from daedal.nn.attention import Scores
from daedal.nn.cache import Step
from daedal.nn.pages import FORMS, Pages

log = logging.getLogger("daedal.engine")

Name = bytes
WIDTH = 32  # blocks of the narrowest tables that decode steps are captured for
FIRST = 256  # tokens a sequence that there is memory for before it grows


def chained(parent: Name, tokens: tuple[int, ...]) -> Name:
    """The name of a block: a cryptographic hash of its tokens and of all before them, so that
    nobody can make two prompts share one."""
    return hashlib.blake2b(parent + array("q", tokens).tobytes(), digest_size=16).digest()


class BlockPool:
    """Which blocks are free, how often each is referenced, and what the full ones contain."""

    def __init__(self, count: int) -> None:
        self.refs = [0] * (1 + count)  # from block 1 on
        # least recently used first
        self.free: OrderedDict[int, None] = OrderedDict.fromkeys(range(1, 1 + count))
        self.names: list[Name | None] = [None] * (1 + count)
        self.known: dict[Name, int] = {}

    def take(self) -> int:
        """A block for new tokens; it forgets what it held."""
        block, _ = self.free.popitem(last=False)
        self.forget(block)
        self.refs[block] = 1
        return block

    def share(self, block: int) -> int:
        self.free.pop(block, None)
        self.refs[block] += 1
        return block

    def drop(self, block: int) -> None:
        self.refs[block] -= 1
        if not self.refs[block]:
            self.free[block] = None
            if self.names[block] is None:  # nothing to find in it: first to be used again
                self.free.move_to_end(block, last=False)

    def name(self, block: int, parent: Name, tokens: tuple[int, ...]) -> Name:
        """Give a full block its name; of two blocks with one name the first stays known."""
        name = chained(parent, tokens)
        if self.names[block] is None and name not in self.known:
            self.names[block], self.known[name] = name, block
        return name

    def find(self, parent: Name, tokens: tuple[int, ...]) -> tuple[int, Name] | None:
        name = chained(parent, tokens)
        block = self.known.get(name)
        return None if block is None else (block, name)

    def forget(self, block: int) -> None:
        name = self.names[block]
        if name is not None:
            self.known.pop(name, None)
            self.names[block] = None


class PagedCache:
    """Keys and values of up to `slots` sequences in at most `blocks` blocks of `block_size` tokens:
    (Hkv, 1 + blocks, block_size, K) a layer. `attention` is the form that reads them (see
    daedal.nn.pages).

    With a `chunk`, only what a step of one prompt alone computed in whole chunks from its beginning
    is shared (see SlotCache)."""

    def __init__(
        self,
        config: DecoderConfig,
        slots: int,
        max_len: int,
        blocks: int,
        block_size: int = 16,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        prefix_caching: bool = True,
        chunk: int | None = None,
        attention: str = "sdpa",
    ) -> None:
        if blocks < 1:
            raise DaedalError(
                f"{blocks} blocks of {block_size} tokens hold nothing; raise memory_budget."
            )
        first = 1 + min(blocks, -(-slots * min(FIRST, max_len) // block_size))
        shape = (config.num_key_value_heads, first, block_size, config.head_dim)
        self.keys, self.values = (
            [
                torch.zeros(shape, dtype=dtype, device=device)
                for _ in range(config.num_hidden_layers)
            ]
            for _ in range(2)
        )
        self.block_size, self.attention = block_size, attention
        self.max_len = min(max_len, blocks * block_size)
        self.prefix_caching, self.chunk = prefix_caching, chunk
        self.whole = [0] * slots  # leading tokens of a slot that whole chunks computed
        self.pool, self.blocks = BlockPool(blocks), blocks
        self.tables: list[list[int]] = [[] for _ in range(slots)]
        # names of the leading full blocks
        self.named: list[list[Name]] = [[] for _ in range(slots)]
        self.held: list[Sequence[int]] = [()] * slots
        self.root: list[Name] = [b""] * slots
        self.lengths, self.free = [0] * slots, list(range(slots))[::-1]

    @property
    def places(self) -> int:
        """Blocks that there is memory for now, block 0 included."""
        return self.values[-1].shape[1]  # the last that `reserve` makes longer

    def reserve(self, block: int) -> None:
        """Memory for all blocks up to this one: they are copied to four times as many, a layer at a
        time. Seldom, since kernels and graphs of a GPU are made anew for each size."""
        if block < self.places:
            return
        wanted = min(1 + self.blocks, max(1 + block, 4 * self.places))
        for tensors in (self.keys, self.values):
            for layer, old in enumerate(tensors):
                heads, have, size, width = old.shape
                try:
                    new = old.new_zeros(heads, wanted, size, width)
                except (RuntimeError, MemoryError):
                    row = 2 * len(self.keys) * heads * width * old.element_size()
                    raise DaedalError(
                        f"{wanted} blocks of {size} tokens need {wanted * size * row / 1e9:.1f} GB, which is not there; lower memory_budget."
                    ) from None
                new[:, :have] = old
                tensors[layer] = new

    def settle(self, heads: int, dtype: torch.dtype) -> str:
        """Read pages by sdpa where flex cannot, which wants keys in the dtype of the queries and a
        kernel for this device; returns what it is."""
        if self.attention == "flex" and (why := self._refusal(heads, dtype)):
            log.debug("attention by flex does not run here, sdpa is used: %s", why)
            self.attention = "sdpa"
        return self.attention

    def _refusal(self, heads: int, dtype: torch.dtype) -> str:
        """Why flex does not run on these pages; empty where it does."""
        keys, values = self.keys[0], self.values[0]
        if keys.dtype != dtype:
            return f"keys are kept in {keys.dtype}, queries in {dtype}"
        tables = keys.new_zeros(1, WIDTH, dtype=torch.int64)
        try:
            for new in (1, 2):  # the kernel of decoding, and that of prompts
                q = keys.new_zeros(1, new, heads, keys.shape[-1])
                pages = Pages(tables, tables[:, 0], new, self.block_size, fixed=new == 1)
                with torch.inference_mode():
                    FORMS["flex"](q, keys, values, pages, scale=1.0)
        except Exception as error:  # compilers raise what they like
            return str(error) or type(error).__name__
        return ""

    def open(self, tokens: Sequence[int], owner: int = 0) -> tuple[int, int] | None:
        """(slot, how many of `tokens` shared blocks already hold, less than all), or None when no
        slot is left. `owner` is the name before a sequence's first block, so blocks are shared
        within one."""
        if not self.free:
            return None
        slot = self.free.pop()
        self.held[slot], self.root[slot] = tokens, str(owner).encode()
        while self.prefix_caching and len(self.tables[slot]) < (len(tokens) - 1) // self.block_size:
            hit = self.pool.find(
                self._parent(slot), self._block_tokens(slot, len(self.tables[slot]))
            )
            if hit is None:
                break
            self.tables[slot].append(self.pool.share(hit[0]))
            self.named[slot].append(hit[1])
        while self.chunk is not None and len(self.tables[slot]) * self.block_size % self.chunk:
            self.pool.drop(self.tables[slot].pop())
            self.named[slot].pop()
        self.lengths[slot] = self.whole[slot] = len(self.tables[slot]) * self.block_size
        return slot, self.lengths[slot]

    def _parent(self, slot: int) -> Name:
        return self.named[slot][-1] if self.named[slot] else self.root[slot]

    def _block_tokens(self, slot: int, index: int) -> tuple[int, ...]:
        return tuple(self.held[slot][index * self.block_size : (index + 1) * self.block_size])

    def room(self, length: int) -> bool:
        """Whether a new sequence of `length` tokens would find blocks now, one more for each
        sequence that runs included."""
        return -(-length // self.block_size) + len(self.tables) - len(self.free) <= len(
            self.pool.free
        )

    def grow(self, slot: int, length: int) -> bool:
        """Blocks for `length` tokens; False when there are not enough, and nothing is taken."""
        table, need = self.tables[slot], -(-length // self.block_size)
        if need - len(table) > len(self.pool.free):
            return False
        while len(table) < need:
            table.append(self.pool.take())
        return True

    def note(self, slot: int) -> None:
        """Tokens of this slot are final up to its length: name the blocks that they fill."""
        final = self.lengths[slot]
        final = final if self.chunk is None else min(final, self.whole[slot])
        while self.prefix_caching and (len(self.named[slot]) + 1) * self.block_size <= final:
            index = len(self.named[slot])
            self.named[slot].append(
                self.pool.name(
                    self.tables[slot][index], self._parent(slot), self._block_tokens(slot, index)
                )
            )

    def computed(self, slot: int, start: int, count: int) -> None:
        """A step of this slot alone ran tokens from `start` on."""
        if self.chunk is not None and start == self.whole[slot] and count == self.chunk:
            self.whole[slot] += count

    def close(self, slot: int) -> None:
        """Give a sequence's blocks back, its last ones to be used again first."""
        for block in reversed(self.tables[slot]):
            self.pool.drop(block)
        self.tables[slot], self.named[slot], self.held[slot], self.lengths[slot] = [], [], (), 0
        self.free.append(slot)

    def discard(self, slot: int) -> None:
        """Forget what a sequence that failed has alone: numbers that are not finite must meet no
        other sequence, even masked."""
        for block in self.tables[slot]:
            if self.pool.refs[block] == 1:
                self.pool.forget(block)
                if block < self.places:
                    for cached in (*self.keys, *self.values):
                        cached[:, block] = 0

    def step(self, segments: list[tuple[int, int]]) -> "PagedStep":
        """One call of the network: `segments` are (slot, new tokens), laid out one after another."""
        self.reserve(max(max(self.tables[slot]) for slot, _ in segments))
        return PagedStep(self, segments)

    def page_tables(self, slots: list[int], width: int | None = None) -> list[list[int]]:
        """The blocks of sequences, padded to one width."""
        # never one, which compilers take for a case of its own
        width = width or max(2, *(len(self.tables[slot]) for slot in slots))
        return [self.tables[slot] + [0] * (width - len(self.tables[slot])) for slot in slots]

    def check(self) -> None:
        """The invariants, for tests: counts add up, and no block is both free and referenced."""
        used = [block for table in self.tables for block in table]
        assert sum(self.pool.refs) == len(used) and 0 not in (*used, *self.pool.free)
        assert all(
            (block in self.pool.free) == (refs == 0)
            for block, refs in enumerate(self.pool.refs[1:], 1)
        )
        assert all(self.pool.names[block] is not None for block in self.pool.known.values())


class PagedStep(Step):
    """One call of the network over paged sequences. Those with one new token are one call of
    attention a layer, and those with more another, padded to the longest."""

    def __init__(self, cache: PagedCache, segments: list[tuple[int, int]]) -> None:
        self.cache, self.segments = cache, segments
        size, device = cache.block_size, cache.keys[0].device
        starts = [cache.lengths[slot] for slot, _ in segments]
        places = [
            (p, start + count, cache.tables[slot][p // size], p % size)
            for start, (slot, count) in zip(starts, segments, strict=True)
            for p in range(start, start + count)
        ]
        columns = torch.tensor(places, device=device).T.contiguous()  # (4, N)
        self.positions, self.lengths = columns[0, None], columns[1, None]
        self.block, self.offset = columns[2], columns[3]
        numbers = range(len(segments))
        singles = [i for i in numbers if segments[i][1] == 1]
        chunks = [i for i in numbers if segments[i][1] > 1]
        self.groups = [self._group(some, starts) for some in (singles, chunks) if some]
        # where in the padded results of all groups each token stands; None where all are single
        self.order = self._order([*singles, *chunks]) if chunks else None

    def _group(self, some: list[int], starts: list[int]) -> tuple[Tensor, Pages]:
        """(the flat row of each query (B, T), the page tables) of some of the segments."""
        device, counts = self.cache.keys[0].device, [count for _, count in self.segments]
        firsts, longest = (
            list(itertools.accumulate(counts, initial=0)),
            max(counts[i] for i in some),
        )
        tables = self.cache.page_tables([self.segments[i][0] for i in some])
        rows = [[firsts[i] + min(t, counts[i] - 1) for t in range(longest)] for i in some]
        begins = torch.tensor([starts[i] for i in some], device=device)
        pages = Pages(torch.tensor(tables, device=device), begins, longest, self.cache.block_size)
        return torch.tensor(rows, device=device), pages

    def _order(self, some: list[int]) -> Tensor:
        """The padded row of each flat token, of segments in this order."""
        at, found = 0, dict[int, list[int]]()
        longest = max(count for _, count in self.segments)
        for i in some:
            count = self.segments[i][1]
            found[i] = list(range(at, at + count))
            at += longest if count > 1 else 1
        flat = [row for i in sorted(found) for row in found[i]]
        return torch.tensor(flat, device=self.cache.keys[0].device)

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, **scores: Unpack[Scores]
    ) -> Tensor:
        """q (1, N, H, K), k and v (1, N, Hkv, K) -> like q."""
        shape, (q, k, v) = q.shape, (t.flatten(0, 1) for t in (q, k, v))  # (N, H, K)
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys[:, self.block, self.offset] = k.transpose(0, 1).to(keys.dtype)
        values[:, self.block, self.offset] = v.transpose(0, 1).to(values.dtype)
        form = FORMS[self.cache.attention]
        if self.order is None:
            return form(q[:, None], keys, values, self.groups[0][1], **scores).reshape(shape)
        outs = [
            form(q[rows], keys, values, pages, **scores).flatten(0, 1)
            for rows, pages in self.groups
        ]
        return torch.cat(outs)[self.order].view(shape)


class DecodeStep(PagedStep):
    """One new token for each of B sequences, told in tensors alone, so that a graph can be captured
    of it: `starts` (B,) tokens are there already, in the blocks of `tables` (B, P)."""

    def __init__(self, cache: PagedCache, starts: Tensor, tables: Tensor) -> None:
        self.cache, size = cache, cache.block_size
        self.positions, self.lengths = starts[None], starts[None] + 1
        self.block = tables.gather(1, starts[:, None] // size)[:, 0]
        self.offset = starts % size
        self.groups = [(starts, Pages(tables, starts, 1, size, fixed=True))]
        self.order = None
