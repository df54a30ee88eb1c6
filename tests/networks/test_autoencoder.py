"""The KL autoencoder against diffusers, both ways, for the families that differ in their configs;
its scaling; and decoding in tiles."""

from types import SimpleNamespace

import diffusers
import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from daedal import checkpoints
from daedal.networks.autoencoder import AutoencoderKL, AutoencoderKLConfig, decode_tiled, starts
from daedal.networks.config import parse
from daedal.processes.samplers import finished

BASE = dict(
    block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=2,
    norm_num_groups=4, sample_size=16,
)  # fmt: skip
FLUX = BASE | dict(
    latent_channels=16,
    use_quant_conv=False,
    use_post_quant_conv=False,
    scaling_factor=0.3611,
    shift_factor=0.1159,
)
CASES = {
    "sd": BASE,
    "sdxl": BASE | dict(scaling_factor=0.13025),
    "statistics": BASE | dict(scaling_factor=0.5, latents_mean=[-1.6, 2.8, 0.5, 0.3], latents_std=[8.4, 7.5, 5.8, 6.1]),
    "flux": FLUX,
    "no-middle-attention": FLUX | dict(mid_block_add_attention=False),
    "ldm": BASE | dict(down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"), up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D")),
}  # fmt: skip


def randomised(module):
    g = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        spread = 1 / parameter[0].numel() ** 0.5 if parameter.dim() > 1 else 0.1
        torch.nn.init.normal_(
            parameter, mean=0.0 if parameter.dim() > 1 else 0.5, std=spread, generator=g
        )
    return module.eval()


def close(a, b, tolerance=1e-4):
    assert a.shape == b.shape and (a - b).abs().max() < tolerance * max(1, b.abs().max().item()), (
        (a - b).abs().max()
    )


@pytest.fixture(params=CASES, scope="module")
def pair(request, tmp_path_factory):
    theirs = randomised(diffusers.AutoencoderKL(**CASES[request.param]))
    folder = tmp_path_factory.mktemp("vae")
    theirs.save_pretrained(folder)
    return theirs, checkpoints.load(folder)


@torch.inference_mode()
def test_encode_and_decode(pair):
    theirs, ours = pair
    images = torch.randn(2, 3, 18, 24)
    posterior = theirs.encode(images).latent_dist
    mean, logvar = ours.moments(images)
    close(mean, posterior.mean)
    close(logvar, posterior.logvar)
    close(ours.decode(ours.scaled(posterior.mean)), theirs.decode(posterior.mean).sample)


@torch.inference_mode()
def test_our_folder_opens_in_diffusers(pair, tmp_path):
    theirs, ours = pair
    checkpoints.save(ours, tmp_path / "out", max_shard_bytes=20_000)
    again = diffusers.AutoencoderKL.from_pretrained(
        tmp_path / "out", low_cpu_mem_usage=False
    ).eval()
    assert all(
        torch.equal(tensor, theirs.state_dict()[name])
        for name, tensor in again.state_dict().items()
    )
    assert {key for key in again.config if key[0] != "_"} == {
        key for key in theirs.config if key[0] != "_"
    }
    assert checkpoints.load(tmp_path / "out").config == ours.config


@torch.inference_mode()
def test_scaling(pair):
    """The order of each family: SD z*s, SD3 and FLUX (z - shift)*s, Playground (z - mean)*s/std."""
    ours = pair[1]
    c, z = ours.config, torch.randn(2, pair[1].config.latent_channels, 4, 4)
    shift = torch.tensor(c.latents_mean or [c.shift_factor or 0.0])[:, None, None]
    std = torch.tensor(c.latents_std or [1.0])[:, None, None]
    close(ours.scaled(z), (z - shift) * c.scaling_factor / std)
    close(ours.unscaled(ours.scaled(z)), z)


@torch.inference_mode()
def test_posterior_samples(pair):
    ours, images = pair[1], torch.randn(1, 3, 16, 16)
    mean, logvar = ours.moments(images)
    close(ours.encode(images), ours.scaled(mean))
    draws = torch.cat(
        [
            ours.unscaled(ours.encode(images, torch.Generator().manual_seed(seed)))
            for seed in range(40)
        ]
    )
    z = (draws - mean) / (0.5 * logvar).exp()
    assert abs(z.mean()) < 0.05 and abs(z.std() - 1) < 0.05
    again = ours.encode(images, torch.Generator().manual_seed(7))
    assert torch.equal(again, ours.encode(images, torch.Generator().manual_seed(7)))


@torch.inference_mode()
def test_a_batch_is_its_parts():
    ours = randomised(AutoencoderKL(parse(AutoencoderKLConfig, BASE)))
    latents = torch.randn(3, 4, 8, 8)
    close(torch.cat([ours.decode(one[None]) for one in latents]), ours.decode(latents), 1e-5)


@torch.inference_mode()
def test_half_precision_is_computed_in_single_where_it_would_overflow():
    ours = randomised(AutoencoderKL(parse(AutoencoderKLConfig, BASE)))
    latents = torch.randn(1, 4, 8, 8).half()
    out = ours.decode(latents)
    assert out.dtype == torch.float16
    close(out.float(), ours.decode(latents.float()), 1e-2)


def test_old_names_of_attention(tmp_path):
    """Files of 2022 call the middle attention's projections query, key, value and proj_attn."""
    from safetensors.torch import load_file, save_file

    theirs = randomised(diffusers.AutoencoderKL(**BASE))
    theirs.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for name, tensor in load_file(file).items():
        for new, former in names.items():
            name = name.replace(new, former)
        old[name] = tensor
    save_file(old, file, {"format": "pt"})
    ours = checkpoints.load(tmp_path)
    assert all(
        torch.equal(tensor, theirs.state_dict()[name]) for name, tensor in ours.state_dict().items()
    )


def test_training():
    """Every weight has a gradient, and one image can be learnt."""
    ours = AutoencoderKL(parse(AutoencoderKLConfig, BASE)).init_weights(0)
    images = (
        torch.linspace(-1, 1, 16).expand(1, 3, 16, 16)
        * torch.tensor([1.0, -1.0, 0.5])[:, None, None]
    )
    g = torch.Generator().manual_seed(0)
    optimizer, losses = torch.optim.AdamW(ours.parameters(), 2e-3), []
    for _ in range(40):
        reconstruction, mean, logvar = ours(images, g)
        loss = (reconstruction - images).square().mean() + 1e-6 * (
            mean.square() + logvar.exp() - 1 - logvar
        ).sum()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in ours.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0], losses


# Tiles.


@torch.inference_mode()
@pytest.mark.parametrize(("height", "width"), [(40, 40), (17, 50), (16, 16), (9, 33)])
def test_tiles_of_a_local_decoder_are_exact_away_from_overlaps(height, width):
    """Two 3 x 3 convolutions and an upsampling see two cells around: between the overlaps the tiled
    image is the whole one's."""
    torch.manual_seed(0)
    local = nn.Sequential(
        nn.Conv2d(4, 5, 3, padding=1), nn.Upsample(scale_factor=2), nn.Conv2d(5, 3, 3, padding=1)
    )
    latents, tile, overlap = torch.randn(1, 4, height, width), 16, 6
    codec = SimpleNamespace(decode=local, decoder=local)
    whole, tiled = local(latents), finished(decode_tiled(codec, latents, tile, overlap))
    assert tiled.shape == whole.shape
    inside = [torch.ones(side, dtype=torch.bool) for side in (height, width)]
    for keep, side in zip(inside, (height, width), strict=True):
        for at in starts(side, tile, overlap)[1:]:
            before = [s for s in starts(side, tile, overlap) if s < at][-1]
            keep[at : before + tile] = False  # where two tiles meet
    region = (inside[0][:, None] & inside[1]).repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert region.any()
    close(tiled[..., region], whole[..., region], 1e-5)
    # and close where they are blended
    assert (tiled - whole).abs().mean() < 0.1 * whole.abs().mean()


@torch.inference_mode()
def test_tiles_of_the_autoencoder():
    ours = randomised(AutoencoderKL(parse(AutoencoderKLConfig, BASE)))
    latents = torch.randn(1, 4, 8, 8)
    # one tile is the whole
    close(finished(decode_tiled(ours, latents, tile=8, overlap=4)), ours.decode(latents), 1e-5)
    flat = torch.ones(1, 4, 24, 24)
    whole, tiled = ours.decode(flat), finished(decode_tiled(ours, flat, tile=16, overlap=8))
    assert (whole - tiled).abs().mean() < 0.1 * whole.abs().mean()
    # attention sees a tile instead of the image: near, not equal
    noise = torch.randn(1, 4, 40, 20)
    whole, tiled = ours.decode(noise), finished(decode_tiled(ours, noise, tile=16, overlap=8))
    assert torch.corrcoef(torch.stack([whole.flatten(), tiled.flatten()]))[0, 1] > 0.95


@torch.inference_mode()
def test_tiles_have_the_contrast_of_the_whole():
    """Half the latents are flat, half are not: each tile's own group norms would even that out."""
    ours = randomised(AutoencoderKL(parse(AutoencoderKLConfig, BASE)))
    latents = 3 * torch.randn(1, 4, 40, 40)
    latents[..., :20] *= 0.05
    whole = ours.decode(latents)
    tiled = finished(decode_tiled(ours, latents, tile=16, overlap=8))
    wide, flat = whole.shape[-1] * 16 // 40, slice(0, 16)
    alone = ours.decode(latents[:, :, flat, flat])
    right = whole[:, :, :wide, :wide]
    off = [(x[:, :, :wide, :wide] - right).norm() / right.norm() for x in (tiled, alone)]
    assert off[0] < 0.5 * off[1], off


def test_tiles_cover_everything():
    for length in range(1, 60):
        at = starts(length, 16, 6)
        covered = {cell for start in at for cell in range(start, min(start + 16, length))}
        assert covered == set(range(length)) and at[-1] == max(length - 16, 0)


@torch.inference_mode()
def test_flops_are_those_of_a_real_call():
    ours = AutoencoderKL(parse(AutoencoderKLConfig, BASE))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        ours.encode(torch.randn(1, 3, 16, 24))
    assert ours.flops(16, 24)["encode"] == counter.get_total_flops()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        ours.decode(torch.randn(1, 4, 8, 12))
    assert ours.flops(16, 24)["decode"] == counter.get_total_flops()
