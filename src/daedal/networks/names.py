"""From a module's parameter names to the tensors on disk and back: renamed, transposed, or fused several into one."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

Join = Callable[[list[Tensor]], Tensor]
Split = Callable[[Tensor, list[int]], list[Tensor]]


@dataclass(frozen=True)
class Fused:
    """Several of our tensors are one on disk: `ours` in order, and how to join and split them (rows of ours are given as sizes)."""

    disk: str
    ours: tuple[str, ...]
    join: Join
    split: Split


def stacked(disk: str, *ours: str) -> Fused:
    """Output rows one after another (Phi-3's qkv_proj, gate_up_proj)."""
    return Fused(disk, ours, lambda parts: torch.cat(parts, 0), lambda whole, rows: list(whole.split(rows, 0)))


@dataclass(frozen=True)
class Names:
    """On disk all but the head carries `prefix`; `renames` are (our substring, disk substring), applied in order; `transposed` lists
    disk endings stored (in, out) as GPT-2's Conv1D does."""

    prefix: str = "model."
    last_norm: str = "norm."
    renames: tuple[tuple[str, str], ...] = ()
    fused: tuple[Fused, ...] = ()
    transposed: tuple[str, ...] = ()

    def rename(self, name: str) -> str:
        prefix = "" if name.startswith("lm_head.") else self.prefix
        if name.startswith("norm."):
            return prefix + name.replace("norm.", self.last_norm)
        for ours, disk in self.renames:
            name = name.replace(ours, disk)
        return prefix + name

    def layout(self, ours: Iterable[str]) -> dict[str, tuple[Fused | None, list[str]]]:
        """Disk name -> how it is fused, and which of our parameters it holds, in order."""
        table: dict[str, tuple[Fused | None, list[str]]] = {}
        for name in ours:
            fused = next((f for f in self.fused if any(f".{part}." in f".{name}" for part in f.ours)), None)
            if fused is None:
                table[self.rename(name)] = (None, [name])
                continue
            part = next(part for part in fused.ours if f".{part}." in f".{name}")
            names = [name.replace(part, other) for other in fused.ours]
            table[self.rename(name.replace(part, fused.disk))] = (fused, names)
        return table

    def is_transposed(self, disk: str) -> bool:
        return disk.endswith(self.transposed) if self.transposed else False

    def to_ours(self, disk: str, tensor: Tensor, fused: Fused | None, rows: list[int]) -> list[Tensor]:
        """One tensor on disk as our tensors, whose leading sizes are `rows`."""
        tensor = tensor.mT if self.is_transposed(disk) else tensor
        return [tensor] if fused is None else fused.split(tensor, rows)

    def to_disk(self, disk: str, tensors: list[Tensor], fused: Fused | None) -> Tensor:
        tensor = tensors[0] if fused is None else fused.join(tensors)
        return (tensor.mT if self.is_transposed(disk) else tensor).contiguous()
