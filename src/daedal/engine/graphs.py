"""Decode steps over pages, captured once as CUDA graphs and replayed: at small batches the GPU
would wait for Python's hundreds of calls otherwise.

A graph reads its inputs from one fixed tensor, so there is one for each size of batch and width of
page tables, both rounded up; rows without a request write to the page that is nobody's. A network
that looks at the values of tensors on its way (a mixture that counts its experts' tokens, a rotary
scaling that asks how long the texts are) takes the plain path.

Legend: B rows, P pages of a table, V vocabulary."""

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from daedal.engine.paged import WIDTH, DecodeStep, PagedCache
from daedal.nn.replay import NotCapturable, looks_at_values

if TYPE_CHECKING:
    from daedal.networks.decoder import Decoder

log = logging.getLogger("daedal.engine")


def rounded(number: int) -> int:
    """The power of two that is not less."""
    return 1 << (number - 1).bit_length()


class Graphs:
    """`graphs(tokens, slots)` returns the logits (B, V) after one more token in each slot, valid
    until the next call, or None where the plain path must be taken."""

    def __init__(self, network: "Decoder", cache: PagedCache) -> None:
        self.network, self.cache = network, cache
        self.captured: dict[tuple[int, int], DecodeGraph] = {}
        self.places = cache.places
        self.refused = not static(network)

    def __call__(self, tokens: list[int], slots: list[int]) -> Tensor | None:
        if self.refused:
            return None
        tables = [self.cache.tables[slot] for slot in slots]
        self.cache.reserve(max(map(max, tables)))
        if self.places != self.cache.places:  # graphs hold the addresses of the pages
            self.captured, self.places = {}, self.cache.places
        size = rounded(len(slots)), max(WIDTH, rounded(max(map(len, tables))))
        try:
            if size not in self.captured:
                self.captured[size] = DecodeGraph(self.network, self.cache, *size)
        except RuntimeError as error:
            log.debug("the decode step cannot be captured and runs call by call: %s", error)
            self.captured, self.refused = {}, True
            return None
        logits = self.captured[size](tokens, slots)
        for slot in slots:
            self.cache.lengths[slot] += 1
        return logits[: len(slots)]


class DecodeGraph:
    """The decode step of `batch` rows, their page tables `width` wide. Off the GPU the same step is
    run call by call."""

    def __init__(self, network: "Decoder", cache: PagedCache, batch: int, width: int) -> None:
        self.network, self.cache, self.width = network, cache, width
        # of each row its token, the number of tokens before it, its page table
        self.inputs = torch.zeros(batch, 2 + width, dtype=torch.int64, device=cache.keys[0].device)
        with torch.inference_mode():
            self.run = recorded(self.step) if self.inputs.is_cuda else self.step

    def step(self) -> Tensor:  # (B, V)
        tokens, starts, tables = self.inputs[:, 0], self.inputs[:, 1], self.inputs[:, 2:]
        return self.network(tokens[None], cache=DecodeStep(self.cache, starts, tables))[0]

    def __call__(self, tokens: list[int], slots: list[int]) -> Tensor:
        lengths = self.cache.lengths
        tables = self.cache.page_tables(slots, self.width)
        rows = [
            [token, lengths[slot], *table]
            for token, slot, table in zip(tokens, slots, tables, strict=True)
        ]
        rows += [[0] * (2 + self.width)] * (len(self.inputs) - len(rows))
        with torch.inference_mode():
            self.inputs.copy_(torch.tensor(rows))
            return self.run()


def recorded(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """`step` as a CUDA graph: a call runs it again on the same memory and returns the same tensor.
    What is compiled, tuned or allocated once happens in two runs before, on a stream of their own,
    as PyTorch's notes on CUDA graphs ask."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(2):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step()

    def replay() -> Tensor:
        graph.replay()
        return out

    return replay


class Watch(TorchDispatchMode):
    """Raises where what is called depends on the values of tensors."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # see daedal.nn.replay.Capture

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if looks_at_values(func, args):
            raise NotCapturable(f"{func} looks at the values of a tensor")
        return func(*args, **(kwargs or {}))


@torch.inference_mode()
def static(network: "Decoder") -> bool:
    """Whether the network runs the same calls whatever the tensors hold, its attention aside."""
    one = torch.ones(1, 1, dtype=torch.int64, device=network.embed_tokens.weight.device)
    step = SimpleNamespace(positions=one, lengths=one, attend=lambda layer, q, k, v, **scores: q)
    try:
        with Watch():
            network(one - 1, cache=step)
    except NotCapturable as error:
        log.debug("decode steps run call by call: %s", error)
        return False
    return True
