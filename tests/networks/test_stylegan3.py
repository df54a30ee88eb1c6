"""StyleGAN3 by its properties. (The generator, in both of its kinds, was also compared with the
authors' code on random weights: equal to 9e-6.)"""

from pathlib import Path

import numpy as np
import pytest
import torch

from daedal import checkpoints
from daedal.networks.stylegan3 import Band, StyleGAN3Config, StyleGAN3Generator, filtered, lowpass

SMALL = {
    "z_dim": 16,
    "w_dim": 16,
    "img_resolution": 32,
    "channel_base": 256,
    "channel_max": 8,
    "num_layers": 6,
}


@pytest.fixture(scope="module", params=["t", "r"])
def generator(request: pytest.FixtureRequest) -> StyleGAN3Generator:
    turns = {"conv_kernel": 1, "use_radial_filters": True} if request.param == "r" else {}
    return StyleGAN3Generator(StyleGAN3Config(**SMALL, **turns)).init_weights(0).eval()


def test_bands_grow_to_the_whole_picture() -> None:
    bands = StyleGAN3Config(img_resolution=256).bands()
    assert (
        [b.rate for b in bands] == sorted(b.rate for b in bands)
        and bands[0].cutoff == 2
        and bands[-1].cutoff == 128
    )
    assert bands[-1].size == bands[-2].size == 256 and bands[-1].channels == 3 and len(bands) == 15
    # the transition ends at or beyond half the rate
    assert all(b.cutoff + b.half_width >= b.rate / 2 for b in bands)


@pytest.mark.parametrize("radial", [False, True])
def test_the_filter_passes_below_its_cutoff_and_stops_above(radial: bool) -> None:
    band, rate = Band(8, 6, 32, 32, 1), 64
    taps = lowpass(24, band, rate, radial)
    assert taps is not None and abs(float(taps.sum()) - 1) < 1e-6
    line = taps.sum(0) if radial else taps  # what a wave along one axis meets
    answer = np.abs(np.fft.rfft(line.double().numpy(), 640))  # every tenth of a cycle
    assert np.abs(answer[:20] - 1).max() < 0.02 and answer[160:].max() < 0.02
    x = torch.randn(2, 3, 30, 30)
    square = taps if radial else taps[:, None] * taps
    whole = torch.nn.functional.conv2d(x, square.expand(3, 1, 24, 24), groups=3)
    assert torch.allclose(filtered(x, taps), whole, atol=1e-5)


@torch.no_grad()
def test_a_picture_moves_with_its_fourier_features(generator: StyleGAN3Generator) -> None:
    """Two pixels to the right is half a sample of the coarsest layers, and yet the picture moves."""
    ws = generator.styles(torch.randn(2, 16, generator=torch.Generator().manual_seed(3)))
    still, source = generator.synthesis(ws), generator.synthesis.input
    source.transform = torch.tensor([[1.0, 0, -2 / 32], [0, 1, 0], [0, 0, 1]])
    moved = generator.synthesis(ws)
    source.transform = torch.eye(3)
    error = (moved[..., 6:-4] - still[..., 4:-6]).square().mean().sqrt()
    assert error < 0.1 * (moved[..., 6:-4] - still[..., 6:-4]).square().mean().sqrt()


@torch.no_grad()
def test_activations_start_at_unit_scale_and_magnitudes_are_followed() -> None:
    generator = StyleGAN3Generator(StyleGAN3Config(**SMALL)).init_weights(1)
    layer = generator.synthesis.get_submodule(generator.synthesis.names[0])
    with torch.enable_grad():
        images = generator(torch.randn(8, 16))
    assert images.shape == (8, 3, 32, 32) and 0.02 < images.std() < 4
    assert float(layer.magnitude_ema) != 1.0
    before = layer.magnitude_ema.clone()
    generator.eval()(torch.randn(2, 16))
    assert torch.equal(layer.magnitude_ema, before)


@torch.no_grad()
def test_saved_and_opened_it_is_the_same(generator: StyleGAN3Generator, tmp_path: Path) -> None:
    checkpoints.save(generator, tmp_path)
    again, z = checkpoints.load(tmp_path), torch.randn(2, 16)
    assert isinstance(again, StyleGAN3Generator) and torch.equal(
        again.eval()(z, truncation=0.7), generator(z, truncation=0.7)
    )
