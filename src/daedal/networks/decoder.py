"""The decoder-only transformer (Vaswani et al. 2017, Radford et al. 2018) that every language-model
family here is an instance of.

A family is a short file beside this one: a config dataclass that speaks `config.json`'s names, a
`build` that composes blocks, and a `Names` map to the tensors on disk. The decoder runs the blocks;
it knows nothing of families, caches or files.

Legend: B batch, T tokens, D width, H heads, K head dim, V vocabulary, L layers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from daedal.networks.config import EVERYTHING
from daedal.networks.names import Names
from daedal.nn.attention import attend
from daedal.nn.linear import Embedding, Linear
from daedal.nn.quantized import QuantEmbedding, QuantLinear, TiedHead
from daedal.nn.rope import Rope, tables


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The fields of `config.json` that all families share (see `networks.config`)."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int = 2048
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    rope_theta: float = 10000.0
    rope_scaling: tuple[tuple[str, Any], ...] = ()
    partial_rotary_factor: float = 1.0
    sliding_window: int | None = None
    layer_types: tuple[str, ...] | None = None
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None

    architecture: ClassVar[str] = ""  # the class name transformers looks for
    aliases: ClassVar[dict[str, str]] = {}
    absent: ClassVar[frozenset[str]] = frozenset()
    ignored: ClassVar[frozenset[str]] = EVERYTHING

    @classmethod
    def read(cls, raw: dict[str, Any]) -> dict[str, Any]:
        """A file of either era: `rope_theta` and `rope_scaling`, or `rope_parameters`."""
        values = cls.defaults(flat_rope(raw))
        return {key: frozen(value) for key, value in values.items() if value is not None}

    @classmethod
    def defaults(cls, raw: dict[str, Any]) -> dict[str, Any]:
        """What the family assumes where the file is silent. Families extend this."""
        raw = dict(raw)
        raw["num_key_value_heads"] = raw.get("num_key_value_heads") or raw.get(
            "num_attention_heads"
        )
        if (
            raw.get("head_dim") is None
            and raw.get("hidden_size")
            and raw.get("num_attention_heads")
        ):
            raw["head_dim"] = raw["hidden_size"] // raw["num_attention_heads"]
        return raw

    def written(self, values: dict[str, Any]) -> dict[str, Any]:
        """What transformers, vLLM and llama.cpp's converter read."""
        values = {**values, "rope_scaling": thawed(self.rope_scaling)}
        return {key: v for key, v in values.items() if v is not None or key == "rope_scaling"}

    def window(self, layer: int) -> int | None:
        """Sliding window of this layer in tokens, or None for full attention."""
        sliding = self.layer_types is None or self.layer_types[layer] == "sliding_attention"
        return self.sliding_window if sliding else None

    def ropes(self) -> dict[str, Rope]:
        """The rotary tables that layers name: one here; Gemma 3 has two, GPT-2 none."""
        dim = int(self.head_dim * self.partial_rotary_factor)
        return {
            "global": Rope(dim, self.rope_theta, self.max_position_embeddings, self.rope_scaling)
        }


def frozen(value: Any) -> Any:
    """Lists and dicts as (sorted) tuples, so that a config can be hashed and compared."""
    if isinstance(value, dict):
        return tuple(sorted((key, frozen(item)) for key, item in value.items()))
    return tuple(frozen(item) for item in value) if isinstance(value, list | tuple) else value


def thawed(pairs: tuple[tuple[str, Any], ...]) -> dict[str, Any] | None:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in pairs} or None


def flat_rope(raw: dict[str, Any]) -> dict[str, Any]:
    """`rope_parameters` (transformers 5), flat or one set a layer type, as the older flat keys."""
    raw, found = dict(raw), dict(raw.get("rope_parameters") or {})
    if "full_attention" in found:
        local = found.get("sliding_attention") or {}
        raw.setdefault("rope_local_base_freq", local.get("rope_theta"))
        found = dict(found["full_attention"])
    for key in ("rope_theta", "partial_rotary_factor"):
        if found.get(key) is not None:
            raw[key] = found[key]
        found.pop(key, None)
    scaling = found or raw.get("rope_scaling") or {}
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    raw["rope_scaling"] = (
        {}
        if kind == "default"
        else {"rope_type": kind, **{k: v for k, v in scaling.items() if k != "type"}}
    )
    # Phi-3 keeps it at the top level
    if raw["rope_scaling"] and raw.get("original_max_position_embeddings"):
        raw["rope_scaling"].setdefault(
            "original_max_position_embeddings", raw["original_max_position_embeddings"]
        )
    return {key: value for key, value in raw.items() if value is not None}


@dataclass
class Context:
    """What one call hands to every block: rotary tables, the attention to use, and a list for
    router logits if they are wanted."""

    rope: dict[str, tuple[Tensor, Tensor]]
    attend: Callable[..., Tensor]
    router_logits: list[Tensor] | None = None


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): the pre-norm block of GPT-2, Llama, Mistral,
    Qwen."""

    def __init__(self, attention: nn.Module, mlp: nn.Module, norm: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.input_layernorm, self.self_attn = norm(), attention
        self.post_attention_layernorm, self.mlp = norm(), mlp

    def forward(self, x: Tensor, context: Context) -> Tensor:  # (B, T, D) -> (B, T, D)
        x = x + self.self_attn(self.input_layernorm(x), context)
        return x + self.mlp(self.post_attention_layernorm(x), context)


# Constants that old files of these families hold beside weights.
CONSTANTS = (
    "rotary_emb.inv_freq",
    *(f".{a}.{b}" for a in ("attn", "attention") for b in ("bias", "masked_bias")),
)
decoder_names = partial(Names, prefix="model.", skipped=CONSTANTS)


class Decoder(nn.Module):
    """Embeddings, blocks, a last norm and a head. Call it for logits; `hidden` and `head` are its
    two halves.

    `embed_scale` multiplies embeddings (Gemma), `embed_positions` adds learned positions (GPT-2),
    `softcap` bounds the logits. `compute_dtype`, when set, is the dtype of activations; weights
    keep their own (fp32 masters, bf16 compute)."""

    title = "language model"
    # one tensor, where the config says so or a file leaves the head out
    ties = {"lm_head.weight": "embed_tokens.weight"}

    def __init__(
        self,
        config: DecoderConfig,
        blocks: Sequence[nn.Module],
        norm: nn.Module,
        *,
        names: Names,
        embed_scale: float | None = None,
        learned_positions: bool = False,
        softcap: float | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.names = names
        self.embed_scale = embed_scale
        self.softcap = softcap
        self.compute_dtype: torch.dtype | None = None
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        places = config.max_position_embeddings
        self.embed_positions = Embedding(places, config.hidden_size) if learned_positions else None
        self.layers = nn.ModuleList(blocks)
        self.norm = norm
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight

    def forward(
        self,
        tokens: Tensor,
        cache: Any = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """tokens (B, T) int64 -> logits (B, T, V). `cache` is a step of a KV cache
        (daedal.nn.cache), `positions` (B, T) override 0..T-1, `mask` (B, T) is False at padding
        (without a cache)."""
        return self.head(self.hidden(tokens, cache, positions, mask))

    def hidden(
        self,
        tokens: Tensor,
        cache: Any = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        router_logits: list[Tensor] | None = None,
    ) -> Tensor:
        """tokens (B, T) -> normalised last hidden states (B, T, D)."""
        if positions is None:
            if cache is None:
                positions = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
            else:
                positions = cache.positions
        positions = positions.view(tokens.shape)
        return self.states(self.embed_tokens(tokens), positions, cache, mask, router_logits)

    def states(
        self,
        embeddings: Tensor,
        positions: Tensor,
        cache: Any = None,
        mask: Tensor | None = None,
        router_logits: list[Tensor] | None = None,
    ) -> Tensor:
        """`hidden` of what need not be tokens: embeddings (B, T, D) without positions."""
        lengths = None if cache is None else cache.lengths.view(positions.shape)
        x = self.placed(embeddings, positions)
        rope = {
            name: tables(rope, positions, lengths, x.dtype)
            for name, rope in self.config.ropes().items()
        }

        def plain(layer: int, q: Tensor, k: Tensor, v: Tensor, **kind: Any) -> Tensor:
            return attend(q, k, v, mask=mask, **kind)

        context = Context(rope, plain if cache is None else cache.attend, router_logits)
        for layer in self.layers:
            x = layer(x, context)
        return self.norm(x)

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:  # (B, T) -> (B, T, D)
        return self.placed(self.embed_tokens(tokens), positions)

    def placed(self, x: Tensor, positions: Tensor) -> Tensor:
        """Embeddings (B, T, D) as the blocks read them."""
        if self.embed_positions is not None:
            x = x + self.embed_positions(positions)
        x = x if self.compute_dtype is None else x.to(self.compute_dtype)
        return x if self.embed_scale is None else x * torch.tensor(self.embed_scale, dtype=x.dtype)

    def head(self, hidden: Tensor) -> Tensor:  # (..., D) -> (..., V)
        logits = self.lm_head(hidden)
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap

    # What it costs. Attention counts the keys that a query really sees.

    def parameter_count(self) -> int:
        """Parameters, a tied head counted once."""
        return sum(p.numel() for p in self.parameters())

    def flops_per_token(self, context: int, train: bool = False) -> float:
        """Multiply-adds as 2 operations, for a token that sees `context` keys on average; times 3
        for a training step (Kaplan et al. 2020, with attention and the head counted). A mixture of
        experts counts its active experts."""
        layers = [
            (name, m)
            for name, m in self.named_modules()
            if isinstance(m, nn.Linear | QuantLinear | TiedHead)
            and not isinstance(m, QuantEmbedding)
        ]
        matrices = sum(
            m.in_features * m.out_features * self._active_share(name) for name, m in layers
        )
        c = self.config
        seen = sum(min(context, c.window(layer) or context) for layer in range(c.num_hidden_layers))
        return (
            (3 if train else 1) * 2.0 * (matrices + 2 * seen * c.num_attention_heads * c.head_dim)
        )

    def _active_share(self, name: str) -> float:
        experts = getattr(self.config, "num_local_experts", 0)
        return self.config.num_experts_per_tok / experts if ".experts." in name else 1.0  # type: ignore[attr-defined]

    def weight_bytes(self) -> int:
        """Bytes of all weights as stored; a decode step reads these once (less the embedding rows
        it does not touch)."""
        seen = {
            t.data_ptr(): t.numel() * t.element_size()
            for t in [*self.parameters(), *self.buffers()]
        }
        return sum(seen.values())

    def cache_bytes_per_token(self, dtype: torch.dtype = torch.float32) -> int:
        """Key and value bytes that one token adds to a cache."""
        c = self.config
        return 2 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim * dtype.itemsize

    def costs(self) -> dict[str, float]:
        """For people: what a token costs."""
        return {
            "cache_bytes_per_token": self.cache_bytes_per_token(),
            "flops_per_token": self.flops_per_token(1),
        }

    @torch.no_grad()
    def init_weights(self, seed: int = 0) -> Self:
        """Weights for training from scratch: embeddings N(0, 0.02), matrices U(+-sqrt(3/fan_in)),
        projections that write to the residual stream zero (so every block starts as the identity),
        norms as built."""
        g = torch.Generator().manual_seed(seed)
        for name, module in self.named_modules():
            if isinstance(module, nn.Embedding):
                module.weight.normal_(0, 0.02, generator=g)
            elif isinstance(module, nn.Linear) and not (
                name == "lm_head" and self.config.tie_word_embeddings
            ):
                bound = (3 / module.in_features) ** 0.5
                writes = name.endswith(("o_proj", "down_proj", "lm_head"))
                module.weight.zero_() if writes else module.weight.uniform_(
                    -bound, bound, generator=g
                )
                if module.bias is not None:
                    module.bias.zero_()
        return self
