"""Scaled dot-product attention with grouped queries, a sliding window, soft-capped scores and
padding, as one pure function, and the attention layer that families share.

Legend: B batch, T query tokens, S key tokens, H heads, K head dim, D width."""

from typing import TYPE_CHECKING, Required, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.nn.linear import Linear, linears
from daedal.nn.rope import apply_rope

if TYPE_CHECKING:
    from daedal.networks.decoder import Context, DecoderConfig


class Scores(TypedDict, total=False):
    """How attention scores are made: their `scale`, the sliding `window` in tokens, and `softcap`,
    which bounds them by c*tanh(s/c) (Gemma 2)."""

    scale: Required[float]
    window: int | None
    softcap: float | None


def visible(
    queries: int, keys: int, offset: int, window: int | None, device: torch.device
) -> Tensor:
    """(T, S) bool: key j is seen by query i when j <= offset+i and, with a window, j >
    offset+i-window."""
    i = torch.arange(offset, offset + queries, device=device)[:, None]
    j = torch.arange(keys, device=device)[None]
    seen = j <= i
    return seen if window is None else seen & (j > i - window)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    mask: Tensor | None = None,
    offset: int = 0,
) -> Tensor:
    """q (B, T, H, K), k and v (B, S, Hkv, K) -> (B, T, H, K). Query i stands at position offset+i,
    key j at j. `mask` (B, S) is True where a key exists; `softcap` bounds scores by c*tanh(s/c)
    (Gemma 2)."""
    T, S = q.shape[1], k.shape[1]
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H, T, K)
    grouped = q.shape[1] != k.shape[1]
    whole = window is None or window >= S
    if softcap is None and mask is None and whole and (T == S or T == 1):
        out = F.scaled_dot_product_attention(
            q, k, v, is_causal=T == S and T > 1, scale=scale, enable_gqa=grouped
        )
        return out.transpose(1, 2)
    seen = visible(T, S, offset, window, q.device)[None, None]  # (1, 1, T, S)
    if mask is not None:  # a padded query still sees itself, so that its row stays finite
        itself = torch.eye(S, dtype=torch.bool, device=q.device)[offset : offset + T]
        seen = seen & (mask[:, None, None] | itself)
    if softcap is not None and grouped:
        k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (k, v))
    return weighted(q, k, v, seen, scale, softcap).transpose(1, 2)


def weighted(
    q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, scale: float, softcap: float | None
) -> Tensor:
    """Values weighted by scores: q (B, H, T, K), k and v (B, Hkv, S, K), `seen` a mask that
    broadcasts to (B, H, T, S) -> like q. With a softcap H is Hkv."""
    if softcap is None:
        grouped = q.shape[1] != k.shape[1]
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=seen, scale=scale, enable_gqa=grouped
        )
    scores = torch.tanh(q @ k.mT * (scale / softcap)) * softcap
    scores = scores if seen is None else scores.masked_fill(~seen, float("-inf"))
    exact = torch.promote_types(q.dtype, torch.float32)
    return scores.softmax(-1, dtype=exact).to(q.dtype) @ v


class Attention(nn.Module):
    """Grouped-query self-attention. Families that normalise queries and keys override `heads`.

    `rope` names the rotary table of this layer, or None for no positions (NoPE); `window` is the
    sliding window in tokens."""

    def __init__(
        self,
        config: "DecoderConfig",
        layer: int,
        *,
        bias: bool = False,
        out_bias: bool = False,
        rope: str | None = "global",
        scale: float | None = None,
        softcap: float | None = None,
    ) -> None:
        super().__init__()
        D = config.hidden_size
        H = config.num_attention_heads
        G = config.num_key_value_heads
        K = config.head_dim
        self.layer, self.rope, self.head_dim = layer, rope, K
        self.window, self.softcap, self.scale = config.window(layer), softcap, scale or K**-0.5
        self.q_proj = Linear(D, H * K, bias=bias)
        self.k_proj = Linear(D, G * K, bias=bias)
        self.v_proj = Linear(D, G * K, bias=bias)
        self.o_proj = Linear(H * K, D, bias=out_bias)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, T, D) -> q (B, T, H, K), k and v (B, T, Hkv, K), before rotation."""
        q, k, v = (
            t.unflatten(-1, (-1, self.head_dim))
            for t in linears(x, self.q_proj, self.k_proj, self.v_proj)
        )
        return q, k, v

    def forward(self, x: Tensor, context: "Context") -> Tensor:  # (B, T, D) -> (B, T, D)
        q, k, v = self.heads(x)
        if self.rope:
            cos, sin = context.rope[self.rope]
            q, k = apply_rope(q, cos, sin), apply_rope(k, cos, sin)
        out = context.attend(
            self.layer, q, k, v, scale=self.scale, window=self.window, softcap=self.softcap
        )
        return self.o_proj(out.flatten(-2))
