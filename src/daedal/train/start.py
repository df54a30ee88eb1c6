"""What every run does before it builds anything: the device, the processes, the checkpoint to go on
from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from daedal import checkpoints
from daedal import device as machine
from daedal.data import contents
from daedal.errors import DaedalError
from daedal.train import checkpoint, parallel
from daedal.train.recipe.base import Run


@dataclass
class Start:
    """Where and among how many a run begins, and the checkpoint it goes on from. `fixed` is what it
    may not change when it resumes."""

    out: Path
    device: torch.device
    dtype: torch.dtype
    rank: int
    world: int
    resume: dict[str, Any] | None
    fixed: dict[str, Any]

    def prepared(self, network: Any) -> Any:
        """The network as every pass of the run computes it: device, dtype, training mode."""
        network.compute_dtype = None if self.dtype == torch.float32 else self.dtype
        return network.to(self.device).train()

    @property
    def step(self) -> int:
        return self.resume["data"]["step"] if self.resume else 0


def begin(recipe: Run) -> Start:
    device, out = machine.pick_device(recipe.device), Path(recipe.out)
    rank, world = parallel.start(device)
    if recipe.rows % world:
        raise DaedalError(
            f"rows = {recipe.rows} does not split among {world} processes; make it a multiple."
        )
    if device.type == "cuda" and world > 1:
        device = torch.device("cuda", torch.cuda.current_device())
    out.mkdir(parents=True, exist_ok=True)
    fixed = checkpoint.fixed(recipe)
    resume = checkpoint.resume(recipe, fixed)
    torch.manual_seed(recipe.seed + rank)
    if rank == 0:
        (out / "recipe.json").write_text(recipe.model_dump_json(indent=2) + "\n")
    return Start(
        out, device, machine.compute_dtype(recipe.dtype, device), rank, world, resume, fixed
    )


def mark(recipe: Run, *keys: str, weights: str | None = None) -> str:
    """For the name of what a run makes before its first step and keeps: other letters when these
    keys of the recipe say something else, or the data or the model `weights` hold something else.
    """
    model = contents.digest(str(checkpoints.resolve(weights))) if weights else None
    return contents.mark(model, {key: contents.plain(getattr(recipe, key)) for key in keys})
