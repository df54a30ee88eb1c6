import dataclasses

import pytest
import torch

from daedal.networks.media import MediaConfig, MediaTransformer, patchify, unpatchify
from daedal.processes.media import flow_levels, generate, seeded_noise
from daedal.processes.samplers import SAMPLERS

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
SIZE = {"height": 16, "width": 16}


@pytest.fixture(scope="module")
def network() -> MediaTransformer:
    made = MediaTransformer(TINY).init_weights(0).eval()
    torch.manual_seed(0)
    for p in made.parameters():
        p.data += 0.05 * torch.randn(p.shape)
    return made


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m", "euler_ancestral"])
def test_a_picture_of_a_batch_is_the_picture_alone(network: MediaTransformer, sampler: str) -> None:
    tokens, nothing = torch.randint(50, (3, 6)), torch.zeros(3, 6, dtype=torch.int64)
    with torch.no_grad():
        text, uncond = network.encode_text(tokens), network.encode_text(nothing)
        one, none = network.encode_text(tokens[1:2]), network.encode_text(nothing[:1])
    options = {"guidance_scale": 2.0, "sampler": SAMPLERS[sampler], **SIZE}
    batch = generate(network, text, [4, 5, 6], flow_levels(4), uncond=uncond, **options)
    alone = generate(network, one, [5], flow_levels(4), uncond=none, **options)
    assert batch.shape == (3, 3, 16, 16) and torch.allclose(batch[1:2], alone, atol=1e-4)


def test_given_tokens_come_out_bit_identical_and_guide_the_rest(network: MediaTransformer) -> None:
    text = network.encode_text(torch.zeros(1, 6, dtype=torch.int64))
    start, given = torch.rand(1, 3, 16, 16) * 2 - 1, torch.zeros(16, dtype=torch.bool)
    given[:8] = True  # the upper half
    out = generate(network, text, [0], flow_levels(3), start=start, given=given, **SIZE)
    assert torch.equal(out[:, :, :8], start[:, :, :8]) and not torch.allclose(out[:, :, 8:], start[:, :, 8:], atol=0.1)
    other = generate(network, text, [0], flow_levels(3), start=-start, given=given, **SIZE)
    assert not torch.allclose(out[:, :, 8:], other[:, :, 8:], atol=1e-3)


def test_a_start_from_a_late_level_stays_near() -> None:
    """A velocity network that answers zero moves nothing: what comes out is the start with the noise of the first level."""
    network = MediaTransformer(dataclasses.replace(TINY, prediction="flow")).init_weights(0).eval()
    text, start = network.encode_text(torch.zeros(1, 6, dtype=torch.int64)), torch.rand(1, 3, 16, 16) * 2 - 1
    eps = seeded_noise([0], (16, 48))()
    for strength, t in ((0.02, 0.02), (0.5, 0.5), (1.0, 1.0)):
        out = generate(network, text, [0], flow_levels(50).tail(strength), start=start, **SIZE)
        assert torch.allclose(out, unpatchify((1 - t) * patchify(start, 4) + t * eps, 4, 16, 16), atol=1e-5)


def test_guidance_of_one_is_the_prompt_alone(network: MediaTransformer) -> None:
    text, uncond = (network.encode_text(torch.full((1, 6), i)) for i in (3, 0))
    plain = generate(network, text, [1], flow_levels(3), **SIZE)
    assert torch.equal(generate(network, text, [1], flow_levels(3), uncond=uncond, guidance_scale=1.0, **SIZE), plain)
    assert not torch.allclose(generate(network, text, [1], flow_levels(3), uncond=uncond, guidance_scale=4.0, **SIZE), plain, atol=1e-3)


def test_noise_belongs_to_its_seed() -> None:
    a, b = seeded_noise([1, 2], (5,)), seeded_noise([2], (5,))
    assert torch.equal(a()[1:], b()) and torch.equal(a()[1:], b())
