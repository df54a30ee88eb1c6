"""Training on clips: the batches, the loss and its givens, and a run that goes on."""

import json
from pathlib import Path

import pytest
import torch

from daedal import checkpoints
from daedal.checkpoints import resolve
from daedal.data.clips import ClipBatches, Moving
from daedal.data.pictures import Scenes
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.train import terms, video
from daedal.train.tasks import load_recipe, run

WORDS = Tokenizer.load(resolve("house/image"))
SMALL = [
    "model={depth: 2, options: {hidden_size: 32, num_attention_heads: 2, patch_size: 16, text_layers: 1, text_length: 12, axes: 3, time_layers: 1, frames: 4, sketch: 4}}",
    "rows=4", "micro_rows=4", "data.captions=100", "vocab_size=300", "sample_steps=1", "evaluate_pictures=1", "prompts=[a red circle moves right]",
]  # fmt: skip


def recipe(out: Path, *overrides: str):
    return load_recipe("recipes/video/motion.yaml", [*SMALL, f"out={out}", *overrides])


def test_batches_are_of_one_kind_and_a_function_of_their_step() -> None:
    some = [(Moving(32), 1.0), (Scenes(32), 1.0)]
    how = {"stills": 0.5, "shapes": ((16, 8.0, 0.6), (4, 2.0, 0.4))}
    batches = [ClipBatches(some, WORDS, 3, 16, 5, **how).batch(step) for step in range(1, 30)]
    kinds = {(b["clips"].shape[1], float(b["rate"][0])) for b in batches}
    assert kinds == {(1, 1.0), (16, 8.0), (4, 2.0)}
    again = ClipBatches(some, WORDS, 3, 16, 5, **how, step=11)
    assert torch.equal(next(iter(again))["clips"], batches[11]["clips"])
    with pytest.raises(DaedalError, match="has no clips"):
        ClipBatches(some[1:], WORDS, 3, 16, 5)
    with pytest.raises(DaedalError, match=r"motion:alon is not a kind of clip.*did you mean"):
        Moving(32, "alon")


def test_given_tokens_are_whole_moments_or_a_part_of_each() -> None:
    torch.manual_seed(0)
    given = video.given_moments(200, 6, 3).unflatten(1, (6, 9))
    whole = given.all(2)
    kinds = [
        tuple(row.tolist())
        for row, part in zip(whole, given.any(2), strict=True)
        if torch.equal(row, part)
    ]
    first = (True, *(False,) * 5)
    assert {first, (*first[:5], True), (True, True, *(False,) * 4)} <= set(kinds)
    assert all(kind[0] for kind in kinds if any(kind)) and len(kinds) > 120


def test_what_is_given_costs_nothing(tmp_path: Path) -> None:
    """A stand-in that is off by a constant is charged for what is not given."""
    made, seen = recipe(tmp_path, "given=1.0", "uniform=1.0"), []
    batch = ClipBatches([(Moving(64), 1.0)], WORDS, 8, 12, 0).batch(1)

    class Exact:
        config, sketch = video.outline(made).config, None

        def __init__(self) -> None:
            self.codec = video.outline(made).codec

        def encode_text(self, tokens):
            return None

        def __call__(self, x, positions, level, text):
            seen.append(level)
            return self.codec.encode(batch["clips"].float() / 127.5 - 1) + 0.1

    loss = video.clip_loss(made).loss(Exact(), batch).item()
    level = seen[-1]
    assert 0.02 < (level == 0).float().mean() < 0.9
    wanted = (0.01 / level.clamp(min=terms.FLAT) ** 2 * (level > 0)).sum() * 768
    assert loss == pytest.approx(float(wanted), rel=1e-3)


def test_a_run_goes_on_where_it_stopped_and_its_model_has_time(tmp_path: Path) -> None:
    often = ["steps=4", "checkpoint_every=2", "evaluate_every=100", "sample_every=4"]
    whole, part = tmp_path / "whole", tmp_path / "part"
    run(recipe(whole, *often))
    run(recipe(part, *often))
    (part / "checkpoints" / "step-00000004.pt").unlink()
    run(recipe(part, *often))
    losses = [
        [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (whole, part)
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 4
    network = checkpoints.load(whole / "model")
    assert network.config.time_layers == 1 and len(network.time_layers) == 1
    assert list((whole / "samples").glob("*.png"))


def test_a_recipe_without_time_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DaedalError, match=r"give model\.options\.time_layers"):
        recipe(tmp_path, "model.options={axes: 3}")
