"""The loop on three numbers: what is not finite reaches no weights, no state and no file; the
average of the weights is the one defined, and is what is evaluated."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from daedal.errors import DaedalError
from daedal.train import checkpoint, trainer
from daedal.train.recipe.base import Run
from daedal.train.start import begin
from daedal.train.trainer import Batch, Objective, Trainer

LAST_GOOD = 2  # the step after which something goes wrong


class Line(nn.Module):
    compute_dtype, layers = None, nn.ModuleList()

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.ones(3))
        self.register_buffer("seen", torch.zeros(()))


def trainer_of(
    recipe: Run, network: Line, objective: Objective, optimizer: Any, **more: Any
) -> Trainer:
    more = {"unit": "rows", "units": 2, "flops": 1.0, "evaluate": None, "sample": None} | more
    return Trainer(
        SimpleNamespace(
            recipe=recipe,
            start=begin(recipe),
            network=network,
            batches=Numbers(),
            objective=objective,
            optimizers=lambda dtype: [optimizer],
            **more,
        )
    )


class Numbers:
    """Batches of the number of their step."""

    step = 0

    def __iter__(self) -> Iterator[Batch]:
        while True:
            self.step += 1
            yield {"x": torch.full((2,), float(self.step))}

    def state(self) -> dict[str, int]:
        return {"step": self.step}


def late(part: Batch) -> bool:
    return bool(part["x"][0] > LAST_GOOD)


def infinite_loss(network: Line, part: Batch) -> Tensor:
    return network.slope.square().sum() * (math.inf if late(part) else 1)


def infinite_gradient(network: Line, part: Batch) -> Tensor:
    """The root of 0 is 0, and its slope is infinite."""
    return (
        network.slope.square().sum()
        + (network.slope * (0.0 if late(part) else 1.0)).abs().sum().sqrt()
    )


def infinite_buffer(network: Line, part: Batch) -> Tensor:
    network.seen.fill_(math.inf if late(part) else 1)
    return network.slope.square().sum()


def tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    for part in parts:
        yield from tensors(part)


@pytest.mark.parametrize("loss", [infinite_loss, infinite_gradient, infinite_buffer])
def test_the_run_stops_at_the_last_good_step(
    loss: Callable[[Line, Batch], Tensor], tmp_path: Path
) -> None:
    every = {"checkpoint_every": 1, "ema": 0.9, "averages": (0.05,), "averages_every": 1}
    recipe = Run(out=str(tmp_path), steps=5, rows=2, **every)
    network = Line()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    step = trainer_of(recipe, network, Objective(loss, lambda batch: len(batch["x"])), optimizer)
    with pytest.raises(
        DaedalError, match=rf"step {LAST_GOOD + 1}.*step-0000000{LAST_GOOD}.pt, is kept. Lower"
    ) as error:
        step.run()
    assert ("first in slope" in str(error.value)) == (loss is infinite_gradient)
    last = checkpoint.newest(tmp_path / "checkpoints")
    assert last and last["step"] == LAST_GOOD
    written = [load_file(file) for file in tmp_path.rglob("*.safetensors")]
    assert trainer.finite(tensors([last, *written])) and len(written) == LAST_GOOD
    if loss is not infinite_buffer:
        assert torch.equal(network.slope, last["model"]["slope"]) and torch.equal(
            step.ema[0], last["ema"][0]
        )


def test_the_average_warms_up_and_is_what_is_evaluated(tmp_path: Path) -> None:
    """By hand from the weights after each step; they train on as if nobody had looked."""
    network, live, seen = Line(), [torch.ones(3)], []
    recipe = Run(out=str(tmp_path), steps=30, rows=2, ema=0.7, evaluate_every=1, sample_every=1)
    loss = lambda network, part: (network.slope - part["x"][0]).square().sum()  # noqa: E731

    def evaluate(network: Line) -> dict[str, float]:
        seen.append(network.slope.detach().clone())
        return {}

    follow = lambda network: live.append(network.slope.detach().clone())  # noqa: E731
    run = trainer_of(
        recipe,
        network,
        Objective(loss, lambda batch: 2, follow),
        torch.optim.SGD(network.parameters(), lr=0.1),
        evaluate=evaluate,
        sample=lambda network, step: "",
    )
    run.run()
    average = live[0]
    for t, (weights, evaluated) in enumerate(zip(live[1:], seen, strict=True), 1):
        decay = min(0.7, (1 + t) / (10 + t))
        average = decay * average + (1 - decay) * weights
        torch.testing.assert_close(evaluated, average)
    assert torch.equal(network.slope, live[-1]) and (1 + 30) / (10 + 30) > 0.7 > (1 + 10) / (
        10 + 10
    )
    assert torch.equal(run.result()["slope"], seen[-1])


def test_an_update_that_overflows_is_not_written(tmp_path: Path) -> None:
    recipe, network = Run(out=str(tmp_path), steps=1, rows=2), Line()
    objective = Objective(lambda network, part: network.slope.sum(), lambda batch: 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=math.inf)
    run = trainer_of(recipe, network, objective, optimizer)
    with pytest.raises(DaedalError, match="not finite after step 1; no checkpoint was due before"):
        run.run()
    assert not list(tmp_path.rglob("*.pt"))
