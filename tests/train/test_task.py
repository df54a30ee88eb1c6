"""A task is what it says and no more: `run` trains any of them, `plan` counts any of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from daedal.train import checkpoint
from daedal.train.recipe.base import Run
from daedal.train.task import Cost, Task, evaluating
from daedal.train.tasks import TASKS
from daedal.train.trainer import Batch, Objective


class Point(nn.Module):
    """Three numbers, which are to become zero."""

    compute_dtype, layers = None, nn.ModuleList()

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.ones(3))


class Ones:
    step = 0

    def __iter__(self) -> Iterator[Batch]:
        while True:
            self.step += 1
            yield {"x": torch.ones(4)}

    def state(self) -> dict[str, int]:
        return {"step": self.step}


class Falling(Task):
    unit, unit_label, width = "rows", "rows of ones", 1
    objective = Objective(
        lambda network, part: network.place.square().sum() * len(part["x"]),
        lambda batch: len(batch["x"]),
    )

    def build(self) -> None:
        self.network, self.batches = Point(), Ones()
        self.batches.step, self.units, self.flops = self.start.step, self.recipe.rows, 1.0

    def evaluate(self, network: Point) -> dict[str, float]:
        with evaluating(network):
            assert not network.training
        return {"distance": network.place.detach().norm().item()}

    def save(self, state: dict[str, Tensor]) -> None:
        assert not self.network.training
        self.folder.mkdir()
        save_file(state, self.folder / "model.safetensors")

    def cost(self, dtype: torch.dtype) -> Cost:
        return Cost(parameters=3, units=self.recipe.rows, flops=6.0, memory=12 * dtype.itemsize)


def falling(out: Path, steps: int) -> Falling:
    rate = {"name": "adamw", "adam_lr": 0.1, "warmup": 1}
    return Falling(Run(out=str(out), steps=steps, rows=4, optimizer=rate, dtype="fp32"))


def test_a_task_runs_goes_on_and_is_saved(tmp_path: Path) -> None:
    folder = falling(tmp_path, 5).run()
    assert folder == tmp_path / "model" and (tmp_path / "recipe.json").exists()
    place = load_file(folder / "model.safetensors")["place"]
    state = checkpoint.newest(tmp_path / "checkpoints")
    assert state and state["data"] == {"step": 5} and torch.equal(state["model"]["place"], place)
    assert place.norm() < torch.ones(3).norm()
    for name, key in (("metrics", "rows"), ("evaluations", "distance")):
        assert f'"{key}"' in (tmp_path / f"{name}.jsonl").read_text()


def test_a_plan_is_a_step_times_the_steps(tmp_path: Path) -> None:
    plan = falling(tmp_path / "none", 10).plan()
    assert (plan["parameters"], plan["units"]) == (3, "40 rows of ones")
    assert plan["flops"] == 60 and plan["memory_bytes"] == 48
    hours = 60 / plan["measured_peak_flops"] / 3600
    assert plan["hours_at_full_peak"] == pytest.approx(hours)
    assert plan["hours_at_60_percent"] == pytest.approx(hours / 0.6)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", TASKS)
def test_a_task_of_the_table_is_whole(name: str) -> None:
    """It reads the recipe of its name, and brings what a run and a plan ask for."""
    kind = TASKS[name]
    assert kind.recipe_type.model_fields["task"].default == name
    assert kind.cost is not Task.cost and kind.unit and kind.unit_label and kind.__doc__
    runs = kind.run is not Task.run
    assert runs or (kind.build is not Task.build and kind.save is not Task.save)
