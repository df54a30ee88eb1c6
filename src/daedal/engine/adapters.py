"""Several LoRA adapters over one base, each request with its own (Chen et al. 2023, Punica; Sheng
et al. 2023, S-LoRA).

The base runs once for all rows of a step; then each adapter present adds its update to its own
rows. The adapters' network is a second tree of modules over the same weights, so the base alone
runs as if there were no adapters, captured steps included.

Legend: N flat tokens of a step, I and O features of a layer."""

import copy
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from daedal.checkpoints.adapter import load_adapter
from daedal.errors import DaedalError, nearest
from daedal.nn.linear import linears
from daedal.nn.lora import LoRALayer, adapters, put

if TYPE_CHECKING:
    from daedal.networks.decoder import Decoder

BASE = 0  # the number of no adapter


class Adapters:
    """Loaded adapters by name. Each has a number of its own, never used again, which names what is
    cached for it too."""

    def __init__(self, network: "Decoder") -> None:
        # once there is an adapter, `network` has a Switch wherever one has an update
        self.base = self.network = network
        self.numbers: dict[str, int] = {}
        # number -> its flat rows in the present call; every Switch reads it
        self.rows: dict[int, Tensor] = {}
        self._count = itertools.count(1)

    def number(self, name: str | None) -> int:
        """An adapter's number; an unknown name is an error that says what there is."""
        if name is not None and name not in self.numbers:
            if self.numbers:
                there = f"there are {', '.join(self.numbers)}"
            else:
                there = "none is loaded: engine.add_adapter(name, folder)"
            raise DaedalError(
                f"{name!r} is not an adapter of this engine{nearest(name, list(self.numbers))}; {there}."
            )
        return BASE if name is None else self.numbers[name]

    def add(self, name: str, folder: str | Path) -> None:
        if name in self.numbers:
            raise DaedalError(
                f"there is an adapter {name!r} already; remove it first, or give the new one another name."
            )
        alone = sharing(self.base)
        load_adapter(alone, folder, whole=False)
        found = adapters(alone)
        if routed := [layer for layer in found if ".experts." in layer]:
            raise DaedalError(
                f"{folder} changes {routed[0]}, an expert, whose rows the router picks; merge this adapter into its base instead."
            )
        number = next(self._count)
        self.network = sharing(self.base) if self.network is self.base else self.network
        for layer, update in found.items():
            self._switch(layer).updates[number] = update.requires_grad_(False)
        self.numbers[name] = number

    def _switch(self, layer: str) -> "Switch":
        present = self.network.get_submodule(layer)
        if not isinstance(present, Switch):
            put(self.network, layer, present := Switch(present, self.rows))
        return present

    def remove(self, name: str) -> None:
        number = self.number(name)
        del self.numbers[name]
        for module in self.network.modules():
            if isinstance(module, Switch):
                module.updates.pop(number, None)

    def route(self, owners: Sequence[int], device: torch.device) -> None:
        """Whose the flat rows of the next call are: N numbers."""
        self.rows.clear()
        for number in sorted(set(owners) - {BASE}):
            self.rows[number] = torch.tensor(
                [row for row, owner in enumerate(owners) if owner == number], device=device
            )


class Switch(nn.Module):
    """A layer, and by number the updates that adapters have for it. `rows` says which rows of the
    present call are whose."""

    def __init__(self, layer: nn.Module, rows: dict[int, Tensor]) -> None:
        super().__init__()
        self.base_layer, self.rows = layer, rows
        self.updates: dict[int, LoRALayer] = {}

    def forward(self, x: Tensor) -> Tensor:  # (..., I) -> (..., O)
        return self.updated(x, self.base_layer(x))

    def updated(self, x: Tensor, out: Tensor) -> Tensor:
        """The base's output (..., O) for x (..., I), in place with the updates; the leading sizes
        hold N rows."""
        flat, sums = x.reshape(-1, x.shape[-1]), out.view(-1, out.shape[-1])
        for number, rows in self.rows.items():
            if layer := self.updates.get(number):
                mine = flat[rows]
                sums[rows] = (
                    sums[rows] + layer.update(mine)
                    if layer.lora_magnitude_vector is None
                    else layer(mine)
                )
        return out

    def call_together(self, x: Tensor, modules: tuple[nn.Module, ...]) -> tuple[Tensor, ...]:
        """Several projections of one input (daedal.nn.linear.linears), the bases' still in one
        kernel call."""
        outs = linears(x, *(m.base_layer if isinstance(m, Switch) else m for m in modules))
        return tuple(
            m.updated(x, out) if isinstance(m, Switch) else out
            for m, out in zip(modules, outs, strict=True)
        )

    @property
    def weight(self) -> Any:
        """The base's: networks ask it for their dtype and device."""
        return self.base_layer.weight


def sharing(network: "Decoder") -> "Decoder":
    """A second tree of modules over the same weights."""
    memo: dict[int, Any] = {
        id(p): nn.Parameter(p.detach(), requires_grad=False) for p in network.parameters()
    }
    return copy.deepcopy(network, memo | {id(b): b for b in network.buffers()})
