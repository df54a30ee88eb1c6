"""From a module's parameter names to the tensors on disk and back: renamed, transposed, or fused
several into one."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

Join = Callable[[list[Tensor]], Tensor]
Split = Callable[[Tensor, list[int]], list[Tensor]]


@dataclass(frozen=True)
class Fused:
    """Several of our tensors are one on disk: `ours` in order, and how to join and split them (rows
    of ours are given as sizes)."""

    disk: str
    ours: tuple[str, ...]
    join: Join
    split: Split


def stacked(disk: str, *ours: str) -> Fused:
    """Output rows one after another (Phi-3's qkv_proj, gate_up_proj)."""
    return Fused(
        disk,
        ours,
        lambda parts: torch.cat(parts, 0),
        lambda whole, rows: list(whole.split(rows, 0)),
    )


@dataclass(frozen=True)
class Names:
    """How the parameters of a network are called in files. On disk all but `bare` ones carry
    `prefix`; `renames` are (our substring, disk substring), applied in order; `transposed` lists
    disk endings stored (in, out) as GPT-2's Conv1D does. Of what files hold beside today's names:

    former   (old, new) substrings of disk names, for tensors that only an old version's name fits
    copies   disk name -> disk name of the tensor that it repeats; read where that one is left out
    skipped  endings of disk names that hold no weights of ours (constants)

    weight_normed are substrings of disk names whose weights are written as a magnitude and a
    direction (`old_norm`: as torch before 2.0 called them); however files hold them, they are read."""

    prefix: str = ""
    last_norm: str = "norm."
    renames: tuple[tuple[str, str], ...] = ()
    fused: tuple[Fused, ...] = ()
    transposed: tuple[str, ...] = ()
    own: str = ""  # a prefix of ours that no file has
    bare: tuple[str, ...] = ("lm_head.",)
    former: tuple[tuple[str, str], ...] = ()
    copies: tuple[tuple[str, str], ...] = ()
    skipped: tuple[str, ...] = ()
    weight_normed: tuple[str, ...] = ()
    old_norm: bool = False

    def rename(self, name: str) -> str:
        name = name.removeprefix(self.own)
        prefix = "" if name.startswith(self.bare) else self.prefix
        if name.startswith("norm."):
            return prefix + name.replace("norm.", self.last_norm)
        for ours, disk in self.renames:
            name = name.replace(ours, disk)
        return prefix + name

    def today(self, disk: str) -> list[str]:
        """What a tensor of a file may be called today: that; an old version's name; a base model's,
        which is saved without the prefix."""
        former = disk
        for old, new in self.former:
            former = former.replace(old, new)
        return [disk, former, self.prefix + disk]

    def layout(self, ours: Iterable[str]) -> dict[str, tuple[Fused | None, list[str]]]:
        """Disk name -> how it is fused, and which of our parameters it holds, in order."""
        table: dict[str, tuple[Fused | None, list[str]]] = {}
        for name in ours:
            fused = next(
                (f for f in self.fused if any(f".{part}." in f".{name}" for part in f.ours)), None
            )
            if fused is None:
                table[self.rename(name)] = (None, [name])
                continue
            part = next(part for part in fused.ours if f".{part}." in f".{name}")
            names = [name.replace(part, other) for other in fused.ours]
            table[self.rename(name.replace(part, fused.disk))] = (fused, names)
        return table

    def is_transposed(self, disk: str) -> bool:
        return disk.endswith(self.transposed) if self.transposed else False

    def is_normed(self, disk: str) -> bool:
        return disk.endswith(".weight") and any(part in disk for part in self.weight_normed)

    def to_ours(
        self, disk: str, tensor: Tensor, fused: Fused | None, rows: list[int]
    ) -> list[Tensor]:
        """One tensor on disk as our tensors, whose leading sizes are `rows`."""
        tensor = tensor.mT if self.is_transposed(disk) else tensor
        return [tensor] if fused is None else fused.split(tensor, rows)

    def to_disk(self, disk: str, tensors: list[Tensor], fused: Fused | None) -> Tensor:
        tensor = tensors[0] if fused is None else fused.join(tensors)
        return (tensor.mT if self.is_transposed(disk) else tensor).contiguous()
