"""Gemma 2 and the text half of Gemma 3 (Gemma Team 2024, 2025): norms before and after each half of
a block, embeddings scaled by sqrt(D), local and global layers in turn. Gemma 2 caps its scores and
logits; Gemma 3 normalises queries and keys instead and rotates its local layers with a base of
their own."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn

from daedal.networks.decoder import Context, Decoder, DecoderConfig, decoder_names
from daedal.networks.qwen import NormedAttention
from daedal.nn.attention import Attention
from daedal.nn.mlp import GatedMLP
from daedal.nn.norm import RMSNorm
from daedal.nn.rope import Rope


@dataclass(frozen=True, kw_only=True)
class Gemma2Config(DecoderConfig):
    hidden_act: str = "gelu_pytorch_tanh"
    tie_word_embeddings: bool = True
    query_pre_attn_scalar: float = 256
    attn_logit_softcapping: float | None = 50.0
    final_logit_softcapping: float | None = 30.0
    attention_bias: bool = False
    sliding_window: int | None = 4096

    architecture: ClassVar[str] = "Gemma2ForCausalLM"
    aliases: ClassVar[dict[str, str]] = {"hidden_activation": "hidden_act"}
    every: ClassVar[int] = 2  # one layer in so many is global

    @classmethod
    def defaults(cls, raw: dict[str, Any]) -> dict[str, Any]:
        raw = super().defaults({"head_dim": 256, **raw})
        every = raw.get("_sliding_window_pattern") or raw.get("sliding_window_pattern") or cls.every
        kinds = [
            "sliding_attention" if (i + 1) % every else "full_attention"
            for i in range(raw.get("num_hidden_layers", 0))
        ]
        return {"layer_types": kinds, **raw}

    def rope_of(self, layer: int) -> str:
        return "global"


@dataclass(frozen=True, kw_only=True)
class Gemma3Config(Gemma2Config):
    rope_theta: float = 1_000_000.0
    rope_local_base_freq: float = 10_000.0
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None

    architecture: ClassVar[str] = "Gemma3ForCausalLM"
    every: ClassVar[int] = 6

    def ropes(self) -> dict[str, Rope]:
        return super().ropes() | {
            "local": Rope(self.head_dim, self.rope_local_base_freq, self.max_position_embeddings)
        }

    def rope_of(self, layer: int) -> str:
        return "local" if self.window(layer) else "global"


class SandwichBlock(nn.Module):
    """x + norm(attention(norm(x))), then x + norm(mlp(norm(x)))."""

    def __init__(self, attention: nn.Module, mlp: nn.Module, norm: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.input_layernorm = norm()
        self.self_attn = attention
        self.post_attention_layernorm = norm()
        self.pre_feedforward_layernorm = norm()
        self.mlp = mlp
        self.post_feedforward_layernorm = norm()

    def forward(self, x: Tensor, context: Context) -> Tensor:  # (B, T, D) -> (B, T, D)
        x = x + self.post_attention_layernorm(self.self_attn(self.input_layernorm(x), context))
        return x + self.post_feedforward_layernorm(
            self.mlp(self.pre_feedforward_layernorm(x), context)
        )


def build(config: Gemma2Config) -> Decoder:
    norm = partial(RMSNorm, config.hidden_size, config.rms_norm_eps, 1.0)

    def block(layer: int) -> SandwichBlock:
        kind = {"scale": config.query_pre_attn_scalar**-0.5, "softcap": config.attn_logit_softcapping, "rope": config.rope_of(layer),
                "bias": config.attention_bias, "out_bias": config.attention_bias}  # fmt: skip
        if isinstance(config, Gemma3Config):
            attention: Attention = NormedAttention(config, layer, offset=1.0, **kind)
        else:
            attention = Attention(config, layer, **kind)
        return SandwichBlock(
            attention,
            GatedMLP(config.hidden_size, config.intermediate_size, config.hidden_act),
            norm,
        )

    blocks = [block(i) for i in range(config.num_hidden_layers)]
    cap, scale = config.final_logit_softcapping, config.hidden_size**0.5
    return Decoder(config, blocks, norm(), names=decoder_names(), embed_scale=scale, softcap=cap)
