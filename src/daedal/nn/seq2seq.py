"""What decoders that read an encoder's states are made of (Vaswani et al. 2017, the norms in front):
attention to the tokens before and to the states, and their cache as an explicit value. Whisper and
MusicGen share it; parameter names are those of transformers' files.

Legend: B sounds or prompts, R rows (B times the texts that are tried of each), T tokens, S states,
D width, H heads, K head dim."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.nn.linear import Linear, linears
from daedal.nn.mlp import activation
from daedal.nn.norm import LayerNorm


@dataclass
class Cache:
    """What a decoder keeps of what it has read: `cross` holds each layer's keys and values of the
    sounds (B, H, S, K), `own` those of the tokens (R, H, room, K), the first `length` of which
    count. `weights`, where it is a list, collects each layer's attention to the sounds (R, H, T, S)."""

    cross: list[tuple[Tensor, Tensor]]
    own: list[tuple[Tensor, Tensor]]
    length: int = 0
    weights: list[Tensor] | None = None

    def reorder(self, rows: list[int], start: int = 0) -> None:
        """Go on with these rows, in this order (beam search). All of them have the same tokens
        before `start`, which stay where they are."""
        n, to = self.length, [i for i, row in enumerate(rows) if row != i]
        source = [rows[i] for i in to]
        for keys, values in self.own:
            for kept in (keys, values):
                kept[to, :, start:n] = kept[source, :, start:n]


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj = Linear(width, width, bias=False)
        self.q_proj, self.v_proj, self.out_proj = (
            Linear(width, width, bias=bias) for _ in range(3)
        )

    def split(self, x: Tensor) -> Tensor:  # (B, T, D) -> (B, H, T, K)
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        k, v = linears(x, self.k_proj, self.v_proj)
        return self.split(k).contiguous(), self.split(v).contiguous()

    def merge(self, x: Tensor) -> Tensor:  # (B, H, T, K) -> (B, T, D)
        return self.out_proj(x.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        """Every position reads every other: (B, T, D) -> (B, T, D)."""
        q, k, v = (self.split(t) for t in linears(x, self.q_proj, self.k_proj, self.v_proj))
        return self.merge(F.scaled_dot_product_attention(q, k, v))

    def causal(self, x: Tensor, layer: int, cache: Cache) -> Tensor:
        """(R, T, D), tokens after those of the cache, whose keys and values are put there."""
        q, k, v = (self.split(t) for t in linears(x, self.q_proj, self.k_proj, self.v_proj))
        start, end = cache.length, cache.length + x.shape[1]
        keys, values = cache.own[layer]
        keys[:, :, start:end], values[:, :, start:end] = k, v
        k, v = keys[:, :, :end].to(q.dtype), values[:, :, :end].to(q.dtype)
        if x.shape[1] == 1:
            return self.merge(F.scaled_dot_product_attention(q, k, v))
        mask = torch.ones(end - start, end, dtype=torch.bool, device=x.device).tril(start)
        return self.merge(F.scaled_dot_product_attention(q, k, v, attn_mask=mask))

    def across(self, x: Tensor, layer: int, cache: Cache) -> Tensor:
        """(R, T, D) to the sounds. The rows of one sound are read as one longer row, so that its
        keys and values go by once however many texts are tried."""
        k, v = cache.cross[layer]
        rows, tokens = x.shape[:2]
        q = self.split(self.q_proj(x).view(len(k), -1, x.shape[-1])).to(k.dtype)  # (B, H, R/B*T, K)
        # for the few queries of a step two plain products are quicker than the fused kernel
        scores = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1, dtype=torch.float32)
        if cache.weights is not None:
            cache.weights.append(by_row(scores, rows))
        out = (scores.to(k.dtype) @ v).to(x.dtype)
        return self.out_proj(out.transpose(1, 2).reshape(rows, tokens, -1))


def by_row(scores: Tensor, rows: int) -> Tensor:
    """(B, H, R/B*T, S) -> (R, H, T, S)."""
    B, H, _, S = scores.shape
    return scores.view(B, H, rows // B, -1, S).transpose(1, 2).reshape(rows, H, -1, S)


class FeedForward(nn.Module):
    """fc2(act(fc1(norm(x)))), added."""

    def __init__(self, width: int, inner: int, act: str, bias: bool = True) -> None:
        super().__init__()
        self.act = activation(act)
        self.fc1, self.fc2 = Linear(width, inner, bias=bias), Linear(inner, width, bias=bias)
        self.final_layer_norm = LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(self.act(self.fc1(self.final_layer_norm(x))))


class DecoderLayer(FeedForward):
    def __init__(self, width: int, heads: int, inner: int, act: str, bias: bool = True) -> None:
        super().__init__(width, inner, act, bias)
        self.self_attn, self.encoder_attn = (Attention(width, heads, bias) for _ in range(2))
        self.self_attn_layer_norm, self.encoder_attn_layer_norm = (
            LayerNorm(width) for _ in range(2)
        )

    def read(self, x: Tensor, layer: int, cache: Cache) -> Tensor:
        x = x + self.self_attn.causal(self.self_attn_layer_norm(x), layer, cache)
        x = x + self.encoder_attn.across(self.encoder_attn_layer_norm(x), layer, cache)
        return self(x)


def empty_cache(
    layers: Iterable[Any],
    states: Tensor,
    rows: int,
    room: int,
    dtype: torch.dtype,
    cross: torch.dtype | None = None,
) -> Cache:
    """A cache for `rows` texts of at most `room` tokens that read the states (B, S, D). `dtype` is
    that of the tokens' keys and values, `cross` that of the states', their own if None."""
    read = [layer.encoder_attn.keys_values(states) for layer in layers]
    kept = [(k.to(cross or k.dtype), v.to(cross or v.dtype)) for k, v in read]
    heads, size = kept[0][0].shape[1], kept[0][0].shape[-1]
    shape = (rows, heads, room, size)
    own = [
        (states.new_zeros(shape, dtype=dtype), states.new_zeros(shape, dtype=dtype)) for _ in kept
    ]
    return Cache(kept, own)
