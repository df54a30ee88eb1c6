"""StyleGAN2 by its properties. (Both networks were also compared with the authors' code on random
weights: equal to 5e-7.)"""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from daedal import checkpoints
from daedal.errors import DaedalError
from daedal.networks.stylegan import (
    StyleGAN2Discriminator,
    StyleGAN2Generator,
    StyleGANConfig,
    StyleGANDiscriminatorConfig,
    downsample,
    modulated_conv,
    upsample,
)

SMALL = {
    "z_dim": 16,
    "w_dim": 16,
    "img_resolution": 16,
    "channel_base": 256,
    "channel_max": 16,
    "num_mapping_layers": 3,
}


@pytest.fixture(scope="module")
def generator() -> StyleGAN2Generator:
    return StyleGAN2Generator(StyleGANConfig(**SMALL)).init_weights(0)


@pytest.fixture(scope="module")
def discriminator() -> StyleGAN2Discriminator:
    return StyleGAN2Discriminator(StyleGANDiscriminatorConfig(**SMALL)).init_weights(1)


def test_each_sample_has_its_own_weights_of_unit_norm() -> None:
    x, weight, styles = torch.randn(3, 4, 5, 5), torch.randn(6, 4, 3, 3), torch.rand(3, 4) + 0.5
    out = modulated_conv(x, weight, styles)
    for i in range(3):
        own = weight * styles[i, None, :, None, None]
        own = own / own.flatten(1).norm(dim=1)[:, None, None, None]
        assert torch.allclose(out[i : i + 1], F.conv2d(x[i : i + 1], own, padding=1), atol=1e-5)
    plain = modulated_conv(x, weight, torch.ones(3, 4), demodulate=False)
    assert torch.allclose(plain, F.conv2d(x, weight, padding=1), atol=1e-5)


def test_resampling_keeps_a_flat_picture_flat_and_shifts_nothing() -> None:
    flat = torch.full((1, 2, 8, 8), 3.0)
    assert torch.allclose(upsample(flat)[:, :, 2:-2, 2:-2], torch.tensor(3.0), atol=1e-5)
    assert torch.allclose(downsample(flat)[:, :, 1:-1, 1:-1], torch.tensor(3.0), atol=1e-5)
    ramp = torch.arange(16.0).expand(1, 1, 16, 16)
    # between its two pixels
    assert torch.allclose(
        downsample(ramp)[0, 0, 4, 2:-2], torch.arange(0.5, 16, 2)[2:-2], atol=1e-5
    )
    assert torch.allclose(
        upsample(ramp)[0, 0, 9, 4:-4], torch.arange(-0.25, 15.6, 0.5)[4:-4], atol=1e-5
    )
    up = modulated_conv(
        torch.full((1, 1, 6, 6), 2.0),
        torch.tensor([[[[0, 0, 0], [0, 1.0, 0], [0, 0, 0]]]]),
        torch.ones(1, 1),
        up=True,
        demodulate=False,
    )
    assert up.shape == (1, 1, 12, 12) and torch.allclose(
        up[..., 3:-3, 3:-3], torch.tensor(2.0), atol=1e-5
    )


@torch.no_grad()
def test_activations_start_at_unit_variance(
    generator: StyleGAN2Generator, discriminator: StyleGAN2Discriminator
) -> None:
    w = generator.mapping(torch.randn(256, 16))
    assert 0.3 < w.var() < 3
    images = generator(torch.randn(64, 16))
    assert images.shape == (64, 3, 16, 16) and 0.1 < images.std() < 10
    assert discriminator(torch.randn(64, 3, 16, 16)).std() < 10


@torch.no_grad()
def test_truncation_and_mixing(generator: StyleGAN2Generator) -> None:
    generator.mapping.w_avg.normal_()
    a, b = torch.randn(2, 2, 16)
    mean = generator(a, truncation=0.0)
    assert torch.allclose(mean[0], mean[1], atol=1e-5) and torch.allclose(
        mean, generator(b, truncation=0.0), atol=1e-5
    )
    ws = generator.styles(a, truncation=0.5, cutoff=2)
    assert torch.allclose(
        ws[:, 0], generator.mapping.w_avg.lerp(generator.mapping(a), 0.5)
    ) and torch.allclose(ws[:, 3], generator.mapping(a))
    layers = generator.config.num_ws
    assert (
        layers == 6
        and torch.allclose(generator(a, mix=(b, layers)), generator(a))
        and torch.allclose(generator(a, mix=(b, 0)), generator(b), atol=1e-5)
    )
    assert not torch.allclose(generator(a, mix=(b, 3)), generator(a), atol=1e-2)


@torch.no_grad()
def test_noise_is_constant_until_asked_for(generator: StyleGAN2Generator) -> None:
    z = torch.randn(1, 16)
    for part in generator.modules():
        if hasattr(part, "noise_strength"):
            part.noise_strength.fill_(0.5)
    assert torch.equal(generator(z), generator(z))
    one, two, same = (generator(z, noise=torch.Generator().manual_seed(seed)) for seed in (1, 2, 1))
    assert not torch.allclose(one, two) and torch.equal(one, same)


@torch.no_grad()
def test_the_spread_of_a_group_is_seen(discriminator: StyleGAN2Discriminator) -> None:
    x = torch.randn(1, 16, 4, 4)
    same, other = (
        discriminator.b4.spread(x.expand(4, -1, -1, -1)),
        discriminator.b4.spread(torch.randn(4, 16, 4, 4)),
    )
    assert same.max() < 1e-3 < 0.5 < other.min() and same.shape == (4, 1, 4, 4)


@torch.no_grad()
def test_classes_steer_both_networks_and_are_asked_for(tmp_path: Path) -> None:
    generator = StyleGAN2Generator(StyleGANConfig(**SMALL, c_dim=3)).init_weights(0)
    discriminator = StyleGAN2Discriminator(
        StyleGANDiscriminatorConfig(**SMALL, c_dim=3)
    ).init_weights(1)
    z, (a, b, _) = torch.randn(1, 16), torch.eye(3).split(1)
    images = generator(z, a)
    assert not torch.allclose(images, generator(z, b), atol=1e-3) and discriminator(
        images, a
    ) != discriminator(images, b)
    with pytest.raises(DaedalError, match="trained with classes"):
        generator(z)
    for network in (generator, discriminator):
        checkpoints.save(network, tmp_path / network.class_name)
        again = checkpoints.load(tmp_path / network.class_name)
        assert all(
            torch.equal(value, again.state_dict()[name])
            for name, value in network.state_dict().items()
        )
