"""What every run does before it builds anything: the device, the processes, the checkpoint to go on
from, and what it makes before its first step and keeps."""

import json
import sys
from collections.abc import Callable
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
    def data(self) -> dict[str, Any] | None:
        """The state of the batches to go on from."""
        return self.resume and self.resume["data"]

    @property
    def step(self) -> int:
        return self.data["step"] if self.data else 0


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


Row = dict[str, Any]


def write_rows(file: Path, rows: list[Row], rank: int) -> None:
    """Write rows as JSONL. Every process made the same; the last to rename stays."""
    partial = file.with_suffix(f".partial{rank}")
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)


def once(file: Path, make: Callable[[], list[Row]], rank: int) -> list[Row]:
    """The rows of a file; made and written if it is not there."""
    if not file.exists():
        write_rows(file, make(), rank)
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def say(text: str, start: Start) -> None:
    """Print a line to whoever watches, from the first process."""
    if start.rank == 0:
        print(text, file=sys.stderr, flush=True)
