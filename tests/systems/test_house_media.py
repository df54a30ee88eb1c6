import dataclasses

import numpy as np
import pytest
import torch

from daedal.errors import DaedalError
from daedal.networks.media import MediaConfig, MediaTransformer
from daedal.networks.media_codecs import patchify, unpatchify
from daedal.processes.imaging import edges, from_pixels, generate, pixels, seeded_noise
from daedal.processes.samplers import SAMPLERS
from daedal.systems.house_media import flow_levels, paint

TINY = MediaConfig(
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=96,
    vocab_size=50,
    text_layers=1,
    text_length=6,
    token_size=48,
    patch_size=4,
    sample_size=16,
)
SIZE = {"size": (16, 16)}


@pytest.fixture(scope="module")
def network() -> MediaTransformer:
    made = MediaTransformer(TINY).init_weights(0).eval()
    torch.manual_seed(0)
    for p in made.parameters():
        p.data += 0.05 * torch.randn(p.shape)
    return made


def some(count: int) -> torch.Tensor:
    return torch.arange(count * 6).view(count, 6) % 50


NOTHING = torch.zeros(1, 6, dtype=torch.int64)


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m", "euler_ancestral"])
def test_a_picture_of_a_batch_is_the_picture_alone(network: MediaTransformer, sampler: str) -> None:
    options = {"guidance_scale": 2.0, "sampler": SAMPLERS[sampler], **SIZE}
    batch = paint(network, some(3), NOTHING.expand(3, 6), [4, 5, 6], flow_levels(4), **options)
    alone = paint(network, some(3)[1:2], NOTHING, [5], flow_levels(4), **options)
    assert batch.shape == (3, 3, 16, 16) and torch.allclose(batch[1:2], alone, atol=1e-4)


def test_kept_patches_come_out_bit_identical_and_guide_the_rest(network: MediaTransformer) -> None:
    start, kept = torch.rand(1, 3, 16, 16) * 2 - 1, torch.zeros(16, dtype=torch.bool)
    kept[:8] = True  # the upper half
    out, other = (
        paint(
            network,
            some(1),
            NOTHING,
            [0],
            flow_levels(3),
            start=s,
            kept=kept,
            guidance_scale=2,
            **SIZE,
        )
        for s in (start, -start)
    )
    assert torch.equal(out[:, :, :8], start[:, :, :8]) and not torch.allclose(
        out[:, :, 8:], start[:, :, 8:], atol=0.1
    )
    assert not torch.allclose(out[:, :, 8:], other[:, :, 8:], atol=1e-3)


def test_a_start_from_a_late_level_stays_near() -> None:
    """A velocity network that answers zero moves nothing: what comes out is the start with the
    noise of the first level."""
    network = MediaTransformer(dataclasses.replace(TINY, prediction="flow")).init_weights(0).eval()
    start, eps = torch.rand(1, 3, 16, 16) * 2 - 1, seeded_noise([0], (16, 48))()
    for strength, t in ((0.02, 0.02), (0.5, 0.5), (1.0, 1.0)):
        out = paint(
            network, some(1), NOTHING, [0], flow_levels(50).tail(strength), start=start, **SIZE
        )
        assert torch.allclose(
            out, unpatchify((1 - t) * patchify(start, 4) + t * eps, 4, 16, 16), atol=1e-5
        )


def test_guidance_moves_away_from_the_negative_prompt(network: MediaTransformer) -> None:
    plain, same, guided = (
        paint(network, some(1), negative, [1], flow_levels(3), guidance_scale=scale, **SIZE)
        for negative, scale in ((NOTHING, 1.0), (some(1), 5.0), (NOTHING, 4.0))
    )
    assert torch.allclose(plain, same, atol=1e-4) and not torch.allclose(plain, guided, atol=1e-3)


def test_control_starts_at_zero_and_then_matters() -> None:
    network = MediaTransformer(dataclasses.replace(TINY, control_size=16)).init_weights(0).eval()
    for p in network.parameters():
        p.data += 0.05 * torch.randn(p.shape)
    network.control_in.weight.data.zero_()
    hint = edges(torch.rand(1, 3, 16, 16) * 2 - 1)
    plain, hinted = (
        paint(network, some(1), NOTHING, [0], flow_levels(3), control=c, guidance_scale=2, **SIZE)
        for c in (None, hint)
    )
    assert torch.equal(plain, hinted)
    network.control_in.weight.data.normal_()
    assert not torch.allclose(
        paint(
            network, some(1), NOTHING, [0], flow_levels(3), control=hint, guidance_scale=2, **SIZE
        ),
        plain,
        atol=1e-3,
    )


def test_edges_are_where_colours_change() -> None:
    picture = torch.full((1, 3, 16, 16), -1.0)
    picture[:, 1, 4:12, 4:12] = 1.0
    found = edges(picture)
    assert (
        found[0, 0, 4, 4:12].all()
        and found[0, 0, 4:12, 11].all()
        and not found[0, 0, 6:10, 6:10].any()
        and not found[0, 0, :3].any()
    )
    assert torch.equal(edges(-picture), found) and not edges(torch.zeros(1, 3, 8, 8)).any()


def test_noise_belongs_to_its_seed() -> None:
    a, b = seeded_noise([1, 2], (5,)), seeded_noise([2], (5,))
    assert torch.equal(a()[1:], b()) and torch.equal(a()[1:], b())


def test_pixels_come_back() -> None:
    picture = np.arange(256 * 3, dtype=np.uint8).reshape(16, 16, 3)
    assert np.array_equal(pixels(from_pixels(picture))[0], picture)


def test_a_picture_that_is_not_a_number_names_the_step() -> None:
    with pytest.raises(DaedalError, match="NaN or infinite at step 1 of 3"):
        generate(lambda x, level: x * torch.nan, seeded_noise([0], (2,)), flow_levels(3))


def test_a_step_that_raises_cancels(network: MediaTransformer) -> None:
    seen = []

    def stop(i: int, x: torch.Tensor, x0: torch.Tensor) -> None:
        seen.append(i)
        if i == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        paint(network, some(1), NOTHING, [1], flow_levels(9), on_step=stop, **SIZE)
    assert seen == [0, 1]
