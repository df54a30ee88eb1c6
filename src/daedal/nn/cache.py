"""The key-value cache as an explicit value: contiguous slots, one (slots, Hkv, max_len, K) tensor
pair a layer.

cache = KVCache(network.config, slots=4, max_len=1024)
step = cache.step([(0, 12), (1, 1)])      # 12 new tokens for slot 0, one for slot 1: a ragged batch
of N = 13
logits = network(tokens, cache=step)      # tokens (1, 13)
step.commit()                             # lengths advance; cache.lengths[slot] = n takes tokens
back"""

from typing import TYPE_CHECKING, Unpack

import torch
from torch import Tensor

from daedal.errors import DaedalError
from daedal.nn.attention import Scores, attend

if TYPE_CHECKING:
    from daedal.networks.decoder import DecoderConfig


class KVCache:
    """Keys and values of up to `slots` sequences of up to `max_len` tokens."""

    def __init__(
        self,
        config: "DecoderConfig",
        slots: int,
        max_len: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (slots, config.num_key_value_heads, max_len, config.head_dim)
        self.keys = [
            torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers)
        ]
        self.values = [
            torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers)
        ]
        self.lengths = [0] * slots
        self.max_len = max_len

    def step(self, segments: list[tuple[int, int]]) -> "Step":
        """One call of the network: `segments` are (slot, new tokens), laid out one after another."""
        for slot, count in segments:
            if self.lengths[slot] + count > self.max_len:
                raise DaedalError(
                    f"{self.lengths[slot] + count} tokens do not fit a cache of {self.max_len}; shorten the prompt or raise max_len."
                )
        return Step(self, segments)


class Step:
    """Which slots a call of the network writes and reads; `positions` and `lengths` (1, N) and
    `attend` are what the network uses."""

    def __init__(self, cache: KVCache, segments: list[tuple[int, int]]) -> None:
        self.cache, self.segments = cache, segments
        device = cache.keys[0].device
        starts = [cache.lengths[slot] for slot, _ in segments]
        self.positions = torch.cat(
            [
                torch.arange(start, start + count, device=device)
                for start, (_, count) in zip(starts, segments, strict=True)
            ]
        )[None]
        ends = [start + count for start, (_, count) in zip(starts, segments, strict=True)]
        counts = torch.tensor([count for _, count in segments], device=device)
        # (1, N) of each token's sequence
        self.lengths = torch.tensor(ends, device=device).repeat_interleave(counts)[None]

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, **scores: Unpack[Scores]
    ) -> Tensor:
        """q (1, N, H, K), k and v (1, N, Hkv, K), or (B, T, ...) whose rows are the segments in
        order -> like q."""
        shape, (q, k, v) = q.shape, (t.flatten(0, 1) for t in (q, k, v))  # (N, H, K)
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        outs, at = [], 0
        for slot, count in self.segments:
            old, new = self.cache.lengths[slot], self.cache.lengths[slot] + count
            rows = slice(at, at + count)
            keys[slot, :, old:new] = k[rows].transpose(0, 1)
            values[slot, :, old:new] = v[rows].transpose(0, 1)
            # keys before `low` are seen by no query
            window = scores.get("window")
            low = 0 if window is None else max(0, old + 1 - window)
            seen_k, seen_v = (
                t[slot, :, low:new].transpose(0, 1)[None].to(q.dtype) for t in (keys, values)
            )
            out = attend(q[rows][None], seen_k, seen_v, offset=old - low, **scores)
            outs.append(out[0])
            at += count
        return torch.cat(outs).view(shape)

    def commit(self) -> None:
        """Keep what this step wrote."""
        for slot, count in self.segments:
            self.cache.lengths[slot] += count
