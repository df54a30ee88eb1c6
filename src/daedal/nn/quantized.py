"""Linear layers and embeddings with packed weights, for inference with fp32 activations.

    quantize_(network, bits=8)     # every nn.Linear swapped in place; a tied embedding and head
    share one packed matrix
    dequantize_(network)           # and back
    freeze_packed_(network, bits=4)   # to train an adapter over it (Dettmers et al. 2023, QLoRA)

Decoding reads every weight once a token, so fewer bytes is more speed. 8 bits are int8 with a scale
an output row; 4 bits are the blocks of GGUF files (daedal.nn.blocks), most of them q4_k, those that
errors reach most with more bits, as llama.cpp's Q4_K_M. The packed layout is the kernels' own
(daedal.nn.kernels) and the one on disk, so loading is a memory map. Where the kernels are not
available the same tensors go through PyTorch.

Legend: M rows, N outputs, K inputs (int8 and bf16: padded to a multiple of 32), B batch, T tokens.
"""

from collections.abc import Collection
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.errors import DaedalError
from daedal.nn import kernels
from daedal.nn.blocks import KINDS
from daedal.nn.packing import BITS, dense, packed, shapes

WIDE = 24  # from this many rows on, a matrix product of PyTorch is worth unpacking the weights for
# then PyTorch's bf16 product is the fastest there is
BF16_UNITS = torch.cpu._is_avx512_bf16_supported()


# ---- modules -------------------------------------------------------------------------------------


class Unpacked(torch.autograd.Function):
    """x W^T with the weight that a packed layer stands for, which is unpacked again for the
    backward pass and held in between by nobody."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: "QuantLinear") -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.dequantized().to(x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return grad @ ctx.layer.dequantized().to(grad.dtype), None


class QuantLinear(nn.Module):
    """`nn.Linear` with packed weights of a kind of daedal.nn.packing: `int8` with a `scale` (N),
    `bf16`, or a type of block. With `exact` the kernels, which round activations, stay out of
    training mode, so that passes with and without gradient agree."""

    exact = False

    def __init__(self, in_features: int, out_features: int, kind: str, bias: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features, self.kind = in_features, out_features, kind
        shape, dtype = shapes(kind, out_features, in_features)
        self.register_buffer("weight", torch.empty(shape, dtype=dtype))
        self.register_buffer("scale", torch.empty(out_features) if kind == "int8" else None)
        self.register_buffer("bias", torch.empty(out_features) if bias else None)
        self._whole: Tensor | None = None  # see `_torch`

    weight: Tensor
    scale: Any  # Tensor, of int8
    bias: Tensor | None

    @property
    def bits(self) -> int:
        return BITS[self.kind]

    @property
    def blocks(self) -> bool:
        return self.kind in KINDS

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None, kind: str) -> Self:
        """Round a weight (N, K)."""
        with torch.device("meta"):
            self = cls(weight.shape[1], weight.shape[0], kind, bias is not None)
        self.weight, self.scale = packed(weight, kind)
        self.bias = None if bias is None else bias.detach().float()
        return self

    def dequantized(self) -> Tensor:
        """The weight that the packed form stands for, (N, K) fp32."""
        return self._dense(self.weight, self.scale)[:, : self.in_features]

    def rows(self, index: Tensor) -> Tensor:
        """Dequantised rows: index (...) -> (..., K) fp32."""
        at = index.flatten()
        rows = self._dense(self.weight[at], None if self.scale is None else self.scale[at])
        return rows[:, : self.in_features].unflatten(0, index.shape)

    def _dense(self, weight: Tensor, scale: Tensor | None) -> Tensor:
        if self.blocks and weight.device.type == "cpu" and kernels.available():
            return kernels.unpack(weight, self.kind)
        return dense(weight, scale, self.kind)

    def forward(self, x: Tensor) -> Tensor:  # (..., K) -> (..., N)
        return self.call_together(x, (self,))[0]

    def call_together(self, x: Tensor, modules: tuple[nn.Module, ...]) -> tuple[Tensor, ...]:
        """Several projections of one input: one kernel call when all are packed alike."""
        packed: list[QuantLinear] = [m.packed if isinstance(m, TiedHead) else m for m in modules]  # type: ignore[misc]
        alike = len(packed) <= 3 and all(
            isinstance(m, QuantLinear) and (m.kind == self.kind or (m.blocks and self.blocks))
            for m in packed
        )
        if not alike:
            return tuple(module(x) for module in modules)
        if not self._runs_natively(x):
            return tuple(module._torch(x) for module in packed)
        rows = x.reshape(-1, x.shape[-1]).float().contiguous()
        rows = F.pad(rows, (0, -rows.shape[1] % 32)) if rows.shape[1] % 32 else rows
        outs = kernels.linear(
            rows,
            [(m.weight, m._scale(), m.bias, m.out_features, kernels.code(m.kind)) for m in packed],
        )
        return tuple(
            out.view(*x.shape[:-1], m.out_features).to(x.dtype)
            for out, m in zip(outs, packed, strict=True)
        )

    def _runs_natively(self, x: Tensor) -> bool:
        if x.device.type != "cpu" or self._learns(x) or not kernels.available():
            return False
        return not (self.kind == "bf16" and BF16_UNITS and x.numel() // x.shape[-1] >= WIDE)

    def _learns(self, x: Tensor) -> bool:
        return (torch.is_grad_enabled() and x.requires_grad) or (self.exact and self.training)

    def _scale(self) -> Any:  # Tensor, of int8
        # a `.to(dtype)` over the whole network reached it
        if self.scale is not None and self.scale.dtype != torch.float32:
            self.scale = self.scale.float()
        return self.scale

    def _torch(self, x: Tensor) -> Tensor:
        """The same product by PyTorch's own operators; differentiable in x on every path that
        gradients can take. Blocks, which no operator multiplies, are unpacked once and kept."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        narrow = x.numel() // x.shape[-1] < WIDE or (self.kind == "bf16" and BF16_UNITS)
        learns = self._learns(x)
        if self.blocks and not learns:
            if self._whole is None or self._whole.dtype != x.dtype:
                self._whole = self.dequantized().to(x.dtype)
            return F.linear(x, self._whole, bias)
        if x.device.type != "cpu" or not narrow or learns:
            out = Unpacked.apply(x, self)
            return out if bias is None else out + bias
        rows = F.pad(x.reshape(-1, x.shape[-1]).float(), (0, -x.shape[-1] % 32))
        if self.kind == "bf16":
            out = F.linear(rows.to(torch.bfloat16), self.weight).float()
        else:
            out = torch.ops.aten._weight_int8pack_mm(rows, self.weight, self._scale())
        out = out[:, : self.out_features].view(*x.shape[:-1], self.out_features).to(x.dtype)
        return out if bias is None else out + bias

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.kind}, bias={self.bias is not None}"


class QuantEmbedding(QuantLinear):
    """An embedding whose rows are the packed rows of a matrix (V, D): tokens (B, T) -> (B, T, D)
    fp32."""

    def forward(self, tokens: Tensor) -> Tensor:
        return self.rows(tokens)


class TiedHead(nn.Module):
    """A head that multiplies by the matrix of a `QuantEmbedding`, which owns it: (..., D) -> (...,
    V)."""

    def __init__(self, embedding: QuantEmbedding) -> None:
        super().__init__()
        # a reference, not a child: the matrix is in the state dict once
        object.__setattr__(self, "packed", embedding)
        self.in_features, self.out_features = embedding.in_features, embedding.out_features

    packed: QuantEmbedding

    def forward(self, x: Tensor) -> Tensor:
        return self.packed.call_together(x, (self,))[0]

    def call_together(self, x: Tensor, modules: tuple[nn.Module, ...]) -> tuple[Tensor, ...]:
        return self.packed.call_together(x, modules)


# ---- whole networks ------------------------------------------------------------------------------


def swappable(network: nn.Module) -> list[tuple[str, nn.Linear, int]]:
    """(name, module, 1 for the head) of every linear layer to pack. A mixture's router (`mlp.gate`)
    stays as it is: it is small and picks."""
    names = [
        (name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear)
    ]
    return [
        (name, module, int(name.endswith("lm_head")))
        for name, module in names
        if not name.endswith("mlp.gate")
    ]


def tied(network: nn.Module) -> bool:
    head, embed = getattr(network, "lm_head", None), getattr(network, "embed_tokens", None)
    return (
        head is not None
        and embed is not None
        and getattr(head, "weight", 0) is getattr(embed, "weight", 1)
    )


def kinds_for(network: nn.Module, bits: int) -> dict[str, str]:
    """The kind of every layer of a network that is packed to 4, 8 or 16 bits, by name."""
    if bits not in (4, 8, 16):
        raise DaedalError(f"weights of {bits} bits are not supported; choose 4, 8 or 16.")
    layers = swappable(network)
    if bits != 4:
        return {name: "int8" if bits == 8 else "bf16" for name, _, _ in layers}
    kinds = {
        name: four_bits(module.in_features, head or gets_more_bits(name, len(network.layers)))  # type: ignore[arg-type]
        for name, module, head in layers
    }
    embed = getattr(network, "embed_tokens", None)
    if isinstance(embed, nn.Embedding) and not tied(network):
        kinds["embed_tokens"] = four_bits(embed.embedding_dim, False)
    return kinds


def four_bits(columns: int, more: bool) -> str:
    """The kind for rows of so many weights: q4_k, or q6_k for what gets more bits. Rows that are
    not whole blocks of 256 get those of 32, with a bit more."""
    if columns % 256 == 0:
        return "q6_k" if more else "q4_k"
    if columns % 32 == 0:
        return "q8_0" if more else "q5_0"
    return "int8"


def gets_more_bits(name: str, layers: int) -> bool:
    """Whether a matrix is one of those that errors reach most: values and the way out of the
    feed-forward, in the first and last eighth of the layers and in every third between (llama.cpp's
    Q4_K_M)."""
    if not name.endswith(("v_proj", "down_proj")):
        return False
    layer, eighth = int(name.split("layers.")[1].split(".")[0]), layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


@torch.no_grad()
def quantize_(network: nn.Module, bits: int = 8) -> nn.Module:
    """Swap every `nn.Linear` for a packed one, in place, one matrix at a time. Activations become
    fp32."""
    for name, kind in kinds_for(network, bits).items():
        pack_(network, name, network.get_submodule(name).weight, kind)  # type: ignore[arg-type]
    return finish_(network)


@torch.no_grad()
def pack_(network: Any, name: str, weight: Tensor, kind: str) -> None:
    """Put a packed layer of this weight (N, K) in the place of the layer `name`; of a tied head, in
    that of the embedding too."""
    if name == "embed_tokens" or (name == "lm_head" and tied(network)):
        share, network.embed_tokens = tied(network), QuantEmbedding.of(weight, None, kind)
        if share:
            network.lm_head = TiedHead(network.embed_tokens)
    else:
        bias = network.get_submodule(name).bias
        network.set_submodule(name, QuantLinear.of(weight, bias, kind))


@torch.no_grad()
def pack_empty_(network: Any, kinds: dict[str, str]) -> Any:
    """Swap the layers of a network on the meta device for packed ones, empty, of these kinds; a
    tied head goes by its own name. What is not named stays as it is."""
    share = tied(network)
    modules = dict(network.named_modules())
    for name, kind in kinds.items():
        module = modules[name]
        with torch.device("meta"):
            if isinstance(module, nn.Embedding):
                network.embed_tokens = QuantEmbedding(
                    module.embedding_dim, module.num_embeddings, kind
                )
                if share:
                    network.lm_head = TiedHead(network.embed_tokens)
            elif name == "lm_head" and share:
                network.embed_tokens = QuantEmbedding(module.in_features, module.out_features, kind)
                network.lm_head = TiedHead(network.embed_tokens)
            else:
                layer = QuantLinear(
                    module.in_features, module.out_features, kind, module.bias is not None
                )
                network.set_submodule(name, layer)
    return finish_(network)


@torch.no_grad()
def freeze_packed_(network: nn.Module, bits: int) -> None:
    """Pack a network that is to stay as it is while an adapter over it learns. Embeddings and head
    keep their precision: losses read them."""
    kinds = kinds_for(network, bits)
    for name, module, head in swappable(network):
        if not head:
            packed = QuantLinear.of(module.weight, module.bias, kinds[name])
            network.set_submodule(name, packed)
            packed.exact = True


def finish_(network: nn.Module) -> nn.Module:
    """Activations are fp32 from here on, whatever dtype the embeddings have."""
    network.compute_dtype = torch.float32  # type: ignore[assignment]
    return network


def keep_packed_(network: Any) -> Any:
    """A packed network as what stays as it is while an adapter over it learns."""
    dequantize_(network, only=("embed_tokens", "lm_head"))
    for module in network.modules():
        if isinstance(module, QuantLinear):
            module.exact = True
    return network


@torch.no_grad()
def dequantize_(
    network: Any, dtype: torch.dtype = torch.float32, only: Collection[str] | None = None
) -> Any:
    """Plain `nn.Linear` and `nn.Embedding` again, in place: all of them, or `only` these."""
    from daedal.nn.linear import Linear

    for name, module in list(network.named_modules()):
        if only is not None and name not in only:
            continue
        if isinstance(module, QuantEmbedding):
            network.embed_tokens = nn.Embedding.from_pretrained(
                module.dequantized().to(dtype).contiguous(), freeze=False
            )
            if isinstance(network.lm_head, TiedHead):
                network.lm_head = Linear(
                    module.in_features, module.out_features, bias=False, device="meta"
                )
                network.lm_head.weight = network.embed_tokens.weight
        elif isinstance(module, QuantLinear):
            plain = Linear(
                module.in_features, module.out_features, bias=module.bias is not None, device="meta"
            )
            plain.weight = nn.Parameter(module.dequantized().to(dtype).contiguous())
            if module.bias is not None:
                plain.bias = nn.Parameter(module.bias.to(dtype))
            network.set_submodule(name, plain)
    return network
