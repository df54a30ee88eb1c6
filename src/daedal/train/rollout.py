"""Rollouts: the engine completes prompts with the weights of this moment, and the training forward
pass scores what came out.

Both are the same network under the same settings, so the ratio of new to old probabilities begins
at exactly 1. The old log-probabilities come from the training pass, on the micro-batches that
training will see: the engine runs sequences in other groupings, whose sums differ in the last bits.

Legend: B completions, G of one prompt, T tokens, V vocabulary. `mask` (B, T - 1) is True where
tokens[:, 1:] was sampled."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from daedal.data.tokenizer import Tokenizer
from daedal.engine.engine import Engine
from daedal.engine.request import Request
from daedal.networks.decoder import Decoder
from daedal.processes.autoregression import activation_dtype
from daedal.processes.sampling import SamplingParams, mix
from daedal.train.rl_objectives import supports, token_logprobs, truncates
from daedal.train.shared import Shared
from daedal.train.trainer import slice_rows, to_device

BATCH = 128  # sequences that the engine runs at once


def complete(
    network: Decoder,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    seeds: Sequence[int],
    group: int,
    finished: Callable[[int, Request], Any] = lambda row, request: None,
    batch: int = BATCH,
) -> list[Request]:
    """`group` completions of each prompt, in order; `finished(row, request)` is called as each
    comes in. A prompt's `seed` alone decides what is drawn for it, whatever runs beside it. The
    engine is new each time: kept keys and captured steps are of old weights."""
    batch = min(batch, len(prompts) * group)
    longest = max(map(len, prompts)) + params.max_tokens + 1
    fp32 = activation_dtype(network) == torch.float32  # which the captured steps are written for
    budget = max(512, batch)
    engine = Engine(
        network, tokenizer, max_batch=batch, max_len=longest, token_budget=budget, replay=fp32
    )
    asked = [
        engine.submit(ids, replace(params, n=group, seed=seed))
        for ids, seed in zip(prompts, seeds, strict=True)
    ]
    samples = [sample for request in asked for sample in request.samples]
    rows = {sample: row for row, sample in enumerate(samples)}
    while engine.busy:
        for request, _ in engine.step():
            if request.finished:
                finished(rows[request], request)
    return samples


def seed_of(seed: int, number: int) -> int:
    """The seed of prompt `number` of a run."""
    return mix(seed, number) & 0x7FFFFFFF


@dataclass(frozen=True)
class Completion:
    """What is left of a request."""

    prompt: list[int]
    output: list[int]
    ended: bool

    @classmethod
    def of(cls, request: Request) -> Self:
        return cls(request.prompt, request.output, request.finished == "stop")

    @property
    def tokens(self) -> list[int]:
        return self.prompt + self.output


def padded(requests: "Sequence[Request | Completion]") -> tuple[Tensor, Tensor]:
    """tokens (B, T), padded at the end with 0, and mask (B, T - 1)."""
    size = max(len(request.tokens) for request in requests)
    tokens = torch.zeros(len(requests), size, dtype=torch.int64)
    mask = torch.zeros(len(requests), size - 1, dtype=torch.bool)
    for row, request in enumerate(requests):
        tokens[row, : len(request.tokens)] = torch.tensor(request.tokens)
        mask[row, len(request.prompt) - 1 : len(request.tokens) - 1] = True
    return tokens, mask


def trimmed(part: dict[str, Tensor]) -> dict[str, Tensor]:
    """The columns that some row of this micro-batch needs."""
    last = int(part["mask"].any(0).nonzero().amax()) + 1 if part["mask"].any() else 1
    return {
        key: value[:, : last + (key == "tokens")] if value.dim() > 1 else value
        for key, value in part.items()
    }


def states(network: Decoder, part: dict[str, Tensor]) -> Tensor:
    """(n, D): the hidden states that the sampled tokens were drawn in, in the order of `mask`'s
    Trues."""
    packed = Shared(part["tokens"], part["mask"])
    return network.hidden(packed.tokens, cache=packed)[0].index_select(0, packed.drawn)


def score(
    network: Decoder, part: dict[str, Tensor], params: SamplingParams
) -> tuple[Tensor, Tensor]:
    """(log-probability, entropy) of the sampled tokens, (B, T - 1) and 0 elsewhere, under the
    settings that drew them."""
    tokens, mask = part["tokens"], part["mask"]
    hidden = states(network, part)
    support = part["support"][mask] if "support" in part else None
    both = token_logprobs(network.head, hidden, tokens[:, 1:][mask], params, support)
    logp, entropy = (
        torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, values) for values in both
    )
    return logp, entropy


@torch.no_grad()
def in_chunks(
    read: Callable[[dict[str, Tensor]], Tensor],
    batch: dict[str, Tensor],
    device: torch.device,
    rows: int,
) -> Tensor:
    """What `read` gives of many completions (B, T - 1, ...), `rows` at a time on the device and
    without gradient; 0 where nothing was sampled."""
    width, found = batch["mask"].shape[1], []
    for start in range(0, len(batch["mask"]), rows):
        values = read(trimmed(to_device(slice_rows(batch, start, start + rows), device))).cpu()
        room = [0, 0] * (values.dim() - 2) + [0, width - values.shape[1]]
        found.append(torch.nn.functional.pad(values, room))
    return torch.cat(found)


def scored(network: Decoder, batch: dict[str, Tensor], params: SamplingParams, rows: int) -> Tensor:
    """`score`'s log-probabilities of many completions, `rows` at a time, without gradient."""
    device = network.embed_tokens.weight.device
    return in_chunks(lambda part: score(network, part, params)[0], batch, device, rows)


def support_of(
    network: Decoder, batch: dict[str, Tensor], params: SamplingParams, rows: int
) -> Tensor | None:
    """What each token could have been, packed (B, T - 1, V / 8) uint8; None where the settings
    truncate nothing."""
    if not truncates(params):
        return None
    bits = -(-network.config.vocab_size // 8)

    def read(part: dict[str, Tensor]) -> Tensor:
        mask = part["mask"]
        goals = part["tokens"][:, 1:][mask]
        found = torch.zeros(*mask.shape, bits, dtype=torch.uint8, device=mask.device)
        found[mask] = supports(network.head, states(network, part), goals, params)
        return found

    return in_chunks(read, batch, network.embed_tokens.weight.device, rows)
