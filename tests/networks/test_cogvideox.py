"""CogVideoX's transformer and autoencoder against diffusers, both ways, on random small models."""

import diffusers
import pytest
import torch
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from daedal import checkpoints
from daedal.errors import DaedalError
from daedal.networks.autoencoder_cogvideox import AutoencoderKLCogVideoX
from daedal.networks.cogvideox import CogVideoXTransformer3DModel
from tests.networks.test_wan import randomised

SMALL = dict(
    num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=24, text_embed_dim=20, num_layers=2,
    sample_width=6, sample_height=4, sample_frames=9, max_text_seq_length=7,
)  # fmt: skip
ROTARY = SMALL | dict(use_rotary_positional_embeddings=True)
CASES = {
    "2B": SMALL,
    "2B, another size": SMALL | dict(sample_width=8, sample_height=6, sample_frames=49, spatial_interpolation_scale=1.5),
    "5B": ROTARY | dict(sample_height=12),
    "5B from a picture": ROTARY | dict(in_channels=8, use_learned_positional_embeddings=True),
    "1.5": ROTARY | dict(patch_size_t=2, patch_bias=False, sample_width=20, sample_height=20),
    "1.5 from a picture": ROTARY | dict(patch_size_t=2, patch_bias=False, in_channels=8, ofs_embed_dim=24),
}  # fmt: skip
CODEC = dict(
    block_out_channels=(8, 16, 16, 24), latent_channels=4, layers_per_block=1, norm_num_groups=4, scaling_factor=0.7,
    temporal_compression_ratio=4,
)  # fmt: skip


def rotary(case):
    c = CASES[case]
    if "use_rotary_positional_embeddings" not in c:
        return None
    grid = (2, 3)
    if "patch_size_t" in c:
        return get_3d_rotary_pos_embed(
            16,
            None,
            grid,
            2,
            grid_type="slice",
            max_size=(c["sample_height"] // 2, c["sample_width"] // 2),
        )
    region = get_resize_crop_region_for_grid(grid, c["sample_width"] // 2, c["sample_height"] // 2)
    return get_3d_rotary_pos_embed(16, region, grid, 3)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_the_transformer_agrees_with_diffusers(case, tmp_path):
    theirs = randomised(diffusers.CogVideoXTransformer3DModel(**CASES[case]))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = checkpoints.load(tmp_path / "theirs", dtype=torch.float32)
    assert isinstance(ours, CogVideoXTransformer3DModel)
    g, frames = torch.Generator().manual_seed(0), 4 if "1.5" in case else 3
    x = torch.randn(2, CASES[case]["in_channels"], frames, 4, 6, generator=g)
    text, time = torch.randn(2, 7, 20, generator=g), torch.tensor([17, 801])
    ofs = torch.full((1,), 2.0) if "ofs_embed_dim" in CASES[case] else None
    told = dict(ofs=ofs, image_rotary_emb=rotary(case))
    wanted = theirs(x.transpose(1, 2), text, time, **told).sample.transpose(1, 2)
    got = ours(x, time, text)
    assert got.shape == wanted.shape == (2, 4, frames, 4, 6)
    assert (got - wanted).abs().max() < 1e-4
    checkpoints.save(ours, tmp_path / "ours")
    again = diffusers.CogVideoXTransformer3DModel.from_pretrained(tmp_path / "ours").eval()
    torch.testing.assert_close(
        again(x.transpose(1, 2), text, time, **told).sample, wanted.transpose(1, 2)
    )
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        ours(x[:1], time[:1], text[:1])
    assert counter.get_total_flops() == ours.flops(frames, 4, 6, 7)
    with pytest.raises(DaedalError, match="cannot be cut into patches"):
        ours(x[..., :5], time, text)
    if "from a picture" in case and "1.5" not in case:
        with pytest.raises(DaedalError, match="learned positions of latents of"):
            ours(x[..., :4], time, text)


def varied(codec):
    g = torch.Generator().manual_seed(1)
    for name, parameter in codec.named_parameters():
        spread = 0.7 / parameter[0].numel() ** 0.5 if parameter.dim() > 2 else 0.1
        mean = 1.0 if "norm" in name and name.endswith("weight") and parameter.dim() == 1 else 0.0
        torch.nn.init.normal_(parameter, mean=mean, std=spread, generator=g)
    return codec.eval()


@pytest.mark.parametrize("frames", [1, 5, 9, 21, 25])
@torch.no_grad()
def test_the_codec_agrees_with_diffusers(frames, tmp_path):
    codec = varied(diffusers.AutoencoderKLCogVideoX(**CODEC))
    codec.save_pretrained(tmp_path / "theirs")
    ours = checkpoints.load(tmp_path / "theirs", dtype=torch.float32)
    assert isinstance(ours, AutoencoderKLCogVideoX)
    clips = torch.randn(2, 3, frames, 16, 24).clamp(-1, 1)
    posterior, latents = codec.encode(clips).latent_dist, ours.encode(clips)
    torch.testing.assert_close(latents / 0.7, posterior.mean, atol=1e-4, rtol=1e-4)
    back = codec.decode(posterior.mean).sample
    assert back.shape[2] == (frames if frames % 8 == 1 else frames + 3)  # pairs have no first frame
    torch.testing.assert_close(ours.decode(latents), back.clamp(-1, 1), atol=1e-4, rtol=1e-4)
    checkpoints.save(ours, tmp_path / "ours")
    again = diffusers.AutoencoderKLCogVideoX.from_pretrained(tmp_path / "ours").eval()
    torch.testing.assert_close(again.encode(clips).latent_dist.mean, posterior.mean)
