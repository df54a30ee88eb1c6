"""The encoders of T5 (Raffel et al. 2020), T5 1.1 and UMT5 (Chung et al. 2023), which read the
prompts of PixArt, SD3, FLUX, DeepFloyd IF, MusicGen and the open video models. Positions are
learned biases on the attention scores, scores are not scaled, norms have no mean.

Legend: B batch, T tokens, D width, H heads, K head dim."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.networks.legacy import UNUSED
from daedal.networks.names import Names
from daedal.nn.cost import count_flops
from daedal.nn.linear import Embedding, Linear, linears
from daedal.nn.mlp import activation
from daedal.nn.norm import RMSNorm
from daedal.nn.relative import position_buckets


@dataclass(frozen=True, kw_only=True)
class T5Config:
    """`feed_forward_proj` is an activation, "gated-" before it where the feed-forward is gated
    ("gated-gelu": the tanh form of gelu)."""

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: str = "relu"
    pad_token_id: int | None = 0
    eos_token_id: int | None = 1

    architecture: ClassVar[str] = "T5EncoderModel"
    model_type: ClassVar[str] = "t5"
    fixed: ClassVar[dict[str, Any]] = {"is_decoder": False}
    ignored: ClassVar[frozenset[str]] = UNUSED | {
        "dense_act_fn", "is_gated_act", "num_decoder_layers", "n_positions", "scale_decoder_outputs", "scalable_attention",
    }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class UMT5Config(T5Config):
    vocab_size: int = 250112
    d_ff: int = 1024
    num_layers: int = 8
    num_heads: int = 6
    feed_forward_proj: str = "gated-gelu"

    architecture: ClassVar[str] = "UMT5EncoderModel"
    model_type: ClassVar[str] = "umt5"


class Attention(nn.Module):
    """`biased` layers have their own bias of each head for each bucket; the others are given the
    first layer's."""

    def __init__(self, c: T5Config, biased: bool) -> None:
        super().__init__()
        D, self.heads, inner = c.d_model, c.num_heads, c.num_heads * c.d_kv
        self.q, self.k, self.v = (Linear(D, inner, bias=False) for _ in range(3))
        self.o = Linear(inner, D, bias=False)
        self.relative_attention_bias = (
            Embedding(c.relative_attention_num_buckets, self.heads) if biased else None
        )

    # (B, T, D), (B or 1, H, T, T) -> (B, T, D)
    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        # (B, H, T, K)
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for t in linears(x, self.q, self.k, self.v)
        )
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        return self.o(out.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """wo(act(wi_0(x)) * wi_1(x)), or wo(act(wi(x))). In float16 the product can overflow: `wo` is
    then taken in float32."""

    def __init__(self, c: T5Config) -> None:
        super().__init__()
        kind = c.feed_forward_proj.removeprefix("gated-")
        gated = c.feed_forward_proj.startswith("gated-")
        self.act = activation("gelu_new" if c.feed_forward_proj == "gated-gelu" else kind)
        self.wi = None if gated else Linear(c.d_model, c.d_ff, bias=False)
        self.wi_0, self.wi_1 = (
            Linear(c.d_model, c.d_ff, bias=False) if gated else None for _ in range(2)
        )
        self.wo = Linear(c.d_ff, c.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, D) -> (B, T, D)
        if self.wi_0 is not None and self.wi_1 is not None:
            gate, up = linears(x, self.wi_0, self.wi_1)
            h = self.act(gate) * up
        else:
            assert self.wi is not None
            h = self.act(self.wi(x))
        return self.wo(safe(h))


def safe(x: Tensor) -> Tensor:
    """T5 was trained in bfloat16 and leaves the range of float16: sums are kept in float32 instead."""
    return x.float() if x.dtype == torch.float16 else x


class Block(nn.Module):
    """Attention and feed-forward, each behind a norm and added to the stream, which is wider than
    the layers' `dtype` in float16."""

    def __init__(self, c: T5Config, biased: bool) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(c.d_model, c.layer_norm_epsilon)
        self.attention = Attention(c, biased)
        self.mlp_norm, self.mlp = RMSNorm(c.d_model, c.layer_norm_epsilon), FeedForward(c)

    # (B, T, D) -> (B, T, D)
    def forward(self, x: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
        x = x + self.attention(self.attention_norm(x).to(dtype), bias)
        return x + self.mlp(self.mlp_norm(x).to(dtype))


class T5EncoderModel(nn.Module):
    """A prompt as states of its tokens. `compute_dtype`, when set, is the dtype of activations;
    weights keep their own."""

    config_class: type[T5Config] = T5Config
    shares_bias = True  # only the first layer has position biases, and all read them
    names = Names(renames=(
        ("blocks.", "encoder.block."), (".attention.", ".layer.0.SelfAttention."), (".attention_norm.", ".layer.0.layer_norm."),
        (".mlp.", ".layer.1.DenseReluDense."), (".mlp_norm.", ".layer.1.layer_norm."), ("final_layer_norm.", "encoder.final_layer_norm."),
    ), copies=(("encoder.embed_tokens.weight", "shared.weight"),))  # fmt: skip

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype: torch.dtype | None = None
        self.shared = Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(
            Block(config, i == 0 or not self.shares_bias) for i in range(config.num_layers)
        )
        self.final_layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """tokens (B, T) int64 -> the normalised states of the last layer (B, T, D). `mask` (B, T)
        is False at padding, which is then not read; what comes out at padding means nothing."""
        x = self.shared(tokens)
        dtype = self.compute_dtype or x.dtype
        x, buckets = safe(x.to(dtype)), self.buckets(tokens)
        block: Any
        for block in self.blocks:
            if (table := block.attention.relative_attention_bias) is not None:
                bias = masked(table(buckets).permute(2, 0, 1)[None].to(dtype), mask)
            x = block(x, bias, dtype)
        return self.final_layer_norm(x).to(dtype)

    def buckets(self, tokens: Tensor) -> Tensor:
        c = self.config
        return position_buckets(
            tokens.shape[1],
            c.relative_attention_num_buckets,
            c.relative_attention_max_distance,
            tokens.device,
        )

    def flops(self, tokens: int = 256) -> int:
        """Floating-point operations of one prompt of that many tokens; a multiply-add is two."""
        return count_flops(self, lambda t5: t5(torch.zeros(1, tokens, dtype=torch.long)))


class UMT5EncoderModel(T5EncoderModel):
    """The multilingual one, where every layer has its own position biases."""

    config_class = UMT5Config
    shares_bias = False


def masked(bias: Tensor, mask: Tensor | None) -> Tensor:
    """bias (1, H, T, T), least where `mask` (B, T) says that a key is padding. (Not minus infinity:
    a row of padding would be no number.)"""
    if mask is None:
        return bias
    return bias.masked_fill(~mask.bool()[:, None, None], torch.finfo(bias.dtype).min)
