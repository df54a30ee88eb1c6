"""GANs behind the image pipeline: random networks."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from daedal import checkpoints
from daedal.errors import DaedalError
from daedal.networks.biggan import BigGANConfig, BigGANGenerator
from daedal.networks.stylegan import StyleGAN2Generator, StyleGANConfig
from daedal.networks.stylegan3 import StyleGAN3Config, StyleGAN3Generator
from daedal.pipelines.image import load
from daedal.processes.imaging import pixels

SMALL = {"z_dim": 16, "w_dim": 16, "img_resolution": 32, "channel_base": 256, "channel_max": 8}
NETWORKS = [
    StyleGAN2Generator(StyleGANConfig(**SMALL, c_dim=2)),
    StyleGAN3Generator(StyleGAN3Config(**SMALL, c_dim=2, num_layers=6)),
    BigGANGenerator(BigGANConfig(resolution=32, n_classes=2, dim_z=16, shared_dim=8, G_ch=4)),
]


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: type(network).__name__)
def test_a_seed_is_a_picture_and_the_prompt_its_class(
    network: torch.nn.Module, tmp_path: Path
) -> None:
    checkpoints.save(network.init_weights(0), tmp_path)  # type: ignore[operator]
    (tmp_path / "generation_config.json").write_text(json.dumps({"classes": ["circle", "star"]}))
    pipeline = load(tmp_path, device="cpu")
    first, second = pipeline("a star", seed=5, n=2)
    assert first.pixels.shape == (32, 32, 3) and not np.array_equal(first.pixels, second.pixels)
    assert np.array_equal(pipeline.reproduce(second.recipe).pixels, second.pixels)
    assert not np.array_equal(first.pixels, pipeline("a circle", seed=5).pixels)
    assert not np.array_equal(first.pixels, pipeline("a star", seed=5, truncation=0.5).pixels)
    z = torch.randn(16, generator=torch.Generator().manual_seed(5))[None]
    label = (
        torch.tensor([1]) if isinstance(network, BigGANGenerator) else torch.tensor([[0.0, 1.0]])
    )
    with torch.no_grad():
        assert np.array_equal(pixels(network.eval()(z, label))[0], pipeline("1", seed=5).pixels)
    for settings, words in (
        ({"width": 64}, "pictures of 32x32 out of nothing"),
        ({"prompt": "a heart"}, "none of this model's classes.*circle, star"),
    ):
        with pytest.raises(DaedalError, match=words):
            pipeline(**{"prompt": "a star", **settings})
