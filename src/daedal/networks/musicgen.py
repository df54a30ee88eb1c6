"""MusicGen (Copet et al. 2023): a decoder over the codes of EnCodec that reads the states of T5. The
codebooks of a frame are drawn one step after another, so that each knows those before it (the delay
pattern), and their embeddings are summed.

Legend: B prompts, R rows, K codebooks, T columns of the pattern, S states, D width, V codes."""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from daedal.networks.config import EVERYTHING, parse, to_dict
from daedal.networks.encodec import EncodecConfig, EncodecModel
from daedal.networks.names import Names
from daedal.networks.t5 import T5Config, T5EncoderModel
from daedal.nn.cost import count_flops
from daedal.nn.linear import Embedding, Linear
from daedal.nn.norm import LayerNorm
from daedal.nn.seq2seq import Attention, Cache, DecoderLayer, FeedForward, empty_cache


@dataclass(frozen=True, kw_only=True)
class MusicgenDecoderConfig:
    """`audio_channels` 2 has the codebooks of left and right in turn."""

    vocab_size: int = 2048
    num_codebooks: int = 4
    audio_channels: int = 1
    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    ffn_dim: int = 4096
    activation_function: str = "gelu"
    max_position_embeddings: int = 2048
    pad_token_id: int | None = 2048
    bos_token_id: int | None = 2048

    architecture: ClassVar[str] = "MusicgenForCausalLM"
    model_type: ClassVar[str] = "musicgen_decoder"
    fixed: ClassVar[dict[str, Any]] = {"scale_embedding": False}
    ignored: ClassVar[frozenset[str]] = EVERYTHING

    @property
    def delays(self) -> list[int]:
        """Steps that each codebook comes later than the first."""
        return [k // self.audio_channels for k in range(self.num_codebooks)]


@dataclass(frozen=True, kw_only=True)
class MusicgenConfig:
    """The configs of its parts, as parsed from the file."""

    text_encoder: dict[str, Any] = field(default_factory=dict)
    audio_encoder: dict[str, Any] = field(default_factory=dict)
    decoder: dict[str, Any] = field(default_factory=dict)

    architecture: ClassVar[str] = "MusicgenForConditionalGeneration"
    model_type: ClassVar[str] = "musicgen"
    ignored: ClassVar[frozenset[str]] = EVERYTHING


@dataclass(frozen=True, kw_only=True)
class MelodyDecoderConfig(MusicgenDecoderConfig):
    architecture: ClassVar[str] = "MusicgenMelodyForCausalLM"
    model_type: ClassVar[str] = "musicgen_melody_decoder"


@dataclass(frozen=True, kw_only=True)
class MusicgenMelodyConfig(MusicgenConfig):
    """`chroma_length` is the frames of a melody that are read, `num_chroma` its pitch classes."""

    num_chroma: int = 12
    chroma_length: int = 235

    architecture: ClassVar[str] = "MusicgenMelodyForConditionalGeneration"
    model_type: ClassVar[str] = "musicgen_melody"


class SelfLayer(FeedForward):
    """A layer that reads nothing but what is before it."""

    def __init__(self, width: int, heads: int, inner: int, act: str, bias: bool = True) -> None:
        super().__init__(width, inner, act, bias)
        self.self_attn = Attention(width, heads, bias)
        self.self_attn_layer_norm = LayerNorm(width)

    def read(self, x: Tensor, layer: int, cache: Cache) -> Tensor:
        return self(x + self.self_attn.causal(self.self_attn_layer_norm(x), layer, cache))


class Decoder(nn.Module):
    """`compute_dtype`, when set, is the dtype of activations."""

    def __init__(
        self, c: MusicgenDecoderConfig, layer: type[DecoderLayer | SelfLayer] = DecoderLayer
    ) -> None:
        super().__init__()
        self.config = c
        self.compute_dtype: torch.dtype | None = None
        self.embed_tokens = nn.ModuleList(
            Embedding(c.vocab_size + 1, c.hidden_size) for _ in range(c.num_codebooks)
        )
        self.layers = nn.ModuleList(
            layer(c.hidden_size, c.num_attention_heads, c.ffn_dim, c.activation_function, False)
            for _ in range(c.num_hidden_layers)
        )
        self.layer_norm = LayerNorm(c.hidden_size)
        self.heads = nn.ModuleList(
            Linear(c.hidden_size, c.vocab_size, bias=False) for _ in range(c.num_codebooks)
        )

    def forward(self, codes: Tensor, cache: Cache, last: bool = False) -> Tensor:
        """codes (R, K, T), columns after those of the cache -> logits (R, K, T, V) fp32, or of the
        `last` column only (R, K, 1, V). The cache takes the columns in."""
        x: Any = sum(embed(codes[:, k]) for k, embed in enumerate(self.embed_tokens))
        x = self.read(x, cache)
        x = self.layer_norm(x[:, -1:] if last else x)
        return torch.stack([head(x) for head in self.heads], 1).float()

    def read(self, x: Tensor, cache: Cache) -> Tensor:
        """Columns after those of the cache (R, T, D), as the layers leave them; the cache takes them
        in."""
        start, end = cache.length, cache.length + x.shape[1]
        x = x + positions(start, end, x.shape[-1], x.device)
        x = x.to(self.compute_dtype or self.layer_norm.weight.dtype)
        layer: Any
        for i, layer in enumerate(self.layers):
            x = layer.read(x, i, cache)
        cache.length = end
        return x


def positions(start: int, end: int, width: int, device: torch.device) -> Tensor:
    """(T, D): cosines, then sines, of wavelengths from 2 pi to 10000 * 2 pi."""
    half = width // 2
    rates = torch.exp(torch.arange(half, device=device) * (-math.log(10000) / (half - 1)))
    angles = torch.arange(start, end, device=device)[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], 1)


class MusicgenForConditionalGeneration(nn.Module):
    config_class: type[MusicgenConfig] = MusicgenConfig
    decoder_config: type[MusicgenDecoderConfig] = MusicgenDecoderConfig
    layer: type[DecoderLayer | SelfLayer] = DecoderLayer

    def __init__(self, config: MusicgenConfig) -> None:
        super().__init__()
        self.config = config
        text = parse(T5Config, config.text_encoder)
        self.text_encoder = T5EncoderModel(text)
        self.audio_encoder = EncodecModel(parse(EncodecConfig, config.audio_encoder))
        c = parse(self.decoder_config, config.decoder)
        self.lm = Decoder(c, self.layer)
        differs = text.d_model != c.hidden_size
        self.enc_to_dec_proj = Linear(text.d_model, c.hidden_size) if differs else None
        inner = self.audio_encoder.names
        self.names = Names(
            renames=(
                ("lm.heads.", "decoder.lm_heads."),
                ("lm.", "decoder.model.decoder."),
                ("text_encoder.final_layer_norm.", "text_encoder.encoder.final_layer_norm."),
                *(pair for pair in T5EncoderModel.names.renames if pair[0] != "final_layer_norm."),
            ),
            copies=(("text_encoder.encoder.embed_tokens.weight", "text_encoder.shared.weight"),),
            skipped=(*inner.skipped, "embed_positions.weights"),
            weight_normed=inner.weight_normed,
        )

    def written(self, raw: dict[str, Any]) -> dict[str, Any]:
        """config.json with every key of its parts."""
        return raw | {
            "text_encoder": raw["text_encoder"] | {"model_type": "t5"},
            "audio_encoder": to_dict(self.audio_encoder.config),
            "decoder": to_dict(self.lm.config),
        }

    def read(self, tokens: Tensor) -> Tensor:
        """A prompt's tokens (B, S) int64 -> states (B, S, D) that the decoder reads."""
        states = self.text_encoder(tokens)
        return states if self.enc_to_dec_proj is None else self.enc_to_dec_proj(states)

    def unguided(self, states: Tensor) -> Tensor:
        """The states of no prompt, which guidance leads away from."""
        return torch.zeros_like(states)

    def cache(self, states: Tensor, rows: int, room: int) -> Cache:
        """An empty cache for `rows` pieces of at most `room` columns."""
        dtype = self.lm.compute_dtype or self.lm.layer_norm.weight.dtype
        return empty_cache(self.lm.layers, states.to(dtype), rows, room, dtype)

    def flops(self, columns: int = 50, prompt: int = 16) -> int:
        """Floating-point operations of so many columns, read at once; a multiply-add is two."""

        def run(network: Any) -> Tensor:
            states = network.read(torch.zeros(1, prompt, dtype=torch.long))
            codes = torch.zeros(1, network.lm.config.num_codebooks, columns, dtype=torch.long)
            return network.lm(codes, network.cache(states, 1, columns))

        return count_flops(self, run)


class MusicgenMelodyForConditionalGeneration(MusicgenForConditionalGeneration):
    """The one that follows a melody: its decoder reads the melody's pitch classes and the prompt as
    if they were columns before the first, and nothing across."""

    config_class, decoder_config, layer = MusicgenMelodyConfig, MelodyDecoderConfig, SelfLayer
    config: MusicgenMelodyConfig

    def __init__(self, config: MusicgenMelodyConfig) -> None:
        super().__init__(config)
        self.audio_enc_to_dec_proj = Linear(config.num_chroma, self.lm.config.hidden_size)

    def read(self, tokens: Tensor, chroma: Tensor | None = None) -> Tensor:
        """A prompt's tokens (1, S) int64, and the pitch class of each frame of a melody (1, T,
        num_chroma), one of them 1 -> the states of the melody, repeated or cut to its length, and of
        the prompt (1, chroma_length + S, D)."""
        return torch.cat([self.melody(chroma), super().read(tokens)], 1)

    def melody(self, chroma: Tensor | None) -> Tensor:
        """(1, chroma_length, D); None is no melody, which is the first pitch class throughout."""
        weight, length = self.audio_enc_to_dec_proj.weight, self.config.chroma_length
        if chroma is None:
            chroma = torch.zeros(1, 1, self.config.num_chroma, device=weight.device)
            chroma[..., 0] = 1
        times = math.ceil(length / chroma.shape[1])
        return self.audio_enc_to_dec_proj(chroma.to(weight).repeat(1, times, 1)[:, :length])

    def unguided(self, states: Tensor) -> Tensor:
        words = torch.zeros_like(states[:, self.config.chroma_length :])
        return torch.cat([self.melody(None).to(states), words], 1)

    def cache(self, states: Tensor, rows: int, room: int) -> Cache:
        """A cache that has read the states, for `rows` pieces of at most `room` columns."""
        dtype = self.lm.compute_dtype or self.lm.layer_norm.weight.dtype
        c = self.lm.config
        heads, size = c.num_attention_heads, c.hidden_size // c.num_attention_heads
        shape = (rows, heads, states.shape[1] + room, size)
        own = [
            (states.new_zeros(shape, dtype=dtype), states.new_zeros(shape, dtype=dtype))
            for _ in self.lm.layers
        ]
        cache = Cache([], own)
        self.lm.read(states.repeat_interleave(rows // len(states), 0), cache)
        return cache
