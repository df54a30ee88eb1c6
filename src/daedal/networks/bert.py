"""Encoders of sentences: BERT (Devlin et al. 2018), RoBERTa and XLM-RoBERTa (Liu et al. 2019,
Conneau et al. 2020), and MPNet (Song et al. 2020), whose attention has position biases.

Texts run end to end in one row, without padding: `tokens` (N,) and the texts' `sizes`, which sum to
N. Neighbours of one size share an attention call, so texts sorted by size cost what their tokens
do.

Parameter names are those of transformers' files. Legend: N tokens, B texts of one size, T their
tokens, D width, H heads, K head dim.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.networks.config import EVERYTHING, Everything, one_of
from daedal.networks.names import Names
from daedal.nn.cost import count_flops
from daedal.nn.linear import Embedding, Linear, linears
from daedal.nn.mlp import activation
from daedal.nn.norm import LayerNorm
from daedal.nn.relative import position_buckets


@dataclass(frozen=True, kw_only=True)
class BertConfig:
    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0

    architecture: ClassVar[str] = "BertModel"
    model_type: ClassVar[str] = "bert"
    ignored: ClassVar[Everything] = EVERYTHING

    @classmethod
    def read(cls, raw: dict) -> dict:
        one_of(
            "position_embedding_type",
            raw.get("position_embedding_type") or "absolute",
            ["absolute"],
        )
        return raw

    @property
    def first_position(self) -> int:
        return 0

    @property
    def context(self) -> int:
        """Tokens of the longest text."""
        return self.max_position_embeddings - self.first_position


@dataclass(frozen=True, kw_only=True)
class RobertaConfig(BertConfig):
    """Positions are counted from behind the padding's."""

    vocab_size: int = 50265
    pad_token_id: int | None = 1

    architecture: ClassVar[str] = "RobertaModel"
    model_type: ClassVar[str] = "roberta"

    @property
    def first_position(self) -> int:
        return (self.pad_token_id or 0) + 1


@dataclass(frozen=True, kw_only=True)
class XLMRobertaConfig(RobertaConfig):
    architecture: ClassVar[str] = "XLMRobertaModel"
    model_type: ClassVar[str] = "xlm-roberta"


@dataclass(frozen=True, kw_only=True)
class MPNetConfig(RobertaConfig):
    vocab_size: int = 30527
    relative_attention_num_buckets: int = 32
    type_vocab_size: int = 0

    architecture: ClassVar[str] = "MPNetModel"
    model_type: ClassVar[str] = "mpnet"
    absent: ClassVar[frozenset[str]] = frozenset({"type_vocab_size"})


Runs = list[tuple[int, int]]  # (texts, tokens of each), in order


def runs_of(sizes: list[int]) -> Runs:
    return [(len(list(same)), size) for size, same in groupby(sizes)]


def each(tensors: tuple[Tensor, ...], runs: Runs) -> Iterator[tuple[Tensor, ...]]:
    """(N, H, K) tensors -> for each run (B, H, T, K)."""
    pieces = [t.split([count * size for count, size in runs]) for t in tensors]
    for (count, size), parts in zip(runs, zip(*pieces, strict=True), strict=True):
        yield tuple(p.unflatten(0, (count, size)).transpose(1, 2) for p in parts)


class SelfAttention(nn.Module):
    """`query`, `key` and `value`, or `q`, `k`, `v` and `o` in one, as MPNet has them."""

    def __init__(self, c: BertConfig, names: tuple[str, ...]) -> None:
        super().__init__()
        self.names, self.head_dim = names, c.hidden_size // c.num_attention_heads
        for name in names:
            setattr(self, name, Linear(c.hidden_size, c.hidden_size))

    def forward(self, x: Tensor, runs: Runs, table: Tensor | None) -> Tensor:  # (N, D) -> (N, D)
        q, k, v = (
            t.unflatten(-1, (-1, self.head_dim))
            for t in linears(x, *(getattr(self, name) for name in self.names[:3]))
        )
        outs = []
        for q1, k1, v1 in each((q, k, v), runs):
            T = q1.shape[2]
            bias = None if table is None else table[:, :T, :T].to(q1.dtype)
            out = F.scaled_dot_product_attention(q1, k1, v1, attn_mask=bias)
            outs.append(out.transpose(1, 2).flatten(0, 1).flatten(1))
        return torch.cat(outs)


class Output(nn.Module):
    """A projection whose result is added to the stream, and the norm behind it (post-norm)."""

    def __init__(self, inner: int, c: BertConfig) -> None:
        super().__init__()
        self.dense = Linear(inner, c.hidden_size)
        self.LayerNorm = LayerNorm(c.hidden_size, c.layer_norm_eps)

    def forward(self, x: Tensor, stream: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(x) + stream)


class Attention(nn.Module):
    def __init__(self, c: BertConfig) -> None:
        super().__init__()
        self.self = SelfAttention(c, ("query", "key", "value"))
        self.output = Output(c.hidden_size, c)

    def forward(self, x: Tensor, runs: Runs, table: Tensor | None) -> Tensor:
        return self.output(self.self(x, runs, table), x)


class MPNetAttention(nn.Module):
    def __init__(self, c: BertConfig) -> None:
        super().__init__()
        self.attn = SelfAttention(c, ("q", "k", "v", "o"))
        self.LayerNorm = LayerNorm(c.hidden_size, c.layer_norm_eps)

    def forward(self, x: Tensor, runs: Runs, table: Tensor | None) -> Tensor:
        return self.LayerNorm(self.attn.o(self.attn(x, runs, table)) + x)  # type: ignore[operator]


class Intermediate(nn.Module):
    def __init__(self, c: BertConfig) -> None:
        super().__init__()
        self.dense, self.act = Linear(c.hidden_size, c.intermediate_size), activation(c.hidden_act)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.dense(x))


class Layer(nn.Module):
    def __init__(self, c: BertConfig, attention: type[nn.Module]) -> None:
        super().__init__()
        self.attention = attention(c)  # type: ignore[call-arg]
        self.intermediate, self.output = Intermediate(c), Output(c.intermediate_size, c)

    def forward(self, x: Tensor, runs: Runs, table: Tensor | None) -> Tensor:
        x = self.attention(x, runs, table)
        return self.output(self.intermediate(x), x)


class Embeddings(nn.Module):
    def __init__(self, c: BertConfig) -> None:
        super().__init__()
        self.word_embeddings = Embedding(c.vocab_size, c.hidden_size)
        self.position_embeddings = Embedding(c.max_position_embeddings, c.hidden_size)
        types = c.type_vocab_size
        self.token_type_embeddings = Embedding(types, c.hidden_size) if types else None
        self.LayerNorm, self.first = LayerNorm(c.hidden_size, c.layer_norm_eps), c.first_position

    def forward(self, tokens: Tensor, runs: Runs) -> Tensor:
        at = [torch.arange(self.first, self.first + size).repeat(count) for count, size in runs]
        x = self.word_embeddings(tokens)
        if self.token_type_embeddings is not None:
            x = x + self.token_type_embeddings.weight[0]
        return self.LayerNorm(x + self.position_embeddings(torch.cat(at).to(tokens.device)))


class Encoder(nn.Module):
    """The layers under transformers' name for them; of MPNet also the biases that all layers share."""

    def __init__(self, c: BertConfig, attention: type[nn.Module]) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(c, attention) for _ in range(c.num_hidden_layers))
        self.relative_attention_bias = (
            Embedding(c.relative_attention_num_buckets, c.num_attention_heads)
            if isinstance(c, MPNetConfig)
            else None
        )

    def forward(self, x: Tensor, runs: Runs) -> Tensor:
        table = None
        if self.relative_attention_bias is not None:
            longest = max(size for _, size in runs)
            count = self.relative_attention_bias.num_embeddings
            buckets = position_buckets(longest, count, 128, x.device)
            table = self.relative_attention_bias(buckets).permute(2, 0, 1)  # (H, T, T)
        for layer in self.layer:
            x = layer(x, runs, table)
        return x


class BertModel(nn.Module):
    """Texts as states of their tokens. `compute_dtype`, when set, is the dtype of activations."""

    config_class: type[BertConfig] = BertConfig
    attention: type[nn.Module] = Attention
    # old files: of TensorFlow, and of models with a head for masked words
    names = Names(
        former=(
            ("LayerNorm.gamma", "LayerNorm.weight"),
            ("LayerNorm.beta", "LayerNorm.bias"),
            *((f"{prefix}.", "") for prefix in ("xlm-roberta", "roberta", "bert", "mpnet")),
        ),
        skipped=(
            *("position_ids", "pooler.dense.weight", "pooler.dense.bias", "decoder.weight"),
            *("predictions.bias", "decoder.bias", "lm_head.bias", "seq_relationship.weight"),
            *("seq_relationship.bias", "transform.dense.weight", "transform.dense.bias"),
            *(f"transform.LayerNorm.{leaf}" for leaf in ("weight", "bias", "gamma", "beta")),
            *(
                f"lm_head.{name}.{leaf}"
                for name in ("dense", "layer_norm")
                for leaf in ("weight", "bias")
            ),
        ),
    )

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype: torch.dtype | None = None
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config, self.attention)

    def forward(self, tokens: Tensor, sizes: list[int]) -> Tensor:
        """tokens (N,) int64 of texts one after another, their sizes -> (N, D)."""
        runs = runs_of(sizes)
        x = self.embeddings(tokens, runs)
        return self.encoder(x.to(self.compute_dtype or x.dtype), runs)

    def flops(self, tokens: int = 128) -> int:
        """Floating-point operations of one text of that many tokens; a multiply-add is two."""
        return count_flops(self, lambda bert: bert(torch.zeros(tokens, dtype=torch.long), [tokens]))


class RobertaModel(BertModel):
    config_class = RobertaConfig


class XLMRobertaModel(BertModel):
    config_class = XLMRobertaConfig


class MPNetModel(BertModel):
    config_class, attention = MPNetConfig, MPNetAttention


# what base models are saved as
BertForMaskedLM = BertForPreTraining = BertModel
RobertaForMaskedLM, XLMRobertaForMaskedLM = RobertaModel, XLMRobertaModel
MPNetForMaskedLM = MPNetModel
