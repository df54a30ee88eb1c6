"""Bark (Suno 2023): three transformers over tokens of speech. The first writes what is said, the second
how it sounds in two codebooks of EnCodec, the third, which sees before and behind, the six finer ones.

Parameter names are those of transformers' files. Legend: B texts, T tokens or frames, K codebooks, D
width, V codes."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.networks.config import EVERYTHING, parse, to_dict
from daedal.networks.decoder import Block, Context, Decoder
from daedal.networks.encodec import EncodecConfig, EncodecModel
from daedal.networks.gpt import GPT2Config
from daedal.networks.names import Names, stacked
from daedal.nn.attention import Attention
from daedal.nn.cost import count_flops
from daedal.nn.linear import Embedding, Linear
from daedal.nn.mlp import MLP
from daedal.nn.norm import LayerNorm


@dataclass(frozen=True, kw_only=True)
class BarkPartConfig:
    block_size: int = 1024
    input_vocab_size: int = 10048
    output_vocab_size: int = 10048
    num_layers: int = 12
    num_heads: int = 12
    hidden_size: int = 768
    bias: bool = True
    n_codes_total: int = 8  # of the third: books, and those that it is always given
    n_codes_given: int = 1

    ignored: ClassVar[frozenset[str]] = EVERYTHING

    @property
    def decoder(self) -> GPT2Config:
        D, heads = self.hidden_size, self.num_heads
        return GPT2Config(
            model_type="gpt2",
            vocab_size=self.input_vocab_size,
            hidden_size=D,
            intermediate_size=4 * D,
            num_hidden_layers=self.num_layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            head_dim=D // heads,
            max_position_embeddings=self.block_size,
            hidden_act="gelu",
            tie_word_embeddings=False,
        )


@dataclass(frozen=True, kw_only=True)
class BarkConfig:
    """The configs of its parts, as parsed from the file."""

    semantic_config: dict[str, Any] = field(default_factory=dict)
    coarse_acoustics_config: dict[str, Any] = field(default_factory=dict)
    fine_acoustics_config: dict[str, Any] = field(default_factory=dict)
    codec_config: dict[str, Any] = field(default_factory=dict)

    architecture: ClassVar[str] = "BarkModel"
    model_type: ClassVar[str] = "bark"
    ignored: ClassVar[frozenset[str]] = EVERYTHING


def blocks(c: BarkPartConfig, norm: Any) -> list[nn.Module]:
    shape, D, bias = c.decoder, c.hidden_size, c.bias

    def block(layer: int) -> nn.Module:
        attention = Attention(shape, layer, bias=bias, out_bias=bias, rope=None)
        return Block(attention, MLP(D, 4 * D, "gelu", bias), norm)

    return [block(layer) for layer in range(c.num_layers)]


def causal(c: BarkPartConfig) -> Decoder:
    """The first and the second, whose head knows other tokens than its embeddings."""
    norm = partial(LayerNorm, c.hidden_size, bias=c.bias)
    made = Decoder(c.decoder, blocks(c, norm), norm(), names=Names(), learned_positions=True)
    made.lm_head = Linear(c.hidden_size, c.output_vocab_size, bias=False)
    return made


class Fine(nn.Module):
    """All codes of a book at once, from those of the books before it. The head of a book is its
    embedding."""

    def __init__(self, c: BarkPartConfig) -> None:
        super().__init__()
        self.config, D = c, c.hidden_size
        self.embed_tokens = nn.ModuleList(
            Embedding(c.input_vocab_size, D) for _ in range(c.n_codes_total)
        )
        self.embed_positions = Embedding(c.block_size, D)
        self.layers = nn.ModuleList(blocks(c, partial(LayerNorm, D)))
        self.norm = LayerNorm(D)

    def forward(self, codes: Tensor, book: int) -> Tensor:
        """codes (B, T, K), of which books up to `book` are read, also what its own hold so far ->
        logits (B, T, V) of that book."""
        x = sum(embed(codes[..., k]) for k, embed in enumerate(self.embed_tokens[: book + 1]))
        places = torch.arange(codes.shape[1], device=codes.device)
        x, context = x + self.embed_positions(places), Context({}, everywhere)  # type: ignore[operator]
        for layer in self.layers:
            x = layer(x, context)
        head: Any = self.embed_tokens[book - self.config.n_codes_given + 1]
        return F.linear(self.norm(x), head.weight)


def everywhere(layer: int, q: Tensor, k: Tensor, v: Tensor, **kind: Any) -> Tensor:
    """Every frame sees every other: q, k, v (B, T, H, K)."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


class BarkModel(nn.Module):
    config_class = BarkConfig

    def __init__(self, config: BarkConfig) -> None:
        super().__init__()
        self.config = config
        parts = (config.semantic_config, config.coarse_acoustics_config)
        semantic, coarse = (parse(BarkPartConfig, part) for part in parts)
        fine = parse(BarkPartConfig, config.fine_acoustics_config)
        self.semantic, self.coarse_acoustics = causal(semantic), causal(coarse)
        self.fine_acoustics = Fine(fine)
        self.codec_model = EncodecModel(parse(EncodecConfig, config.codec_config))
        inner = self.codec_model.names
        heads = range(fine.n_codes_total - fine.n_codes_given)
        self.names = Names(
            renames=(
                ("fine_acoustics.embed_tokens.", "fine_acoustics.input_embeds_layers."),
                ("embed_tokens.", "input_embeds_layer."),
                ("embed_positions.", "position_embeds_layer."),
                ("self_attn.o_proj.", "attn.out_proj."),
                ("self_attn.", "attn."),
                ("input_layernorm.", "layernorm_1."),
                ("post_attention_layernorm.", "layernorm_2."),
                ("mlp.up_proj.", "mlp.in_proj."),
                ("mlp.down_proj.", "mlp.out_proj."),
                *((f"{part}.norm.", f"{part}.layernorm_final.") for part in PARTS),
            ),
            fused=(stacked("att_proj", "q_proj", "k_proj", "v_proj"),),
            skipped=(*inner.skipped, ".attn.bias", *(f"lm_heads.{i}.weight" for i in heads)),
            weight_normed=inner.weight_normed,
        )

    def written(self, raw: dict[str, Any]) -> dict[str, Any]:
        """config.json with every key of its codec."""
        return raw | {"codec_config": to_dict(self.codec_model.config)}

    def flops(self, frames: int = 75) -> int:
        """Floating-point operations of the third transformer's six passes over so many frames; a
        multiply-add is two."""
        fine = self.fine_acoustics
        codes = torch.zeros(1, frames, fine.config.n_codes_total, dtype=torch.long)

        def run(model: Any) -> None:
            for book in range(2, fine.config.n_codes_total):
                model.fine_acoustics(codes, book)

        return count_flops(self, run)


PARTS = ("semantic", "coarse_acoustics", "fine_acoustics")
