"""Mixtral (Jiang et al. 2024): Llama's block with a mixture of experts for a feed-forward."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from daedal.networks.decoder import Block, Decoder, DecoderConfig, decoder_names
from daedal.nn.attention import Attention
from daedal.nn.mlp import MoE
from daedal.nn.norm import RMSNorm


@dataclass(frozen=True, kw_only=True)
class MixtralConfig(DecoderConfig):
    num_local_experts: int = 8
    num_experts_per_tok: int = 2
    router_aux_loss_coef: float = 0.001

    architecture: ClassVar[str] = "MixtralForCausalLM"
    absent: ClassVar[frozenset[str]] = frozenset({"layer_types"})


NAMES = decoder_names(
    renames=(
        ("mlp.", "block_sparse_moe."),
        ("gate_proj.", "w1."),
        ("down_proj.", "w2."),
        ("up_proj.", "w3."),
    ),
)


def build(config: MixtralConfig) -> Decoder:
    norm = partial(RMSNorm, config.hidden_size, config.rms_norm_eps)

    def block(layer: int) -> Block:
        sizes = config.hidden_size, config.intermediate_size, config.hidden_act
        return Block(
            Attention(config, layer),
            MoE(*sizes, config.num_local_experts, config.num_experts_per_tok, normalise=True),
            norm,
        )

    return Decoder(config, [block(i) for i in range(config.num_hidden_layers)], norm(), names=NAMES)
