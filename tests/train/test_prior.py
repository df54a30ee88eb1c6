"""The prior over codes: its loss by hand, sampling that only says codes, and runs that resume."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from daedal import checkpoints
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.networks import build, config_from_dict
from daedal.networks.autoencoder import AutoencoderKL, AutoencoderKLConfig
from daedal.networks.decoder import Decoder
from daedal.networks.vq import VQModel, VQModelConfig
from daedal.pipelines import image
from daedal.processes.imaging import pixels
from daedal.processes.sampling import SamplingParams
from daedal.systems.vq_prior import encode, paint_codes, sample_codes, with_start
from daedal.train import prior
from daedal.train.recipe.base import ModelRecipe
from daedal.train.recipe.pictures import PriorRecipe
from daedal.train.tasks import load_recipe, plan, run

CODES = 16
SHAPE = dict(
    block_out_channels=(8, 8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, norm_num_groups=4,
    mid_block_add_attention=False, sample_size=32, latent_channels=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("codec")
    vq = VQModel(VQModelConfig(**SHAPE, num_vq_embeddings=CODES)).init_weights(0)
    vq.quantize.embedding.weight.data.normal_(0, 0.3)
    checkpoints.save(vq, folder)
    return folder


def recipe(out: Path, codec: Path, *overrides: str) -> PriorRecipe:
    quick = [
        "model={depth: 2, options: {hidden_size: 64}}", "vocab_size=300", "text_length=8", "rows=8", "micro_rows=8", "ema=null", "steps=6",
        "checkpoint_every=3", "evaluate_every=100", "sample_every=100", "optimizer.warmup=2", "evaluate_pictures=4", "prompts=[a red circle]",
        "data={train: [{path: scenes}], validation: [{path: scenes}], captions: 200}",
    ]  # fmt: skip
    return load_recipe(
        "recipes/image/prior.yaml", [*quick, f"codec={codec}", f"out={out}", *overrides]
    )


def decoder(seed: int = 0) -> Decoder:
    network = build(
        config_from_dict(
            ModelRecipe(depth=2, context=32, options={"hidden_size": 64}).config(40 + CODES, 0, 0)
        )
    ).init_weights(0)
    torch.manual_seed(seed)
    for p in network.parameters():
        p.data += 0.2 * torch.randn(p.shape)
    return network.eval()


def test_loss_by_hand() -> None:
    """The mean over codes of -log p(code | caption, codes before), where only codes compete; text
    has no loss and its outputs no gradient."""
    network, prompts, codes = (
        decoder(),
        with_start(torch.randint(40, (3, 5)), eos=0),
        torch.randint(CODES, (3, 4)),
    )
    loss = prior.code_loss(network, prompts, codes, CODES)
    expected = torch.zeros(())
    for row in range(3):
        for i in range(4):
            before = torch.cat([prompts[row], codes[row, :i] + 40])[None]
            expected = expected - network(before)[0, -1, 40:].log_softmax(-1)[codes[row, i]]
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
    loss.backward()
    assert (
        network.lm_head.weight.grad[:40].abs().max()
        == 0
        < network.lm_head.weight.grad[40:].abs().max()
    )


def test_an_untrained_prior_knows_nothing(tmp_path: Path, codec: Path) -> None:
    vq = prior.codec_of(recipe(tmp_path, codec))
    network = build(
        config_from_dict(ModelRecipe(depth=2, context=32).config(40 + CODES, 0, 0))
    ).init_weights(0)
    objective = prior.next_code(vq, 0, 16)
    batch = {
        "images": torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8),
        "captions": torch.zeros(3, 5, dtype=torch.long),
    }
    assert objective.loss(network, batch).item() / objective.count(batch) == pytest.approx(
        math.log(CODES), rel=1e-5
    )
    assert torch.equal(
        prior.tokens_of(vq, batch["images"]),
        vq.tokens(batch["images"].float() / 127.5 - 1).flatten(1),
    )


def test_only_codes_are_said() -> None:
    """Greedy sampling says the likeliest code each time, however likely a word is; a seed says the
    same again; guidance 1 changes nothing."""
    network, prompts, nothing = (
        decoder(),
        with_start(torch.randint(40, (2, 5)), eos=0),
        torch.zeros(6, dtype=torch.long),
    )
    network.lm_head.weight.data[:40] *= 9
    greedy = sample_codes(network, CODES, prompts, nothing, (2, 3), SamplingParams(temperature=0))
    for prompt, codes in zip(prompts, greedy.flatten(1), strict=True):
        for i, code in enumerate(codes):
            before = torch.cat([prompt, codes[:i] + 40])[None]
            assert network(before)[0, -1, 40:].argmax() == code
    params = SamplingParams(seed=3)
    drawn = [
        sample_codes(network, CODES, prompts, nothing, (2, 3), params, scale)
        for scale in (1, 1 + 1e-9, 4)
    ]
    assert (
        torch.equal(drawn[0], drawn[1])
        and drawn[0].min() >= 0
        and drawn[0].max() < CODES
        and drawn[2].shape == (2, 2, 3)
    )
    assert torch.equal(drawn[2], sample_codes(network, CODES, prompts, nothing, (2, 3), params, 4))


def test_guided_draws_follow_guided_probabilities() -> None:
    """The first code of 300 draws against softmax((1 - s) log p0 + s log p)."""
    network, prompts, nothing = (
        decoder(1),
        with_start(torch.randint(40, (1, 5)), eos=0),
        torch.zeros(6, dtype=torch.long),
    )
    with torch.no_grad():
        p, p0 = (network(ids)[0, -1, 40:].log_softmax(-1) for ids in (prompts, nothing[None]))
    expected = (p0 + 2 * (p - p0)).softmax(-1)
    drawn = sample_codes(
        network, CODES, prompts.repeat(300, 1), nothing, (1, 1), SamplingParams(seed=0), 2.0
    )
    share = torch.bincount(drawn.flatten(), minlength=CODES) / 300
    assert (share - expected).abs().max() < 4 * (0.25 / 300) ** 0.5


def test_a_killed_run_goes_on_to_the_same_losses(tmp_path: Path, codec: Path) -> None:
    runs = tmp_path / "whole", tmp_path / "part"
    for out in runs:
        run(recipe(out, codec))
    (runs[1] / "checkpoints" / "step-00000006.pt").unlink()  # as if killed after step 5
    folder = run(recipe(runs[1], codec))
    losses = [
        [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]
        for out in runs
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 6 and losses[0][-1] < losses[0][0]
    found = json.loads((runs[0] / "evaluations.jsonl").read_text().splitlines()[-1])
    assert (
        0 < found["bits_per_code"] < 6
        and 0 < found["bits_without_caption"] < 6
        and list((runs[0] / "samples").iterdir())
    )
    network, vq, tokenizer = (
        checkpoints.load(folder),
        checkpoints.load(folder / "codec"),
        Tokenizer.load(folder),
    )
    settings = json.loads((folder / "picture.json").read_text())
    asked = encode(tokenizer, ["a red circle", ""], settings["text_length"])
    made = paint_codes(
        network, vq, asked[:1], asked[1], 32, SamplingParams(seed=1), settings["guidance_scale"]
    )  # type: ignore[arg-type]
    assert made.shape == (1, 3, 32, 32) and torch.isfinite(made).all()
    pipeline = image.load(folder, device="cpu")
    first, second = pipeline("a red circle", seed=1, n=2)  # as `daedal image --model` does
    assert np.array_equal(first.pixels, pixels(made)[0]) and np.array_equal(
        second.pixels, pipeline("a red circle", seed=2).pixels
    )
    with pytest.raises(DaedalError, match="pictures of 32x32 out of nothing"):
        pipeline("a red circle", width=64)


def test_another_codec_is_refused_and_a_plan_counts(tmp_path: Path, codec: Path) -> None:
    kl = AutoencoderKL(AutoencoderKLConfig(**SHAPE)).init_weights(0)
    checkpoints.save(kl, tmp_path / "kl")
    with pytest.raises(DaedalError, match="is no VQModel but AutoencoderKL"):
        run(recipe(tmp_path / "out", tmp_path / "kl"))
    planned = plan(recipe(tmp_path, codec))
    assert (
        planned["parameters"] > 1e5 and planned["units"] == "48 pictures" and planned["flops"] > 1e8
    )
