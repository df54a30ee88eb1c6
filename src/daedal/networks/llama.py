"""Llama 1-3.x and Code Llama (Touvron et al. 2023, Dubey et al. 2024), Mistral (Jiang et al. 2023)
and SmolLM 2-3: pre-norm RMSNorm, rotary positions, grouped queries, SiLU-gated feed-forward.
Mistral adds a sliding window, SmolLM3 leaves some layers without positions."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from daedal.networks.decoder import Block, Decoder, DecoderConfig, decoder_names
from daedal.nn.attention import Attention
from daedal.nn.mlp import GatedMLP
from daedal.nn.norm import RMSNorm


@dataclass(frozen=True, kw_only=True)
class LlamaConfig(DecoderConfig):
    attention_bias: bool = False
    mlp_bias: bool = False

    architecture: ClassVar[str] = "LlamaForCausalLM"

    def rope_of(self, layer: int) -> str | None:
        return "global"


@dataclass(frozen=True, kw_only=True)
class MistralConfig(LlamaConfig):
    architecture: ClassVar[str] = "MistralForCausalLM"
    absent: ClassVar[frozenset[str]] = frozenset({"attention_bias", "mlp_bias", "layer_types"})


@dataclass(frozen=True, kw_only=True)
class SmolLM3Config(LlamaConfig):
    no_rope_layers: tuple[int, ...] = ()  # 1: rotary positions, 0: none
    use_sliding_window: bool = False

    architecture: ClassVar[str] = "SmolLM3ForCausalLM"

    @classmethod
    def defaults(cls, raw: dict[str, Any]) -> dict[str, Any]:
        raw, layers = super().defaults(raw), range(raw.get("num_hidden_layers", 0))
        every = raw.get("no_rope_layer_interval", 4)
        raw["no_rope_layers"] = raw.get("no_rope_layers") or [
            int((i + 1) % every != 0) for i in layers
        ]
        sliding = bool(raw.get("use_sliding_window") and raw.get("sliding_window"))
        kinds = [
            "sliding_attention" if sliding and not rotary else "full_attention"
            for rotary in raw["no_rope_layers"]
        ]
        return {"layer_types": kinds, **raw}

    def rope_of(self, layer: int) -> str | None:
        return "global" if self.no_rope_layers[layer] else None


def build(config: LlamaConfig) -> Decoder:
    norm = partial(RMSNorm, config.hidden_size, config.rms_norm_eps)

    def block(layer: int) -> Block:
        bias = config.attention_bias
        attention = Attention(config, layer, bias=bias, out_bias=bias, rope=config.rope_of(layer))
        return Block(
            attention,
            GatedMLP(
                config.hidden_size, config.intermediate_size, config.hidden_act, config.mlp_bias
            ),
            norm,
        )

    return Decoder(
        config, [block(i) for i in range(config.num_hidden_layers)], norm(), names=decoder_names()
    )
