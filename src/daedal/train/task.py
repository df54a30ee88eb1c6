"""What a task of training is, and the one way in which every task runs and is planned.

A task says what is trained (`network`), on what (`batches`) and for what (`objective`). `Task.run`
is the rest: device and processes, the checkpoint to go on from, the trainer, and the folder that
comes out. The tasks there are stand in daedal.train.tasks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from daedal import device as machine
from daedal.networks import build, config_from_dict
from daedal.train import parallel
from daedal.train.optim import build_optimizers
from daedal.train.recipe.base import Run
from daedal.train.start import begin
from daedal.train.trainer import Trainable, Trainer


@dataclass(frozen=True)
class Cost:
    """What a step takes: units of data and FLOPs, and what is in memory, in bytes."""

    parameters: int
    units: int
    flops: float
    memory: float


class Task(Trainable):
    """Subclasses give `build`, `cost` and `save`. `build` sets the network, batches and objective,
    and what a step takes, `units` and `flops`. `evaluate` and `sample` are methods of a task that
    has them, or None."""

    recipe_type: type[Run]
    unit_label: str  # what units are called in a plan

    def __init__(self, recipe: Any) -> None:
        self.recipe, self.folder = recipe, Path(recipe.out) / "model"

    def build(self) -> None:
        """Make what is trained, in the processes of `self.start`."""
        raise NotImplementedError

    def cost(self, dtype: torch.dtype) -> Cost:
        """What a step takes when it computes in `dtype`, without weights where that can be."""
        raise NotImplementedError

    def save(self, state: dict[str, Tensor]) -> None:
        """Write `folder`, in the first process, once the network holds the weights to ship; `state`
        are all of them, whole and on the CPU."""
        raise NotImplementedError

    def optimizers(self, dtype: torch.dtype) -> list[torch.optim.Optimizer]:
        return build_optimizers(self.recipe.optimizer, self.network, self.width, dtype)

    @property
    def width(self) -> int:
        """The network's, from which learning rates follow."""
        return self.network.config.hidden_size

    def run(self) -> Path:
        """Train, and return the folder that is written. Started again with the same `out`, a run
        goes on where it stopped. Raises DaedalError where the recipe does not fit its data, its
        start or the processes, and as Trainer.run does."""
        self.start = begin(self.recipe)
        self.build()
        self.start.prepared(self.network)
        trainer = Trainer(self)
        trainer.run()
        state = trainer.result()
        self.network.eval()
        if self.start.rank == 0:
            self.save(state)
        parallel.finish()
        return self.folder

    def plan(self) -> dict[str, Any]:
        """What a run will take, from the measured peak: parameters, data, FLOPs, memory, hours.
        Trains nothing."""
        device = machine.pick_device(self.recipe.device)
        dtype = machine.compute_dtype(self.recipe.dtype, device)
        cost, steps = self.cost(dtype), self.recipe.steps
        flops, peak = cost.flops * steps, machine.matrix_peak(device, dtype)
        return {
            "parameters": cost.parameters,
            "units": f"{cost.units * steps:,} {self.unit_label}",
            "flops": flops,
            "dtype": str(dtype).removeprefix("torch."),
            "device": str(device),
            "measured_peak_flops": peak,
            "memory_bytes": cost.memory,
            "hours_at_full_peak": flops / peak / 3600,
            "hours_at_60_percent": flops / peak / 0.6 / 3600,
        }


# ---- what tasks share ----------------------------------------------------------------------------


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """The network in evaluation mode, and then as it was."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


def outline(config: dict[str, Any]) -> Any:
    """The network of a config.json without weights, on the meta device."""
    with torch.device("meta"):
        return build(config_from_dict(config))


def activations(config: Any, tokens: int) -> int:
    """How many values a decoder keeps of `tokens` for its backward pass: about 16 of its width and 3
    of its feed-forward a layer and token."""
    values = 16 * config.hidden_size + 3 * config.intermediate_size
    return tokens * config.num_hidden_layers * values
