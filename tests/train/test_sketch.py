"""The text encoder taught alone: it learns to tell small pictures, the blocks stay as they are, and
flow matching goes on from there."""

import json
from pathlib import Path

import pytest
import torch

from daedal import checkpoints
from daedal.errors import DaedalError
from daedal.train.flow import Flow
from daedal.train.tasks import load_recipe, plan, run

SHAPE = (
    "model.options={hidden_size: 64, patch_size: 16, text_layers: 1, text_length: 12, sketch: 8}"
)
QUICK = [
    "rows=16",
    "micro_rows=16",
    "sample_steps=1",
    "evaluate_pictures=1",
    "data.captions=200",
    'prompts=["a red square"]',
]


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_names_are_learnt_and_the_blocks_untouched(tmp_path: Path) -> None:
    start = run(
        load_recipe(
            "recipes/image/tiny.yaml",
            [f"out={tmp_path / 'start'}", "model.depth=2", SHAPE, "steps=1", *QUICK],
        )
    )
    overrides = [
        f"model.start={start}",
        "model.options={sketch: 8}",
        "data.train=[{path: scenes}]",
        "additive=0",
        "steps=40",
        "checkpoint_every=20",
        "sample_every=20",
        *QUICK,
    ]
    recipe = load_recipe("recipes/image/sketch.yaml", [f"out={tmp_path / 'run'}", *overrides])
    before, after = checkpoints.load(start), checkpoints.load(run(recipe))
    changed = {
        name
        for name, p in after.named_parameters()
        if not torch.equal(p, before.get_parameter(name))
    }
    assert changed == {
        name for name, _ in before.named_parameters() if name.startswith(("text.", "sketch."))
    } - {"sketch.proj_out.weight"}
    line = losses(tmp_path / "run")
    assert sum(line[-5:]) < 0.8 * sum(line[:5])
    assert len(list((tmp_path / "run" / "samples").glob("*.png"))) == 2
    counted = plan(recipe)
    assert counted["flops"] < 0.3 * Flow(recipe).plan()["flops"]


def test_a_model_without_a_sketch_is_an_error(tmp_path: Path) -> None:
    start = run(
        load_recipe(
            "recipes/image/tiny.yaml",
            [
                f"out={tmp_path / 'start'}",
                "model.depth=2",
                SHAPE.replace("8}", "0}"),
                "steps=1",
                *QUICK,
            ],
        )
    )
    with pytest.raises(DaedalError, match="A sketch is trained of a model that has one"):
        run(
            load_recipe(
                "recipes/image/sketch.yaml",
                [f"out={tmp_path / 'run'}", f"model.start={start}", "model.options={}"],
            )
        )
