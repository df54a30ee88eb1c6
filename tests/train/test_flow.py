import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from daedal import checkpoints
from daedal.checkpoints import resolve
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.networks.autoencoder import AutoencoderKL, AutoencoderKLConfig
from daedal.networks.media import MediaConfig, MediaTransformer
from daedal.networks.media_codecs import grid_positions, patchify, unpatchify
from daedal.pipelines.registry import load
from daedal.train import checkpoint, flow, parallel, terms
from daedal.train.recipe.flow import FlowRecipe
from daedal.train.tasks import load_recipe, plan, run
from daedal.train.trainer import Batch

WORDS = Tokenizer.load(resolve("house/image"))
SMALL = [
    "model.depth=2",
    "model.options={hidden_size: 64, patch_size: 16, text_layers: 1, text_length: 12}",
    "rows=8",
    "micro_rows=8",
    "data.captions=200",
]


def recipe(out: Path, *overrides: str) -> FlowRecipe:
    return load_recipe(
        "recipes/image/tiny.yaml",
        [*SMALL, f"out={out}", "sample_steps=2", "evaluate_pictures=1", *overrides],
    )


def test_an_exact_denoiser_has_no_loss_and_given_tokens_cost_nothing(tmp_path: Path) -> None:
    """A stand-in that knows the clean picture: the velocity error is zero, whatever the levels; one
    that is off by a constant is charged constant^2 / t^2 for free tokens only."""
    made = recipe(tmp_path, "given=1.0", "uniform=1.0")
    images = torch.randint(256, (64, 3, 64, 64), dtype=torch.uint8)
    seen: list[torch.Tensor] = []

    class Exact:
        config = MediaConfig(token_size=768, patch_size=16)

        def __init__(self, off: float) -> None:
            self.off, self.codec = off, MediaTransformer(self.config).codec

        def encode_text(self, tokens: torch.Tensor) -> None:
            return None

        def __call__(self, x, positions, level, text, control, states):
            seen.append(level)
            return patchify(images.float() / 127.5 - 1, 16) + self.off

    objective, batch = (
        flow.flow_loss(made, WORDS),
        {"images": images, "captions": torch.zeros(64, 12, dtype=torch.int64)},
    )
    assert objective.loss(Exact(0.0), batch).item() == pytest.approx(0, abs=1e-2)
    loss, level = objective.loss(Exact(0.1), batch).item(), seen[-1]
    free = level > 0
    assert 0.1 < free.float().mean() < 0.9
    assert loss == pytest.approx(
        float((0.01 / level.clamp(min=terms.FLAT) ** 2 * free).sum() * 768), rel=1e-3
    )


def test_micro_batches_and_whole_batches_count_alike(tmp_path: Path) -> None:
    objective = flow.flow_loss(recipe(tmp_path), WORDS)
    batch: Batch = {
        "images": torch.zeros(6, 3, 64, 64),
        "captions": torch.zeros(6, 12, dtype=torch.int64),
    }
    assert objective.count(batch) == 6 * 3 * 64 * 64


def test_given_rectangles() -> None:
    torch.manual_seed(0)
    mask = flow.given_tokens(400, 8, 0.5)
    some = mask.any(1).float().mean()
    assert mask.shape == (400, 64) and 0.3 < some < 0.55
    assert not flow.given_tokens(50, 8, 0.0).any()


@pytest.mark.dtype
def test_a_killed_run_goes_on_to_the_same_losses(tmp_path: Path) -> None:
    run(
        recipe(
            tmp_path / "whole",
            "steps=6",
            "checkpoint_every=3",
            "evaluate_every=100",
            "sample_every=100",
        )
    )
    part = tmp_path / "part"
    run(recipe(part, "steps=6", "checkpoint_every=3", "evaluate_every=100", "sample_every=100"))
    (part / "checkpoints" / "step-00000006.pt").unlink()  # as if killed after step 5
    run(recipe(part, "steps=6", "checkpoint_every=3", "evaluate_every=100", "sample_every=100"))
    losses = [
        [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (tmp_path / "whole", part)
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 6
    assert (
        isinstance(checkpoints.load(part / "model"), MediaTransformer)
        and (part / "samples").is_dir()
    )


def test_each_process_goes_on_with_its_own_noise(tmp_path: Path) -> None:
    """Two processes stopped after step 2 have the losses of two that were not."""
    quick = [
        "steps=4",
        "checkpoint_every=2",
        "evaluate_every=100",
        "sample_every=100",
        "sample_steps=1",
    ]
    settings = [*SMALL, *quick, "micro_rows=4", "evaluate_pictures=1", f"out={tmp_path}"]
    run = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "daedal",
        "train",
    ]
    losses = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, *run, "recipes/image/tiny.yaml", *settings],
            env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        found = (tmp_path / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in found])
        state = checkpoint.newest(tmp_path / "checkpoints")
        assert state and not torch.equal(*(each["cpu"] for each in state["rng"]))
        (tmp_path / "checkpoints" / "step-00000004.pt").unlink()
    assert losses[0] == losses[1] and len(losses[0]) == 4


def test_a_process_that_joins_draws_noise_of_its_own() -> None:
    states, cpu = [{"cpu": torch.get_rng_state()}], torch.device("cpu")
    draws = []
    for rank in range(3):
        parallel.restore_random_state(states, cpu, rank, seed=5)
        draws.append(torch.randn(4))
    assert len({tuple(draw.tolist()) for draw in draws}) == 3
    parallel.restore_random_state(states, cpu, 0, seed=5)
    assert torch.equal(torch.randn(4), draws[0])


def test_a_trained_model_gains_a_control_input(tmp_path: Path) -> None:
    start = run(recipe(tmp_path / "start", "steps=1"))
    overrides = [
        f"out={tmp_path / 'control'}",
        f"model.start={start}",
        "model.options={control_size: 256}",
        "steps=2",
        "rows=4",
        "micro_rows=4",
    ]
    grown = checkpoints.load(
        run(load_recipe("recipes/image/control.yaml", [*overrides, "evaluate_pictures=1"]))
    )
    assert grown.config.control_size == 256 and grown.control_in.weight.abs().max() > 0


def test_a_trained_model_gains_a_sketch_which_the_text_alone_learns(tmp_path: Path) -> None:
    """Grown, it paints as before; then one prompt's small picture is told by the text, whatever the
    noise, and the tokens see it."""
    start = run(recipe(tmp_path / "start", "steps=1"))
    made = recipe(tmp_path / "grown", f"model.start={start}", "model.options={sketch: 8}")
    before, network = checkpoints.load(start, dtype=torch.float32), flow.network_of(made, 0)
    x, positions, level, words = (
        torch.randn(2, 16, 768),
        grid_positions(64, 64, 16),
        torch.rand(2, 1),
        torch.tensor([[5] * 12, [7] * 12]),
    )
    assert torch.equal(
        before(x, positions, level, before.encode_text(words)),
        network(x, positions, level, network.encode_text(words)),
    )
    halves = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    halves[0, :, :32], halves[1, :, :, 32:] = 255, 255
    objective, optimizer = flow.flow_loss(made, WORDS), torch.optim.Adam(network.parameters(), 2e-3)
    for _ in range(60):
        optimizer.zero_grad()
        (objective.loss(network, {"images": halves, "captions": words}) / halves.numel()).backward()
        optimizer.step()
    told = network.sketch(network.encode_text(words).pooled)
    small = torch.nn.functional.interpolate(halves / 127.5 - 1, size=(8, 8), mode="area")
    assert (told - small).square().mean() < 0.05 < (told[[1, 0]] - small).square().mean()
    assert network.sketch.proj_out.weight.abs().max() > 0


def test_a_start_of_another_size_is_an_error(tmp_path: Path) -> None:
    start = run(recipe(tmp_path / "start", "steps=1"))
    with pytest.raises(
        DaedalError, match=r"has text.layers.0.mlp.gate_proj.weight of .192, 64. and not .20, 64."
    ):
        flow.network_of(
            recipe(tmp_path, f"model.start={start}", "model.options={intermediate_size: 20}"), 0
        )
    longer = recipe(tmp_path, f"model.start={start}", "model.options={text_length: 20}")
    places, had = (n.text.position for n in (flow.network_of(longer, 0), flow.started(longer)))
    assert torch.equal(places[:12], had) and torch.equal(places[19], had[11])


def test_a_wrong_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(DaedalError, match=r"unknown key 'time_men'.*time_mean"):
        recipe(tmp_path, "time_men=1")
    with pytest.raises(DaedalError, match=r"task 'flwo' is not one of.*flow"):
        recipe(tmp_path, "task=flwo")


def test_terms_of_the_flow_loss_are_no_terms_of_others() -> None:
    with pytest.raises(
        DaedalError, match=r"are terms of task: flow; task: distill has a loss of its own"
    ):
        load_recipe("recipes/image/distill.yaml", ["uncertainty=true"])


def test_a_plan_counts_the_model_that_it_starts_from(tmp_path: Path) -> None:
    from daedal import checkpoints

    network = MediaTransformer(
        MediaConfig(
            hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=96
        )
    ).init_weights(0)
    checkpoints.save(network, tmp_path)
    counted = plan(load_recipe("recipes/image/meanflow.yaml", [f"model.start={tmp_path}"]))[
        "parameters"
    ]
    assert counted == network.parameter_count() + 256 * 64  # the input of spans


# ---- in latents ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from daedal import checkpoints

    shape = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (8, 8),
    }
    options = {
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "latent_channels": 5,
        "latents_mean": (0.1,) * 5,
        "latents_std": (2.0,) * 5,
    }
    folder = tmp_path_factory.mktemp("codec") / "codec"
    checkpoints.save(AutoencoderKL(AutoencoderKLConfig(**shape, **options)).init_weights(3), folder)
    return folder


def test_a_model_of_latents_carries_its_codec_untouched_and_paints_through_it(
    tmp_path: Path, codec: Path
) -> None:
    """Half-size latents of five channels, patches of eight cells: tokens of 16 pixels. A folder of
    its own, that resumes and paints."""
    options = "model.options={hidden_size: 64, patch_size: 8, text_layers: 1, text_length: 12, control_size: 256}"
    folder = run(recipe(tmp_path, options, f"model.codec={codec}", "steps=3", "checkpoint_every=2"))
    network, before = checkpoints.load(folder), checkpoints.load(codec)
    assert (network.codec.side, network.config.token_size) == (16, 5 * 64)
    assert all(
        torch.equal(p, before.get_parameter(name))
        for name, p in network.codec.autoencoder.named_parameters()
    )
    image = torch.rand(2, 3, 64, 64) * 2 - 1
    cells = before.encode(image)
    assert torch.equal(unpatchify(network.codec.encode(image), 8, 32, 32), cells)
    assert torch.equal(
        network.codec.decode(network.codec.encode(image), 64, 64), before.decode(cells)
    )
    assert torch.equal(network.codec.positions(64, 64), grid_positions(64, 64, 16))
    picture = load(str(folder))("a red square", seed=1, steps=2)
    assert picture.pixels.shape == (64, 64, 3)
    mask = np.zeros((64, 64), bool)
    mask[:, 32:] = True
    mended = load(str(folder))("a red square", seed=1, steps=2, init=picture.pixels, mask=mask)
    assert np.array_equal(mended.pixels[:, :32], picture.pixels[:, :32])


def test_a_model_of_latents_goes_on_training_from_its_folder(tmp_path: Path, codec: Path) -> None:
    options = "model.options={hidden_size: 64, patch_size: 8, text_layers: 1, text_length: 12}"
    start = run(recipe(tmp_path / "a", options, f"model.codec={codec}", "steps=1"))
    again = run(
        load_recipe(
            "recipes/image/tiny.yaml",
            [
                f"out={tmp_path / 'b'}",
                f"model.start={start}",
                "model.options={}",
                "steps=1",
                "rows=4",
                "micro_rows=4",
                "evaluate_pictures=1",
            ],
        )
    )
    network = checkpoints.load(again)
    assert all(
        torch.equal(p, checkpoints.load(codec).get_parameter(name))
        for name, p in network.codec.autoencoder.named_parameters()
    )


def test_a_codec_that_is_none_is_an_error(tmp_path: Path) -> None:
    start = run(recipe(tmp_path / "a", "steps=1"))
    with pytest.raises(
        DaedalError, match=r"holds a MediaTransformer; give the folder of an AutoencoderKL"
    ):
        plan(recipe(tmp_path / "b", f"model.codec={start}"))
