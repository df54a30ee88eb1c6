"""Phi-3 and Phi-3.5 (Abdin et al. 2024): Llama's block, stored with queries, keys and values in one
matrix and gate and up in another; LongRoPE past 4k tokens, a sliding window in some sizes."""

from dataclasses import dataclass
from typing import Any, ClassVar

from daedal.networks import llama
from daedal.networks.decoder import Decoder, decoder_names
from daedal.networks.names import stacked


@dataclass(frozen=True, kw_only=True)
class Phi3Config(llama.LlamaConfig):
    original_max_position_embeddings: int = 4096

    architecture: ClassVar[str] = "Phi3ForCausalLM"
    absent: ClassVar[frozenset[str]] = frozenset(
        {"attention_bias", "mlp_bias", "layer_types", "head_dim"}
    )

    def written(self, values: dict[str, Any]) -> dict[str, Any]:
        """Phi-3's own config class allows three keys of `rope_scaling`, and calls the kind `type`."""
        out = super().written(values)
        if scaling := out["rope_scaling"]:
            out["rope_scaling"] = {"type": scaling["rope_type"]} | {
                k: scaling[k] for k in ("short_factor", "long_factor")
            }
        return out


NAMES = decoder_names(
    fused=(
        stacked("qkv_proj", "q_proj", "k_proj", "v_proj"),
        stacked("gate_up_proj", "gate_proj", "up_proj"),
    )
)


def build(config: Phi3Config) -> Decoder:
    network = llama.build(config)
    network.names = NAMES
    return network
