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
from daedal.nn.linear import Embedding, Linear
from daedal.nn.norm import LayerNorm
from daedal.nn.seq2seq import Attention, Cache, DecoderLayer, FeedForward, empty_cache

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


class EncoderLayer(FeedForward):
    def __init__(self, c: WhisperConfig) -> None:
        super().__init__(c.d_model, c.encoder_ffn_dim, c.activation_function)
        self.self_attn = Attention(c.d_model, c.encoder_attention_heads)
        self.self_attn_layer_norm = LayerNorm(c.d_model)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.self_attn(self.self_attn_layer_norm(x)))


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
        self.layers = nn.ModuleList(
            DecoderLayer(
                c.d_model, c.decoder_attention_heads, c.decoder_ffn_dim, c.activation_function
            )
            for _ in range(c.decoder_layers)
        )
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
        width = self.decoder.compute_dtype or self.decoder.layer_norm.weight.dtype
        room = self.config.max_target_positions
        return empty_cache(self.decoder.layers, states, rows, room, width, dtype)

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
            return network(
                torch.zeros(1, tokens, dtype=torch.long), network.cache(network.encode(mel), 1)
            )

        return count_flops(self, run)
