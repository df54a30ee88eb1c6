"""OLMo 2 (OLMo Team 2024): norms after attention and feed-forward instead of before, queries and
keys normalised over all heads at once."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn

from daedal.networks.decoder import Context, Decoder, DecoderConfig, decoder_names
from daedal.nn.attention import Attention
from daedal.nn.linear import linears
from daedal.nn.mlp import GatedMLP
from daedal.nn.norm import RMSNorm


@dataclass(frozen=True, kw_only=True)
class Olmo2Config(DecoderConfig):
    attention_bias: bool = False
    rms_norm_eps: float = 1e-5

    architecture: ClassVar[str] = "Olmo2ForCausalLM"


class WideNormAttention(Attention):
    """Queries and keys are normalised over H*K channels before they are cut into heads."""

    def __init__(self, config: DecoderConfig, layer: int, **options: Any) -> None:
        super().__init__(config, layer, **options)
        self.q_norm = RMSNorm(config.num_attention_heads * config.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(config.num_key_value_heads * config.head_dim, config.rms_norm_eps)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = linears(x, self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (
            t.unflatten(-1, (-1, self.head_dim)) for t in (self.q_norm(q), self.k_norm(k), v)
        )
        return q, k, v


class PostNormBlock(nn.Module):
    """x + norm(attention(x)), then x + norm(mlp(x))."""

    def __init__(self, attention: nn.Module, mlp: nn.Module, norm: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.self_attn, self.post_attention_layernorm = attention, norm()
        self.mlp, self.post_feedforward_layernorm = mlp, norm()

    def forward(self, x: Tensor, context: Context) -> Tensor:  # (B, T, D) -> (B, T, D)
        x = x + self.post_attention_layernorm(self.self_attn(x, context))
        return x + self.post_feedforward_layernorm(self.mlp(x, context))


def build(config: Olmo2Config) -> Decoder:
    norm = partial(RMSNorm, config.hidden_size, config.rms_norm_eps)

    def block(layer: int) -> PostNormBlock:
        attention = WideNormAttention(
            config, layer, bias=config.attention_bias, out_bias=config.attention_bias
        )
        return PostNormBlock(
            attention,
            GatedMLP(config.hidden_size, config.intermediate_size, config.hidden_act),
            norm,
        )

    return Decoder(
        config, [block(i) for i in range(config.num_hidden_layers)], norm(), names=decoder_names()
    )
