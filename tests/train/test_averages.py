"""Averages chosen after training: their weights by hand, and one made afterwards against the same
one kept all along."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from daedal.errors import DaedalError
from daedal.train import averages
from daedal.train.tasks import load_recipe, run

TINY = [
    "model={depth: 2, options: {hidden_size: 64, patch_size: 16, text_layers: 1, text_length: 12}}", "rows=4", "data.captions=200", "prompts=[]",
    "sample_steps=2", "evaluate_pictures=1", "evaluate_every=100", "sample_every=100", "steps=6", "averages=[0.05,0.1]", "averages_every=2",
]  # fmt: skip


def weights(gamma: float, steps: int, end: int) -> torch.Tensor:
    """What each step counts in an average, by running it."""
    counts = torch.zeros(steps, dtype=torch.float64)
    for step in range(1, end + 1):
        beta = (1 - 1 / step) ** (gamma + 1)
        counts *= beta
        counts[step - 1] += 1 - beta
    return counts


@pytest.mark.parametrize("length", [0.05, 0.1, 0.2])
def test_length_is_the_spread_of_the_weights(length: float) -> None:
    w, at = weights(averages.gamma_of(length), 4000, 4000), torch.arange(1, 4001) / 4000
    mean = (w * at).sum()
    assert w.sum().item() == pytest.approx(1) and (
        (w * (at - mean) ** 2).sum() ** 0.5
    ).item() == pytest.approx(length, rel=5e-3)


def test_inner_products_by_sum() -> None:
    a, b = averages.gamma_of(0.05), averages.gamma_of(0.1)
    summed = (weights(a, 4000, 3000) * weights(b, 4000, 4000)).sum()
    closed = averages.inner(*(torch.tensor(value).double() for value in (3000.0, a, 4000.0, b)))
    assert closed.item() == pytest.approx(summed.item(), rel=2e-3)


def test_one_that_was_written_is_itself() -> None:
    w = averages.combination([100, 100, 200, 200], [0.05, 0.1, 0.05, 0.1], 200, 0.1)
    torch.testing.assert_close(w, torch.tensor([0, 0, 0, 1.0]).double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("length", [0.03, 0.08, 0.15])
def test_rebuilt_afterwards_it_is_the_one_kept_all_along(tmp_path: Path, length: float) -> None:
    """Weights on a random walk towards a goal (what training looks like), 800 steps, written every
    20."""
    torch.manual_seed(0)
    network = nn.Linear(16, 16)
    kept, wanted = averages.Averages(network, (0.05, 0.1)), averages.Averages(network, (length,))
    for step in range(1, 801):
        for p in network.parameters():
            p.data += 0.02 * (1 - p.data) + 0.05 * torch.randn(p.shape)
        kept.update(network, step)
        wanted.update(network, step)
        if step % 20 == 0:
            kept.write(network, tmp_path, step)
    again = averages.rebuilt(tmp_path, length)
    for (name, p), goal in zip(network.named_parameters(), wanted.kept[0], strict=True):
        error = (again[name] - goal).square().mean().sqrt()
        assert (
            error < 1e-3 * goal.square().mean().sqrt()
            and error < 0.02 * (p - goal).square().mean().sqrt()
        )


def test_a_run_writes_them_goes_on_with_them_and_ships_one(tmp_path: Path) -> None:
    def made(name: str) -> Any:
        changes = [*TINY, f"out={tmp_path / name}", "checkpoint_every=3", "align=0.1"]
        return load_recipe("recipes/image/tiny.yaml", changes)

    run(made("whole"))
    run(made("part"))
    (tmp_path / "part/checkpoints/step-00000006.pt").unlink()
    run(made("part"))
    last = "averages/step-00000006-0.050.safetensors"
    whole, part = (load_file(tmp_path / name / last) for name in ("whole", "part"))
    assert all(torch.equal(whole[name], part[name]) for name in whole) and not [
        name for name in whole if "auxiliary" in name
    ]
    out = averages.ship(tmp_path / "whole", 0.05, tmp_path / "chosen")
    torch.testing.assert_close(
        load_file(out / "diffusion_pytorch_model.safetensors")["proj_in.weight"],
        whole["proj_in.weight"],
        atol=1e-5,
        rtol=1e-4,
    )
    assert json.loads((out / "config.json").read_text())["_class_name"] == "MediaTransformer"
    with pytest.raises(
        DaedalError, match=r"no average was written at step 3; the steps are 2, 4, 6"
    ):
        averages.rebuilt(tmp_path / "whole/averages", 0.05, step=3)
    with pytest.raises(DaedalError, match=r"holds no averages; train with averages"):
        averages.rebuilt(tmp_path / "none", 0.05)
