"""How likely a network finds given tokens: the one place where log-probabilities of text are
computed."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from daedal.data.tokenizer import Tokenizer
from daedal.networks.decoder import Decoder


@torch.inference_mode()
def token_losses(
    network: Decoder, ids: list[int], context: int, stride: int | None = None
) -> Tensor:
    """-log p(ids[i] | ids[<i]) in nats for i >= 1, float32 (len(ids) - 1,). Windows of `context`
    tokens; each later window begins `stride` tokens further and scores only what is new, so every
    token but the first window's sees at least context - stride tokens."""
    stride = stride or context // 2
    device = network.embed_tokens.weight.device
    tokens, losses, scored = torch.tensor(ids, device=device), [], 1
    start = 0
    while scored < len(ids):
        end = min(start + context + 1, len(ids))
        window = tokens[start:end]
        hidden = network.hidden(window[None, :-1])[0, scored - start - 1 :]  # (n, D)
        for h, goal in zip(hidden.split(1024), tokens[scored:end].split(1024), strict=True):
            losses.append(-network.head(h).float().log_softmax(-1).gather(1, goal[:, None])[:, 0])
        scored, start = end, end - context - 1 + stride
    return torch.cat(losses).cpu()


@dataclass(frozen=True)
class BitsPerByte:
    """`value` over all documents; `error` is its standard error, documents resampled as wholes
    (ratio estimator)."""

    value: float
    error: float
    documents: int
    bytes: int
    tokens: int
    perplexity: float  # per token


def bits_per_byte(
    network: Decoder, tokenizer: Tokenizer, texts: list[str], context: int
) -> BitsPerByte:
    """Held-out compression: total nats of every document (bos in front, each token scored once)
    over ln 2 and its UTF-8 bytes."""
    nats, sizes, tokens = [], [], 0
    for text in texts:
        if tokenizer.bos_id is not None:
            ids = [tokenizer.bos_id, *tokenizer.encode(text, add_bos=False)]
        else:
            ids = tokenizer.encode(text)
        losses = token_losses(network, ids, context)
        nats.append(losses.double().sum().item())
        sizes.append(len(text.encode()))
        tokens += len(losses)
    ratio = sum(nats) / sum(sizes)
    n = len(texts)
    spread = sum((a - ratio * b) ** 2 for a, b in zip(nats, sizes, strict=True)) / max(1, n - 1)
    error = math.sqrt(spread / n) / (sum(sizes) / n)
    perplexity = math.exp(sum(nats) / tokens)
    bits, spread = ratio / math.log(2), error / math.log(2)
    return BitsPerByte(bits, spread, n, sum(sizes), tokens, perplexity)
