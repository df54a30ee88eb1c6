"""The vector-quantised autoencoder against diffusers, both ways; tokens; and that it learns with a
codebook that follows by average."""

import diffusers
import pytest
import torch

from daedal import checkpoints
from daedal.errors import DaedalError
from daedal.networks.config import parse
from daedal.networks.vq import VQModel, VQModelConfig
from daedal.nn.codebook import CodebookAverage, code_use

BASE = dict(
    block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1,
    norm_num_groups=4, num_vq_embeddings=32,
)  # fmt: skip
CASES = {
    "ldm": BASE,
    "vqgan": BASE | dict(
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"), up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=8, vq_embed_dim=4,
    ),
    "amused": BASE | dict(mid_block_add_attention=False, lookup_from_codebook=True, latent_channels=4),
}  # fmt: skip


def close(a, b):
    assert a.shape == b.shape and (a - b).abs().max() < 1e-4 * max(1, b.abs().max().item()), (
        (a - b).abs().max()
    )


@pytest.fixture(params=CASES, scope="module")
def pair(request, tmp_path_factory):
    theirs = diffusers.VQModel(**CASES[request.param]).eval()
    g = torch.Generator().manual_seed(1)
    for parameter in theirs.parameters():
        spread = 1 / parameter[0].numel() ** 0.5 if parameter.dim() > 1 else 0.1
        torch.nn.init.normal_(
            parameter, mean=0.0 if parameter.dim() > 1 else 0.5, std=spread, generator=g
        )
    folder = tmp_path_factory.mktemp("vq")
    theirs.save_pretrained(folder)
    return theirs, checkpoints.load(folder)


@torch.inference_mode()
def test_encode_and_decode(pair):
    theirs, ours = pair
    images = torch.randn(2, 3, 16, 24)
    h = theirs.encode(images).latents
    close(ours.vectors(images).permute(0, 3, 1, 2), h)
    expected = theirs.decode(h).sample
    close(ours(images)[0], expected)
    close(ours.decode(ours.encode(images)), expected)
    tokens = ours.tokens(images)
    assert tokens.shape == (2, 8, 12) and torch.equal(
        tokens.flatten(), theirs.quantize(h)[2][2].flatten()
    )
    close(ours.from_tokens(tokens), expected)
    assert len(tokens.unique()) > 3


@torch.inference_mode()
def test_our_folder_opens_in_diffusers(pair, tmp_path):
    theirs, ours = pair
    checkpoints.save(ours, tmp_path / "out")
    again = diffusers.VQModel.from_pretrained(tmp_path / "out", low_cpu_mem_usage=False)
    assert all(
        torch.equal(tensor, theirs.state_dict()[name])
        for name, tensor in again.state_dict().items()
    )
    assert checkpoints.load(tmp_path / "out").config == ours.config


def test_training_with_an_average():
    """A picture of four colours is learnt with the codebook following by average and dead codes
    revived."""
    torch.manual_seed(0)
    ours = VQModel(parse(VQModelConfig, BASE)).init_weights(0)
    colours = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, -1]])
    images = (
        colours[torch.arange(64).view(1, 8, 8) // 16]
        .permute(0, 3, 1, 2)
        .repeat_interleave(2, 2)
        .repeat_interleave(2, 3)
    )
    average = CodebookAverage(ours.quantize, decay=0.9)
    network = [p for name, p in ours.named_parameters() if not name.startswith("quantize")]
    optimizer, losses = torch.optim.AdamW(network, 3e-3), []
    for step in range(60):
        reconstruction, quantized = ours(images)
        loss = (reconstruction - images).square().mean() + 0.25 * quantized.commitment
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            z = ours.vectors(images)
            average.update(ours.quantize, z, ours.quantize.nearest(z))
            if step % 10 == 0:
                average.revive(ours.quantize, z)
        losses.append((reconstruction - images).square().mean().item())
    assert losses[-1] < 0.2 * losses[0], losses[::10]
    assert code_use(ours.tokens(images), 32)["perplexity"] > 3


def test_spatial_norms_are_refused():
    with pytest.raises(DaedalError, match="norm_type='spatial' of VQModel is not supported"):
        parse(VQModelConfig, BASE | dict(norm_type="spatial"))


def test_cost():
    cost = VQModel(parse(VQModelConfig, BASE)).flops(16, 16)
    assert cost["decode"] > cost["encode"] > 0
