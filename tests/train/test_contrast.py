"""Contrastive training: the loss by hand, ends of text, processes that change nothing, runs that
resume, and a folder transformers opens."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import transformers

from daedal import checkpoints
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.networks.clip import CLIPModel
from daedal.train import contrast
from daedal.train.recipe.pictures import ContrastRecipe
from daedal.train.tasks import load_recipe, plan, run

QUICK = [
    "model={side: 32, depth: 1, width: 64, text_length: 12}", "data={train: [{path: scenes}], validation: [{path: scenes}], captions: 200}",
    "vocab_size=300", "rows=8", "micro_rows=8", "ema=null", "evaluate_pictures=6", "optimizer.warmup=2", "steps=6", "checkpoint_every=3",
    "evaluate_every=100", "optimizer.matrix_lr=0.005",
]  # fmt: skip


def recipe(out: Path, *overrides: str) -> ContrastRecipe:
    return load_recipe("recipes/image/clip.yaml", [*QUICK, f"out={out}", *overrides])


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_loss_by_hand() -> None:
    """Two orthogonal pairs at scale ln 3: each is right with odds 3 to 1. Swapped captions: 1 to 3."""
    pictures, scale = torch.eye(2), torch.tensor(math.log(3))
    assert contrast.contrastive(pictures, torch.eye(2), scale).item() == pytest.approx(
        2 * math.log(4 / 3), rel=1e-6
    )
    assert contrast.contrastive(pictures, torch.eye(2).flip(0), scale).item() == pytest.approx(
        2 * math.log(4), rel=1e-6
    )
    # all pictures alike: chance for them, and for texts
    one = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert contrast.contrastive(one, torch.eye(2), scale).item() == pytest.approx(
        (math.log(4 / 3) + math.log(4) + 2 * math.log(2)) / 2, rel=1e-6
    )


def test_pictures_move_a_little() -> None:
    """By nothing: as they were. By up to a fifth: a bright square comes back whole, somewhere near,
    on its own paper."""
    torch.manual_seed(0)
    images = torch.full((32, 3, 32, 32), -0.5)
    images[:, :, 12:20, 12:20] = 1.0
    torch.testing.assert_close(contrast.moved(images, 0.0), images, rtol=0, atol=1e-5)
    moved = contrast.moved(images, 0.2)
    torch.testing.assert_close(
        moved[:, :, [0, 0, -1, -1], [0, -1, 0, -1]], torch.full((32, 3, 4), -0.5)
    )
    light = (moved[:, 0] + 0.5) / 1.5  # (B, H, W)
    assert (light.sum((1, 2)) > 64 / 1.25**2).all() and (light.sum((1, 2)) < 64 / 0.75**2).all()
    rows = (light.sum(2) * torch.arange(32)).sum(1) / light.sum((1, 2)) - 15.5
    assert rows.abs().max() < 0.2 * 32 / 0.75 and rows.std() > 1


def test_an_end_stands_behind_the_last_word() -> None:
    captions = torch.tensor([[5, 6, 1, 1], [5, 6, 7, 8], [1, 1, 1, 1]])
    assert contrast.ended(captions, pad=1, eos=0).tolist() == [
        [5, 6, 0, 1, 1],
        [5, 6, 7, 8, 0],
        [0, 1, 1, 1, 1],
    ]


def test_the_scale_is_bounded(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(["a red circle"], 300, ["<|end|>", "<|pad|>"], pad="<|pad|>")
    network = contrast.Towers(contrast.network_of(recipe(tmp_path), tokenizer))
    network.clip.logit_scale.data.fill_(9.0)
    batch = {
        "images": torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8),
        "captions": torch.randint(2, 250, (4, 11)),
    }
    loss = contrast.contrast().loss(network, batch)
    assert network.clip.scale.item() == pytest.approx(100, rel=1e-5)
    pictures, texts = network.embed(contrast.clean(batch["images"]), batch["captions"])
    logits = 100 * pictures @ texts.mT
    expected = (
        F.cross_entropy(logits, torch.arange(4)) + F.cross_entropy(logits.mT, torch.arange(4))
    ) * 2
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)


def test_two_processes_compute_what_one_does(tmp_path: Path) -> None:
    """The same losses over steps means the same gradients too: negatives cross processes, and so do
    their gradients. (Each process moves its pictures its own way, so here they stay.)"""
    alike = ["jitter=0", "dtype=fp32"]
    run(recipe(tmp_path / "one", *alike))
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "daedal",
        "train",
        "recipes/image/clip.yaml",
    ]
    done = subprocess.run(
        [*torchrun, *QUICK, f"out={tmp_path / 'two'}", "micro_rows=4", *alike], env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    torch.testing.assert_close(
        torch.tensor(losses(tmp_path / "two")),
        torch.tensor(losses(tmp_path / "one")),
        rtol=2e-4,
        atol=0,
    )
    assert losses(tmp_path / "one")[0] == pytest.approx(math.log(8), abs=0.7)


@pytest.mark.dtype
def test_a_killed_run_goes_on_and_transformers_opens_the_end(tmp_path: Path) -> None:
    runs = tmp_path / "whole", tmp_path / "part"
    for out in runs:
        run(recipe(out))
    (runs[1] / "checkpoints" / "step-00000006.pt").unlink()  # as if killed after step 5
    folder = run(recipe(runs[1]))
    assert losses(runs[0]) == losses(runs[1]) and len(losses(runs[0])) == 6
    found = json.loads((runs[0] / "evaluations.jsonl").read_text().splitlines()[-1])
    assert found["among"] == 6 and 0 <= found["text_of_picture_r1"] <= 1
    ours, theirs, tokenizer = (
        checkpoints.load(folder),
        transformers.CLIPModel.from_pretrained(folder).eval(),
        Tokenizer.load(folder),
    )
    assert isinstance(ours, CLIPModel)
    tokens = contrast.ended(
        contrast.encode_captions(tokenizer, ["a red circle", "two blue stars above"], 11),
        tokenizer.pad_id,
        tokenizer.eos_ids[0],
    )
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(
            ours(images, tokens), theirs(tokens, images).logits_per_image, rtol=1e-4, atol=1e-4
        )
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    white = processor(torch.full((3, 32, 32), 255, dtype=torch.uint8), return_tensors="pt")[
        "pixel_values"
    ]
    assert white.shape == (1, 3, 32, 32) and white.min() == 1


def test_rows_that_do_not_see_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DaedalError, match="micro_rows=8"):
        run(recipe(tmp_path, "micro_rows=4"))
    with pytest.raises(DaedalError, match="parallel: ddp"):
        recipe(tmp_path, "parallel=fsdp", "ema=null")


def test_it_learns_and_finds(tmp_path: Path) -> None:
    run(recipe(tmp_path, "steps=80", "rows=16", "micro_rows=16", "checkpoint_every=100"))
    assert sum(losses(tmp_path)[-10:]) / 10 < sum(losses(tmp_path)[:10]) / 10 - 0.3


def test_plan() -> None:
    planned = plan(load_recipe("recipes/image/clip.yaml"))
    assert 1.5e6 < planned["parameters"] < 2.5e6 and planned["units"] == "409,600 pictures"
