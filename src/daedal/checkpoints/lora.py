"""LoRA (Hu et al. 2022) and its kin, merged into networks and taken out again: low-rank updates,
LoHa (Hyeon-Woo et al. 2022) and LoKr (Yeh et al. 2024), DoRA (Liu et al. 2024), plain differences.
Files of every dialect are read in checkpoints.lora_files.

    lora = read_lora("style.safetensors", parts)     # parts as load_parts or load_single_file gives
    them
    adapters = Adapters(parts)
    adapters.apply(lora, 0.8)                        # several stack; the weights from before are
    kept
    adapters.remove(lora)                            # and are back, bit for bit

Legend: R rank, O rows of a weight, I its other sizes, flattened."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.checkpoints.files import write
from daedal.checkpoints.folder import disk_name
from daedal.errors import DaedalError
from daedal.nn.lora import adapters

WIDENED = "x_embedder"  # of FLUX: its control LoRAs read more channels than the model they are for


class Update:
    """What a file does to one weight (O, ...), or to a bias or norm (O,). Most add a matrix."""

    def delta(self) -> Tensor:
        """(O, I) float32."""
        raise NotImplementedError

    def merged(self, weight: Tensor, strength: float) -> Tensor:
        """The weight with `strength` of the update, float32. One that is narrower than the update
        gets columns of zeros first."""
        delta = self.delta()
        extra = delta.shape[1] - weight[0].numel()
        weight = F.pad(weight, (0, extra)) if extra else weight
        return weight.float() + strength * delta.view(weight.shape)

    def rows(self, index: Tensor) -> "Update":
        """The update of these rows, in this order."""
        return Difference(self.delta()[index])

    def shape(self) -> tuple[int, int]:
        """(O, I), computed without numbers."""
        tensors = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        empty = {
            name: value.to("meta") if isinstance(value, Tensor) else value
            for name, value in tensors.items()
        }
        rows, columns = type(self)(**empty).delta().shape
        return rows, columns


@dataclass(frozen=True)
class LowRank(Update):
    """scale * up @ down; down (R, I) or a convolution (R, C, h, w), up (O, R) or (O, R, 1, 1). With
    `middle` (R, R, h, w) a convolution in three parts (LoCon with a Tucker core), down and up then
    being 1 x 1."""

    down: Tensor
    up: Tensor
    scale: float = 1.0
    middle: Tensor | None = None

    def delta(self) -> Tensor:
        if self.middle is None:
            down = self.down
        else:
            down = torch.einsum("pqhw,qi->pihw", self.middle.float(), self.down.flatten(1).float())
        return self.scale * self.up.flatten(1).float() @ down.flatten(1).float()

    def rows(self, index: Tensor) -> Update:
        return replace(self, up=self.up[index])


@dataclass(frozen=True)
class Hadamard(Update):
    """LoHa: scale * (a1 @ b1) * (a2 @ b2), a (O, R), b (R, I). With Tucker cores (R, R, h, w) the a
    are (R, O) and the b (R, C)."""

    a1: Tensor
    b1: Tensor
    a2: Tensor
    b2: Tensor
    scale: float = 1.0
    core1: Tensor | None = None
    core2: Tensor | None = None

    def delta(self) -> Tensor:
        return (
            self.scale
            * product(self.a1, self.b1, self.core1)
            * product(self.a2, self.b2, self.core2)
        )


@dataclass(frozen=True)
class Kronecker(Update):
    """LoKr: scale * kron(first, second), matrices each."""

    first: Tensor
    second: Tensor
    scale: float = 1.0

    def delta(self) -> Tensor:
        return self.scale * torch.kron(self.first.float(), self.second.float())


@dataclass(frozen=True)
class Difference(Update):
    """The difference itself, (O, ...)."""

    matrix: Tensor

    def delta(self) -> Tensor:
        return self.matrix.float().reshape(len(self.matrix), -1)


@dataclass(frozen=True)
class Replacement(Update):
    """Another value in place of a norm's weight (O,)."""

    value: Tensor

    def delta(self) -> Tensor:
        return self.value.float()[:, None]  # for its shape

    def merged(self, weight: Tensor, strength: float) -> Tensor:
        return torch.lerp(weight.float(), self.value.float(), strength)

    def rows(self, index: Tensor) -> Update:
        return Replacement(self.value[index])


@dataclass(frozen=True)
class Decomposed(Update):
    """DoRA: the direction of weight + update, at a magnitude of its own: of each row (O,), or, as
    older LyCORIS files have it, of each input channel (1, C, 1, 1)."""

    update: Update
    magnitude: Tensor

    def delta(self) -> Tensor:
        return self.update.delta()

    def shape(self) -> tuple[int, int]:
        return self.update.shape()

    def merged(self, weight: Tensor, strength: float) -> Tensor:
        full = self.update.merged(weight, 1.0)
        axes = [axis for axis in range(weight.dim()) if axis != (self.magnitude.shape[0] == 1)]
        norm = torch.linalg.vector_norm(full, dim=axes, keepdim=True)
        return torch.lerp(
            weight.float(), full * (self.magnitude.float().view(norm.shape) / norm), strength
        )

    def rows(self, index: Tensor) -> Update:
        if len(self.magnitude) == 1:
            raise DaedalError(
                "a LoRA with magnitudes of input channels (DoRA of old LyCORIS) cannot be split over q, k and v; train it again."
            )
        return Decomposed(self.update.rows(index), self.magnitude[index])


def product(a: Tensor, b: Tensor, core: Tensor | None = None) -> Tensor:
    """(O, I): a @ b, or the convolution whose Tucker factors they are."""
    if core is None:
        return a.flatten(1).float() @ b.flatten(1).float()
    return torch.einsum("pqhw,po,qi->oihw", core.float(), a.float(), b.float()).flatten(1)


@dataclass(frozen=True, eq=False)
class LoRA:
    """What one file does: part of a pipeline ("unet", "text_encoder", ...) -> name of a tensor in
    its folder -> update."""

    name: str
    updates: dict[str, dict[str, Update]]


class Adapters:
    """LoRAs merged into the networks of a pipeline. Their weights are those from before plus every
    applied update, in order, summed in float32."""

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self.modules = {role: part for role, part in parts.items() if isinstance(part, nn.Module)}
        self.applied: dict[LoRA, float] = {}
        self.originals: dict[tuple[str, str], nn.Parameter] = {}
        self.ours = {
            role: {disk_name(module, name): name for name in module.state_dict()}
            for role, module in self.modules.items()
        }

    def apply(self, lora: LoRA, scale: float = 1.0) -> None:
        """Merge `lora`, or change the scale of one that is."""
        self.applied[lora] = scale
        self._rebuild(lora)

    def remove(self, lora: LoRA) -> None:
        """Take `lora` out again."""
        if lora not in self.applied:
            raise DaedalError(
                f"{lora.name} is not applied; applied are {', '.join(each.name for each in self.applied) or 'none'}."
            )
        del self.applied[lora]
        self._rebuild(lora)

    def _rebuild(self, lora: LoRA) -> None:
        for role, updates in lora.updates.items():
            for disk in updates:
                self._merge(role, disk)

    @torch.no_grad()
    def _merge(self, role: str, disk: str) -> None:
        """One parameter from its original, with all that is applied to it."""
        module, name = self.modules[role], self.ours[role][disk]
        original = self.originals.setdefault((role, disk), module.get_parameter(name))
        updates = [
            (lora.updates[role][disk], scale)
            for lora, scale in self.applied.items()
            if disk in lora.updates.get(role, {})
        ]
        if not updates:
            return place(module, name, self.originals.pop((role, disk)))
        weight = original.data
        for update, scale in updates:
            weight = update_on(weight.device, update).merged(weight, scale)
        weight = weight.to(original.dtype)
        place(module, name, nn.Parameter(weight, requires_grad=original.requires_grad))


def update_on(device: torch.device, update: Update) -> Update:
    moved = {field.name: getattr(update, field.name) for field in dataclasses.fields(update)}  # type: ignore[arg-type]
    for name, value in moved.items():
        if isinstance(value, Update):
            moved[name] = update_on(device, value)
        elif isinstance(value, Tensor):
            moved[name] = value.to(device)
    return type(update)(**moved)


def place(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """Put a parameter in its place; a first layer that is now wider or narrower says so, to the
    network's config too."""
    path, _, leaf = name.rpartition(".")
    layer = module.get_submodule(path)
    setattr(layer, leaf, parameter)
    if (path, leaf) != (WIDENED, "weight") or not isinstance(layer, nn.Linear):
        return
    if layer.in_features != parameter.shape[1]:
        config: Any = module.config
        layer.in_features, inputs = parameter.shape[1], config.in_channels
        outputs = config.out_channels or inputs
        module.config = replace(config, in_channels=parameter.shape[1], out_channels=outputs)  # type: ignore[assignment]


def trained(module: nn.Module, role: str) -> LoRA:
    """What daedal.nn.lora has trained on a network, whose part in a pipeline is `role`."""
    updates: dict[str, Update] = {}
    for name, layer in adapters(module).items():
        down, up = layer.lora_A.weight.detach(), layer.lora_B.weight.detach()
        update: Update = LowRank(down, up, layer.scale)
        if (magnitude := layer.lora_magnitude_vector) is not None:
            update = Decomposed(update, magnitude.detach())
        updates[disk_name(module, f"{name}.weight")] = update
    return LoRA(role, {role: updates})


def save_lora(lora: LoRA, path: str | Path) -> None:
    """Write a LoRA as diffusers and peft do (lora_A, lora_B), its scale within lora_B. Only
    low-rank updates can be written so."""
    tensors: dict[str, Tensor] = {}
    for role, updates in lora.updates.items():
        for disk, update in updates.items():
            module, _, leaf = f"{role}.{disk}".rpartition(".")
            if isinstance(update, Decomposed):
                tensors[f"{module}.lora_magnitude_vector"], update = update.magnitude, update.update
            if isinstance(update, LowRank) and update.middle is None:
                tensors[f"{module}.lora_A.weight"] = update.down
                tensors[f"{module}.lora_B.weight"] = update.up * update.scale
            elif isinstance(update, Difference) and leaf == "bias":
                tensors[f"{module}.lora_B.bias"] = update.matrix
            elif isinstance(update, Replacement):
                tensors[f"{module}.{leaf}"] = update.value
            else:
                raise DaedalError(
                    f"{lora.name} has a {type(update).__name__} update of {module}, which is not low-rank; merge it and save the model."
                )
    for name, tensor in tensors.items():
        tensors[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    write(tensors, Path(path))
