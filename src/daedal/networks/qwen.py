"""Qwen 2 and 2.5 (biased queries, keys and values), Qwen 3 (normalised queries and keys) and Qwen 3
MoE (Yang et al. 2024, 2025)."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn

from daedal.networks.decoder import Block, Decoder, DecoderConfig, decoder_names
from daedal.nn.attention import Attention
from daedal.nn.mlp import GatedMLP, MoE
from daedal.nn.norm import RMSNorm


@dataclass(frozen=True, kw_only=True)
class Qwen2Config(DecoderConfig):
    max_window_layers: int = 28
    use_sliding_window: bool = False

    architecture: ClassVar[str] = "Qwen2ForCausalLM"

    @classmethod
    def defaults(cls, raw: dict[str, Any]) -> dict[str, Any]:
        """Layers from `max_window_layers` on slide, if the file turns the window on at all."""
        raw = super().defaults(raw)
        if not raw.get("use_sliding_window"):
            raw.pop("sliding_window", None)
        if raw.get("sliding_window"):
            first = raw.get("max_window_layers", cls.max_window_layers)
        else:
            first = raw.get("num_hidden_layers", 0)
        kinds = [
            "sliding_attention" if i >= first else "full_attention"
            for i in range(raw.get("num_hidden_layers", 0))
        ]
        return {"layer_types": kinds, **raw}


@dataclass(frozen=True, kw_only=True)
class Qwen3Config(Qwen2Config):
    attention_bias: bool = False

    architecture: ClassVar[str] = "Qwen3ForCausalLM"

    @classmethod
    def defaults(cls, raw: dict[str, Any]) -> dict[str, Any]:
        return super().defaults({"head_dim": 128, **raw})


@dataclass(frozen=True, kw_only=True)
class Qwen3MoeConfig(Qwen3Config):
    moe_intermediate_size: int = 768
    num_local_experts: int = 128
    num_experts_per_tok: int = 8
    norm_topk_prob: bool = False
    decoder_sparse_step: int = 1
    mlp_only_layers: tuple[int, ...] = ()
    router_aux_loss_coef: float = 0.001

    architecture: ClassVar[str] = "Qwen3MoeForCausalLM"
    aliases: ClassVar[dict[str, str]] = {"num_experts": "num_local_experts"}
    absent: ClassVar[frozenset[str]] = frozenset({"layer_types", "max_window_layers"})

    @classmethod
    def defaults(cls, raw: dict[str, Any]) -> dict[str, Any]:
        """Unlike Qwen 3, every layer slides when the window is on."""
        kinds = [
            "sliding_attention" if raw.get("use_sliding_window") else "full_attention"
        ] * raw.get("num_hidden_layers", 0)
        head_dim = raw.get("head_dim") or raw.get("hidden_size", 0) // (
            raw.get("num_attention_heads") or 1
        )
        return super().defaults({**raw, "layer_types": kinds, "head_dim": head_dim})

    def is_sparse(self, layer: int) -> bool:
        return (
            layer not in self.mlp_only_layers
            and self.num_local_experts > 0
            and (layer + 1) % self.decoder_sparse_step == 0
        )


class NormedAttention(Attention):
    """Queries and keys are RMS-normalised head by head (Henry et al. 2020), which bounds the
    scores."""

    def __init__(
        self, config: DecoderConfig, layer: int, *, offset: float = 0.0, **options: Any
    ) -> None:
        super().__init__(config, layer, **options)
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps, offset)
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps, offset)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().heads(x)
        return self.q_norm(q), self.k_norm(k), v


def attention(config: Qwen2Config, layer: int) -> Attention:
    if isinstance(config, Qwen3Config):
        return NormedAttention(
            config, layer, bias=config.attention_bias, out_bias=config.attention_bias
        )
    return Attention(config, layer, bias=True)


def feed_forward(config: Qwen2Config, layer: int) -> nn.Module:
    if isinstance(config, Qwen3MoeConfig) and config.is_sparse(layer):
        sizes = config.hidden_size, config.moe_intermediate_size, config.hidden_act
        return MoE(
            *sizes, config.num_local_experts, config.num_experts_per_tok, config.norm_topk_prob
        )
    return GatedMLP(config.hidden_size, config.intermediate_size, config.hidden_act)


def build(config: Qwen2Config) -> Decoder:
    norm = partial(RMSNorm, config.hidden_size, config.rms_norm_eps)
    blocks = [
        Block(attention(config, i), feed_forward(config, i), norm)
        for i in range(config.num_hidden_layers)
    ]
    return Decoder(config, blocks, norm(), names=decoder_names())
