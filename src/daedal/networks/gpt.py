"""GPT-2 (Radford et al. 2019), GPT-NeoX and Pythia (Black et al. 2022, Biderman et al. 2023) and
StarCoder 2 (Lozhkov et al. 2024): LayerNorm, biases everywhere, a plain feed-forward. GPT-2 learns
its positions, NeoX rotates a quarter of each head and runs attention and feed-forward side by side,
StarCoder 2 has rotary positions, grouped queries and a sliding window."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from daedal.networks.decoder import Block, Context, Decoder, DecoderConfig, decoder_names
from daedal.networks.names import Fused, Names, stacked
from daedal.nn.attention import Attention
from daedal.nn.mlp import MLP
from daedal.nn.norm import LayerNorm
from daedal.nn.rope import Rope

NOT_IN_GPT2 = {
    "num_key_value_heads",
    "head_dim",
    "rope_theta",
    "rope_scaling",
    "partial_rotary_factor",
    "sliding_window",
    "layer_types",
}


@dataclass(frozen=True, kw_only=True)
class GPT2Config(DecoderConfig):
    hidden_act: str = "gelu_new"
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = True
    scale_attn_by_inverse_layer_idx: bool = False

    architecture: ClassVar[str] = "GPT2LMHeadModel"
    aliases: ClassVar[dict[str, str]] = {
        "n_embd": "hidden_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads", "n_positions": "max_position_embeddings",
        "n_inner": "intermediate_size", "activation_function": "hidden_act", "layer_norm_epsilon": "rms_norm_eps",
    }  # fmt: skip
    absent: ClassVar[frozenset[str]] = frozenset(NOT_IN_GPT2)
    fixed: ClassVar[dict[str, Any]] = {"scale_attn_weights": True}

    @classmethod
    def defaults(cls, raw: dict[str, Any]) -> dict[str, Any]:
        raw = super().defaults(raw)
        return {
            **raw,
            "intermediate_size": raw.get("intermediate_size") or 4 * raw.get("hidden_size", 0),
        }

    def ropes(self) -> dict[str, Rope]:
        return {}


@dataclass(frozen=True, kw_only=True)
class GPTNeoXConfig(DecoderConfig):
    hidden_act: str = "gelu"
    rms_norm_eps: float = 1e-5
    use_parallel_residual: bool = True
    attention_bias: bool = True

    architecture: ClassVar[str] = "GPTNeoXForCausalLM"
    aliases: ClassVar[dict[str, str]] = {
        "layer_norm_eps": "rms_norm_eps", "rotary_pct": "partial_rotary_factor", "rotary_emb_base": "rope_theta",
    }  # fmt: skip
    absent: ClassVar[frozenset[str]] = frozenset(
        {"num_key_value_heads", "head_dim", "sliding_window", "layer_types"}
    )

    @classmethod
    def defaults(cls, raw: dict[str, Any]) -> dict[str, Any]:
        return super().defaults({"partial_rotary_factor": 0.25, **raw})


@dataclass(frozen=True, kw_only=True)
class Starcoder2Config(DecoderConfig):
    hidden_act: str = "gelu_pytorch_tanh"
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = True
    use_bias: bool = True

    architecture: ClassVar[str] = "Starcoder2ForCausalLM"
    aliases: ClassVar[dict[str, str]] = {"norm_epsilon": "rms_norm_eps"}
    absent: ClassVar[frozenset[str]] = frozenset({"layer_types"})


class ParallelBlock(nn.Module):
    """x + attention(norm(x)) + mlp(norm'(x)): both halves read the same x."""

    def __init__(self, attention: nn.Module, mlp: nn.Module, norm: Any) -> None:
        super().__init__()
        self.input_layernorm, self.self_attn = norm(), attention
        self.post_attention_layernorm, self.mlp = norm(), mlp

    def forward(self, x: Tensor, context: Context) -> Tensor:  # (B, T, D) -> (B, T, D)
        return (
            x
            + self.self_attn(self.input_layernorm(x), context)
            + self.mlp(self.post_attention_layernorm(x), context)
        )


def interleaved(disk: str, heads: int, *ours: str) -> Fused:
    """NeoX stores q, k and v of head 0, then of head 1, ...: rows are (H, 3, K)."""

    def join(parts: list[Tensor]) -> Tensor:
        return torch.stack([part.unflatten(0, (heads, -1)) for part in parts], 1).flatten(0, 2)

    def split(whole: Tensor, rows: list[int]) -> list[Tensor]:
        return [part.flatten(0, 1) for part in whole.unflatten(0, (heads, len(ours), -1)).unbind(1)]

    return Fused(disk, ours, join, split)


GPT2_NAMES = decoder_names(
    prefix="transformer.",
    last_norm="ln_f.",
    renames=(
        ("embed_tokens.", "wte."), ("embed_positions.", "wpe."), ("layers.", "h."), ("self_attn.o_proj.", "attn.c_proj."), ("self_attn.", "attn."),
        ("input_layernorm.", "ln_1."), ("post_attention_layernorm.", "ln_2."), ("mlp.up_proj.", "mlp.c_fc."), ("mlp.down_proj.", "mlp.c_proj."),
    ),
    fused=(stacked("c_attn", "q_proj", "k_proj", "v_proj"),),
    transposed=("c_attn.weight", "c_proj.weight", "c_fc.weight"),
)  # fmt: skip
STARCODER2_NAMES = decoder_names(
    renames=(("mlp.up_proj.", "mlp.c_fc."), ("mlp.down_proj.", "mlp.c_proj."))
)


def neox_names(heads: int) -> Names:
    renames = (
        ("embed_tokens.", "embed_in."), ("lm_head.", "embed_out."), ("self_attn.o_proj.", "attention.dense."), ("self_attn.", "attention."),
        ("mlp.up_proj.", "mlp.dense_h_to_4h."), ("mlp.down_proj.", "mlp.dense_4h_to_h."),
    )  # fmt: skip
    fused = interleaved("query_key_value", heads, "q_proj", "k_proj", "v_proj")
    return decoder_names(
        prefix="gpt_neox.", last_norm="final_layer_norm.", renames=renames, fused=(fused,)
    )


def build(config: GPT2Config | GPTNeoXConfig | Starcoder2Config) -> Decoder:
    """One builder: the three differ in positions, in which biases exist, and in whether a block's
    halves run side by side."""
    norm = partial(LayerNorm, config.hidden_size, config.rms_norm_eps)
    bias = config.use_bias if isinstance(config, Starcoder2Config) else True
    attention_bias = config.attention_bias if isinstance(config, GPTNeoXConfig) else bias
    parallel = isinstance(config, GPTNeoXConfig) and config.use_parallel_residual
    rope = None if isinstance(config, GPT2Config) else "global"

    def block(layer: int) -> nn.Module:
        inverse = getattr(config, "scale_attn_by_inverse_layer_idx", False)
        scale = config.head_dim**-0.5 / (layer + 1) if inverse else None
        attention = Attention(
            config, layer, bias=attention_bias, out_bias=attention_bias, rope=rope, scale=scale
        )
        mlp = MLP(config.hidden_size, config.intermediate_size, config.hidden_act, bias)
        return (ParallelBlock if parallel else Block)(attention, mlp, norm)

    if isinstance(config, GPTNeoXConfig):
        names = neox_names(config.num_attention_heads)
    else:
        names = STARCODER2_NAMES
    names = GPT2_NAMES if isinstance(config, GPT2Config) else names
    blocks = [block(i) for i in range(config.num_hidden_layers)]
    return Decoder(
        config, blocks, norm(), names=names, learned_positions=isinstance(config, GPT2Config)
    )
