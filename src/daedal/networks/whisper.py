"""Whisper (Radford et al. 2022), which writes down what is said: an encoder over the log-mel
spectrogram of half a minute of sound, and a decoder that attends to it.

    states = network.encode(mel)                         # once a window
    cache = network.cache(states, rows=5)                # keys and values, an explicit value
    logits = network(tokens, cache)                      # tokens after those in the cache

Legend: B sounds, R rows (B times the texts that are tried of each), T tokens, S states, D width,
H heads, K head dim, M mel bins, V vocabulary."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.networks.config import EVERYTHING
from daedal.networks.names import Names
from daedal.nn.conv1d import Conv1d
from daedal.nn.cost import count_flops
from daedal.nn.linear import Embedding, Linear, linears
from daedal.nn.mlp import activation
from daedal.nn.norm import LayerNorm

STRIDE = 2  # frames of the spectrogram to a state


@dataclass(frozen=True, kw_only=True)
class WhisperConfig:
    vocab_size: int = 51865
    num_mel_bins: int = 80
    d_model: int = 384
    encoder_layers: int = 4
    encoder_attention_heads: int = 6
    encoder_ffn_dim: int = 1536
    decoder_layers: int = 4
    decoder_attention_heads: int = 6
    decoder_ffn_dim: int = 1536
    activation_function: str = "gelu"
    max_source_positions: int = 1500
    max_target_positions: int = 448
    pad_token_id: int | None = 50256
    bos_token_id: int | None = 50256
    eos_token_id: int | None = 50256
    decoder_start_token_id: int = 50257
    tie_word_embeddings: bool = True

    architecture: ClassVar[str] = "WhisperForConditionalGeneration"
    model_type: ClassVar[str] = "whisper"
    fixed: ClassVar[dict[str, Any]] = {"scale_embedding": False}
    ignored: ClassVar[frozenset[str]] = EVERYTHING


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
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj = Linear(width, width, bias=False)
        self.q_proj, self.v_proj, self.out_proj = (Linear(width, width) for _ in range(3))

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

    def __init__(self, width: int, inner: int, act: str) -> None:
        super().__init__()
        self.act = activation(act)
        self.fc1, self.fc2 = Linear(width, inner), Linear(inner, width)
        self.final_layer_norm = LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(self.act(self.fc1(self.final_layer_norm(x))))


class EncoderLayer(FeedForward):
    def __init__(self, c: WhisperConfig) -> None:
        super().__init__(c.d_model, c.encoder_ffn_dim, c.activation_function)
        self.self_attn = Attention(c.d_model, c.encoder_attention_heads)
        self.self_attn_layer_norm = LayerNorm(c.d_model)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.self_attn(self.self_attn_layer_norm(x)))


class DecoderLayer(FeedForward):
    def __init__(self, c: WhisperConfig) -> None:
        super().__init__(c.d_model, c.decoder_ffn_dim, c.activation_function)
        self.self_attn, self.encoder_attn = (
            Attention(c.d_model, c.decoder_attention_heads) for _ in range(2)
        )
        self.self_attn_layer_norm, self.encoder_attn_layer_norm = (
            LayerNorm(c.d_model) for _ in range(2)
        )

    def read(self, x: Tensor, layer: int, cache: Cache) -> Tensor:
        x = x + self.self_attn.causal(self.self_attn_layer_norm(x), layer, cache)
        x = x + self.encoder_attn.across(self.encoder_attn_layer_norm(x), layer, cache)
        return self(x)


class Encoder(nn.Module):
    """`compute_dtype`, when set, is the dtype of activations."""

    def __init__(self, c: WhisperConfig) -> None:
        super().__init__()
        self.compute_dtype: torch.dtype | None = None
        self.conv1 = Conv1d(c.num_mel_bins, c.d_model, 3, padding=1)
        self.conv2 = Conv1d(c.d_model, c.d_model, 3, stride=STRIDE, padding=1)
        self.embed_positions = Embedding(c.max_source_positions, c.d_model)
        self.layers = nn.ModuleList(EncoderLayer(c) for _ in range(c.encoder_layers))
        self.layer_norm = LayerNorm(c.d_model)

    def forward(self, mel: Tensor) -> Tensor:
        x = mel.to(self.compute_dtype or self.conv1.weight.dtype)
        x = F.gelu(self.conv2(F.gelu(self.conv1(x)))).mT
        x = x + self.embed_positions.weight[: x.shape[1]].to(x.dtype)
        for layer in self.layers:
            x = layer(x)
        return self.layer_norm(x)


class Decoder(nn.Module):
    """The names of its embedding and head are those that daedal.nn.quantized packs together."""

    def __init__(self, c: WhisperConfig) -> None:
        super().__init__()
        self.compute_dtype: torch.dtype | None = None
        self.embed_tokens = Embedding(c.vocab_size, c.d_model)
        self.embed_positions = Embedding(c.max_target_positions, c.d_model)
        self.layers = nn.ModuleList(DecoderLayer(c) for _ in range(c.decoder_layers))
        self.layer_norm = LayerNorm(c.d_model)
        self.lm_head = Linear(c.d_model, c.vocab_size, bias=False)
        if c.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight

    def forward(self, tokens: Tensor, cache: Cache) -> Tensor:
        """The states of the last layer, before the head."""
        x = self.embed_tokens(tokens)
        start, end = cache.length, cache.length + tokens.shape[1]
        x = x + self.embed_positions.weight[start:end].to(x.dtype)
        x = x.to(self.compute_dtype or x.dtype)
        layer: Any
        for i, layer in enumerate(self.layers):
            x = layer.read(x, i, cache)
        cache.length = end
        return self.layer_norm(x)


class WhisperForConditionalGeneration(nn.Module):
    config_class = WhisperConfig
    names = Names(
        prefix="model.", renames=(("decoder.lm_head.", "proj_out."),), bare=("decoder.lm_head.",)
    )
    ties: ClassVar[dict[str, str]] = {"decoder.lm_head.weight": "decoder.embed_tokens.weight"}

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)

    def encode(self, mel: Tensor) -> Tensor:
        """mel (B, M, 2S) -> states (B, S, D)."""
        return self.encoder(mel)

    def cache(self, states: Tensor, rows: int, dtype: torch.dtype | None = None) -> Cache:
        """An empty cache for `rows` texts of the sounds with these states (B, S, D); `dtype` is
        that of the sounds' keys and values, the states' own if None."""
        c, layers = self.config, self.decoder.layers
        shape = (rows, c.decoder_attention_heads, c.max_target_positions, c.d_model // c.decoder_attention_heads)  # fmt: skip
        width = self.decoder.compute_dtype or self.decoder.layer_norm.weight.dtype
        cross = [layer.encoder_attn.keys_values(states) for layer in layers]  # type: ignore[operator,union-attr]
        kept = [(k.to(dtype or k.dtype), v.to(dtype or v.dtype)) for k, v in cross]
        own = [tuple(states.new_zeros(shape, dtype=width) for _ in range(2)) for _ in layers]
        return Cache(kept, own)  # type: ignore[arg-type]

    def forward(self, tokens: Tensor, cache: Cache, last: bool = False) -> Tensor:
        """tokens (R, T) after those of the cache -> logits (R, T, V) fp32, or of the `last` one
        only (R, 1, V). The cache takes the tokens in."""
        x = self.decoder(tokens, cache)
        return self.decoder.lm_head(x[:, -1:] if last else x).float()

    def flops(self, tokens: int = 100) -> int:
        """Floating-point operations of a window's sound and that many tokens of it; a multiply-add
        is two."""
        c = self.config

        def run(network: Any) -> Tensor:
            mel = torch.zeros(1, c.num_mel_bins, STRIDE * c.max_source_positions)
            return network(torch.zeros(1, tokens, dtype=torch.long), network.cache(network.encode(mel), 1))  # fmt: skip

        return count_flops(self, run)
