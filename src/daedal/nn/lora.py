"""LoRA (Hu et al. 2022): a frozen layer plus a trained update of low rank, y = W x + scale * B A x,
in any module; with the scale alpha / sqrt(R) where it is stabilised for high ranks (Kalajdzievski
2023), and DoRA's magnitude of each row (Liu et al. 2024).

    names = add_lora(network, rank=16, targets=("to_q", "to_v"))    # all else is frozen
    ...                                                             # train what requires a gradient
    lora_state(network)                                             # {"....to_q.lora_A.weight":
    ...}, names as in peft
    merge_lora(network)                                             # plain layers again, the
    updates in their weights

Legend: R rank, I and O features of a layer, C and D channels of a convolution."""

from collections.abc import Sequence
from itertools import chain
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.errors import DaedalError, nearest
from daedal.nn.conv import Conv2d
from daedal.nn.linear import Linear


class LoRALayer(nn.Module):
    """A layer and its update: lora_A is (R, I) or a convolution (R, C, h, w) like the layer's own,
    lora_B (O, R) or (D, R, 1, 1). The update is nothing until it is trained, as lora_B starts at
    zero."""

    base_layer: Any
    lora_A: Linear | Conv2d
    lora_B: Linear | Conv2d
    lora_magnitude_vector: nn.Parameter | None

    def __init__(
        self,
        layer: Any,
        rank: int,
        scale: float,
        dora: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.base_layer, self.scale = layer.requires_grad_(False), scale
        pair = convolutions if isinstance(layer, nn.Conv2d) else linears
        self.lora_A, self.lora_B = pair(layer, rank)
        self.lora_magnitude_vector = None
        if dora:
            self.lora_magnitude_vector = nn.Parameter(layer.weight.float().norm(dim=1))
        with torch.no_grad():
            bound = self.lora_A.weight[0].numel() ** -0.5
            self.lora_A.weight.uniform_(-bound, bound, generator=generator)
            self.lora_B.weight.zero_()
        self.to(next(chain(layer.parameters(), layer.buffers())).device)

    def forward(self, x: Tensor) -> Tensor:  # (..., I) -> (..., O)
        if self.lora_magnitude_vector is None:
            return self.base_layer(x) + self.update(x)
        bias = self.base_layer.bias
        plain = F.linear(x, self.base_layer.weight.to(x.dtype)) + self.update(x)
        scaled = plain * self.gain().to(x.dtype)
        return scaled if bias is None else scaled + bias.to(x.dtype)

    def update(self, x: Tensor) -> Tensor:  # (..., I) -> (..., O)
        return self.scale * self.lora_B(self.lora_A(x))

    @property
    def weight(self) -> Tensor:
        """The frozen one: networks ask it for their dtype and device."""
        return self.base_layer.weight

    def delta(self) -> Tensor:
        """What is added to the weight, in its shape, float32."""
        down, up = self.lora_A.weight.float(), self.lora_B.weight.float()
        return (self.scale * up.flatten(1) @ down.flatten(1)).view(len(up), *down.shape[1:])

    def gain(self) -> Tensor:
        """DoRA: magnitude over norm of each row (O,); the norm is a constant to the gradient
        (section 4.3)."""
        assert self.lora_magnitude_vector is not None
        full = (self.weight.float() + self.delta()).detach()
        return self.lora_magnitude_vector / full.norm(dim=1)

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """The plain layer, the update in its weight."""
        if not isinstance(self.base_layer, nn.Linear | nn.Conv2d):
            raise DaedalError(
                "an update cannot be merged into quantised weights; merge it into the folder they were made from."
            )
        full = self.weight.float() + self.delta()
        full = full if self.lora_magnitude_vector is None else full * self.gain()[:, None]
        self.base_layer.weight.copy_(full)
        return self.base_layer


def linears(layer: Any, rank: int) -> tuple[Linear, Linear]:
    return Linear(layer.in_features, rank, bias=False), Linear(rank, layer.out_features, bias=False)


def convolutions(layer: nn.Conv2d, rank: int) -> tuple[Conv2d, Conv2d]:
    kernel, stride, padding = (
        cast(tuple[int, int], each) for each in (layer.kernel_size, layer.stride, layer.padding)
    )
    down = Conv2d(layer.in_channels, rank, kernel, stride, padding, bias=False)
    return down, Conv2d(rank, layer.out_channels, 1, bias=False)


def adaptable(layer: nn.Module) -> bool:
    """Convolutions of one group, and whatever maps features: linear layers, quantised ones too."""
    return layer.groups == 1 if isinstance(layer, nn.Conv2d) else hasattr(layer, "in_features")


def add_lora(
    module: nn.Module,
    rank: int,
    alpha: float | None = None,
    targets: Sequence[str] = (),
    *,
    rslora: bool = False,
    dora: bool = False,
    seed: int = 0,
) -> list[str]:
    """Freeze `module` and put an update of this rank (fp32) on every layer whose name is one of
    `targets` or ends in one ("to_q", "mlp.down_proj"); the names. The scale is alpha / rank, with
    `rslora` alpha / sqrt(rank); alpha None is the rank. DoRA is for linear layers."""
    layers = {name: layer for name, layer in module.named_modules() if adaptable(layer)}
    ends = {target: f".{target}" for target in targets}
    found = [name for name in layers if f".{name}".endswith(tuple(ends.values()))]
    matched = {t for t, end in ends.items() if any(f".{name}".endswith(end) for name in found)}
    if absent := [target for target in targets if target not in matched] or (not ends and ["none"]):
        leaves = sorted({leaf(name) for name in layers})
        raise DaedalError(
            f"no layer is called {absent[0]!r}{nearest(absent[0], leaves)}; {type(module).__name__} has {', '.join(leaves)}."
        )
    if dora and (odd := [name for name in found if not isinstance(layers[name], nn.Linear)]):
        raise DaedalError(
            f"DoRA is for plain linear layers, and {odd[0]} is {type(layers[odd[0]]).__name__}; leave it out of targets, or dora."
        )
    for name, p in module.named_parameters():
        p.requires_grad_(p.requires_grad and ".lora_" in name)
    scale = (rank if alpha is None else alpha) / (rank**0.5 if rslora else rank)
    generator = torch.Generator().manual_seed(seed)
    for name in found:
        put(module, name, LoRALayer(layers[name], rank, scale, dora, generator))
    return found


def leaf(name: str) -> str:
    """What a layer is called in its block: "to_out.0" of "....attn1.to_out.0"."""
    path, _, last = name.rpartition(".")
    return f"{path.rpartition('.')[2]}.{last}" if last.isdecimal() else last


def put(module: nn.Module, name: str, layer: nn.Module) -> None:
    path, _, last = name.rpartition(".")
    setattr(module.get_submodule(path), last, layer)


def adapters(module: nn.Module) -> dict[str, LoRALayer]:
    """The layers with updates, by name."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, LoRALayer)}


def lora_state(module: nn.Module) -> dict[str, Tensor]:
    """The trained tensors, named as peft and diffusers name them (without their prefix for the
    whole)."""
    return {
        f"{name}.{key}": p.detach()
        for name, layer in adapters(module).items()
        for key, p in layer.named_parameters()
        if key.startswith("lora_")
    }


def merge_lora(module: nn.Module) -> None:
    """Put every update into the weight it updates, in place."""
    for name, layer in adapters(module).items():
        put(module, name, layer.merged())
