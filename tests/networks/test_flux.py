"""FLUX's transformer against diffusers, both ways, on random small models."""

import diffusers
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from daedal import checkpoints
from daedal.errors import DaedalError
from daedal.networks.config import parse
from daedal.networks.flux import FluxConfig, FluxTransformer2DModel, pack, positions, unpack
from daedal.nn.joint import Residuals

L, TEXT, POOLED = 5, 20, 12
SMALL = dict(
    in_channels=8, num_layers=2, num_single_layers=3, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=TEXT,
    pooled_projection_dim=POOLED, axes_dims_rope=(4, 4, 8),
)  # fmt: skip
CASES = {
    "schnell": SMALL,
    "dev": SMALL | dict(guidance_embeds=True),
    "fill": SMALL | dict(guidance_embeds=True, in_channels=40, out_channels=8),
    "two-streams-only": SMALL | dict(num_single_layers=0, axes_dims_rope=(0, 8, 8)),
}
Pipeline = diffusers.FluxPipeline


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


def inputs(config, ids):
    """x, a time in [0, 1], text, pooled text and ids; and the guidance scale, if it is read."""
    g = torch.Generator().manual_seed(0)
    x, text, pooled = (
        torch.randn(2, *shape, generator=g)
        for shape in ((len(ids), config.in_channels), (L, TEXT), (POOLED,))
    )
    guidance = dict(guidance=torch.tensor([3.5, 1.0])) if config.guidance_embeds else {}
    return (x, torch.tensor([0.031, 0.8]), text, pooled, ids), guidance


def predicted(theirs, x, time, text, pooled, ids, **more):
    return theirs(x, text, pooled, time, ids, torch.zeros(L, 3), **more).sample


@pytest.fixture(params=CASES, scope="module")
def pair(request, tmp_path_factory):
    theirs, folder = (
        randomised(diffusers.FluxTransformer2DModel(**CASES[request.param])),
        tmp_path_factory.mktemp("flux"),
    )
    theirs.save_pretrained(folder)
    return theirs, checkpoints.load(folder)


IDS = {
    "square": positions(8, 8),
    "oblong": positions(4, 14),
    "kontext": torch.cat([positions(8, 8), positions(4, 6, image=1)]),
}


@torch.inference_mode()
@pytest.mark.parametrize("name", IDS)
def test_prediction(pair, name):
    theirs, ours = pair
    args, guidance = inputs(ours.config, IDS[name])
    expected = predicted(theirs, *args, **guidance)
    assert expected.std() > 0.05
    close(ours(*args, **guidance), expected)


@torch.inference_mode()
def test_our_folder_opens_in_diffusers(pair, tmp_path):
    theirs, ours = pair
    args, guidance = inputs(ours.config, IDS["oblong"])
    checkpoints.save(ours, tmp_path / "out", max_shard_bytes=40_000)
    again = diffusers.FluxTransformer2DModel.from_pretrained(
        tmp_path / "out", low_cpu_mem_usage=False
    ).eval()
    close(predicted(again, *args, **guidance), predicted(theirs, *args, **guidance))
    assert all(
        torch.equal(tensor, theirs.state_dict()[name])
        for name, tensor in again.state_dict().items()
    )
    assert checkpoints.load(tmp_path / "out").config == ours.config


@torch.inference_mode()
@pytest.mark.parametrize(
    ("places", "counts"), [("runs", (1, 2)), ("runs", (2, 3)), ("cycle", (2, 0))]
)
def test_control(places, counts):
    theirs = randomised(diffusers.FluxTransformer2DModel(**SMALL | dict(num_layers=5)))
    ours = FluxTransformer2DModel(parse(FluxConfig, dict(theirs.config)))
    ours.load_state_dict(theirs.state_dict())
    args, _ = inputs(ours.config, IDS["square"])
    double, single = (
        tuple(torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(i)) for i in range(n))
        for n in counts
    )
    expected = predicted(
        theirs,
        *args,
        controlnet_block_samples=double,
        controlnet_single_block_samples=single or None,
        controlnet_blocks_repeat=places == "cycle",
    )
    close(ours(*args, control=Residuals(double, single, places)), expected)


@torch.inference_mode()
def test_several_controls():
    """Networks of different depth together: what each adds is added."""
    ours = randomised(FluxTransformer2DModel(parse(FluxConfig, SMALL)))
    args, _ = inputs(ours.config, IDS["square"])
    a, b, c = (torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(i)) for i in range(3))
    together = Residuals((a,)) + Residuals((b, c), (a, b, c)) + Residuals((c, a), places="cycle")
    close(
        ours(*args, control=together),
        ours(*args, control=Residuals((a + b + c, a + c + a), (a, b, c), places="cycle")),
    )


def test_packing_is_that_of_the_pipeline():
    latents = torch.randn(2, 3, 6, 10)
    tokens = pack(latents)
    assert torch.equal(tokens, Pipeline._pack_latents(latents, 2, 3, 6, 10))
    assert torch.equal(unpack(tokens, 6, 10), latents)
    assert torch.equal(
        positions(6, 10), Pipeline._prepare_latent_image_ids(2, 3, 5, "cpu", torch.float32)
    )
    assert (
        torch.equal(positions(6, 10, image=1)[:, 1:], positions(6, 10)[:, 1:])
        and (positions(6, 10, image=1)[:, 0] == 1).all()
    )


@torch.inference_mode()
def test_tokens_are_a_set(pair):
    """Where a token stands says its position alone, not its place in the row."""
    _, ours = pair
    (x, time, text, pooled, ids), guidance = inputs(ours.config, IDS["kontext"])
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(3))
    close(
        ours(x[:, order], time, text, pooled, ids[order], **guidance),
        ours(x, time, text, pooled, ids, **guidance)[:, order],
    )


@torch.inference_mode()
def test_half_precision_weights_and_activations(pair):
    _, ours = pair
    (x, *rest), guidance = inputs(ours.config, IDS["square"])
    exact, mixed = ours(x, *rest, **guidance), ours(x.bfloat16(), *rest, **guidance)
    assert mixed.dtype == torch.bfloat16
    assert (mixed - exact).norm() < 0.03 * exact.norm()


def test_gradients_reach_every_parameter():
    ours = randomised(FluxTransformer2DModel(parse(FluxConfig, CASES["dev"])))
    args, guidance = inputs(ours.config, IDS["square"])
    ours(*args, **guidance).square().mean().backward()
    assert [name for name, p in ours.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_flops_are_those_of_a_real_call(pair):
    _, ours = pair
    (x, time, text, pooled, ids), guidance = inputs(ours.config, positions(4, 6))
    one = {key: value[:1] for key, value in guidance.items()}
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        ours(x[:1], time[:1], text[:1], pooled[:1], ids, **one)
    assert ours.flops(4, 6, text_tokens=L) == counter.get_total_flops()


@pytest.mark.parametrize(
    ("config", "count"),
    [(dict(guidance_embeds=True), 11_901_408_320), ({}, 11_891_178_560)],
    ids=["dev", "schnell"],
)
def test_published_sizes(config, count):
    with torch.device("meta"):
        flux = FluxTransformer2DModel(parse(FluxConfig, config))
    assert sum(p.numel() for p in flux.parameters()) == count


def test_what_does_not_fit_gets_one_sentence():
    ours = FluxTransformer2DModel(parse(FluxConfig, CASES["dev"]))
    args, _ = inputs(ours.config, IDS["square"])
    with pytest.raises(DaedalError, match="distilled from guidance"), torch.no_grad():
        ours(*args)
    with pytest.raises(DaedalError, match="7 x 8 latent cells cannot be packed"):
        pack(torch.zeros(1, 4, 7, 8))
    with pytest.raises(
        DaedalError, match="patch_size=2 of FluxTransformer2DModel is not supported"
    ):
        parse(FluxConfig, dict(patch_size=2))
