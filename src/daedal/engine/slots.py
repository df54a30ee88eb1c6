"""Contiguous slots: each running sequence owns one row of a KV cache. The fast default on CPU,
where exact lengths beat gathering pages.

A slot that is free again remembers its tokens. A new sequence that begins alike takes that slot
over, or copies the common part from another: a chat goes on where it stopped, and n samples run
their prompt once. Rows begin short and grow, all together, with the longest sequence.

Legend: N flat tokens of a ragged call, H heads, K head dim, S keys."""

from typing import Unpack

import torch
from torch import Tensor

from daedal.errors import DaedalError
from daedal.networks.decoder import DecoderConfig
from daedal.nn import kernels
from daedal.nn.attention import Scores, attend, weighted
from daedal.nn.cache import KVCache, Step


def common_prefix(a: list[int], b: list[int]) -> int:
    """How many first items are equal, by halving (slices compare at C speed)."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


FIRST = 256  # places of a row before it grows


class SlotCache(KVCache):
    """A KVCache whose slots the scheduler opens and closes. One more slot than asked is kept as a
    place for padding rows, and one more place in each row for captured steps to write to.

    With a `chunk`, only what a step of one prompt alone computed in whole chunks from its beginning
    is shared: such keys come out of the same operations on the same numbers whoever asks, so that
    sharing changes no output by a bit. `native` lets our kernels read them where they can."""

    def __init__(
        self,
        config: DecoderConfig,
        slots: int,
        max_len: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        prefix_caching: bool = True,
        chunk: int | None = None,
        native: bool = True,
    ) -> None:
        super().__init__(config, slots + 1, min(max_len, FIRST) + 1, dtype, device)
        self.max_len, self.chunk, self.native = max_len, chunk, native
        self.whole = [0] * (slots + 1)  # leading tokens of a slot that whole chunks computed
        self.spare, self.prefix_caching = slots, prefix_caching
        self.free = list(range(slots))[::-1]  # the next slot to take is the last
        # the tokens whose keys and values a slot has
        self.held: list[list[int]] = [[] for _ in range(slots + 1)]
        self.owner = [0] * (slots + 1)  # the adapter that made them

    def open(self, tokens: list[int], owner: int = 0) -> tuple[int, int] | None:
        """(slot, how many of `tokens` it already has, less than all), or None when every slot is
        taken. Keys are shared within one `owner`."""
        if not self.free:
            return None
        source, reused = self._best(tokens, owner) if self.prefix_caching else (self.free[-1], 0)
        slot = source if source in self.free else self.free[-1]
        self.free.remove(slot)
        if slot != source and reused:
            for cached in (*self.keys, *self.values):
                cached[slot, :, :reused] = cached[source, :, :reused]
        self.lengths[slot] = self.whole[slot] = reused
        self.held[slot] = tokens
        self.owner[slot] = owner
        return slot, reused

    def branch(self, source: int, tokens: list[int]) -> int:
        """A free slot with all that another has, for a sequence of the same tokens."""
        slot, held = self.free.pop(), self.lengths[source]
        for cached in (*self.keys, *self.values):
            cached[slot, :, :held] = cached[source, :, :held]
        self.lengths[slot], self.whole[slot] = held, self.whole[source]
        self.held[slot], self.owner[slot] = tokens, self.owner[source]
        return slot

    def _best(self, tokens: list[int], owner: int) -> tuple[int, int]:
        """(slot, common length) of the longest common beginning; free slots win ties, the longest
        free among them."""
        best, longest = self.free[-1], 0
        for slot in [*self.free[::-1], *(s for s in range(self.spare) if s not in self.free)]:
            if self.chunk is None:
                have = self.lengths[slot]
            else:
                have = min(self.whole[slot], self.lengths[slot])
            have = have if self.owner[slot] == owner else 0
            if have <= longest:
                continue
            same = min(have, common_prefix(self.held[slot], tokens), len(tokens) - 1)
            same = same if self.chunk is None else same // self.chunk * self.chunk
            if same > longest:
                best, longest = slot, same
        return best, longest

    @property
    def places(self) -> int:
        """Tokens that a row has room for now."""
        return self.values[-1].shape[2] - 1  # the last that `reserve` makes longer

    def reserve(self, length: int) -> None:
        """Room for `length` tokens in every row: the rows are copied to ones twice as long, a layer
        at a time."""
        if length <= self.places:
            return
        wanted = min(self.max_len, max(length, 2 * self.places)) + 1
        for tensors in (self.keys, self.values):
            for layer, old in enumerate(tensors):
                slots, heads, _, width = old.shape
                try:
                    tensors[layer] = new = old.new_zeros(slots, heads, wanted, width)
                except (RuntimeError, MemoryError):
                    row_bytes = 2 * len(self.keys) * heads * width * old.element_size()
                    size = slots * wanted * row_bytes / 1e9
                    raise DaedalError(
                        f"{slots} rows of {wanted} tokens need {size:.1f} GB, which is not there; shorten the prompt."
                    ) from None
                # what no sequence holds stays untouched, and on a CPU unallocated
                for slot, held in enumerate(self.lengths):
                    new[slot, :, :held] = old[slot, :, :held]

    def computed(self, slot: int, start: int, count: int) -> None:
        """A step of this slot alone ran tokens from `start` on."""
        if self.chunk is not None and start == self.whole[slot] and count == self.chunk:
            self.whole[slot] += count

    def grow(self, slot: int, length: int) -> bool:
        """Room for `length` tokens: `step` makes it."""
        return True

    def room(self, length: int) -> bool:
        return True

    def close(self, slot: int) -> None:
        """Give a slot back; what it holds stays until another sequence needs the place."""
        self.held[slot] = list(self.held[slot][: self.lengths[slot]]) if self.prefix_caching else []
        self.lengths[slot] = len(self.held[slot])
        self.free.insert(0, slot)

    def discard(self, slot: int) -> None:
        """Forget what a sequence that failed has: numbers that are not finite must meet no other
        sequence, even masked."""
        self.lengths[slot] = 0
        for cached in (*self.keys, *self.values):
            cached[slot] = 0

    def note(self, slot: int) -> None:
        """Tokens of this slot are final up to its length."""

    def step(self, segments: list[tuple[int, int]]) -> "RaggedStep":
        self.reserve(max(self.lengths[slot] + count for slot, count in segments))
        return RaggedStep(self, segments)


class RaggedStep(Step):
    """A Step that runs its single-token segments together: in one kernel where there is one, else
    in one product of PyTorch."""

    def __init__(self, cache: SlotCache, segments: list[tuple[int, int]]) -> None:
        super().__init__(cache, segments)
        rows, at = [], 0
        self.chunks: list[tuple[int, int, int]] = []  # (slot, first row, count) of longer segments
        for slot, count in segments:
            if count == 1:
                rows.append((at, slot))
            else:
                self.chunks.append((slot, at, count))
            at += count
        device = cache.keys[0].device
        self.single = torch.tensor([row for row, _ in rows], device=device)
        self.slots = [slot for _, slot in rows]
        self.slot_ids = torch.tensor(self.slots, device=device)
        self.seen: dict[int | None, Tensor | None] = {}  # by window
        self.at = self.positions[0, self.single] if rows else self.single
        kernel_takes = (
            cache.keys[0].dtype in (torch.float32, torch.bfloat16)
            and cache.keys[0].shape[-1] % 8 == 0
        )
        self.native = cache.native and device.type == "cpu" and kernel_takes and kernels.available()

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, **scores: Unpack[Scores]
    ) -> Tensor:
        """q (1, N, H, K), k and v (1, N, Hkv, K) -> like q."""
        shape, (q, k, v) = q.shape, (t.flatten(0, 1) for t in (q, k, v))  # (N, H, K)
        out = torch.empty_like(q)
        if self.slots:
            news = (q, k, v) if not self.chunks else (t[self.single] for t in (q, k, v))
            found = self._singles(layer, *news, **scores)
            if not self.chunks:
                return found.view(shape)
            out[self.single] = found
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        for slot, at, count in self.chunks:
            old, new = self.cache.lengths[slot], self.cache.lengths[slot] + count
            keys[slot, :, old:new] = k[at : at + count].transpose(0, 1)
            values[slot, :, old:new] = v[at : at + count].transpose(0, 1)
            window = scores.get("window")
            low = 0 if window is None else max(0, old + 1 - window)
            seen = (t[slot, :, low:new].transpose(0, 1)[None].to(q.dtype) for t in (keys, values))
            rows = slice(at, at + count)
            out[rows] = attend(q[None, rows], *seen, offset=old - low, **scores)[0]
        return out.view(shape)

    def _singles(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, **scores: Unpack[Scores]
    ) -> Tensor:  # q (B, H, K), one new token of each of B sequences
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        if self.native and q.dtype == torch.float32:
            return kernels.attend(q, k, v, keys, values, self.slot_ids, self.at, **scores)
        window = scores.get("window")
        keys[self.slot_ids, :, self.at] = k.to(keys.dtype)
        values[self.slot_ids, :, self.at] = v.to(values.dtype)
        ends = [self.cache.lengths[slot] + 1 for slot in self.slots]
        low = 0 if window is None else max(0, min(ends) - window)
        # one row is seen in place
        at = slice(self.slots[0], self.slots[0] + 1) if len(self.slots) == 1 else self.slot_ids
        rows = (t[at, :, low : max(ends)].to(q.dtype) for t in (keys, values))  # (B, Hkv, S, K)
        if window not in self.seen:
            self.seen[window] = seen_from(ends, low, window, q.device)
        return attend_last(q, *rows, self.seen[window], scores["scale"], scores.get("softcap"))


def seen_from(ends: list[int], low: int, window: int | None, device: torch.device) -> Tensor | None:
    """(B, S) bool: which of the keys from position `low` on the newest token of each sequence sees;
    None where it is all of them."""
    start = [0 if window is None else max(0, end - window) for end in ends]
    if all(end == ends[0] for end in ends) and max(start) <= low:
        return None
    at = torch.arange(low, max(ends), device=device)
    first, last = (torch.tensor(column, device=device)[:, None] for column in (start, ends))
    return (at >= first) & (at < last)


def attend_last(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    seen: Tensor | None,
    scale: float,
    softcap: float | None,
) -> Tensor:
    """The newest token of each of B sequences, in one product a layer: q (B, H, K), keys and values
    (B, Hkv, S, K), `seen` (B, S) -> like q."""
    # (B, Hkv, H/Hkv, K): the queries of one key head side by side
    grouped = q.unflatten(1, (keys.shape[1], -1))
    mask = None if seen is None else seen[:, None, None]
    return weighted(grouped, keys, values, mask, scale, softcap).flatten(1, 2)
