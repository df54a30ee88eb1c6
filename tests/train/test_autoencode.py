"""Image codecs in training: terms by hand, both sides apart, codes that follow their vectors, and
runs that resume."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import diffusers
import pytest
import torch

from daedal import checkpoints
from daedal.errors import DaedalError
from daedal.networks.autoencoder import AutoencoderKL
from daedal.networks.vq import VQModel
from daedal.nn.codebook import FSQ
from daedal.train import autoencode, pictures
from daedal.train.recipe.pictures import AutoencodeRecipe
from daedal.train.tasks import load_recipe, plan, run
from daedal.train.trainer import Batch, Objective

QUICK = [
    "model.side=32", "data={train: [{path: scenes}], validation: [{path: scenes}]}", "rows=8", "micro_rows=8", "ema=null", "evaluate_pictures=4",
    "critic_width=8", "optimizer.warmup=2", "adversarial_from=3", "model.options.block_out_channels=[16, 16, 32]", "model.options.latent_channels=4",
]  # fmt: skip
KL = ["perceptual=0.1", "adversarial=0.05", "equivariance=0.25"]
VQ = ["model.options.num_vq_embeddings=32", "model.options.vq_embed_dim=4", "revive_every=2"]


def recipe(out: Path, kind: str = "kl", *overrides: str) -> AutoencodeRecipe:
    file, own = ("vq", VQ) if kind == "vq" else ("autoencoder", KL)
    every = ["steps=4", "checkpoint_every=2", "evaluate_every=100", "sample_every=100"]
    return load_recipe(
        f"recipes/image/{file}.yaml", [*QUICK, *own, *every, f"out={out}", *overrides]
    )


def batch(step: int = 1, rows: int = 4) -> Batch:
    return pictures.PlainBatches([(pictures.Scenes(32), 1.0)], rows, seed=0).batch(step)


def gradients(
    objective: Objective, network: autoencode.Autoencoding, part: Batch
) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    network.zero_grad()
    objective.loss(network, part).backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_each_side_learns_from_its_own_loss(tmp_path: Path, kind: str) -> None:
    """The critic's gradient is that of its own game, whatever the codec is charged; the codec feels
    the critic from its step on."""
    weights = ["perceptual=0", "equivariance=0"]
    torch.manual_seed(0)
    network = autoencode.network_of(recipe(tmp_path, kind, *weights)).train(False)
    quiet, loud = (
        autoencode.autoencoding(recipe(tmp_path, kind, *weights, f"adversarial={a}"))
        for a in (0, 0.5)
    )
    early, late, without = (
        gradients(loud, network, batch(2)),
        gradients(loud, network, batch(3)),
        gradients(quiet, network, batch(3)),
    )
    assert all(
        torch.equal(late[name], without[name]) for name in late if name.startswith("critic.")
    )
    assert not torch.equal(
        late["codec.decoder.conv_out.weight"], without["codec.decoder.conv_out.weight"]
    )
    assert torch.equal(
        early["codec.encoder.conv_in.weight"],
        gradients(quiet, network, batch(2))["codec.encoder.conv_in.weight"],
    )
    assert all(name in late for name, p in network.named_parameters() if p.requires_grad)


def test_no_critic_where_none_is_asked(tmp_path: Path) -> None:
    """The same gradient for the codec as beside a critic that it does not hear, at its error's own
    scale."""
    silent = ["perceptual=0", "adversarial=0"]
    alone, beside = (
        autoencode.network_of(recipe(tmp_path, "kl", *options)).train(False)
        for options in (silent, [])
    )
    assert alone.critic is None and beside.critic is not None
    objective = autoencode.autoencoding(recipe(tmp_path, "kl", *silent))
    found = [gradients(objective, network, batch(5)) for network in (alone, beside)]
    assert all(torch.equal(grad, found[1][name]) for name, grad in found[0].items()) and len(
        found[0]
    ) < len(found[1])


def test_squared_error_by_hand(tmp_path: Path) -> None:
    r = recipe(
        tmp_path, "kl", "perceptual=0", "adversarial=0", "equivariance=0", "kl=0", "error=l2"
    )
    network, part = autoencode.network_of(r), batch(1)
    torch.manual_seed(0)
    loss = autoencode.autoencoding(r).loss(network, part)
    torch.manual_seed(0)
    x = network.cast(part["images"])
    torch.testing.assert_close(loss, (x - network.codec(x)[0]).square().mean() * len(x))


def test_kl_terms_by_hand(tmp_path: Path) -> None:
    """A posterior of mean 2 and variance e^-1 diverges by (4 + e^-1 - 1 + 1) / 2; a decoder that
    enlarges its latent evenly is equivariant."""
    r = recipe(tmp_path, "kl", "kl=1", "equivariance=1")

    class Even:
        factor = 4

        def moments(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.full((len(x), 3, 8, 8), 2.0), torch.full((len(x), 3, 8, 8), -1.0)

        def _decode(self, z: torch.Tensor) -> torch.Tensor:
            return torch.full((len(z), 3, z.shape[2] * 4, z.shape[3] * 4), 0.5)

    class Network:
        codec = Even()

    made, extra = autoencode.kl_terms(r, Network(), torch.full((2, 3, 32, 32), 0.25), torch.ones(2))  # type: ignore[arg-type]
    assert made.shape == (2, 3, 32, 32)
    torch.testing.assert_close(extra, torch.full((2,), (4 + math.exp(-1)) / 2 + 0.25))


def test_micro_batches_count_alike(tmp_path: Path) -> None:
    r = recipe(tmp_path, "kl", "equivariance=0")
    network, objective, whole = autoencode.network_of(r), autoencode.autoencoding(r), batch(5, 4)
    noiseless = network.codec.encoder.conv_out
    # log variance: the draw does not matter
    noiseless.weight.data[4:], noiseless.bias.data[4:] = 0, -30
    network.codec.quant_conv.weight.data.copy_(torch.eye(8)[..., None, None])
    halves = [{key: value[i : i + 2] for key, value in whole.items()} for i in (0, 2)]
    torch.testing.assert_close(
        objective.loss(network, whole),
        sum(objective.loss(network, half) for half in halves),
        rtol=1e-4,
        atol=1e-4,
    )
    assert objective.count(whole) == 4


def test_codes_follow_their_vectors(tmp_path: Path) -> None:
    """After the first step every code has moved to where vectors are; no gradient ever reaches it."""
    r = recipe(tmp_path, "vq")
    network = autoencode.network_of(r)
    before = network.codec.quantize.embedding.weight.clone()
    autoencode.autoencoding(r).loss(network, batch(1)).backward()
    codes = network.codec.quantize.embedding.weight
    assert codes.grad is None and not torch.isclose(codes, before).all(1).any()
    with torch.no_grad():
        z = network.codec.vectors(network.cast(batch(1)["images"])).flatten(0, -2)
    near = torch.cdist(codes, z).amin(1)
    # revived codes are vectors of the batch; the others the mean of some
    assert (near < 1e-3).float().mean() > 0.4


def test_a_fixed_grid_stays(tmp_path: Path) -> None:
    folder = run(recipe(tmp_path, "vq", "model.fsq_levels=[4, 3]"))
    vq = checkpoints.load(folder)
    assert isinstance(vq, VQModel) and torch.equal(
        vq.quantize.embedding.weight, FSQ((4, 3)).lookup(torch.arange(12))
    )
    with pytest.raises(DaedalError, match="a kl autoencoder has none"):
        recipe(tmp_path, "kl", "model.fsq_levels=[4, 3]")


@pytest.mark.dtype
@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_a_killed_run_goes_on_to_the_same_losses(tmp_path: Path, kind: str) -> None:
    runs = tmp_path / "whole", tmp_path / "part"
    for out in runs:
        run(recipe(out, kind, "ema=0.9"))
    (runs[1] / "checkpoints" / "step-00000004.pt").unlink()  # as if killed after step 3
    run(recipe(runs[1], kind, "ema=0.9"))
    losses = [
        [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]
        for out in runs
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 4
    weights = [checkpoints.load(out / "model").state_dict() for out in runs]
    assert all(
        torch.equal(a, b) for a, b in zip(weights[0].values(), weights[1].values(), strict=True)
    )
    found = json.loads((runs[0] / "evaluations.jsonl").read_text().splitlines()[-1])
    assert (
        found["psnr"] > 3
        and ("codes_perplexity" in found) == (kind == "vq")
        and list((runs[0] / "samples").iterdir())
    )


def test_two_processes_keep_one_codebook(tmp_path: Path) -> None:
    """Codes move to the mean of all processes' vectors: the same losses as one process, and the
    same codebook."""
    options = [*QUICK, *VQ, "steps=4", "checkpoint_every=4", "dtype=fp32"]
    folder = run(load_recipe("recipes/image/vq.yaml", [*options, f"out={tmp_path / 'one'}"]))
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "daedal",
        "train",
        "recipes/image/vq.yaml",
    ]
    done = subprocess.run(
        [*torchrun, *options, f"out={tmp_path / 'two'}", "micro_rows=4"], env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    losses = [
        [
            json.loads(line)["loss"]
            for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        ]
        for name in ("one", "two")
    ]
    torch.testing.assert_close(torch.tensor(losses[1]), torch.tensor(losses[0]), rtol=2e-3, atol=0)
    books = [
        checkpoints.load(f).get_parameter("quantize.embedding.weight")
        for f in (folder, tmp_path / "two" / "model")
    ]
    torch.testing.assert_close(books[0], books[1], rtol=0, atol=1e-2)


def test_latents_are_normalised_and_diffusers_opens_them(tmp_path: Path) -> None:
    folder = run(recipe(tmp_path, "kl"))
    ours, theirs = checkpoints.load(folder), diffusers.AutoencoderKL.from_pretrained(folder)
    assert isinstance(ours, AutoencoderKL)
    x = pictures.clean(torch.cat([batch(step, 16)["images"] for step in range(20, 26)]))
    with torch.inference_mode():
        z = ours.encode(x, torch.Generator().manual_seed(0))
        torch.testing.assert_close(
            theirs(x[:2]).sample, ours._decode(ours.moments(x[:2])[0]), rtol=1e-3, atol=1e-4
        )
    assert z.mean((0, 2, 3)).abs().max() < 0.1 and (z.std((0, 2, 3)) - 1).abs().max() < 0.1
    assert theirs.config.latents_mean == pytest.approx(ours.config.latents_mean)


def test_plans() -> None:
    for name, millions, pictures_seen in (("autoencoder", 0.5, "24,000"), ("vq", 4, "1,280,000")):
        planned = plan(load_recipe(f"recipes/image/{name}.yaml"))
        assert (
            planned["parameters"] == pytest.approx(millions * 1e6, rel=0.3)
            and planned["units"] == f"{pictures_seen} pictures"
        )
        assert planned["flops"] > 1e13 and 1e7 < planned["memory_bytes"] < 2e10


def test_it_learns(tmp_path: Path) -> None:
    """Two dozen steps on scenes: the reconstruction gains several decibels over the first ones."""
    run(recipe(tmp_path, "kl", "steps=24", "evaluate_every=8", "optimizer.adam_lr=0.003"))
    found = [
        json.loads(line)["psnr"]
        for line in (tmp_path / "evaluations.jsonl").read_text().splitlines()
    ]
    assert found[-1] > found[0] + 1
