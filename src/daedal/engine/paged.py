"""Paged keys and values (Kwon et al. 2023): fixed blocks handed out one by one, so memory follows
what sequences really hold.

A full block is named by a hash of its tokens and the block before it; another sequence with the
same beginning shares it, counted. A freed block keeps its name until it is needed for something
else, so a prompt seen a while ago still costs nothing.

Legend: N flat tokens of a ragged call, Hkv key heads, K head dim."""

import hashlib
import itertools
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor

from daedal.engine.slots import attend_last, seen_from
from daedal.errors import DaedalError
from daedal.networks.decoder import DecoderConfig
from daedal.nn.attention import Scores, attend
from daedal.nn.cache import Step

Name = bytes


def chained(parent: Name, tokens: tuple[int, ...]) -> Name:
    """The name of a block: a cryptographic hash of its tokens and of all before them, so that
    nobody can make two prompts share one."""
    return hashlib.blake2b(parent + array("q", tokens).tobytes(), digest_size=16).digest()


class BlockPool:
    """Which blocks are free, how often each is referenced, and what the full ones contain."""

    def __init__(self, count: int) -> None:
        self.refs = [0] * count
        # least recently used first
        self.free: OrderedDict[int, None] = OrderedDict.fromkeys(range(count))
        self.names: list[Name | None] = [None] * count
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
    """Keys and values of up to `slots` sequences in `blocks` blocks of `block_size` tokens: (Hkv,
    blocks, block_size, K) a layer."""

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
    ) -> None:
        if blocks < 1:
            raise DaedalError(
                f"{blocks} blocks of {block_size} tokens hold nothing; raise memory_budget."
            )
        shape = (config.num_key_value_heads, blocks, block_size, config.head_dim)
        self.keys = [
            torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers)
        ]
        self.values = [
            torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers)
        ]
        self.block_size = block_size
        self.max_len = min(max_len, blocks * block_size)
        self.prefix_caching = prefix_caching
        self.pool, self.blocks = BlockPool(blocks), blocks
        self.tables: list[list[int]] = [[] for _ in range(slots)]
        # names of the leading full blocks
        self.named: list[list[Name]] = [[] for _ in range(slots)]
        self.held: list[Sequence[int]] = [()] * slots
        self.root: list[Name] = [b""] * slots
        self.lengths, self.free = [0] * slots, list(range(slots))[::-1]

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
        self.lengths[slot] = len(self.tables[slot]) * self.block_size
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
        while (
            self.prefix_caching
            and (len(self.named[slot]) + 1) * self.block_size <= self.lengths[slot]
        ):
            index = len(self.named[slot])
            self.named[slot].append(
                self.pool.name(
                    self.tables[slot][index], self._parent(slot), self._block_tokens(slot, index)
                )
            )

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
                for cached in (*self.keys, *self.values):
                    cached[:, block] = 0

    def step(self, segments: list[tuple[int, int]]) -> "PagedStep":
        return PagedStep(self, segments)

    def check(self) -> None:
        """The invariants, for tests: counts add up, and no block is both free and referenced."""
        used = [block for table in self.tables for block in table]
        assert sum(self.pool.refs) == len(used)
        assert all(
            (block in self.pool.free) == (refs == 0) for block, refs in enumerate(self.pool.refs)
        )
        assert all(self.pool.names[block] is not None for block in self.pool.known.values())


class PagedStep(Step):
    """One call of the network over paged sequences."""

    def __init__(self, cache: PagedCache, segments: list[tuple[int, int]]) -> None:
        self.cache, self.segments = cache, segments
        size, device = cache.block_size, cache.keys[0].device
        spans = [
            (slot, cache.lengths[slot], cache.lengths[slot] + count) for slot, count in segments
        ]
        positions = [p for _, start, end in spans for p in range(start, end)]
        self.positions = torch.tensor([positions], device=device)
        self.lengths = torch.tensor(
            [[end for _, start, end in spans for _ in range(start, end)]], device=device
        )
        places = [
            (cache.tables[slot][p // size], p % size)
            for slot, start, end in spans
            for p in range(start, end)
        ]
        self.block, self.offset = (
            torch.tensor(column, device=device) for column in zip(*places, strict=True)
        )
        self.tables = {slot: cache.tables[slot][: -(-end // size)] for slot, _, end in spans}
        starts = list(itertools.accumulate((count for _, count in segments), initial=0))
        self.chunks = [
            (slot, at, count)
            for (slot, count), at in zip(segments, starts, strict=False)
            if count > 1
        ]
        self.slots = [slot for slot, count in segments if count == 1]
        self.single = torch.tensor(
            [at for (_, count), at in zip(segments, starts, strict=False) if count == 1],
            device=device,
        )
        self.ends = [cache.lengths[slot] + 1 for slot in self.slots]
        self.seen: dict[int | None, Tensor | None] = {}  # by window

    def _gather(self, cached: Tensor, slots: list[int], low: int, end: int) -> Tensor:
        """(B, Hkv, S, K): the keys or values of sequences from position `low` to `end`; past a
        sequence's own end, anything."""
        size = self.cache.block_size
        first, last = low // size, -(-end // size)
        blocks = [(self.tables[slot] + [0] * last)[first:last] for slot in slots]
        found = cached[:, torch.tensor(blocks, device=cached.device)].flatten(2, 3).transpose(0, 1)
        return found[:, :, low - first * size : end - first * size]

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, **scores: Unpack[Scores]
    ) -> Tensor:
        """q (1, N, H, K), k and v (1, N, Hkv, K) -> like q."""
        shape, (q, k, v) = q.shape, (t.flatten(0, 1) for t in (q, k, v))  # (N, H, K)
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys[:, self.block, self.offset] = k.transpose(0, 1).to(keys.dtype)
        values[:, self.block, self.offset] = v.transpose(0, 1).to(values.dtype)
        out, window = torch.empty_like(q), scores.get("window")
        if self.slots:
            low = 0 if window is None else max(0, min(self.ends) - window)
            if window not in self.seen:
                self.seen[window] = seen_from(self.ends, low, window, q.device)
            held = (
                self._gather(t, self.slots, low, max(self.ends)).to(q.dtype) for t in (keys, values)
            )
            form = (scores["scale"], scores.get("softcap"))
            out[self.single] = attend_last(q[self.single], *held, self.seen[window], *form)
        for slot, at, count in self.chunks:
            old, rows = self.cache.lengths[slot], slice(at, at + count)
            low = 0 if window is None else max(0, old + 1 - window)
            k_in, v_in = (
                self._gather(t, [slot], low, old + count).transpose(1, 2).to(q.dtype)
                for t in (keys, values)
            )
            out[rows] = attend(q[None, rows], k_in, v_in, offset=old - low, **scores)[0]
        return out.view(shape)
