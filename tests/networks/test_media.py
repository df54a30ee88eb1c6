from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from daedal import checkpoints
from daedal.errors import DaedalError
from daedal.networks.media import MediaConfig, MediaTransformer, Text, attend, cells
from daedal.networks.media_codecs import (
    SECOND,
    ClipCodec,
    PlainCodec,
    grid_positions,
    patchify,
    unpatchify,
)

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


@pytest.fixture(scope="module")
def network() -> MediaTransformer:
    made = MediaTransformer(TINY).init_weights(0).eval()
    torch.manual_seed(0)
    for p in made.parameters():  # adaLN-zero starts as the identity: move away from it
        p.data += 0.05 * torch.randn(p.shape)
    return made


def test_patches_come_back() -> None:
    images = torch.randn(2, 3, 16, 24)
    tokens = patchify(images, 4)
    assert tokens.shape == (2, 24, 48) and torch.equal(unpatchify(tokens, 4, 16, 24), images)
    assert torch.equal(tokens[0, 1].view(3, 4, 4), images[0, :, :4, 4:8])  # row by row
    assert grid_positions(16, 24, 4)[:2].tolist() == [[2, 2], [2, 6]]


@torch.no_grad()
def test_one_level_for_all_tokens_is_the_same_level_for_each(network: MediaTransformer) -> None:
    x, text = torch.randn(2, 16, 48), network.encode_text(torch.randint(50, (2, 6)))
    positions, level = grid_positions(16, 16, 4), torch.tensor([[0.3], [0.9]])
    assert torch.allclose(
        network(x, positions, level, text),
        network(x, positions, level.expand(2, 16), text),
        atol=1e-5,
    )


@torch.no_grad()
def test_at_the_start_words_are_more_their_own_than_their_captions() -> None:
    """What all words of a caption share is the smaller part of a state: else who stands left of
    whom is lost before training begins."""
    made = MediaTransformer(replace(TINY, text_layers=2, text_length=16)).init_weights(0)
    # (B, L, D)
    states = made.text(
        torch.randint(50, (8, 16), generator=torch.Generator().manual_seed(0)), torch.float32
    )
    assert (states.mean(1).norm(dim=-1) / states.norm(dim=-1).mean(1)).max() < 0.5


@torch.no_grad()
def test_tokens_are_a_set_with_positions(network: MediaTransformer) -> None:
    """Permuting tokens with their positions permutes the output; other positions give another."""
    x, text = torch.randn(1, 16, 48), network.encode_text(torch.randint(50, (1, 6)))
    positions, level, order = grid_positions(16, 16, 4), torch.tensor([[0.5]]), torch.randperm(16)
    out = network(x, positions, level, text)
    assert torch.allclose(
        network(x[:, order], positions[order], level, text), out[:, order], atol=1e-5
    )
    assert not torch.allclose(network(x, positions.flip(1), level, text), out, atol=1e-3)


@torch.no_grad()
def test_the_text_level_and_batch_matter_only_where_they_should(network: MediaTransformer) -> None:
    x, tokens = torch.randn(2, 16, 48), torch.randint(50, (2, 6))
    positions, level = grid_positions(16, 16, 4), torch.tensor([[0.3], [0.9]])
    both, alone = network.encode_text(tokens), network.encode_text(tokens[:1])
    out = network(x, positions, level, both)
    assert torch.allclose(network(x[:1], positions, level[:1], alone), out[:1], atol=1e-5)
    assert not torch.allclose(
        network(x[:1], positions, level[:1], network.encode_text(tokens[1:])), out[:1], atol=1e-4
    )
    assert not torch.allclose(network(x[:1], positions, level[1:], alone), out[:1], atol=1e-4)


@torch.no_grad()
def test_a_fresh_network_predicts_zero_and_a_saved_one_is_itself(
    network: MediaTransformer, tmp_path: Path
) -> None:
    fresh = MediaTransformer(TINY).init_weights(3)
    x, positions, level = torch.randn(1, 16, 48), grid_positions(16, 16, 4), torch.tensor([[0.5]])
    assert torch.equal(
        fresh(x, positions, level, fresh.encode_text(torch.zeros(1, 6, dtype=torch.int64))),
        torch.zeros(1, 16, 48),
    )
    checkpoints.save(network, tmp_path / "model")
    again = checkpoints.load(tmp_path / "model")
    text = torch.randint(50, (1, 6))
    assert torch.allclose(
        again(x, positions, level, again.encode_text(text)),
        network(x, positions, level, network.encode_text(text)),
        atol=1e-5,
    )


@pytest.mark.parametrize("sketch", [0, 8])
def test_flops_are_those_that_torch_counts(sketch: int) -> None:
    network, x = (
        MediaTransformer(replace(TINY, sketch=sketch)).init_weights(0),
        torch.randn(1, 16, 48),
    )
    with (
        FlopCounterMode(display=False) as counter,
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
    ):
        network(
            x,
            grid_positions(16, 16, 4),
            torch.tensor([[0.5]]),
            network.encode_text(torch.zeros(1, 6, dtype=torch.int64)),
        )
    assert network.flops(16) == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_tokens_see_their_part_of_a_sketch() -> None:
    """Two cells a side each, at the size that the sketch was made for; at another the sketch is
    drawn out."""
    small = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(cells(small, grid_positions(16, 16, 4), 4), patchify(small, 2))
    # half a cell to the left and right of its middle: a quarter in
    wide = cells(small, grid_positions(16, 32, 4), 4).unflatten(2, (3, 2, 2))
    assert wide.shape == (2, 32, 3, 2, 2)
    torch.testing.assert_close(
        wide[:, 1, :, 0, 0], 0.75 * small[:, :, 0, 1] + 0.25 * small[:, :, 0, 0]
    )
    flat = torch.full((1, 3, 8, 8), 0.3)
    torch.testing.assert_close(
        cells(flat, grid_positions(64, 24, 4), 4), torch.full((1, 96, 12), 0.3)
    )


# One, two and three axes: sound, pictures, video.


SIZES = {1: (12,), 2: (3, 4), 3: (2, 3, 4)}


def moving(axes: int) -> MediaTransformer:
    """A network on so many axes, away from its start, whose tokens do not come in with where they
    lie."""
    made = MediaTransformer(replace(TINY, axes=axes)).init_weights(0).eval()
    torch.manual_seed(axes)
    for p in made.parameters():
        p.data += 0.05 * torch.randn(p.shape)
    made.position_in.weight.data.zero_()
    return made


def grid(axes: int) -> torch.Tensor:
    return PlainCodec().positions(*SIZES[axes]) * 4


@pytest.mark.parametrize("axes", SIZES)
@torch.no_grad()
def test_among_themselves_tokens_see_only_how_far_apart_they_are(axes: int) -> None:
    """Shifted along every axis, the rotary part gives the same; moved apart, another."""
    network, positions = moving(axes), grid(axes)
    x, words = torch.randn(2, len(positions), 48), network.encode_text(torch.randint(50, (2, 6)))
    # words say places, so they are left out
    text = Text([(k[:, :0], v[:, :0]) for k, v in words.kv], words.pooled)
    level, shift = torch.tensor([[0.3], [0.9]]), torch.tensor([17.0, 5.0, 40.0][:axes])
    out = network(x, positions, level, text)
    torch.testing.assert_close(
        network(x, positions + shift, level, text), out, atol=1e-4, rtol=1e-3
    )
    for axis in range(axes):
        further = positions.clone()
        further[:, axis] *= 2
        assert not torch.allclose(network(x, further, level, text), out, atol=1e-4)


@pytest.mark.parametrize("axes", SIZES)
@torch.no_grad()
def test_a_level_for_each_token_on_any_axes(axes: int) -> None:
    """One level for all is that level for each; what is given, at level 0, is read by the others;
    order is nothing."""
    network, positions = moving(axes), grid(axes)
    x, text = torch.randn(1, len(positions), 48), network.encode_text(torch.randint(50, (1, 6)))
    level = torch.full((1, len(positions)), 0.6)
    out = network(x, positions, level, text)
    torch.testing.assert_close(network(x, positions, level[:, :1], text), out, atol=1e-5, rtol=1e-4)
    given = level.clone()
    given[:, ::2] = 0
    told = network(x, positions, given, text)
    assert not torch.allclose(told[:, 1::2], out[:, 1::2], atol=1e-4)
    order = torch.randperm(len(positions))
    torch.testing.assert_close(
        network(x[:, order], positions[order], given[:, order], text),
        told[:, order],
        atol=1e-5,
        rtol=1e-4,
    )


def test_an_axis_of_its_own_turns_its_own_pairs() -> None:
    network, axes = moving(3), 3
    for axis in range(axes):
        positions = torch.zeros(2, axes)
        positions[1, axis] = 3.0
        turned = network.angles(positions)[1].unflatten(0, (axes, -1)).abs().sum(1)  # (axes,)
        assert turned[axis] > 0 and turned.sum() == turned[axis]


def test_pictures_have_two_axes() -> None:
    with pytest.raises(DaedalError, match="axes=1 has no pictures"):
        MediaTransformer(replace(TINY, axes=1, sketch=8))
    assert PlainCodec().positions(2, 3).tolist() == [
        [0.5, 0.5],
        [0.5, 1.5],
        [0.5, 2.5],
        [1.5, 0.5],
        [1.5, 1.5],
        [1.5, 2.5],
    ]


CLIPS = replace(TINY, axes=3, time_layers=1, sample_size=16)


def film(**options: Any) -> MediaTransformer:
    """A network of clips, away from its start."""
    made = MediaTransformer(replace(CLIPS, **options)).init_weights(0).eval()
    torch.manual_seed(3)
    for p in made.parameters():
        p.data += 0.05 * torch.randn(p.shape)
    return made


def test_clips_are_patches_moment_by_moment() -> None:
    codec = ClipCodec(4)
    clips = torch.randn(2, 5, 3, 16, 24)
    tokens = codec.encode(clips)
    assert tokens.shape == (2, codec.count(5, 16, 24), 48)
    torch.testing.assert_close(codec.decode(tokens, 5, 16, 24), clips)
    torch.testing.assert_close(tokens[:, :24], patchify(clips[:, 0], 4))
    positions = codec.positions(5, 16, 24, 8.0)
    assert positions[24].tolist() == [SECOND / 8, 2, 2]
    torch.testing.assert_close(
        positions, codec.positions(10, 16, 24, 16.0).view(10, 24, 3)[::2].flatten(0, 1)
    )


@torch.no_grad()
def test_a_network_of_pictures_is_one_of_still_clips() -> None:
    """Before its training, what is added over time does nothing: each moment is the picture that the
    network of pictures makes."""
    torch.manual_seed(0)
    picture = MediaTransformer(TINY).init_weights(0).eval()
    for p in picture.parameters():
        p.data += 0.05 * torch.randn(p.shape)
    clip = MediaTransformer(CLIPS).init_weights(1).eval()
    clip.load_state_dict(picture.state_dict(), strict=False)
    images, level = torch.randn(2, 3, 3, 16, 16), torch.tensor([[0.3], [0.9]])
    words = torch.randint(50, (2, 6))
    out = clip(
        clip.codec.encode(images),
        clip.codec.positions(3, 16, 16, 8.0),
        level,
        clip.encode_text(words),
    )
    alone = picture(
        patchify(images[:, 1], 4), grid_positions(16, 16, 4), level, picture.encode_text(words)
    )
    torch.testing.assert_close(out[:, 16:32], alone, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_places_see_their_moments_and_time_is_seconds() -> None:
    network = film()
    x, text = torch.randn(1, 48, 48), network.encode_text(torch.randint(50, (1, 6)))
    positions, level = network.codec.positions(3, 16, 16, 8.0), torch.full((1, 48), 0.6)
    out = network(x, positions, level, text)
    torch.testing.assert_close(network(x, positions, level[:, :1], text), out, atol=1e-5, rtol=1e-4)
    given = level.clone()
    given[:, :16] = 0  # the first moment
    assert not torch.allclose(network(x, positions, given, text)[:, 32:], out[:, 32:], atol=1e-4)
    faster = network.codec.positions(3, 16, 16, 16.0)
    assert not torch.allclose(network(x, faster, level, text), out, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_is_that_of_torch(dtype: torch.dtype) -> None:
    q, k, v = (torch.randn(2, n, 4, 8, dtype=dtype, requires_grad=True) for n in (5, 7, 7))
    ours = attend(q, k, v)
    theirs = F.scaled_dot_product_attention(*(t.float().transpose(1, 2) for t in (q, k, v)))
    near = {"atol": 1e-5, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 0.03, "rtol": 0.03}
    torch.testing.assert_close(ours.float(), theirs.transpose(1, 2), **near)
    grads = (torch.autograd.grad(o.float().sum(), (q, k, v)) for o in (ours, theirs))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, **near)


def test_clips_say_what_they_cannot_have() -> None:
    with pytest.raises(DaedalError, match="axes=3 has no pictures"):
        MediaTransformer(replace(CLIPS, control_size=16))
