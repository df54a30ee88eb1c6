"""The U-Net against diffusers, both ways, on random small models: one case for every family that it
claims to read."""

import diffusers
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from daedal import checkpoints
from daedal.errors import DaedalError
from daedal.networks.config import parse
from daedal.networks.unet import UNet2DConditionConfig, UNet2DConditionModel

D = 24  # text width
SD = dict(
    block_out_channels=(8, 16), down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    layers_per_block=2, norm_num_groups=4, cross_attention_dim=D, attention_head_dim=2, sample_size=8,
)  # fmt: skip
XL = dict(
    block_out_channels=(8, 16), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    layers_per_block=2, norm_num_groups=4, cross_attention_dim=D, attention_head_dim=(2, 4), transformer_layers_per_block=(1, 2),
    use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=16 + 6 * 8,
    sample_size=8,
)  # fmt: skip
IF = dict(
    in_channels=3, out_channels=6, block_out_channels=(32, 64), layers_per_block=2, norm_num_groups=8, sample_size=8,
    down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"), mid_block_type="UNetMidBlock2DSimpleCrossAttn",
    up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"), attention_head_dim=16, cross_attention_dim=64,
    cross_attention_norm="group_norm", encoder_hid_dim=D, addition_embed_type="text", addition_embed_type_num_heads=4,
    resnet_time_scale_shift="scale_shift", act_fn="gelu",
)  # fmt: skip
CASES = {
    "sd1": SD,
    "sd1-inpaint": SD | dict(in_channels=9),
    "sd2": SD | dict(attention_head_dim=(2, 4), use_linear_projection=True, upcast_attention=True),
    "sd2-unclip": SD | dict(class_embed_type="projection", projection_class_embeddings_input_dim=20),
    "lcm": SD | dict(time_cond_proj_dim=16),
    "upscaler": SD | dict(in_channels=7, num_class_embeds=10, only_cross_attention=(True, False)),
    "sdxl": XL,
    "refiner": XL | dict(projection_class_embeddings_input_dim=16 + 5 * 8),
    "pruned-xl": XL | dict(mid_block_type="UNetMidBlock2D", reverse_transformer_layers_per_block=[[2, 1, 1], 1]),
    "no-middle": SD | dict(mid_block_type=None),
    "if-1": IF,
    "if-2": IF | dict(
        in_channels=6, class_embed_type="timestep", time_embedding_dim=64, time_embedding_act_fn="gelu", resnet_skip_time_act=True,
        resnet_out_scale_factor=2**0.5, mid_block_scale_factor=2**0.5, only_cross_attention=True, layers_per_block=(2, 1),
    ),
}  # fmt: skip


def randomised(module):
    g = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        spread = 0.5 / parameter[0].numel() ** 0.5 if parameter.dim() > 1 else 0.1
        torch.nn.init.normal_(
            parameter, mean=0.0 if parameter.dim() > 1 else 0.5, std=spread, generator=g
        )
    return module.eval()


def inputs(config, size=8, seed=0, text=5):
    """(arguments, keyword arguments of ours, keyword arguments of theirs)"""
    g = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=g)  # noqa: E731
    ours, theirs = {}, {}
    if config.addition_embed_type == "text_time":
        count = (config.projection_class_embeddings_input_dim - 16) // 8
        ours["added"] = theirs["added_cond_kwargs"] = {
            "text_embeds": draw(2, 16),
            "time_ids": draw(2, count).mul(100).abs(),
        }
    if config.time_cond_proj_dim:
        w = torch.tensor([7.5, 3.0])
        angles = (
            (w[:, None] - 1)
            * 1000
            * torch.exp(-torch.log(torch.tensor(10000.0)) * torch.arange(8) / 7)
        )
        ours["guidance"], theirs["timestep_cond"] = w, torch.cat([angles.sin(), angles.cos()], -1)
    if config.class_embed_type or config.num_class_embeds:
        labels = draw(2, 20) if config.class_embed_type == "projection" else torch.tensor([3, 7])
        ours["labels"] = theirs["class_labels"] = labels
    return (
        (draw(2, config.in_channels, size, size), torch.tensor([3.0, 801.0]), draw(2, text, D)),
        ours,
        theirs,
    )


@pytest.fixture(params=CASES, scope="module")
def pair(request, tmp_path_factory):
    theirs = randomised(diffusers.UNet2DConditionModel(**CASES[request.param]))
    folder = tmp_path_factory.mktemp("unet")
    theirs.save_pretrained(folder)
    return theirs, checkpoints.load(folder)


def close(a, b):
    assert a.shape == b.shape and (a - b).abs().max() < 1e-4 * max(1, b.abs().max().item()), (
        (a - b).abs().max()
    )


@torch.inference_mode()
def test_prediction(pair):
    theirs, ours = pair
    args, mine, other = inputs(ours.config)
    expected = theirs(*args, **other).sample
    assert expected.std() > 0.05
    close(ours(*args, **mine), expected)
    close(ours(args[0].contiguous(memory_format=torch.channels_last), *args[1:], **mine), expected)


@torch.inference_mode()
def test_our_folder_opens_in_diffusers(pair, tmp_path):
    theirs, ours = pair
    checkpoints.save(ours, tmp_path / "out", max_shard_bytes=40_000)
    again = diffusers.UNet2DConditionModel.from_pretrained(
        tmp_path / "out", low_cpu_mem_usage=False
    ).eval()
    args, _, other = inputs(ours.config)
    close(again(*args, **other).sample, theirs(*args, **other).sample)
    assert all(
        torch.equal(tensor, theirs.state_dict()[name])
        for name, tensor in again.state_dict().items()
    )
    assert checkpoints.load(tmp_path / "out").config == ours.config


@torch.inference_mode()
def test_masked_text_is_not_read(pair):
    """Where diffusers pads masks (their added attention mends the length by guessing) the two agree
    as well."""
    theirs, ours = pair
    args, mine, other = inputs(ours.config)
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[0, 3:] = False
    if ours.config.only_cross_attention is False:
        close(
            ours(*args, text_mask=mask, **mine),
            theirs(*args, encoder_attention_mask=mask, **other).sample,
        )
    # IF's norms and pooling see all tokens
    if ours.config.cross_attention_norm is None and ours.config.addition_embed_type != "text":
        changed = args[2].clone()
        changed[0, 3:] += 1
        close(ours(*args[:2], changed, text_mask=mask, **mine), ours(*args, text_mask=mask, **mine))


@torch.inference_mode()
def test_text_keys_once_a_prompt(pair):
    _, ours = pair
    (x, time, text), mine, _ = inputs(ours.config)
    keys = ours.text_keys(text)
    assert len(keys) == len(ours.text_layers())
    pooled = text if ours.config.addition_embed_type == "text" else None
    assert torch.equal(ours(x, time, pooled, text_kv=keys, **mine), ours(x, time, text, **mine))


@torch.inference_mode()
@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_sizes_that_do_not_halve(name):
    theirs = randomised(diffusers.UNet2DConditionModel(**CASES[name]))
    ours = same(theirs)
    args, mine, other = inputs(ours.config, size=7)
    close(ours(*args, **mine), theirs(*args, **other).sample)


def same(theirs):
    """Our network with their config and weights, without a folder."""
    ours = UNet2DConditionModel(parse(UNet2DConditionConfig, dict(theirs.config)))
    ours.load_state_dict(theirs.state_dict())
    return ours.eval()


@torch.inference_mode()
def test_one_of_a_batch_equals_itself_alone():
    ours = same(randomised(diffusers.UNet2DConditionModel(**XL)))
    (x, time, text), mine, _ = inputs(ours.config)
    both = ours(x, time, text, **mine)
    alone = ours(
        x[1:], time[1:], text[1:], added={key: value[1:] for key, value in mine["added"].items()}
    )
    close(alone, both[1:])


@torch.inference_mode()
def test_half_precision_weights_and_activations():
    """Masters in fp32 with bf16 activations compute what bf16 weights do."""
    ours = same(randomised(diffusers.UNet2DConditionModel(**SD)))
    x, time, text = inputs(ours.config)[0]
    exact, mixed = ours(x, time, text), ours(x.bfloat16(), time, text)
    assert mixed.dtype == torch.bfloat16
    assert (mixed - exact).norm() < 0.03 * exact.norm()
    assert torch.equal(ours.bfloat16()(x.bfloat16(), time, text), mixed)


def test_gradients_reach_every_parameter():
    ours = UNet2DConditionModel(
        parse(UNet2DConditionConfig, IF | dict(in_channels=6, class_embed_type="timestep"))
    )
    randomised(ours)
    args, mine, _ = inputs(ours.config)
    ours(*args, **mine).square().mean().backward()
    assert [name for name, p in ours.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_training_starts_from_nothing():
    ours = UNet2DConditionModel(parse(UNet2DConditionConfig, XL)).init_weights(0)
    args, mine, _ = inputs(ours.config)
    assert not ours(*args, **mine).any()
    assert all(p.isfinite().all() for p in ours.parameters())


@pytest.mark.parametrize("name", ["sd1", "sdxl", "if-2"])
def test_flops_are_those_of_a_real_call(name):
    ours = UNet2DConditionModel(parse(UNet2DConditionConfig, CASES[name]))
    (x, time, text), mine, _ = inputs(ours.config)
    one = {
        key: value[:1] if isinstance(value, torch.Tensor) else {k: v[:1] for k, v in value.items()}
        for key, value in mine.items()
    }
    # it does not know the CPU's kernel
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        ours(x[:1], time[:1], text[:1], **one)
    assert ours.flops(8, 8, text_tokens=5) == counter.get_total_flops()


SD15, SDXL = dict(cross_attention_dim=768), dict(
    block_out_channels=(320, 640, 1280), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=(5, 10, 20), cross_attention_dim=2048,
    transformer_layers_per_block=(1, 2, 10), use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)  # fmt: skip


@pytest.mark.parametrize(
    ("config", "count"), [(SD15, 859_520_964), (SDXL, 2_567_463_684)], ids=["sd1.5", "sdxl"]
)
def test_published_sizes(config, count):
    with torch.device("meta"):
        unet = UNet2DConditionModel(parse(UNet2DConditionConfig, config))
    assert sum(p.numel() for p in unet.parameters()) == count


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            dict(down_block_types=("CrossAttnDownBlock", "DownBlock2D")),
            "did you mean 'CrossAttnDownBlock2D'",
        ),
        (dict(attention_head_dim=3), "do not divide 8 channels"),
        (dict(layers_per_block=(2, 2, 2)), "3 entries for 2 levels"),
        (dict(addition_embed_type="image"), "addition_embed_type 'image'"),
        (dict(dual_cross_attention=True), "dual_cross_attention=True .* is not supported"),
        (
            dict(cross_attention_dimension=3),
            "unknown key 'cross_attention_dimension' .did you mean 'cross_attention_dim'",
        ),
    ],
)
def test_a_config_out_of_reach_gets_one_sentence(change, words):
    with pytest.raises(DaedalError, match=words):
        UNet2DConditionModel(parse(UNet2DConditionConfig, SD | change))


def test_a_missing_condition_gets_one_sentence():
    ours = UNet2DConditionModel(parse(UNet2DConditionConfig, XL)).init_weights(0)
    x, time, text = inputs(ours.config)[0]
    with pytest.raises(DaedalError, match=r"needs added\['text_embeds'\]"):
        ours(x, time, text)
    with pytest.raises(DaedalError, match="needs text"):
        ours(x, time, **inputs(ours.config)[1])
