"""The ControlNets of SD3 and FLUX against diffusers, both ways, on random small models."""

import diffusers
import pytest
import torch

from daedal import checkpoints
from daedal.errors import DaedalError
from daedal.networks.config import parse
from daedal.networks.controlnet_dit import FluxControlNetModel, SD3ControlNetModel
from daedal.networks.flux import FluxConfig, FluxTransformer2DModel, positions
from daedal.networks.mmdit import SD3Config, SD3Transformer2DModel

L, TEXT, POOLED, TIME = 5, 20, 12, torch.tensor([0.031, 0.8])
SD3 = dict(
    sample_size=8, in_channels=4, out_channels=4, num_layers=5, attention_head_dim=8, num_attention_heads=2, joint_attention_dim=TEXT,
    caption_projection_dim=16, pooled_projection_dim=POOLED, pos_embed_max_size=7,
)  # fmt: skip
FLUX = dict(
    in_channels=64, num_layers=5, num_single_layers=4, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=TEXT,
    pooled_projection_dim=POOLED, axes_dims_rope=(4, 4, 8),
)  # fmt: skip
SD3_CASES = {
    "instantx": SD3 | dict(num_layers=2),
    "inpainting": SD3
    | dict(
        num_layers=3,
        extra_conditioning_channels=1,
        force_zeros_for_pooled_projection=False,
        pos_embed_type=None,
    ),
    "3.5-medium": SD3 | dict(num_layers=2, qk_norm="rms_norm", dual_attention_layers=(0,)),
    "3.5-large": SD3
    | dict(
        num_layers=3,
        joint_attention_dim=None,
        use_pos_embed=False,
        force_zeros_for_pooled_projection=False,
    ),
}
FLUX_CASES = {
    "plain": FLUX | dict(num_layers=2, num_single_layers=2),
    "union": FLUX | dict(num_layers=3, num_single_layers=0, num_mode=6, guidance_embeds=True),
    "pictures": FLUX
    | dict(num_layers=2, num_single_layers=0, conditioning_embedding_channels=16, patch_size=2),
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


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def same(theirs, ours):
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours.eval()


def sd3_pair():
    theirs = randomised(diffusers.SD3Transformer2DModel(**SD3))
    return same(theirs, SD3Transformer2DModel(parse(SD3Config, dict(theirs.config))))


def reopened(theirs, folder):
    """Ours of their folder, when theirs of our folder is the same again."""
    theirs.save_pretrained(folder / "in")
    ours = checkpoints.load(folder / "in")
    checkpoints.save(ours, folder / "out", max_shard_bytes=20_000)
    again = type(theirs).from_pretrained(folder / "out", low_cpu_mem_usage=False).eval()
    assert all(
        torch.equal(tensor, theirs.state_dict()[name])
        for name, tensor in again.state_dict().items()
    )
    assert checkpoints.load(folder / "out").config == ours.config
    return ours


@torch.inference_mode()
@pytest.mark.parametrize("name", SD3_CASES)
def test_sd3(name, tmp_path):
    theirs, ours = sd3_pair()
    control = randomised(diffusers.SD3ControlNetModel(**SD3_CASES[name]))
    mine, c = reopened(control, tmp_path), control.config
    if not c.use_pos_embed:  # as the pipeline does
        control.pos_embed = control._get_pos_embed_from_transformer(theirs)
    x, text, pooled = draw(2, 4, 8, 10), draw(2, L, TEXT), draw(2, POOLED)
    hint = draw(2, 4 + c.extra_conditioning_channels, 8, 10, seed=1)
    told = torch.zeros_like(pooled) if c.force_zeros_for_pooled_projection else pooled
    words = text if c.joint_attention_dim else None
    expected = control(x, hint, 0.7, words, told, TIME * 1000).controlnet_block_samples
    residuals = mine(x if c.use_pos_embed else ours.embed(x), TIME, words, pooled, hint, scale=0.7)
    for a, b in zip(residuals.double, expected, strict=True):
        close(a, b)
    close(
        ours(x, TIME, text, pooled, control=residuals),
        theirs(x, text, pooled, TIME * 1000, block_controlnet_hidden_states=expected).sample,
    )


@torch.inference_mode()
@pytest.mark.parametrize("name", FLUX_CASES)
def test_flux(name, tmp_path):
    theirs = randomised(diffusers.FluxTransformer2DModel(**FLUX))
    theirs, ours = same(theirs, FluxTransformer2DModel(parse(FluxConfig, dict(theirs.config))))
    control = randomised(diffusers.FluxControlNetModel(**FLUX_CASES[name]))
    mine, c = reopened(control, tmp_path), control.config
    ids = positions(8, 10)
    x, text, pooled = draw(2, 20, 64), draw(2, L, TEXT), draw(2, POOLED)
    hint = draw(2, 3, 64, 80) if c.conditioning_embedding_channels else draw(2, 20, 64, seed=1)
    guidance = torch.tensor([3.5, 1.0]) if c.guidance_embeds else None
    mode = torch.tensor([2, 5]) if c.num_mode else None
    other = None if mode is None else mode[:, None]
    double, single = control(
        x, hint, other, 0.7, text, pooled, TIME, ids, torch.zeros(L, 3), guidance, return_dict=False
    )
    residuals = mine(x, TIME, text, pooled, ids, hint, guidance=guidance, mode=mode, scale=0.7)
    for a, b in zip(
        (*residuals.double, *residuals.single), (*double, *(single or ())), strict=True
    ):
        close(a, b)
    more = dict(
        controlnet_single_block_samples=single,
        controlnet_blocks_repeat=c.conditioning_embedding_channels is not None,
    )
    expected = theirs(
        x, text, pooled, TIME, ids, torch.zeros(L, 3), controlnet_block_samples=double, **more
    ).sample
    close(ours(x, TIME, text, pooled, ids, control=residuals), expected)


def test_what_is_missing_gets_one_sentence():
    config = parse(SD3ControlNetModel.config_class, SD3_CASES["3.5-large"])
    x, pooled, hint = draw(2, 4, 8, 8), draw(2, POOLED), draw(2, 4, 8, 8)
    with pytest.raises(
        DaedalError, match=r"reads tokens, SD3's embed\(latents\), and was given \(2, 4, 8, 8\)"
    ):
        SD3ControlNetModel(config)(x, TIME, None, pooled, hint)
    with pytest.raises(DaedalError, match="reads the text"):
        SD3ControlNetModel(parse(SD3ControlNetModel.config_class, SD3_CASES["instantx"]))(
            x, TIME, None, pooled, hint
        )
    union = FluxControlNetModel(parse(FluxControlNetModel.config_class, FLUX_CASES["union"]))
    with pytest.raises(DaedalError, match="serves 6 kinds of condition"):
        union(
            draw(2, 16, 64),
            TIME,
            draw(2, L, TEXT),
            pooled,
            positions(8, 8),
            draw(2, 16, 64),
            guidance=torch.ones(2),
        )
