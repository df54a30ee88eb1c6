"""ControlNet, T2I-Adapter and IP-Adapter against diffusers: what they compute, and what the U-Net
makes of it."""

import diffusers
import pytest
import torch
from safetensors.torch import save_file

from daedal import checkpoints
from daedal.checkpoints.folder import load_ip_adapter
from daedal.errors import DaedalError
from daedal.networks.config import parse
from daedal.networks.controlnet import ControlNetModel
from daedal.networks.ip_adapter import IPAdapter
from daedal.networks.unet import UNet2DConditionConfig, UNet2DConditionModel

D = 24
SD = dict(
    block_out_channels=(8, 16), down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    layers_per_block=2, norm_num_groups=4, cross_attention_dim=D, attention_head_dim=2,
)  # fmt: skip
XL = dict(
    block_out_channels=(8, 16, 16), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), layers_per_block=2, norm_num_groups=4, cross_attention_dim=D,
    attention_head_dim=(2, 4, 4), transformer_layers_per_block=(1, 2, 2), use_linear_projection=True, addition_embed_type="text_time",
    addition_time_embed_dim=8, projection_class_embeddings_input_dim=16 + 6 * 8,
)  # fmt: skip
ONLY_UNET = ("up_block_types",)
CASES = {
    "sd": (SD, {}),
    "bgr-pooled": (
        SD,
        dict(controlnet_conditioning_channel_order="bgr", global_pool_conditions=True),
    ),
    "xl": (XL, {}),
}


def randomised(module, seed=1):
    g = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        spread = 0.7 / parameter[0].numel() ** 0.5 if parameter.dim() > 1 else 0.1
        torch.nn.init.normal_(
            parameter, mean=0.0 if parameter.dim() > 1 else 0.5, std=spread, generator=g
        )
    return module.eval()


def close(a, b):
    assert a.shape == b.shape and (a - b).abs().max() < 1e-4 * max(1, b.abs().max().item()), (
        (a - b).abs().max()
    )


def inputs(shape, size=8):
    g = torch.Generator().manual_seed(0)
    added = (
        {
            "text_embeds": torch.randn(2, 16, generator=g),
            "time_ids": torch.rand(2, 6, generator=g) * 100,
        }
        if shape is XL
        else None
    )
    x, text = torch.randn(2, 4, size, size, generator=g), torch.randn(2, 5, D, generator=g)
    return (
        (x, torch.tensor([3.0, 801.0]), text),
        added,
        torch.rand(2, 3, 8 * size, 8 * size, generator=g),
    )


def unets(shape):
    theirs = randomised(diffusers.UNet2DConditionModel(**shape))
    ours = UNet2DConditionModel(parse(UNet2DConditionConfig, dict(theirs.config)))
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours.eval()


@pytest.fixture(params=CASES, scope="module")
def pair(request, tmp_path_factory):
    shape, options = CASES[request.param]
    options = options | dict(conditioning_embedding_out_channels=(4, 8, 12, 16))
    theirs = randomised(
        diffusers.ControlNetModel(
            **{k: v for k, v in shape.items() if k not in ONLY_UNET}, **options
        )
    )
    folder = tmp_path_factory.mktemp("controlnet")
    theirs.save_pretrained(folder)
    return shape, theirs, checkpoints.load(folder)


@torch.inference_mode()
@pytest.mark.parametrize("guess", [False, True])
def test_residuals_and_what_the_unet_makes_of_them(pair, guess):
    shape, theirs, ours = pair
    args, added, hint = inputs(shape)
    down, mid = theirs(
        *args,
        hint,
        conditioning_scale=0.7,
        guess_mode=guess,
        added_cond_kwargs=added,
        return_dict=False,
    )
    control = ours(*args, hint, scale=0.7, guess=guess, added=added)
    for a, b in zip([*control.down, control.mid], [*down, mid], strict=True):
        close(a, b)
    their_unet, our_unet = unets(shape)
    expected = their_unet(
        *args,
        added_cond_kwargs=added,
        down_block_additional_residuals=down,
        mid_block_additional_residual=mid,
    ).sample
    close(our_unet(*args, added=added, control=control), expected)
    assert (expected - our_unet(*args, added=added)).abs().max() > 0.01


@torch.inference_mode()
def test_several_are_summed(pair):
    shape, theirs, ours = pair
    args, added, hint = inputs(shape)
    other = randomised(type(theirs).from_config(theirs.config), seed=5)
    nets = diffusers.MultiControlNetModel([theirs, other])
    down, mid = nets(
        *args,
        [hint, hint.flip(2)],
        conditioning_scale=[0.5, 1.5],
        added_cond_kwargs=added,
        return_dict=False,
    )
    second = ControlNetModel(ours.config)
    second.load_state_dict(other.state_dict())
    control = ours(*args, hint, scale=0.5, added=added) + second(
        *args, hint.flip(2), scale=1.5, added=added
    )
    for a, b in zip([*control.down, control.mid], [*down, mid], strict=True):
        close(a, b)


@torch.inference_mode()
def test_our_folder_opens_in_diffusers(pair, tmp_path):
    _, theirs, ours = pair
    checkpoints.save(ours, tmp_path / "out")
    again = diffusers.ControlNetModel.from_pretrained(tmp_path / "out", low_cpu_mem_usage=False)
    assert all(
        torch.equal(tensor, theirs.state_dict()[name])
        for name, tensor in again.state_dict().items()
    )
    assert checkpoints.load(tmp_path / "out").config == ours.config


@torch.inference_mode()
def test_training_starts_from_the_unet_and_changes_nothing():
    _, unet = unets(SD)
    control = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8, 12, 16))
    args, _, hint = inputs(SD)
    assert torch.equal(
        control.down_blocks[0].resnets[0].conv1.weight, unet.down_blocks[0].resnets[0].conv1.weight
    )
    assert torch.equal(unet(*args, control=control(*args, hint)), unet(*args))
    assert any(p.any() for p in control.controlnet_cond_embedding.blocks.parameters())


# T2I-Adapter.


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["full_adapter", "full_adapter_xl"])
def test_t2i_adapter(kind, tmp_path):
    xl = kind == "full_adapter_xl"
    shape, sizes = (XL, [8, 16, 16, 16]) if xl else (SD, [8, 16])
    factor = 16 if xl else 8
    theirs = randomised(
        diffusers.T2IAdapter(
            channels=sizes, num_res_blocks=1, downscale_factor=factor, adapter_type=kind
        )
    )
    theirs.save_pretrained(tmp_path / "in")
    ours = checkpoints.load(tmp_path / "in")
    args, added, image = inputs(shape)
    features, expected = ours(image, scale=0.8), [0.8 * feature for feature in theirs(image)]
    for a, b in zip(features, expected, strict=True):
        close(a, b)
    their_unet, our_unet = unets(shape)
    plain = our_unet(*args, added=added)
    told = our_unet(*args, added=added, features=features)
    close(
        told,
        their_unet(
            *args, added_cond_kwargs=added, down_intrablock_additional_residuals=expected
        ).sample,
    )
    assert (told - plain).abs().max() > 0.01
    checkpoints.save(ours, tmp_path / "out")
    again = diffusers.T2IAdapter.from_pretrained(tmp_path / "out", low_cpu_mem_usage=False)
    assert all(
        torch.equal(tensor, theirs.state_dict()[name])
        for name, tensor in again.state_dict().items()
    )


# IP-Adapter.


def adapter_shapes(unet, kind):
    """What the published files of each kind hold, small."""
    image = {
        "base": {"proj.weight": (4 * D, 20), "proj.bias": (4 * D,), "norm.weight": (D,), "norm.bias": (D,)},
        "full": {
            "proj.0.weight": (20, 20), "proj.0.bias": (20,), "proj.2.weight": (D, 20), "proj.2.bias": (D,), "proj.3.weight": (D,),
            "proj.3.bias": (D,),
        },
        "plus": {
            "latents": (1, 6, 32), "proj_in.weight": (32, 20), "proj_in.bias": (32,), "proj_out.weight": (D, 32), "proj_out.bias": (D,),
            "norm_out.weight": (D,), "norm_out.bias": (D,),
        },
    }[kind]  # fmt: skip
    for i in range(4 if kind == "plus" else 0):
        image |= {
            f"layers.{i}.0.norm{n}.{part}": (32,) for n in (1, 2) for part in ("weight", "bias")
        }
        image |= {
            f"layers.{i}.0.to_q.weight": (128, 32),
            f"layers.{i}.0.to_kv.weight": (256, 32),
            f"layers.{i}.0.to_out.weight": (32, 128),
        }
        image |= {f"layers.{i}.1.0.weight": (32,), f"layers.{i}.1.0.bias": (32,)}
        image |= {f"layers.{i}.1.1.weight": (128, 32), f"layers.{i}.1.3.weight": (32, 128)}
    widths = [layer.to_k.weight.shape[0] for layer in unet.text_layers()]
    layers = {
        f"ip_adapter.{2 * i + 1}.to_{part}_ip.weight": (width, D)
        for i, width in enumerate(widths)
        for part in "kv"
    }
    return {f"image_proj.{name}": shape for name, shape in image.items()} | layers


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["base", "full", "plus"])
@pytest.mark.parametrize("shape", [SD, XL], ids=["sd", "xl"])
def test_ip_adapter(kind, shape, tmp_path):
    theirs, ours = unets(shape)
    g = torch.Generator().manual_seed(3)
    weights = {
        name: torch.randn(size, generator=g) * (1.0 if "_ip." in name else 0.3)
        for name, size in adapter_shapes(ours, kind).items()
    }
    save_file(weights, tmp_path / "ip.safetensors")
    adapter = load_ip_adapter(tmp_path / "ip.safetensors")
    nested = {
        part: {n.removeprefix(f"{part}."): t for n, t in weights.items() if n.startswith(part)}
        for part in ("image_proj", "ip_adapter")
    }
    theirs._load_ip_adapter_weights(nested, low_cpu_mem_usage=False)
    for processor in theirs.attn_processors.values():
        if hasattr(processor, "scale"):
            processor.scale = [0.6]
    args, added, _ = inputs(shape)
    embeds = torch.randn(*((2, 20) if kind == "base" else (2, 9, 20)), generator=g)
    expected = theirs(
        *args, added_cond_kwargs={**(added or {}), "image_embeds": [embeds[:, None]]}
    ).sample
    keys = ours.text_keys(args[2])
    told = ours(*args[:2], text_kv=adapter.extend(keys, embeds, scale=0.6), added=added)
    close(told, expected)
    plain = ours(*args, added=added)
    assert (told - plain).abs().max() > 0.01
    assert torch.equal(
        ours(*args[:2], text_kv=adapter.extend(keys, embeds, scale=0), added=added), plain
    )
    assert {name: tensor.shape for name, tensor in adapter.state_dict().items()} == {
        name: t.shape for name, t in weights.items()
    }


@torch.inference_mode()
def test_ip_adapter_of_two_images_and_of_another_unet():
    unet = unets(SD)[1]
    adapter = randomised(
        IPAdapter.of_shapes(
            {name: torch.Size(size) for name, size in adapter_shapes(unet, "base").items()}
        )
    )
    args = inputs(SD)[0]
    keys, embeds = unet.text_keys(args[2]), torch.randn(2, 3, 20)
    # three images of four tokens
    assert adapter.extend(keys, embeds)[0].images[0][0].shape[1] == 12
    # two adapters, each attended apart
    apart = adapter.extend(adapter.extend(keys, embeds[:, 0]), embeds[:, 1], scale=0.5)
    assert len(apart[0].images) == 2 and unet(*args[:2], text_kv=apart).isfinite().all()
    with pytest.raises(DaedalError, match="the adapter has 6 layers, the U-Net 5"):
        adapter.extend(keys[1:], embeds)
    with pytest.raises(DaedalError, match="not 1, 3, 5"):
        IPAdapter.of_shapes({"ip_adapter.2.to_k_ip.weight": torch.Size((8, D))})
