"""The bundled autoencoder: present, small, licensed; pictures it has never seen come back, and its
latents are what a denoiser wants."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from daedal import checkpoints
from daedal.checkpoints.resolve import HOUSE
from daedal.networks.autoencoder import AutoencoderKL
from daedal.processes.imaging import colour_map
from daedal.processes.measures import psnr
from daedal.train.pictures import clean
from daedal.worlds import scenes

FOLDER = HOUSE / "autoencoder"


@pytest.fixture(scope="module")
def codec() -> AutoencoderKL:
    return checkpoints.load(checkpoints.resolve("house/autoencoder"), torch.float32)  # type: ignore[return-value]


@pytest.fixture(scope="module")
def drawn() -> torch.Tensor:
    """Sixteen scenes (16, 3, 64, 64) in [-1, 1]; it was trained on emoji and icons."""
    rng = random.Random("round trip")
    return clean(
        torch.from_numpy(np.stack([scenes.draw(scenes.scene(rng)) for _ in range(16)])).permute(
            0, 3, 1, 2
        )
    )


def test_files() -> None:
    weights = list(FOLDER.glob("*.safetensors"))
    assert weights and all(file.stat().st_size <= 2e6 for file in weights)
    card = (FOLDER / "README.md").read_text()
    assert all(
        word in card
        for word in (
            "Licence",
            "Limits",
            "FLOPs",
            "PSNR",
            "recipes/image/autoencoder.yaml",
            "Noto",
            "Streamline",
        )
    )


@torch.no_grad()
def test_pictures_come_back(codec: AutoencoderKL, drawn: torch.Tensor) -> None:
    back = codec.decode(codec.encode(drawn)).clamp(-1, 1)
    untrained = AutoencoderKL(codec.config).init_weights(0)
    assert psnr(back, drawn).mean() > 27 and psnr(back, drawn).min() > 22
    assert psnr(untrained.decode(untrained.encode(drawn)).clamp(-1, 1), drawn).mean() < 15


@torch.no_grad()
def test_latents_are_scaled(codec: AutoencoderKL, drawn: torch.Tensor) -> None:
    """A sixteenth of the pixels, of about mean 0 and variance 1; a sample of the posterior decodes
    as its mean does, to what the eye does not see."""
    z = codec.encode(drawn, torch.Generator().manual_seed(0))
    assert z.shape == (16, 16, 16, 16) and z.mean().abs() < 0.5 and 0.5 < z.std() < 1.5
    assert psnr(codec.decode(z), codec.decode(codec.encode(drawn))).mean() > 25


@torch.no_grad()
def test_other_sizes(codec: AutoencoderKL, drawn: torch.Tensor) -> None:
    wide = torch.cat([drawn[:1], drawn[1:2]], 3)
    assert psnr(codec.decode(codec.encode(wide)).clamp(-1, 1), wide).mean() > 24


@torch.no_grad()
def test_a_linear_map_shows_latents_in_their_colours(
    codec: AutoencoderKL, drawn: torch.Tensor
) -> None:
    latents = codec.encode(drawn)
    seen = torch.einsum(
        "bchw,cd->bdhw", F.pad(latents, (0, 0, 0, 0, 0, 1), value=1.0), colour_map(codec.encode, 4)
    )
    assert (
        float(
            psnr(seen.clamp(-1, 1), F.interpolate(drawn, size=seen.shape[2:], mode="area")).mean()
        )
        > 15
    )
