"""PixArt against diffusers, both ways, on random small models."""

import json

import diffusers
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from daedal import checkpoints
from daedal.errors import DaedalError
from daedal.networks.config import parse
from daedal.networks.pixart import PixArtConfig, PixArtTransformer2DModel

L, TEXT = 7, 20
SMALL = dict(
    num_attention_heads=2,
    attention_head_dim=12,
    num_layers=2,
    sample_size=8,
    cross_attention_dim=24,
    caption_channels=TEXT,
)
CASES = {
    "alpha-512": SMALL,
    "alpha-1024": SMALL | dict(sample_size=128),  # whose size says that it is told the size
    "sigma-1024": SMALL
    | dict(sample_size=128, use_additional_conditions=False, interpolation_scale=2),
    "sigma-2k": SMALL
    | dict(sample_size=256, interpolation_scale=4, patch_size=4, attention_bias=False),
    "no-projection": SMALL
    | dict(
        caption_channels=None,
        cross_attention_dim=TEXT,
        use_additional_conditions=True,
        out_channels=None,
    ),
}


def randomised(module):
    g = torch.Generator().manual_seed(1)
    for name, parameter in module.named_parameters():
        spread = (
            0.7 / parameter[0].numel() ** 0.5
            if parameter.dim() > 1 and "table" not in name
            else 0.1
        )
        torch.nn.init.normal_(
            parameter, mean=0.0 if parameter.dim() > 1 else 0.3, std=spread, generator=g
        )
    return module.eval()


def close(a, b):
    assert a.shape == b.shape and (a - b).abs().max() < 1e-4 * max(1, b.abs().max().item()), (
        (a - b).abs().max()
    )


def inputs(height=8, width=8):
    g = torch.Generator().manual_seed(0)
    added = {
        "resolution": torch.tensor([[512.0, 768.0], [1024.0, 1024.0]]),
        "aspect_ratio": torch.tensor([[0.66], [1.0]]),
    }
    return (
        torch.randn(2, 4, height, width, generator=g),
        torch.tensor([3, 801]),
        torch.randn(2, L, TEXT, generator=g),
        added,
    )


def predicted(theirs, x, time, text, added, mask=None):
    size = added if theirs.use_additional_conditions else {"resolution": None, "aspect_ratio": None}
    return theirs(
        x,
        encoder_hidden_states=text,
        timestep=time,
        added_cond_kwargs=size,
        encoder_attention_mask=mask,
    ).sample


@pytest.fixture(params=CASES, scope="module")
def pair(request, tmp_path_factory):
    theirs, folder = (
        randomised(diffusers.PixArtTransformer2DModel(**CASES[request.param])),
        tmp_path_factory.mktemp("pixart"),
    )
    theirs.save_pretrained(folder)
    return theirs, checkpoints.load(folder)


@torch.inference_mode()
@pytest.mark.parametrize("size", [(8, 8), (8, 16), (20, 12)])
def test_prediction(pair, size):
    theirs, ours = pair
    x, time, text, added = inputs(*size)
    expected = predicted(theirs, x, time, text, added)
    assert expected.std() > 0.05
    close(ours(x, time, text, added=added), expected)
    close(ours(x.contiguous(memory_format=torch.channels_last), time, text, added=added), expected)


@torch.inference_mode()
def test_masked_text_is_not_read(pair):
    theirs, ours = pair
    x, time, text, added = inputs()
    mask = torch.arange(L) < torch.tensor([[L], [3]])
    masked = ours(x, time, text, text_mask=mask, added=added)
    close(masked, predicted(theirs, x, time, text, added, mask))
    close(
        ours(x, time, text.masked_fill(~mask[:, :, None], 9.0), text_mask=mask, added=added), masked
    )


@torch.inference_mode()
def test_text_keys_once_a_prompt(pair):
    _, ours = pair
    x, time, text, added = inputs()
    assert torch.equal(
        ours(x, time, text_kv=ours.text_keys(text), added=added), ours(x, time, text, added=added)
    )


@torch.inference_mode()
def test_our_folder_opens_in_diffusers(pair, tmp_path):
    theirs, ours = pair
    checkpoints.save(ours, tmp_path / "out", max_shard_bytes=10_000)
    again = diffusers.PixArtTransformer2DModel.from_pretrained(
        tmp_path / "out", low_cpu_mem_usage=False
    ).eval()
    close(predicted(again, *inputs()), predicted(theirs, *inputs()))
    assert all(
        torch.equal(tensor, theirs.state_dict()[name])
        for name, tensor in again.state_dict().items()
    )
    assert checkpoints.load(tmp_path / "out").config == ours.config


@torch.inference_mode()
def test_the_published_folder(pair, tmp_path):
    theirs, ours = pair
    theirs.save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text()) | dict(
        _class_name="Transformer2DModel", num_vector_embeds=None
    )
    raw |= dict(
        only_cross_attention=False, use_linear_projection=False, double_self_attention=False
    )
    (tmp_path / "config.json").write_text(
        json.dumps({key: value for key, value in raw.items() if value is not None})
    )
    again = checkpoints.load(tmp_path)
    assert isinstance(again, PixArtTransformer2DModel) and again.config == ours.config


@torch.inference_mode()
def test_half_precision_weights_and_activations(pair):
    _, ours = pair
    x, time, text, added = inputs()
    exact, mixed = ours(x, time, text, added=added), ours(x.bfloat16(), time, text, added=added)
    assert mixed.dtype == torch.bfloat16
    assert (mixed - exact).norm() < 0.03 * exact.norm()


def test_gradients_reach_every_parameter():
    ours = randomised(PixArtTransformer2DModel(parse(PixArtConfig, CASES["alpha-1024"])))
    x, time, text, added = inputs()
    ours(x, time, text, added=added).square().mean().backward()
    assert [name for name, p in ours.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_flops_are_those_of_a_real_call(pair):
    _, ours = pair
    x, time, text, added = inputs(8, 16)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        ours(x[:1], time[:1], text[:1], added={key: value[:1] for key, value in added.items()})
    assert ours.flops(8, 16, text_tokens=L) == counter.get_total_flops()


def test_published_size():
    """0.61 billion (Chen et al. 2023, table 2)."""
    with torch.device("meta"):
        alpha = PixArtTransformer2DModel(parse(PixArtConfig, dict(caption_channels=4096)))
    assert round(sum(p.numel() for p in alpha.parameters()) / 1e6) == 611


def test_what_is_missing_gets_one_sentence():
    ours = PixArtTransformer2DModel(parse(PixArtConfig, CASES["alpha-1024"]))
    x, time, text, added = inputs()
    with pytest.raises(DaedalError, match=r"added\['resolution'\] was not given"):
        ours(x, time, text)
    with pytest.raises(DaedalError, match="needs text, or what was made of it"):
        ours(x, time, added=added)
    with pytest.raises(DaedalError, match=r"norm_elementwise_affine=True .* is not supported"):
        parse(PixArtConfig, dict(norm_elementwise_affine=True))
