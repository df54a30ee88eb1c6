import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from daedal import checkpoints
from daedal.data.pictures import Scenes
from daedal.errors import DaedalError
from daedal.networks.biggan import BigGANGenerator
from daedal.networks.stylegan import StyleGAN2Generator
from daedal.train import gan
from daedal.train.recipe.pictures import GanRecipe
from daedal.train.tasks import load_recipe, run

STYLE = [
    "options={z_dim: 8, w_dim: 8, channel_base: 128, channel_max: 8, num_mapping_layers: 2}",
    "side=16",
    "rows=4",
    "micro_rows=4",
]
FREE = [
    "kind=stylegan3",
    "options={z_dim: 8, w_dim: 8, channel_base: 128, channel_max: 8, num_layers: 6}",
    *STYLE[1:],
]
BIG = [
    "kind=biggan", "classes=[circle, square, star]", "game=hinge", "gamma=0", "side=32", "rows=4", "micro_rows=4", "orthogonal=0.0001",
    "options={G_ch: 8, G_attn: 16, dim_z: 16, shared_dim: 8}", "critic_options={D_ch: 8, D_attn: 16}",
]  # fmt: skip


def recipe(*overrides: str) -> GanRecipe:
    return load_recipe("recipes/image/gan.yaml", list(overrides))


def batch(side: int, count: int = 4) -> dict[str, torch.Tensor]:
    return {
        "images": torch.randint(256, (count, 3, side, side), dtype=torch.uint8),
        "labels": torch.arange(count) % 3,
    }


@pytest.mark.parametrize(
    "overrides",
    [STYLE, [*STYLE, "path_length=2.0", "game=logistic"], FREE, BIG],
    ids=["r3gan", "stylegan2", "stylegan3", "biggan"],
)
def test_both_sides_learn_and_only_from_their_own_loss(
    tmp_path: Path, overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = recipe(*overrides, f"out={tmp_path}")
    match = gan.Match(made).train()
    gan.gan(made).loss(match, batch(made.side)).backward()
    touched = {
        side: sum(
            p.grad is not None and bool(p.grad.any()) for p in getattr(match, side).parameters()
        )
        for side in ("generator", "discriminator")
    }
    assert min(touched.values()) > 5
    real = gan.duel
    # one side's loss alone leaves the other side alone
    for kept, other in ((0, "discriminator"), (1, "generator")):
        monkeypatch.setattr(
            gan,
            "duel",
            lambda *args, kept=kept: tuple(
                x if i == kept else x * 0 for i, x in enumerate(real(*args))
            ),
        )
        match = gan.Match(recipe(*overrides, "orthogonal=0", "path_length=0")).train()
        gan.gan(recipe(*overrides, "orthogonal=0", "path_length=0")).loss(
            match, batch(made.side)
        ).backward()
        assert not any(
            p.grad is not None and p.grad.any() for p in getattr(match, other).parameters()
        )


def test_path_length_by_hand() -> None:
    """A synthesis that adds w's first channel to every pixel: J^T y is the sum of y in that
    channel, a standard normal."""
    ws = torch.zeros(4000, 2, 3, requires_grad=True)
    images = ws[:, 0, 0, None, None, None].expand(-1, 1, 4, 4) * torch.ones(1, 1, 4, 4)
    torch.manual_seed(0)
    lengths = gan.path_length(None, ws, images)  # type: ignore[arg-type]
    # of two layers, one moves the picture, by a unit normal
    assert lengths.square().mean().item() == pytest.approx(0.5, rel=0.1)


def test_augmentation_is_as_frequent_as_its_chance_and_differentiable() -> None:
    x = torch.randn(400, 1, 8, 8)
    assert torch.equal(gan.augmented(x, 0.0), x)
    changed = (gan.augmented(x, 0.2) != x).flatten(1).any(1).float().mean()
    assert 0.5 < changed < 0.8  # 1 - 0.8^5 = 0.67
    x.requires_grad_()
    gan.augmented(x, 1.0).sum().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all()


def test_augmentation_follows_the_critics_confidence() -> None:
    sure, unsure = torch.ones(8), torch.tensor([1.0, -1.0])
    assert gan.adapted(torch.tensor(0.5), sure, 0.6, 500).item() == pytest.approx(0.501)
    assert gan.adapted(torch.tensor(0.0), unsure, 0.6, 500).item() == 0


def test_classes_are_words_of_the_caption() -> None:
    batches = gan.LabelledBatches([(Scenes(32), 1.0)], ["circle", "star"], 12, seed=0)
    first = next(iter(batches))
    again = next(iter(gan.LabelledBatches([(Scenes(32), 1.0)], ["circle", "star"], 12, seed=0)))
    assert torch.equal(first["images"], again["images"]) and set(first["labels"].tolist()) == {0, 1}
    with pytest.raises(DaedalError, match="class-conditional: give classes"):
        recipe("kind=biggan")


def test_a_killed_run_goes_on_to_the_same_losses(tmp_path: Path) -> None:
    options = [*STYLE, "steps=4", "checkpoint_every=2", "sample_every=100", "augment_target=0.6"]
    run(recipe(*options, f"out={tmp_path / 'whole'}"))
    run(recipe(*options, f"out={tmp_path / 'part'}"))
    (tmp_path / "part" / "checkpoints" / "step-00000004.pt").unlink()
    out = run(recipe(*options, f"out={tmp_path / 'part'}"))
    losses = [
        [
            json.loads(line)["loss"]
            for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        ]
        for name in ("whole", "part")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 4
    assert isinstance(checkpoints.load(out), StyleGAN2Generator)


def test_a_biggan_runs(tmp_path: Path) -> None:
    assert isinstance(
        checkpoints.load(run(recipe(*BIG, "steps=2", f"out={tmp_path}"))), BigGANGenerator
    )
    assert list((tmp_path / "samples").glob("*.png"))


TWO = """
import os, sys, torch
from daedal.train import gan
from daedal.train.tasks import load_recipe, run

kept, build = [], gan.Match
gan.Match = lambda recipe: kept.append(build(recipe)) or kept[-1]
run(load_recipe("recipes/image/gan.yaml", sys.argv[2:]))
torch.save(dict(kept[0].state_dict()), f"{sys.argv[1]}/{os.environ['RANK']}.pt")
"""


def test_two_processes_keep_one_model_and_one_set_of_averages(tmp_path: Path) -> None:
    """Each sees its own pictures and draws its own z, so that without a mean over both their
    averages would part."""
    options, script = [*STYLE, "path_length=2.0", "augment_target=0.6"], tmp_path / "two.py"
    script.write_text(TWO)
    run = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(script),
        str(tmp_path),
        *options,
    ]
    more = ["steps=3", "micro_rows=1", "device=cpu", "sample_every=100", f"out={tmp_path / 'out'}"]
    done = subprocess.run(
        [*run, *more],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    before = gan.Match(recipe(*options)).state_dict()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    for kind in ("w_avg", "path", "augment"):
        assert all(
            not torch.equal(tensor, before[name])
            for name, tensor in first.items()
            if name.endswith(kind)
        ), kind


def test_what_moves_with_the_samples_is_kept_alike() -> None:
    """All buffers but constants, and the power iterations of BigGAN, which follow from the weights."""
    for options in (STYLE, FREE, BIG):
        names = {name.rpartition(".")[2] for name, _ in gan.Match(recipe(*options)).named_buffers()}
        assert names - set(gan.RUNNING) <= {
            "noise_const",
            "transform",
            "phases",
            "freqs",
            "u0",
            "sv0",
        }
