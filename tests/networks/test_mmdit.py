"""SD3's transformer against diffusers, both ways, on random small models."""

import math

import diffusers
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from daedal import checkpoints
from daedal.errors import DaedalError
from daedal.networks.config import parse
from daedal.networks.mmdit import SD3Config, SD3Transformer2DModel
from daedal.nn.joint import PLACES, Residuals

L, TEXT, POOLED = 5, 20, 12
SMALL = dict(
    sample_size=8, in_channels=4, out_channels=4, num_layers=4, attention_head_dim=8, num_attention_heads=2, joint_attention_dim=TEXT,
    caption_projection_dim=16, pooled_projection_dim=POOLED, pos_embed_max_size=7,
)  # fmt: skip
CASES = {
    "3-medium": SMALL,
    "3.5-large": SMALL | dict(qk_norm="rms_norm", out_channels=None),
    "3.5-medium": SMALL | dict(qk_norm="rms_norm", dual_attention_layers=(0, 1)),
    "patch-4": SMALL | dict(patch_size=4, in_channels=5, dual_attention_layers=(3,)),
}


def randomised(module):
    g = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        spread = 0.7 / parameter[0].numel() ** 0.5 if parameter.dim() > 1 else 0.1
        torch.nn.init.normal_(
            parameter, mean=0.0 if parameter.dim() > 1 else 0.3, std=spread, generator=g
        )
    return module.eval()


def close(a, b):
    assert a.shape == b.shape and (a - b).abs().max() < 1e-4 * max(1, b.abs().max().item()), (
        (a - b).abs().max()
    )


def inputs(channels=4, height=8, width=8):
    """x, a time in [0, 1], text and pooled text."""
    g = torch.Generator().manual_seed(0)
    x, text, pooled = (
        torch.randn(2, *shape, generator=g)
        for shape in ((channels, height, width), (L, TEXT), (POOLED,))
    )
    return x, torch.tensor([0.031, 0.8]), text, pooled


def predicted(theirs, x, time, text, pooled, **more):
    return theirs(x, text, pooled, time * 1000, **more).sample


@pytest.fixture(params=CASES, scope="module")
def pair(request, tmp_path_factory):
    theirs, folder = (
        randomised(diffusers.SD3Transformer2DModel(**CASES[request.param])),
        tmp_path_factory.mktemp("sd3"),
    )
    theirs.save_pretrained(folder)
    return theirs, checkpoints.load(folder)


@torch.inference_mode()
@pytest.mark.parametrize("size", [(8, 8), (8, 12)])
def test_prediction(pair, size):
    theirs, ours = pair
    args = inputs(ours.config.in_channels, *size)
    expected = predicted(theirs, *args)
    assert expected.std() > 0.05
    close(ours(*args), expected)
    close(ours(args[0].contiguous(memory_format=torch.channels_last), *args[1:]), expected)


@torch.inference_mode()
def test_our_folder_opens_in_diffusers(pair, tmp_path):
    theirs, ours = pair
    args = inputs(ours.config.in_channels)
    checkpoints.save(ours, tmp_path / "out", max_shard_bytes=20_000)
    again = diffusers.SD3Transformer2DModel.from_pretrained(
        tmp_path / "out", low_cpu_mem_usage=False
    ).eval()
    close(predicted(again, *args), predicted(theirs, *args))
    assert all(
        torch.equal(tensor, theirs.state_dict()[name])
        for name, tensor in again.state_dict().items()
    )
    assert checkpoints.load(tmp_path / "out").config == ours.config


@torch.inference_mode()
def test_layers_left_out(pair):
    theirs, ours = pair
    args = inputs(ours.config.in_channels)
    close(ours(*args, skip=[1, 2]), predicted(theirs, *args, skip_layers=[1, 2]))


@torch.inference_mode()
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_control(pair, count):
    theirs, ours = pair
    args = inputs(ours.config.in_channels)
    tokens = 64 // ours.config.patch_size**2
    residuals = [
        torch.randn(2, tokens, 16, generator=torch.Generator().manual_seed(i)) for i in range(count)
    ]
    close(
        ours(*args, control=Residuals(tuple(residuals))),
        predicted(theirs, *args, block_controlnet_hidden_states=residuals),
    )
    half = Residuals(tuple(r / 2 for r in residuals))
    close(ours(*args, control=half + half), ours(*args, control=Residuals(tuple(residuals))))


def test_which_residual_serves_which_layer():
    for L in (19, 24, 38):  # FLUX's and SD3's
        for n in range(1, L + 1):
            assert [PLACES["even"](i, n, L) for i in range(L)] == [
                int(i / (L / n)) for i in range(L)
            ]
            assert [PLACES["runs"](i, n, L) for i in range(L)] == [
                i // math.ceil(L / n) for i in range(L)
            ]


@torch.inference_mode()
def test_one_of_a_batch_equals_itself_alone(pair):
    _, ours = pair
    args = inputs(ours.config.in_channels)
    close(ours(*(t[1:] for t in args)), ours(*args)[1:])


@torch.inference_mode()
def test_half_precision_weights_and_activations(pair):
    _, ours = pair
    x, *rest = inputs(ours.config.in_channels)
    exact, mixed = ours(x, *rest), ours(x.bfloat16(), *rest)
    assert mixed.dtype == torch.bfloat16
    assert (mixed - exact).norm() < 0.03 * exact.norm()


def test_gradients_reach_every_parameter():
    ours = randomised(SD3Transformer2DModel(parse(SD3Config, CASES["3.5-medium"])))
    ours.pos_embed.pos_embed.zero_()
    ours(*inputs()).square().mean().backward()
    # of the text
    unread = {
        f"transformer_blocks.3.attn.{name}"
        for name in ("add_q_proj.weight", "add_q_proj.bias", "norm_added_q.weight")
    }
    assert {
        name for name, p in ours.named_parameters() if p.grad is None or not p.grad.any()
    } == unread


def test_flops_are_those_of_a_real_call(pair):
    _, ours = pair
    args = inputs(ours.config.in_channels, 8, 12)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        ours(*(t[:1] for t in args))
    assert ours.flops(8, 12, text_tokens=L) == counter.get_total_flops()


MEDIUM = dict(
    num_layers=24, num_attention_heads=24, caption_projection_dim=1536, pos_embed_max_size=192
)
LARGE = dict(
    num_layers=38,
    num_attention_heads=38,
    caption_projection_dim=2432,
    pos_embed_max_size=192,
    qk_norm="rms_norm",
)
MEDIUM35 = MEDIUM | dict(
    pos_embed_max_size=384, qk_norm="rms_norm", dual_attention_layers=tuple(range(13))
)


@pytest.mark.parametrize(
    ("config", "millions"),
    [(MEDIUM, 2028), (LARGE, 8057), (MEDIUM35, 2243)],
    ids=["3-medium", "3.5-large", "3.5-medium"],
)
def test_published_sizes(config, millions):
    """2.0, 8.1 and 2.2 billion."""
    with torch.device("meta"):
        sd3 = SD3Transformer2DModel(parse(SD3Config, config))
    assert round(sum(p.numel() for p in sd3.parameters()) / 1e6) == millions


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((18, 8), "18 x 8 latent cells are more than the 14 a side"),
        ((8, 7), "8 x 7 cells cannot be cut into patches of 2 x 2"),
    ],
)
def test_a_size_out_of_reach_gets_one_sentence(size, words):
    ours = SD3Transformer2DModel(parse(SD3Config, SMALL))
    with pytest.raises(DaedalError, match=words):
        ours(*inputs(4, *size))
    with pytest.raises(DaedalError, match="qk_norm 'layer_norm' is not one of"):
        SD3Transformer2DModel(parse(SD3Config, SMALL | dict(qk_norm="layer_norm")))
