"""Wan's causal autoencoder against diffusers, which works with caches, both ways."""

import diffusers
import pytest
import torch

from daedal import checkpoints
from daedal.errors import DaedalError
from daedal.networks.autoencoder_wan import AutoencoderKLWan
from daedal.nn.conv3d import Past, in_pieces, to_patches

SMALL = dict(
    base_dim=8, z_dim=4, dim_mult=[1, 2, 2], num_res_blocks=1, temperal_downsample=[False, True],
    latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.5, 0.5, 2.0, 1.0],
)  # fmt: skip
CASES = {
    "halved once": SMALL,
    "halved twice": SMALL | dict(dim_mult=[1, 2, 2, 4], temperal_downsample=[True, True, False]),
    "shortcuts": SMALL
    | dict(
        dim_mult=[1, 2, 2],
        temperal_downsample=[True, True],
        is_residual=True,
        patch_size=2,
        in_channels=12,
        out_channels=12,
        decoder_base_dim=16,
        scale_factor_spatial=8,
    ),
}


def theirs(case):
    torch.manual_seed(0)
    made = diffusers.AutoencoderKLWan(**CASES[case]).eval()
    for name, p in made.named_parameters():
        p.data = (
            torch.randn(p.shape)
            * (0.3 if p.dim() > 1 else 0.1)
            / (p[0].numel() ** 0.5 if p.dim() > 1 else 1)
        )
        if name.endswith("gamma"):
            p.data = 1 + 0.2 * torch.randn(p.shape)
    return made


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("frames", [1, 5, 9])
@torch.no_grad()
def test_it_agrees_with_diffusers(case, frames, tmp_path):
    codec = theirs(case)
    codec.save_pretrained(tmp_path / "theirs")
    ours = checkpoints.load(tmp_path / "theirs", dtype=torch.float32)
    assert isinstance(ours, AutoencoderKLWan)
    clips = torch.randn(2, 3, frames, 16, 24).clamp(-1, 1)
    wanted = codec.encode(clips).latent_dist
    mean, spread = ours.scale(clips)
    latents = ours.encode(clips)
    torch.testing.assert_close(latents * spread + mean, wanted.mean, atol=1e-4, rtol=1e-4)
    back = codec.decode(wanted.mean).sample
    torch.testing.assert_close(ours.decode(latents), back, atol=1e-4, rtol=1e-4)
    assert back.shape == clips.shape
    checkpoints.save(ours, tmp_path / "ours")
    again = diffusers.AutoencoderKLWan.from_pretrained(tmp_path / "ours").eval()
    torch.testing.assert_close(
        again.encode(clips).latent_dist.mean, wanted.mean, atol=1e-5, rtol=1e-5
    )


@torch.no_grad()
def test_no_frame_sees_what_comes_after_it(tmp_path):
    codec = theirs("halved twice")
    codec.save_pretrained(tmp_path)
    ours = checkpoints.load(tmp_path, dtype=torch.float32)
    clips = torch.randn(1, 3, 9, 16, 16).clamp(-1, 1)
    latents = ours.encode(clips)
    torch.testing.assert_close(
        ours.encode(clips[:, :, :1]), latents[:, :, :1], atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(
        ours.encode(clips[:, :, :5]), latents[:, :, :2], atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(
        ours.decode(latents[:, :, :2]), ours.decode(latents)[:, :, :5], atol=1e-5, rtol=1e-4
    )
    with pytest.raises(DaedalError, match=r"1 \+ 4 n frames and sides of 8 n"):
        ours.encode(clips[:, :, :4])


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_a_clip_in_pieces_is_the_clip_in_one(case, tmp_path):
    theirs(case).save_pretrained(tmp_path)
    ours = checkpoints.load(tmp_path, dtype=torch.float64)
    clips = torch.randn(1, 3, 9, 16, 16, dtype=torch.float64).clamp(-1, 1)
    patches = to_patches(clips, ours.config.patch_size or 1)
    mean = ours.quant_conv(ours.encoder(patches, Past()), Past())
    assert (ours.moments(clips) - mean).abs().max() < 1e-12
    latents = ours.post_quant_conv(mean[:, : ours.config.z_dim], Past())
    whole = ours.decoder(latents, Past())
    assert whole.shape[2] == 9
    assert (in_pieces(ours.decoder, latents, 1) - whole).abs().max() < 1e-12


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_tiles_make_the_frames_that_the_whole_makes(case, tmp_path, monkeypatch):
    theirs(case).save_pretrained(tmp_path)
    ours = checkpoints.load(tmp_path, dtype=torch.float64)
    latents = torch.randn(1, 4, 2, 24, 20, dtype=torch.float64)
    whole = ours.decode(latents)
    for tile in (5, 16):
        assert (ours.decode(latents, tile) - whole).abs().max() < 1e-12
    reach = ours.decoder.reach - 2  # which is no more than they see
    monkeypatch.setattr(type(ours.decoder), "reach", property(lambda self: reach))
    assert (ours.decode(latents, 5) - whole).abs().max() > 1e-12
