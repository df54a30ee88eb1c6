"""Linear layers and embeddings with packed weights, for inference: int8, int4 and bf16 weights,
fp32 activations.

    quantize_(network, bits=8)     # every nn.Linear swapped in place; a tied embedding and head
    share one packed matrix
    dequantize_(network)           # and back
    freeze_packed_(network, bits=4)   # to train an adapter over it (Dettmers et al. 2023, QLoRA)

Decoding reads every weight once a token, so fewer bytes is more speed. int8 has one scale an output
row; int4 has one an output row and 32 inputs. The packed layout is the kernels' own
(daedal.nn.kernels) and the one on disk, so loading is a memory map. Where the kernels are not
available the same tensors go through PyTorch.

Legend: M rows, N outputs, K inputs (padded to a multiple of 32), B batch, T tokens.
"""

from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.errors import DaedalError
from daedal.nn import kernels
from daedal.nn.packing import GROUP, dense, packed, pad, unpack_int4

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
    """`nn.Linear` with packed weights. `bits` 8: weight int8 (N, K) and scale (N); 4: see
    `pack_int4`; 16: weight bf16 (N, K). With `exact` the kernels, which round activations, stay out
    of training mode, so that passes with and without gradient agree."""

    exact = False

    def __init__(self, in_features: int, out_features: int, bits: int, bias: bool = False) -> None:
        super().__init__()
        if bits not in (4, 8, 16):
            raise DaedalError(f"weights of {bits} bits are not supported; choose 4, 8 or 16.")
        self.in_features, self.out_features, self.bits = in_features, out_features, bits
        columns, blocks = in_features + -in_features % 32, -(-out_features // 8)
        shapes: dict[
            int, tuple[tuple[int, ...], torch.dtype, tuple[int, ...] | None, torch.dtype]
        ] = {
            4: (
                (blocks, columns // 32, 128),
                torch.uint8,
                (blocks, columns // 32, 8),
                torch.float16,
            ),
            8: ((out_features, columns), torch.int8, (out_features,), torch.float32),
            16: ((out_features, columns), torch.bfloat16, None, torch.float32),
        }
        shape, dtype, scale_shape, scale_dtype = shapes[bits]
        self.register_buffer("weight", torch.empty(shape, dtype=dtype))
        self.register_buffer(
            "scale", None if scale_shape is None else torch.empty(scale_shape, dtype=scale_dtype)
        )
        self.register_buffer("bias", torch.empty(out_features) if bias else None)
        self._fallback: tuple[Tensor, ...] | None = None

    weight: Tensor
    scale: Any  # Tensor, None with 16 bits
    bias: Tensor | None

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None, bits: int) -> Self:
        """Round a weight (N, K) to the nearest."""
        self = cls(weight.shape[1], weight.shape[0], bits, bias is not None)
        self.weight, self.scale = packed(weight, bits)
        self.bias = None if bias is None else bias.detach().float()
        return self

    def dequantized(self) -> Tensor:
        """The weight that the packed form stands for, (N, K) fp32."""
        return dense(self.weight, self.scale, self.bits)[: self.out_features, : self.in_features]

    def rows(self, index: Tensor) -> Tensor:
        """Dequantised rows: index (...) -> (..., K) fp32."""
        if self.bits == 4:
            block, lane = index.flatten() // 8, index.flatten() % 8
            levels, scale = unpack_int4(self.weight[block], self.scale[block])
            mine = torch.arange(len(lane), device=lane.device) * 8 + lane
            rows = (
                levels[mine].unflatten(1, (-1, GROUP)) * scale[mine].float()[..., None]
            ).flatten(1)
        else:
            rows = self.weight[index.flatten()].float()
            rows = (
                rows if self.scale is None else rows * self.scale.float()[index.flatten()][:, None]
            )
        return rows[:, : self.in_features].unflatten(0, index.shape)

    def forward(self, x: Tensor) -> Tensor:  # (..., K) -> (..., N)
        return self.call_together(x, (self,))[0]

    def call_together(self, x: Tensor, modules: tuple[nn.Module, ...]) -> tuple[Tensor, ...]:
        """Several projections of one input: one kernel call when all are packed alike."""
        packed: list[QuantLinear] = [m.packed if isinstance(m, TiedHead) else m for m in modules]  # type: ignore[misc]
        alike = len(packed) <= 3 and all(
            isinstance(m, QuantLinear) and m.bits == self.bits for m in packed
        )
        if not alike:
            return tuple(module(x) for module in modules)
        if not self._runs_natively(x):
            return tuple(module._torch(x) for module in packed)
        rows = x.reshape(-1, x.shape[-1]).float().contiguous()
        rows = F.pad(rows, (0, -rows.shape[1] % 32)) if rows.shape[1] % 32 else rows
        outs = kernels.linear(
            rows, [(m.weight, m._scale(), m.bias, m.out_features) for m in packed], self.bits
        )
        return tuple(
            out.view(*x.shape[:-1], m.out_features).to(x.dtype)
            for out, m in zip(outs, packed, strict=True)
        )

    def _runs_natively(self, x: Tensor) -> bool:
        if x.device.type != "cpu" or self._learns(x) or not kernels.available():
            return False
        return not (self.bits == 16 and BF16_UNITS and x.numel() // x.shape[-1] >= WIDE)

    def _learns(self, x: Tensor) -> bool:
        return (torch.is_grad_enabled() and x.requires_grad) or (self.exact and self.training)

    def _scale(self) -> Any:  # Tensor, None with 16 bits
        right = torch.float16 if self.bits == 4 else torch.float32
        # a `.to(dtype)` over the whole network reached it
        if self.scale is not None and self.scale.dtype != right:
            self.scale = self.scale.to(right)
        return self.scale

    def _torch(self, x: Tensor) -> Tensor:
        """The same product by PyTorch's own operators; differentiable in x on every path that
        gradients can take."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        narrow = x.numel() // x.shape[-1] < WIDE or (self.bits == 16 and BF16_UNITS)
        if x.device.type != "cpu" or not narrow or self._learns(x):
            out = Unpacked.apply(x, self)
            return out if bias is None else out + bias
        rows = F.pad(x.reshape(-1, x.shape[-1]).float(), (0, self.in_features_padded - x.shape[-1]))
        if self.bits == 16:
            out = F.linear(rows.to(torch.bfloat16), self.weight).float()
        elif self.bits == 8:
            out = torch.ops.aten._weight_int8pack_mm(rows, self.weight, self._scale())
        else:
            if self._fallback is None:
                levels, scale = (
                    pad(t, rows=16, columns=1) for t in unpack_int4(self.weight, self._scale())
                )
                packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu((levels + 8).int(), 1)
                self._fallback = (
                    packed,
                    torch.stack([scale, torch.zeros_like(scale)], -1)
                    .transpose(0, 1)
                    .float()
                    .contiguous(),
                )
            out = torch.ops.aten._weight_int4pack_mm_for_cpu(
                rows, self._fallback[0], GROUP, self._fallback[1]
            )
        out = out[:, : self.out_features].view(*x.shape[:-1], self.out_features).to(x.dtype)
        return out if bias is None else out + bias

    @property
    def in_features_padded(self) -> int:
        return self.in_features + -self.in_features % 32

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bits={self.bits}, bias={self.bias is not None}"


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


def head_bits(bits: int) -> int:
    """The head and a tied embedding see every token's whole error, so int4 networks keep them in
    int8."""
    return max(bits, 8)


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


@torch.no_grad()
def quantize_(network: nn.Module, bits: int = 8) -> nn.Module:
    """Swap every `nn.Linear` for a packed one, in place, one matrix at a time. Activations become
    fp32."""
    share = tied(network)
    for name, module, head in swappable(network):
        width = head_bits(bits) if head else bits
        if head and share:
            embedding = QuantEmbedding.of(module.weight, None, width)
            network.embed_tokens, network.lm_head = embedding, TiedHead(embedding)
        else:
            network.set_submodule(name, QuantLinear.of(module.weight, module.bias, width))
        del module
    return finish_(network)


@torch.no_grad()
def freeze_packed_(network: nn.Module, bits: int) -> None:
    """Pack a network that is to stay as it is while an adapter over it learns. Embeddings and head
    keep their precision: losses read them."""
    for name, module, head in swappable(network):
        if not head:
            network.set_submodule(name, packed := QuantLinear.of(module.weight, module.bias, bits))
            packed.exact = True


def finish_(network: nn.Module) -> nn.Module:
    """Activations are fp32 from here on, whatever dtype the embeddings have."""
    network.compute_dtype = torch.float32  # type: ignore[assignment]
    return network


@torch.no_grad()
def dequantize_(network: Any, dtype: torch.dtype = torch.float32) -> Any:
    """Plain `nn.Linear` and `nn.Embedding` again, in place."""
    from daedal.nn.linear import Linear

    for name, module in list(network.named_modules()):
        if isinstance(module, QuantEmbedding):
            network.embed_tokens = nn.Embedding.from_pretrained(
                module.dequantized().to(dtype).contiguous(), freeze=False
            )
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
