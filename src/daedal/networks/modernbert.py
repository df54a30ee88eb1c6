"""ModernBERT (Warner et al. 2024): an encoder with rotary positions, gated feed-forwards, norms
before the layers, and attention to a neighbourhood in two layers of three. Texts run end to end, as
in networks.bert.

Parameter names are those of transformers' files. Legend: N tokens, B texts of one size, T their
tokens, D width, H heads, K head dim."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.networks.bert import Runs, each, runs_of
from daedal.networks.config import EVERYTHING, Everything
from daedal.networks.names import Names
from daedal.nn.cost import count_flops
from daedal.nn.linear import Embedding, Linear
from daedal.nn.mlp import activation
from daedal.nn.norm import LayerNorm
from daedal.nn.rope import Rope, apply_rope, tables


@dataclass(frozen=True, kw_only=True)
class ModernBertConfig:
    vocab_size: int = 50368
    hidden_size: int = 768
    num_hidden_layers: int = 22
    num_attention_heads: int = 12
    intermediate_size: int = 1152
    hidden_activation: str = "gelu"
    max_position_embeddings: int = 8192
    norm_eps: float = 1e-5
    norm_bias: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    global_rope_theta: float = 160_000.0
    local_rope_theta: float = 10_000.0
    local_attention: int = 128
    global_attn_every_n_layers: int = 3
    pad_token_id: int | None = 50283

    architecture: ClassVar[str] = "ModernBertModel"
    model_type: ClassVar[str] = "modernbert"
    ignored: ClassVar[Everything] = EVERYTHING

    @classmethod
    def read(cls, raw: dict[str, Any]) -> dict[str, Any]:
        """transformers 5 writes the thetas by kind of layer."""
        ropes = raw.get("rope_parameters") or {}
        kinds = {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"}
        thetas = {field: (ropes.get(kind) or {}).get("rope_theta") for kind, field in kinds.items()}
        return raw | {field: theta for field, theta in thetas.items() if theta is not None}

    @property
    def context(self) -> int:
        """Tokens of the longest text."""
        return self.max_position_embeddings


class Attention(nn.Module):
    def __init__(self, c: ModernBertConfig, layer: int) -> None:
        super().__init__()
        whole = layer % c.global_attn_every_n_layers == 0
        self.head_dim = c.hidden_size // c.num_attention_heads
        self.reach = None if whole else c.local_attention // 2
        theta = c.global_rope_theta if whole else c.local_rope_theta
        self.rope = Rope(self.head_dim, theta, c.max_position_embeddings)
        self.Wqkv = Linear(c.hidden_size, 3 * c.hidden_size, bias=c.attention_bias)
        self.Wo = Linear(c.hidden_size, c.hidden_size, bias=c.attention_bias)

    def forward(self, x: Tensor, runs: Runs) -> Tensor:  # (N, D) -> (N, D)
        q, k, v = self.Wqkv(x).unflatten(-1, (3, -1, self.head_dim)).unbind(-3)
        outs = []
        for q1, k1, v1 in each((q, k, v), runs):  # (B, H, T, K)
            at = torch.arange(q1.shape[2], device=x.device)
            cos, sin = tables(self.rope, at[None], None, x.dtype)
            q1, k1 = (apply_rope(t.transpose(1, 2), cos, sin).transpose(1, 2) for t in (q1, k1))
            near = None if self.reach is None else (at[:, None] - at).abs() <= self.reach
            out = F.scaled_dot_product_attention(q1, k1, v1, attn_mask=near)
            outs.append(out.transpose(1, 2).flatten(0, 1).flatten(1))
        return self.Wo(torch.cat(outs))


class GatedMLP(nn.Module):
    """Wo(act(first half of Wi) * second half)."""

    def __init__(self, c: ModernBertConfig) -> None:
        super().__init__()
        self.Wi = Linear(c.hidden_size, 2 * c.intermediate_size, bias=c.mlp_bias)
        self.Wo = Linear(c.intermediate_size, c.hidden_size, bias=c.mlp_bias)
        self.act = activation(c.hidden_activation)

    def forward(self, x: Tensor) -> Tensor:
        first, gate = self.Wi(x).chunk(2, -1)
        return self.Wo(self.act(first) * gate)


class Layer(nn.Module):
    """The first layer has no norm before its attention: the embeddings' is there."""

    def __init__(self, c: ModernBertConfig, layer: int) -> None:
        super().__init__()
        norm = LayerNorm(c.hidden_size, c.norm_eps, bias=c.norm_bias)
        self.attn_norm = norm if layer else nn.Identity()
        self.attn, self.mlp = Attention(c, layer), GatedMLP(c)
        self.mlp_norm = LayerNorm(c.hidden_size, c.norm_eps, bias=c.norm_bias)

    def forward(self, x: Tensor, runs: Runs) -> Tensor:
        x = x + self.attn(self.attn_norm(x), runs)
        return x + self.mlp(self.mlp_norm(x))


class Embeddings(nn.Module):
    def __init__(self, c: ModernBertConfig) -> None:
        super().__init__()
        self.tok_embeddings = Embedding(c.vocab_size, c.hidden_size)
        self.norm = LayerNorm(c.hidden_size, c.norm_eps, bias=c.norm_bias)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.norm(self.tok_embeddings(tokens))


class ModernBertModel(nn.Module):
    """Texts as states of their tokens. `compute_dtype`, when set, is the dtype of activations."""

    config_class = ModernBertConfig
    names = Names(
        former=(("model.", ""),),
        skipped=("decoder.weight", "decoder.bias", "head.dense.weight", "head.norm.weight"),
    )

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype: torch.dtype | None = None
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_hidden_layers))
        self.final_norm = LayerNorm(config.hidden_size, config.norm_eps, bias=config.norm_bias)

    def forward(self, tokens: Tensor, sizes: list[int]) -> Tensor:
        """tokens (N,) int64 of texts one after another, their sizes -> (N, D)."""
        runs, x = runs_of(sizes), self.embeddings(tokens)
        x = x.to(self.compute_dtype or x.dtype)
        for layer in self.layers:
            x = layer(x, runs)
        return self.final_norm(x)

    def flops(self, tokens: int = 128) -> int:
        """Floating-point operations of one text of that many tokens; a multiply-add is two."""
        return count_flops(self, lambda bert: bert(torch.zeros(tokens, dtype=torch.long), [tokens]))


ModernBertForMaskedLM = ModernBertModel
