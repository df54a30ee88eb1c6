"""BigGAN by its properties. (Both networks were also compared with the authors' code on random
weights, in training and evaluation: equal to 2e-6.)"""

from pathlib import Path

import pytest
import torch

from daedal import checkpoints
from daedal.errors import DaedalError
from daedal.networks.biggan import (
    BigGANConfig,
    BigGANDiscriminator,
    BigGANDiscriminatorConfig,
    BigGANGenerator,
    SpectralLinear,
    orthogonality,
    truncated,
)

SMALL = {"resolution": 32, "n_classes": 5}


@pytest.fixture
def generator() -> BigGANGenerator:
    return (
        BigGANGenerator(BigGANConfig(**SMALL, dim_z=16, shared_dim=8, G_ch=8, G_attn=16))
        .init_weights(0)
        .eval()
    )


@pytest.fixture
def discriminator() -> BigGANDiscriminator:
    return (
        BigGANDiscriminator(BigGANDiscriminatorConfig(**SMALL, D_ch=8, D_attn=16))
        .init_weights(1)
        .eval()
    )


def test_power_iteration_finds_the_largest_singular_value() -> None:
    layer = SpectralLinear(7, 5, bias=False)
    layer.weight.data, layer.u0 = torch.randn(5, 7), torch.randn(1, 5)
    for _ in range(60):
        normal = layer.train().normal()
    assert torch.linalg.matrix_norm(normal, 2).item() == pytest.approx(1, rel=1e-3)
    kept = layer.u0.clone()
    layer.eval().normal()
    assert torch.equal(layer.u0, kept)  # only training follows it


@torch.no_grad()
def test_class_and_every_slice_of_z_matter(generator: BigGANGenerator) -> None:
    z, label = torch.randn(1, 16), torch.tensor([2])
    picture = generator(z, label)
    assert picture.shape == (1, 3, 32, 32) and picture.abs().max() <= 1
    assert not torch.allclose(picture, generator(z, torch.tensor([3])), atol=1e-4)
    # an embedding, to walk between classes
    assert torch.equal(picture, generator(z, generator.shared(label)))
    for part in range(4):
        moved = z.clone()
        moved[:, 4 * part : 4 * part + 4] += 1
        assert not torch.allclose(picture, generator(moved, label), atol=1e-4)


@torch.no_grad()
def test_the_score_depends_on_the_class(discriminator: BigGANDiscriminator) -> None:
    images = torch.randn(2, 3, 32, 32)
    a, b = (discriminator(images, torch.tensor([k, k])) for k in (0, 1))
    assert a.shape == (2, 1) and not torch.allclose(a, b)
    # samples do not meet
    assert torch.allclose(discriminator(images.flip(0), torch.tensor([0, 0])), a.flip(0), atol=1e-4)


def test_truncated_normals() -> None:
    wide, narrow = (truncated((20000,), t, torch.Generator().manual_seed(0)) for t in (8.0, 0.5))
    assert wide.std().item() == pytest.approx(1, abs=0.02) and narrow.abs().max() <= 0.5
    # of a normal cut at 0.5
    assert narrow.var().item() == pytest.approx(1 - 2 * 0.5 * 0.35207 / 0.38292, abs=0.003)


def test_orthogonal_weights_cost_nothing_and_others_by_hand(generator: BigGANGenerator) -> None:
    layer = SpectralLinear(2, 2, bias=False)
    layer.weight.data = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert orthogonality(torch.nn.ModuleList([layer])).item() == 121  # W W^T = [[5, 11], [11, 25]]
    layer.weight.data = torch.eye(2)
    assert orthogonality(torch.nn.ModuleList([layer])).item() == 0


def test_folders_come_back_and_sizes_are_checked(
    generator: BigGANGenerator, discriminator: BigGANDiscriminator, tmp_path: Path
) -> None:
    for network in (generator, discriminator):
        checkpoints.save(network, tmp_path / network.class_name)
        again = checkpoints.load(tmp_path / network.class_name)
        assert all(
            torch.equal(value, again.state_dict()[name])
            for name, value in network.state_dict().items()
        )
    with pytest.raises(DaedalError, match="not 48"):
        BigGANConfig(resolution=48)
    with pytest.raises(DaedalError, match="does not split into 5 slices"):
        BigGANConfig(resolution=64, dim_z=128)
