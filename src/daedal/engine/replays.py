"""Decode steps captured once for a few batch sizes and replayed (see daedal.nn.replay); rows
without a request run in a spare slot."""

from typing import TYPE_CHECKING

from torch import Tensor

from daedal.engine.slots import SlotCache
from daedal.nn import replay

if TYPE_CHECKING:
    from daedal.networks.decoder import Decoder

SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


class Replays:
    """`replays(tokens, slots)` returns the logits (B, V) after one more token in each slot, or None
    where the plain path must be taken."""

    def __init__(self, network: "Decoder", cache: SlotCache, max_batch: int) -> None:
        self.network, self.cache, self.max_batch = network, cache, max_batch
        self.captured: dict[int, replay.DecodeReplay] = {}
        self.refused, self.places = False, cache.places

    def __call__(self, tokens: list[int], slots: list[int]) -> Tensor | None:
        if self.refused or not replay.fits(self.network, self.cache):
            return None
        size = next((s for s in SIZES if s >= len(tokens)), None)
        if size is None:
            return None
        self.cache.reserve(max(self.cache.lengths[slot] for slot in slots) + 1)
        if self.places != self.cache.places:  # captured steps hold the addresses of the rows
            self.captured, self.places = {}, self.cache.places
        if size not in self.captured:
            try:
                self.captured[size] = replay.DecodeReplay(self.network, self.cache, size)
            except replay.NotCapturable:
                self.refused = True
                return None
        idle = size - len(tokens)
        logits = self.captured[size](tokens + [0] * idle, slots + [self.cache.spare] * idle)
        self.cache.lengths[self.cache.spare] = 0
        return logits[: len(tokens)]
