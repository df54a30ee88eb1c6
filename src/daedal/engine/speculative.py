"""Guesses for the engine to verify: several tokens of one sequence cost little more than one when
weights are what is read.

The engine draws the target's own token at each guessed place and keeps guesses while they agree
(Leviathan et al. 2023 call this the special case of a shared draw). So speculation never changes an
output, greedy or sampled. A draft network draws with the same noise as the target (see
daedal.processes.sampling), which makes agreement likely; a guess copied from the prompt agrees as
often as any rule allows."""

from typing import TYPE_CHECKING

import torch

from daedal.engine.request import Request
from daedal.engine.slots import SlotCache
from daedal.errors import DaedalError
from daedal.processes.autoregression import PromptLookup, activation_dtype
from daedal.processes.sampling import sample_batch

if TYPE_CHECKING:
    from daedal.networks.decoder import Decoder


def look_up(requests: list[Request], k: int) -> None:
    """Guess up to k tokens of each request from where its last tokens stood before."""
    for request in requests:
        if request.lookup is None:
            request.lookup = PromptLookup(request.tokens)
        request.guesses = _fitting(
            request, request.lookup.propose(min(k, request.limit - len(request.output) - 1))
        )


def _fitting(request: Request, guesses: list[int]) -> list[int]:
    """The guesses that the request's grammar would take."""
    return guesses[: request.matcher.fits(guesses)] if request.matcher and guesses else guesses


class Draft:
    """A small network with the target's vocabulary, and its own cache, slot for slot the target's."""

    def __init__(self, network: "Decoder", target: "Decoder", slots: int, max_len: int) -> None:
        if network.config.vocab_size != target.config.vocab_size:
            raise DaedalError(
                f"The draft network has {network.config.vocab_size} tokens and the target {target.config.vocab_size}; they must share a tokenizer."
            )
        self.network = network
        self.device = network.embed_tokens.weight.device
        self.cache = SlotCache(
            network.config,
            slots,
            max_len,
            activation_dtype(network),
            self.device,
            prefix_caching=False,
        )
        self.owner: list[Request | None] = [None] * (slots + 1)

    def guess(self, requests: list[Request], k: int) -> None:
        """Give each request up to k guesses, drawn one after another for all of them together."""
        for request in requests:
            slot = request.slot
            self.cache.lengths[slot] = (
                min(self.cache.lengths[slot], len(request.tokens) - 1)
                if self.owner[slot] is request
                else 0
            )
            self.owner[slot], request.guesses = request, []
        for _ in range(k):
            requests = [r for r in requests if len(r.output) + len(r.guesses) + 1 < r.limit]
            if not requests:
                return
            for request, token in zip(requests, self._next(requests), strict=True):
                request.guesses.append(token)
        for request in requests:
            request.guesses = _fitting(request, request.guesses)

    def _next(self, requests: list[Request]) -> list[int]:
        fresh = [(r.tokens + r.guesses)[self.cache.lengths[r.slot] :] for r in requests]
        step = self.cache.step([(r.slot, len(ids)) for r, ids in zip(requests, fresh, strict=True)])
        hidden = self.network.hidden(
            torch.tensor([[i for ids in fresh for i in ids]], device=self.device), cache=step
        )[0]
        step.commit()
        last = torch.tensor([len(ids) for ids in fresh]).cumsum(0) - 1
        rows = [(r.params, r.prompt, r.output + r.guesses) for r in requests]
        return sample_batch(self.network.head(hidden[last]), rows)
