"""LTX-Video's transformer and autoencoders against diffusers, both ways, on random small models."""

import diffusers
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from daedal import checkpoints
from daedal.errors import DaedalError
from daedal.networks.autoencoder_ltx import AutoencoderKLLTXVideo
from daedal.networks.ltx import LTXVideoTransformer3DModel
from tests.networks.test_wan import randomised

SMALL = dict(
    in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=16, cross_attention_dim=32, num_layers=2,
    caption_channels=20,
)  # fmt: skip
CELL = (8 / 25, 32, 32)
OLD = dict(
    latent_channels=6, block_out_channels=(8, 16, 24), down_block_types=("LTXVideoDownBlock3D",) * 3,
    decoder_block_out_channels=(8, 16, 24), layers_per_block=(1, 2, 1, 1), decoder_layers_per_block=(1, 2, 1, 1),
    spatio_temporal_scaling=(True, True, False), decoder_spatio_temporal_scaling=(True, True, False),
    decoder_inject_noise=(False,) * 4, downsample_type=("conv",) * 3, upsample_residual=(False,) * 3, upsample_factor=(1,) * 3,
    scaling_factor=0.8, patch_size=2,
)  # fmt: skip
TOLD = OLD | dict(
    decoder_block_out_channels=(8, 16, 32), decoder_inject_noise=(True, False, True, True), upsample_residual=(True,) * 3,
    upsample_factor=(2, 2, 2), decoder_spatio_temporal_scaling=(True, True, True), spatio_temporal_scaling=(True, True, True),
    timestep_conditioning=True,
)  # fmt: skip
NEW = TOLD | dict(
    block_out_channels=(8, 16, 32, 32, 32), down_block_types=("LTXVideo095DownBlock3D",) * 4, layers_per_block=(1, 2, 1, 1, 1),
    downsample_type=("spatial", "temporal", "spatiotemporal", "spatiotemporal"), spatio_temporal_scaling=(True,) * 4,
    decoder_inject_noise=(False,) * 4, spatial_compression_ratio=16, temporal_compression_ratio=8,
)  # fmt: skip
CODECS = {"0.9": OLD, "0.9.1": TOLD, "0.9.5": NEW}


@pytest.mark.parametrize("width", [16, 20])  # of a head: with and without pairs that do not turn
@pytest.mark.parametrize("levels", ["one", "each"])
@torch.no_grad()
def test_the_transformer_agrees_with_diffusers(width, levels, tmp_path):
    shape = SMALL | dict(attention_head_dim=width, cross_attention_dim=2 * width)
    theirs = randomised(diffusers.LTXVideoTransformer3DModel(**shape))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = checkpoints.load(tmp_path / "theirs", dtype=torch.float32)
    assert isinstance(ours, LTXVideoTransformer3DModel)
    g = torch.Generator().manual_seed(0)
    x, text = torch.randn(2, 8, 3, 2, 4, generator=g), torch.randn(2, 7, 20, generator=g)
    mask = torch.arange(7) < torch.tensor([[7], [3]])
    time = torch.tensor([17.0, 801.0])
    if levels == "each":
        time = torch.randint(0, 1000, (2, 24), generator=g).float()
    tokens = x.flatten(2).transpose(1, 2)
    wanted = theirs(tokens, text, time, mask, 3, 2, 4, CELL).sample
    got = ours(x, time, text, mask, scale=CELL)
    assert (got.flatten(2).transpose(1, 2) - wanted).abs().max() < 1e-4
    checkpoints.save(ours, tmp_path / "ours")
    again = diffusers.LTXVideoTransformer3DModel.from_pretrained(tmp_path / "ours").eval()
    torch.testing.assert_close(again(tokens, text, time, mask, 3, 2, 4, CELL).sample, wanted)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        ours(x[:1], time[:1, None] if levels == "one" else time[:1, :1], text[:1], scale=CELL)
    assert counter.get_total_flops() == ours.flops(3, 2, 4, 7)
    with pytest.raises(DaedalError, match="needs text"):
        ours(x, time, scale=CELL)


def varied(codec):
    g = torch.Generator().manual_seed(1)
    for name, parameter in codec.named_parameters():
        if "multiplier" in name:
            continue
        spread = 0.7 / parameter[0].numel() ** 0.5 if parameter.dim() > 2 else 0.1
        torch.nn.init.normal_(parameter, std=spread, generator=g)
    codec.latents_mean.normal_(generator=g)
    codec.latents_std.uniform_(0.5, 2, generator=g)
    return codec.eval()


@pytest.mark.parametrize("case", CODECS)
@pytest.mark.parametrize("count", [0, 2])
@torch.no_grad()
def test_a_codec_agrees_with_diffusers(case, count, tmp_path):
    codec = varied(diffusers.AutoencoderKLLTXVideo(**CODECS[case]))
    codec.save_pretrained(tmp_path / "theirs")
    ours = checkpoints.load(tmp_path / "theirs", dtype=torch.float32)
    assert isinstance(ours, AutoencoderKLLTXVideo)
    time, side = ours.factors
    clips = torch.randn(2, 3, 1 + count * time, 2 * side, 3 * side).clamp(-1, 1)
    mean, spread = ours.scale(clips)
    latents = ours.encode(clips)
    posterior = codec.encode(clips).latent_dist
    torch.testing.assert_close(latents * spread + mean, posterior.mean, atol=1e-4, rtol=1e-4)
    level = torch.full((2,), 0.05) if codec.config.timestep_conditioning else None
    torch.manual_seed(0)  # of the noise that a decoder adds
    back = codec.decode(posterior.mean, level).sample
    assert ours.decode(latents, 0.05).shape == back.shape
    torch.testing.assert_close(ours.decode(latents, 0.05), back.clamp(-1, 1), atol=1e-4, rtol=1e-4)
    checkpoints.save(ours, tmp_path / "ours")
    again = diffusers.AutoencoderKLLTXVideo.from_pretrained(tmp_path / "ours").eval()
    torch.testing.assert_close(again.encode(clips).latent_dist.mean, posterior.mean)
    with pytest.raises(DaedalError, match="this codec takes 1"):
        ours.encode(clips[..., :-1])
