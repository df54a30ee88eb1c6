"""Original single files: names against diffusers' converters, configs told from shapes against the
published ones, round trips of whole files, and what a bad file says."""

import functools
import re
import socket

import pytest
import torch
from diffusers.loaders import single_file_utils as theirs
from safetensors.torch import load_file, save_file

from daedal.checkpoints import families
from daedal.checkpoints.folder import disk_name
from daedal.checkpoints.original_names import layout
from daedal.checkpoints.single_file import load_single_file, save_single_file, to_original
from daedal.errors import DaedalError
from daedal.networks.autoencoder import AutoencoderKL
from daedal.networks.clip import CLIPTextModel, CLIPTextModelWithProjection
from daedal.networks.config import parse
from daedal.networks.controlnet import ControlNetModel
from daedal.networks.flux import FluxTransformer2DModel
from daedal.networks.mmdit import SD3Transformer2DModel
from daedal.networks.t5 import T5EncoderModel
from daedal.networks.unet import UNet2DConditionModel
from daedal.processes.schedulers import read

DOWN, CROSS = "DownBlock2D", "CrossAttnDownBlock2D"
UP, CROSS_UP = "UpBlock2D", "CrossAttnUpBlock2D"
SD1 = dict(
    block_out_channels=(32, 64), down_block_types=(CROSS, DOWN), up_block_types=(UP, CROSS_UP), cross_attention_dim=768, attention_head_dim=8,
    layers_per_block=2, transformer_layers_per_block=1, sample_size=64,
)  # fmt: skip
SD2 = SD1 | dict(
    block_out_channels=(64, 128), cross_attention_dim=1024, attention_head_dim=(1, 2), use_linear_projection=True, upcast_attention=True,
)  # fmt: skip
SDXL = dict(
    block_out_channels=(64, 64, 128), down_block_types=(DOWN, CROSS, CROSS), up_block_types=(CROSS_UP, CROSS_UP, UP), cross_attention_dim=2048,
    transformer_layers_per_block=(1, 2, 3), attention_head_dim=(1, 1, 2), use_linear_projection=True, layers_per_block=1,
    addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816, sample_size=128,
)  # fmt: skip
REFINER = SDXL | dict(
    block_out_channels=(64, 64, 128, 128), down_block_types=(DOWN, CROSS, CROSS, DOWN), up_block_types=(UP, CROSS_UP, CROSS_UP, UP),
    cross_attention_dim=1280, transformer_layers_per_block=2, attention_head_dim=(1, 1, 2, 2), projection_class_embeddings_input_dim=2560,
)  # fmt: skip
SD3 = dict(
    num_layers=3, attention_head_dim=64, num_attention_heads=1, joint_attention_dim=8, caption_projection_dim=64, pooled_projection_dim=12,
    in_channels=16, out_channels=16, pos_embed_max_size=6, sample_size=128,
)  # fmt: skip
SD35 = SD3 | dict(
    attention_head_dim=16, num_attention_heads=4, qk_norm="rms_norm", dual_attention_layers=(0, 1)
)
FLUX = dict(
    num_layers=2, num_single_layers=2, attention_head_dim=32, num_attention_heads=2, joint_attention_dim=8, pooled_projection_dim=12,
    in_channels=64, out_channels=64, guidance_embeds=True, axes_dims_rope=(4, 14, 14),
)  # fmt: skip
VAE = dict(
    block_out_channels=(32, 64), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=2,
    sample_size=512,
)  # fmt: skip
VAE16 = VAE | dict(
    latent_channels=16, use_quant_conv=False, use_post_quant_conv=False, sample_size=1024
)
CLIP_L = dict(
    vocab_size=40,
    hidden_size=768,
    intermediate_size=16,
    projection_dim=768,
    num_hidden_layers=2,
    num_attention_heads=12,
)
OPEN = CLIP_L | dict(
    hidden_size=128,
    projection_dim=128,
    num_attention_heads=2,
    hidden_act="gelu",
    num_hidden_layers=3,
)
T5 = dict(
    vocab_size=40,
    d_model=16,
    d_kv=8,
    d_ff=24,
    num_layers=2,
    num_heads=3,
    feed_forward_proj="gated-gelu",
)


def randomised(module):
    g = torch.Generator().manual_seed(1)
    for parameter in [*module.parameters(), *module.buffers()]:
        torch.nn.init.normal_(parameter, std=0.1, generator=g)
    return module.eval()


@functools.cache
def built(kind, **config):
    return randomised(kind(parse(kind.config_class, config)))


def make(kind, config):
    return built(kind, **config)


def on_disk(module):
    return {disk_name(module, name): tensor for name, tensor in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# Names, against diffusers.


UNETS = {
    "sd1": SD1,
    "sd1-inpaint": SD1 | dict(in_channels=9),
    "sd2": SD2,
    "sdxl": SDXL,
    "refiner": REFINER,
    "lcm": SD1 | dict(time_cond_proj_dim=8),
}


@pytest.mark.parametrize("name", [name for name in UNETS if name != "lcm"])
def test_unet_names(name):
    unet = make(UNet2DConditionModel, UNETS[name])
    original = {f"model.diffusion_model.{key}": tensor for key, tensor in to_original(unet).items()}
    assert same(
        theirs.convert_ldm_unet_checkpoint(original, dict(vars(unet.config))), on_disk(unet)
    )


def test_controlnet_names():
    keys = ("block_out_channels", "down_block_types", "cross_attention_dim", "layers_per_block")
    net = make(ControlNetModel, {key: SD1[key] for key in keys})
    original = {f"control_model.{key}": tensor for key, tensor in to_original(net).items()}
    config = dict(vars(net.config)) | {"num_class_embeds": None}
    assert same(theirs.convert_controlnet_checkpoint(original, config), on_disk(net))


@pytest.mark.parametrize("config", [VAE, VAE16])
def test_autoencoder_names(config):
    vae = make(AutoencoderKL, config)
    original = {f"first_stage_model.{key}": tensor for key, tensor in to_original(vae).items()}
    assert original["first_stage_model.encoder.mid.attn_1.q.weight"].dim() == 4
    converted = theirs.convert_ldm_vae_checkpoint(original, dict(vars(vae.config)))
    flat = {
        name: tensor.flatten(1) if ".attentions." in name and tensor.dim() == 4 else tensor
        for name, tensor in converted.items()
    }
    assert same(flat, on_disk(vae))


@pytest.mark.parametrize("config", [SD3, SD35])
def test_sd3_names(config):
    network = make(SD3Transformer2DModel, config)
    assert same(
        theirs.convert_sd3_transformer_checkpoint_to_diffusers(to_original(network)),
        on_disk(network),
    )


def test_flux_names():
    """Their converter knows one width only, so the tensors here have its rows and few columns."""
    with torch.device("meta"):
        network = FluxTransformer2DModel(
            parse(
                FluxTransformer2DModel.config_class,
                dict(num_layers=2, num_single_layers=2, guidance_embeds=True),
            )
        )
    ours = {
        name: torch.randn(tensor.shape[0], *[2] * (tensor.dim() - 1))
        for name, tensor in network.state_dict().items()
    }
    table = layout("FluxTransformer2DModel", ours)
    original = {name: entry.to_original(ours) for name, entry in table.items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in ours.items()}
    again = {}
    for name, entry in table.items():
        again |= entry.to_ours(name, original[name], shapes)
    assert same(again, ours)
    assert same(theirs.convert_flux_transformer_checkpoint_to_diffusers(original), ours)


@pytest.mark.parametrize("prefix", ["cond_stage_model.model.", "conditioner.embedders.1.model."])
def test_open_clip_names(prefix):
    tower = make(CLIPTextModelWithProjection, OPEN)
    original = {prefix + name: tensor for name, tensor in to_original(tower, "OpenCLIP").items()}
    assert original[f"{prefix}transformer.resblocks.0.attn.in_proj_weight"].shape == (3 * 128, 128)
    ours = on_disk(tower)
    if prefix.startswith("cond_"):  # their converter leaves Stable Diffusion 2's projection out
        ours.pop("text_projection.weight")
    assert same(theirs.convert_open_clip_checkpoint(tower, original, prefix), ours)


@pytest.mark.parametrize(
    "kind",
    ["UNet2DConditionModel", "AutoencoderKL", "SD3Transformer2DModel", "FluxTransformer2DModel"],
)
def test_every_tensor_has_one_original(kind):
    cases = {
        "UNet2DConditionModel": (UNet2DConditionModel, [*UNETS.values()]), "AutoencoderKL": (AutoencoderKL, [VAE, VAE16]),
        "SD3Transformer2DModel": (SD3Transformer2DModel, [SD3, SD35]), "FluxTransformer2DModel": (FluxTransformer2DModel, [FLUX]),
    }  # fmt: skip
    network, configs = cases[kind]
    for config in configs:
        names = on_disk(make(network, config))
        assert sorted(
            name for entry in layout(kind, names).values() for name in entry.ours
        ) == sorted(names)


# Configs, told from shapes.

BLOCKS = (320, 640, 1280, 1280)
PUBLISHED = {
    "sd1.5": (
        UNet2DConditionModel,
        dict(cross_attention_dim=768),
        "sd1",
        "StableDiffusionPipeline",
    ),
    "sd1.5-inpaint": (
        UNet2DConditionModel,
        dict(cross_attention_dim=768, in_channels=9),
        "sd1",
        "StableDiffusionInpaintPipeline",
    ),
    "instruct-pix2pix": (
        UNet2DConditionModel,
        dict(cross_attention_dim=768, in_channels=8),
        "sd1",
        "StableDiffusionInstructPix2PixPipeline",
    ),
    "sd2": (
        UNet2DConditionModel,
        dict(
            cross_attention_dim=1024,
            attention_head_dim=(5, 10, 20, 20),
            use_linear_projection=True,
            upcast_attention=True,
        ),
        "sd2",
        "StableDiffusionPipeline",
    ),
    "sdxl": (
        UNet2DConditionModel,
        SDXL
        | dict(
            layers_per_block=2,
            block_out_channels=BLOCKS[:3],
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            sample_size=None,
        ),
        "sdxl",
        "StableDiffusionXLPipeline",
    ),
    "refiner": (
        UNet2DConditionModel,
        REFINER
        | dict(
            layers_per_block=2,
            block_out_channels=(384, 768, 1536, 1536),
            transformer_layers_per_block=4,
            attention_head_dim=(6, 12, 24, 24),
            sample_size=None,
        ),
        "refiner",
        "StableDiffusionXLPipeline",
    ),
    "ssd-1b": (
        UNet2DConditionModel,
        SDXL
        | dict(
            layers_per_block=2,
            block_out_channels=BLOCKS[:3],
            attention_head_dim=(5, 10, 20),
            mid_block_type="UNetMidBlock2D",
            sample_size=None,
        )
        | dict(
            transformer_layers_per_block=(1, 2, 4),
            reverse_transformer_layers_per_block=((4, 4, 10), (2, 1, 1), 1),
        ),
        "sdxl",
        "StableDiffusionXLPipeline",
    ),
    "sd3-medium": (
        SD3Transformer2DModel,
        dict(
            num_layers=24,
            num_attention_heads=24,
            caption_projection_dim=1536,
            pos_embed_max_size=192,
        ),
        "sd3",
        "StableDiffusion3Pipeline",
    ),
    "sd3.5-medium": (
        SD3Transformer2DModel,
        dict(
            num_layers=24,
            num_attention_heads=24,
            caption_projection_dim=1536,
            pos_embed_max_size=384,
            qk_norm="rms_norm",
        )
        | dict(dual_attention_layers=tuple(range(13))),
        "sd3",
        "StableDiffusion3Pipeline",
    ),
    "sd3.5-large": (
        SD3Transformer2DModel,
        dict(
            num_layers=38,
            num_attention_heads=38,
            caption_projection_dim=2432,
            pos_embed_max_size=192,
            qk_norm="rms_norm",
        ),
        "sd3",
        "StableDiffusion3Pipeline",
    ),
    "flux-dev": (
        FluxTransformer2DModel,
        dict(guidance_embeds=True, out_channels=64),
        "flux",
        "FluxPipeline",
    ),
    "flux-schnell": (FluxTransformer2DModel, dict(out_channels=64), "flux", "FluxPipeline"),
    "flux-fill": (
        FluxTransformer2DModel,
        dict(guidance_embeds=True, in_channels=384, out_channels=64),
        "flux",
        "FluxFillPipeline",
    ),
    "flux-depth": (
        FluxTransformer2DModel,
        dict(guidance_embeds=True, in_channels=128, out_channels=64),
        "flux",
        "FluxControlPipeline",
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_are_told_from_shapes(name):
    kind, config, family, pipeline = PUBLISHED[name]
    expected = parse(kind.config_class, config)
    with torch.device("meta"):
        shapes = {
            key: tuple(tensor.shape) for key, tensor in to_original_shapes(kind(expected)).items()
        }
    assert families.family_of(shapes) == family
    assert families.pipeline_class(families.FAMILIES[family], shapes) == pipeline
    told = {"unet": families.unet_config, "sd3": families.sd3_config, "flux": families.flux_config}[
        family if family in ("sd3", "flux") else "unet"
    ]
    assert parse(kind.config_class, told(shapes)) == expected


def to_original_shapes(network):
    names = on_disk(network)
    return {
        name: entry.to_original(names)
        for name, entry in layout(type(network).__name__, names).items()
    }


def test_published_autoencoders_and_towers():
    vae = parse(
        AutoencoderKL.config_class,
        dict(block_out_channels=(128, 256, 512, 512), layers_per_block=2)
        | {k: VAE[k][:1] * 4 for k in BLOCK_TYPES},
    )
    with torch.device("meta"):
        shapes = {
            name: tuple(t.shape) for name, t in to_original_shapes(AutoencoderKL(vae)).items()
        }
        t5 = T5EncoderModel(parse(T5EncoderModel.config_class, XXL))
    assert parse(AutoencoderKL.config_class, families.vae_config(shapes)) == vae
    assert (
        parse(
            T5EncoderModel.config_class,
            families.t5_config({name: tuple(t.shape) for name, t in on_disk(t5).items()}),
        )
        == t5.config
    )
    for width, inner, layers, act, projection in (
        (768, 3072, 12, "quick_gelu", 768),
        (1280, 5120, 32, "gelu", 1280),
    ):
        config = dict(
            hidden_size=width,
            intermediate_size=inner,
            num_hidden_layers=layers,
            hidden_act=act,
            projection_dim=projection,
        )
        kind = CLIPTextModelWithProjection
        with torch.device("meta"):
            tower = kind(parse(kind.config_class, config | {"num_attention_heads": width // 64}))
        names = on_disk(tower)
        for named in (
            names,
            {key: entry.to_original(names) for key, entry in layout("OpenCLIP", names).items()},
        ):
            assert (
                parse(
                    kind.config_class,
                    families.clip_config({name: tuple(t.shape) for name, t in named.items()}),
                )
                == tower.config
            )


BLOCK_TYPES = ("down_block_types", "up_block_types")
XXL = dict(d_model=4096, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu")


# Whole files.


def parts_of(family):
    vae = make(AutoencoderKL, VAE | families.FAMILIES[family].vae)
    small = make(CLIPTextModel, CLIP_L)
    big = make(CLIPTextModelWithProjection, OPEN)
    if family == "sd1":
        return {"unet": make(UNet2DConditionModel, SD1), "vae": vae, "text_encoder": small}
    if family == "sdxl":
        return {
            "unet": make(UNet2DConditionModel, SDXL),
            "vae": vae,
            "text_encoder": small,
            "text_encoder_2": big,
        }
    if family == "refiner":
        return {"unet": make(UNet2DConditionModel, REFINER), "vae": vae, "text_encoder_2": big}
    vae, t5 = make(AutoencoderKL, VAE16 | families.FAMILIES[family].vae), make(T5EncoderModel, T5)
    if family == "flux":
        return {
            "transformer": make(FluxTransformer2DModel, FLUX),
            "vae": vae,
            "text_encoder": small,
            "text_encoder_2": t5,
        }
    projected = make(CLIPTextModelWithProjection, CLIP_L)
    with torch.no_grad():
        projected.text_projection.weight.copy_(torch.eye(768))
    parts = {
        "transformer": make(SD3Transformer2DModel, SD35),
        "vae": vae,
        "text_encoder": projected,
    }
    return parts | {"text_encoder_2": big, "text_encoder_3": t5}


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(socket, "socket", None)


@pytest.mark.parametrize("family", ["sd1", "sdxl", "refiner", "sd3", "flux"])
def test_round_trip_of_a_whole_file(family, tmp_path, offline):
    parts, path = parts_of(family), tmp_path / "model.safetensors"
    save_single_file(parts, path)
    read = load_single_file(path)
    assert read.keys() == parts.keys() | {"scheduler", "model_index"}
    for role, module in parts.items():
        assert type(read[role]) is type(module) and not read[role].training
        assert read[role].config == module.config
        assert same(read[role].state_dict(), module.state_dict())
    assert (
        load_single_file(path, dtype=torch.bfloat16)["vae"].decoder.conv_in.weight.dtype
        == torch.bfloat16
    )


def test_stable_diffusion_2_reads_the_states_before_the_last_layer(tmp_path):
    tower, vae = (
        make(CLIPTextModelWithProjection, OPEN),
        make(AutoencoderKL, VAE | {"sample_size": 768}),
    )
    tensors = {
        f"cond_stage_model.model.{name}": tensor
        for name, tensor in to_original(tower, "OpenCLIP").items()
    }
    tensors |= {
        f"model.diffusion_model.{name}": tensor
        for name, tensor in to_original(make(UNet2DConditionModel, SD2)).items()
    }
    tensors |= {f"first_stage_model.{name}": tensor for name, tensor in to_original(vae).items()}
    tensors |= {"cond_stage_model.model.logit_scale": torch.ones(()), "betas": torch.ones(3)}
    save_file(tensors, tmp_path / "sd2.safetensors")
    read = load_single_file(tmp_path / "sd2.safetensors")
    assert (
        type(read["text_encoder"]) is CLIPTextModel
        and read["text_encoder"].config.num_hidden_layers == 2
    )
    tokens = torch.arange(12).view(2, 6)
    with torch.inference_mode():
        expected = tower.text_model.final_layer_norm(tower(tokens).hidden[-2])
        assert torch.equal(read["text_encoder"](tokens).last, expected)
    save_single_file(read, tmp_path / "again.safetensors")
    again = load_file(tmp_path / "again.safetensors")
    assert (
        all(torch.equal(tensors[name], tensor) for name, tensor in again.items())
        and len(tensors) - len(again) == 12 + 3
    )


@pytest.mark.parametrize(("spread", "expected"), [(0.2, "v_prediction"), (0.01, None)])
def test_what_a_stable_diffusion_2_predicts(spread, expected, tmp_path):
    config = SD2 | dict(
        block_out_channels=(64,) * 4, down_block_types=(CROSS, CROSS, CROSS, DOWN), up_block_types=(UP, CROSS_UP, CROSS_UP, CROSS_UP)
    ) | dict(attention_head_dim=(1,) * 4)  # fmt: skip
    tensors = {
        f"model.diffusion_model.{name}": tensor
        for name, tensor in to_original(make(UNet2DConditionModel, config)).items()
    }
    tensors["model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"] = (
        spread * torch.randn(64)
    )
    save_file(tensors, tmp_path / "sd2.safetensors")
    read = load_single_file(tmp_path / "sd2.safetensors")
    assert (
        read["scheduler"].get("prediction_type") == expected
        and read["scheduler"]["_class_name"] == "DDIMScheduler"
    )
    assert read["unet"].config.sample_size == (96 if expected else 64)


@pytest.mark.parametrize(
    ("text", "beta"),
    [
        ("model: {params: {parameterization: v, linear_start: 0.001, timesteps: 500}}", 0.001),
        ("model: {params: {denoiser_config: {params: {scaling_config: {target: sgm.m.VScaling}}}}}", None),
    ],
)  # fmt: skip
def test_what_stands_beside_a_file_is_read(text, beta, tmp_path):
    unet = to_original(make(UNet2DConditionModel, SDXL))
    save_file(
        {f"model.diffusion_model.{name}": tensor for name, tensor in unet.items()},
        tmp_path / "a.safetensors",
    )
    plain = load_single_file(tmp_path / "a.safetensors")["scheduler"]
    assert plain["prediction_type"] == "epsilon"
    (tmp_path / "a.yaml").write_text(text)
    told = load_single_file(tmp_path / "a.safetensors")["scheduler"]
    assert told["prediction_type"] == "v_prediction" and told["_class_name"] == plain["_class_name"]
    assert beta is None or (told["beta_start"], told["num_train_timesteps"]) == (beta, 500)
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(
        '{"_class_name": "DDIMScheduler"}'
    )
    told = load_single_file(tmp_path / "a.safetensors")["scheduler"]
    assert told == {"_class_name": "DDIMScheduler"}


def test_marks_of_fine_tuned_files(tmp_path):
    unet = {
        f"model.diffusion_model.{name}": tensor
        for name, tensor in to_original(make(UNet2DConditionModel, SDXL)).items()
    }
    vae = {
        f"first_stage_model.{name}": tensor
        for name, tensor in to_original(make(AutoencoderKL, VAE)).items()
    }
    save_file(unet | {"v_pred": torch.ones(0), "ztsnr": torch.ones(0)}, tmp_path / "v.safetensors")
    scheduler = load_single_file(tmp_path / "v.safetensors")["scheduler"]
    assert scheduler["prediction_type"] == "v_prediction" and scheduler["rescale_betas_zero_snr"]
    save_file(
        unet | vae | {"edm_mean": torch.arange(4.0), "edm_std": torch.ones(4)},
        tmp_path / "playground.safetensors",
    )
    read = load_single_file(tmp_path / "playground.safetensors")
    assert (
        read["vae"].config.latents_mean == (0, 1, 2, 3) and read["vae"].config.scaling_factor == 0.5
    )
    read["scheduler"] |= scheduler | {"_class_name": read["scheduler"]["_class_name"]}
    save_single_file(read, tmp_path / "again.safetensors")
    assert load_file(tmp_path / "again.safetensors").keys() == (unet | vae).keys() | {
        "edm_mean",
        "edm_std",
        "v_pred",
        "ztsnr",
    }
    assert read["scheduler"]["_class_name"] == "EDMDPMSolverMultistepScheduler"


def test_a_denoiser_alone_needs_no_prefix(tmp_path):
    network = make(FluxTransformer2DModel, FLUX)
    save_file(to_original(network), tmp_path / "flux.safetensors")
    read = load_single_file(tmp_path / "flux.safetensors")
    assert read.keys() == {"transformer", "scheduler", "model_index"} and same(
        read["transformer"].state_dict(), network.state_dict()
    )
    assert (
        read["scheduler"]["use_dynamic_shifting"]
        and read["model_index"]["_class_name"] == "FluxPipeline"
    )
    schnell = FLUX | dict(guidance_embeds=False)
    save_file(to_original(make(FluxTransformer2DModel, schnell)), tmp_path / "schnell.safetensors")
    assert load_single_file(tmp_path / "schnell.safetensors")["scheduler"]["shift"] == 1.0


def test_an_autoencoder_alone_asks_whose_it_is(tmp_path):
    vae = make(AutoencoderKL, VAE)
    save_file(to_original(vae) | {"loss.logvar": torch.ones(())}, tmp_path / "vae.safetensors")
    with pytest.raises(
        DaedalError, match=r"autoencoder alone.* pass family= one of sd1, sd2, sdxl"
    ):
        load_single_file(tmp_path / "vae.safetensors")
    read = load_single_file(tmp_path / "vae.safetensors", family="sdxl")
    assert (
        same(read["vae"].state_dict(), vae.state_dict())
        and read["vae"].config.scaling_factor == 0.13025
    )
    with pytest.raises(DaedalError, match=r"family 'sdlx' is not one of .*did you mean 'sdxl'"):
        load_single_file(tmp_path / "vae.safetensors", family="sdlx")


def test_encoders_and_controlnets_alone(tmp_path):
    save_file(
        on_disk(make(T5EncoderModel, T5)) | {"encoder.embed_tokens.weight": torch.ones(40, 16)},
        tmp_path / "t5.safetensors",
    )
    assert same(
        load_single_file(tmp_path / "t5.safetensors")["text_encoder_3"].state_dict(),
        make(T5EncoderModel, T5).state_dict(),
    )
    tower = make(CLIPTextModelWithProjection, CLIP_L)
    save_file(
        on_disk(tower) | {"text_model.embeddings.position_ids": torch.arange(77)},
        tmp_path / "clip.safetensors",
    )
    assert same(
        load_single_file(tmp_path / "clip.safetensors")["text_encoder"].state_dict(),
        tower.state_dict(),
    )
    net = ControlNetModel.from_unet(make(UNet2DConditionModel, SD1))
    save_file(
        {f"control_model.{name}": tensor for name, tensor in to_original(net).items()},
        tmp_path / "control.safetensors",
    )
    read = load_single_file(tmp_path / "control.safetensors")["controlnet"]
    assert same(read.state_dict(), net.state_dict()) and read.config == net.config


def test_pickled_files_are_read_when_asked(tmp_path):
    unet = make(UNet2DConditionModel, SD1)
    state = {f"model.diffusion_model.{name}": tensor for name, tensor in to_original(unet).items()}
    average = {
        f"model_ema.{name.removeprefix('model.').replace('.', '')}": tensor + 1
        for name, tensor in state.items()
    }
    path = tmp_path / "model.ckpt"
    torch.save(
        {"state_dict": state | average | {"model_ema.decay": torch.ones(())}, "global_step": 3},
        path,
    )
    with pytest.raises(DaedalError, match="pickled file, which can run code"):
        load_single_file(path)
    assert same(load_single_file(path, allow_pickle=True)["unet"].state_dict(), unet.state_dict())
    averaged = load_single_file(path, allow_pickle=True, ema=True)["unet"]
    assert torch.equal(averaged.conv_in.weight, unet.conv_in.weight + 1)


@pytest.mark.parametrize(
    ("ending", "factor"),
    [
        ("scale_weight", torch.tensor(3.0)),
        ("weight_scale", torch.tensor([3.0])),
        ("weight_scale", torch.full((T5["num_heads"] * T5["d_kv"], 1), 3.0)),
    ],
)
def test_numbers_of_eight_bits(ending, factor, tmp_path):
    """Plain, and with a scale beside each weight, of all of it or of each row."""
    t5, eight = on_disk(make(T5EncoderModel, T5)), torch.float8_e4m3fn
    save_file(
        {name: tensor.to(eight) for name, tensor in t5.items()}, tmp_path / "plain.safetensors"
    )
    plain = on_disk(load_single_file(tmp_path / "plain.safetensors")["text_encoder_3"])
    assert same(plain, {name: tensor.to(eight).bfloat16() for name, tensor in t5.items()})
    scaled = {
        name: (tensor / 3).to(eight) if "SelfAttention.q" in name else tensor
        for name, tensor in t5.items()
    }
    scaled |= {
        f"{name.removesuffix('weight')}{ending}": factor.clone()
        for name in scaled
        if "SelfAttention.q" in name
    }
    note = {
        "encoder.block.0.layer.0.SelfAttention.q.comfy_quant": torch.zeros(9, dtype=torch.uint8)
    }
    save_file(
        note | scaled | {"scaled_fp8": torch.ones(0, dtype=eight)}, tmp_path / "scaled.safetensors"
    )
    read = on_disk(load_single_file(tmp_path / "scaled.safetensors")["text_encoder_3"])
    for name, tensor in t5.items():
        assert (read[name].float() - tensor).abs().max() < (
            0.07 * tensor.abs().max() if "SelfAttention.q" in name else 1e-9
        )


def test_towers_of_some_versions_leave_a_prefix_out(tmp_path):
    tower, unet = make(CLIPTextModel, CLIP_L), make(UNet2DConditionModel, SD1)
    tensors = {
        f"cond_stage_model.transformer.{name.removeprefix('text_model.')}": tensor
        for name, tensor in on_disk(tower).items()
    }
    save_file(
        tensors
        | {f"model.diffusion_model.{name}": tensor for name, tensor in to_original(unet).items()},
        tmp_path / "sd.safetensors",
    )
    assert same(
        load_single_file(tmp_path / "sd.safetensors")["text_encoder"].state_dict(),
        tower.state_dict(),
    )


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit",)


def bare(change):
    def write(folder):
        tensors = {
            f"model.diffusion_model.{name}": tensor
            for name, tensor in to_original(make(UNet2DConditionModel, SD1)).items()
        }
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return write


KEY = "model.diffusion_model.input_blocks.1.0.in_layers.2"


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda f: None, "is not a file"),
        (lambda f: (f / "model.safetensors").write_bytes(b"no"), "truncated or not safetensors"),
        (
            lambda f: save_file({"weight": torch.ones(1)}, f / "model.safetensors"),
            "no model under original names .it begins weight",
        ),
        (
            bare(lambda t: t.update(stray=torch.ones(1))),
            "1 tensors of no network that Daedal knows: stray",
        ),
        (
            bare(lambda t: t.update({f"{KEY}.wieght": t.pop(f"{KEY}.bias")})),
            "1 unmatched tensors: input_blocks.1.0.in_layers.2.wieght",
        ),
        (
            bare(lambda t: t.pop(f"{KEY}.bias")),
            "1 missing tensors: down_blocks.0.resnets.0.conv1.bias",
        ),
        (
            bare(lambda t: t.update({f"{KEY}.bias": torch.ones(3)})),
            r"1 misshapen tensors: down_blocks.0.resnets.0.conv1.bias \(3,\)",
        ),
        (
            bare(
                lambda t: [
                    t.update({k: v[:, :5].clone()}) for k, v in t.items() if "attn2.to_k" in k
                ]
            ),
            "text of width 5, which is none of 768",
        ),
        (
            bare(
                lambda t: t.update(
                    {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(32, 6, 3, 3)}
                )
            ),
            "reads 6 channels",
        ),
    ],
)
def test_a_bad_file_gets_one_sentence(write, words, tmp_path):
    write(tmp_path)
    with pytest.raises(DaedalError, match=words):
        load_single_file(tmp_path / "model.safetensors")


@pytest.mark.parametrize("family", ["sd1", "sd3", "flux"])
def test_whatever_is_missing_is_named(family, tmp_path):
    """Of the tensors that the config is read from, and of some others."""
    network = parts_of(family).get("unet") or parts_of(family)["transformer"]
    tensors = {
        f"model.diffusion_model.{name}": tensor for name, tensor in to_original(network).items()
    }
    outside = [name for name in tensors if not re.search(r"blocks?\.[1-9]", name)][:40:3]
    for name in [*outside, *list(tensors)[::90]]:
        save_file(
            {key: tensor for key, tensor in tensors.items() if key != name},
            tmp_path / "a.safetensors",
        )
        with pytest.raises(
            DaedalError, match=r"lacks|tensors|no model under original names|reads text of width"
        ):
            load_single_file(tmp_path / "a.safetensors")


def test_what_has_no_single_file(tmp_path):
    with pytest.raises(DaedalError, match="class T5EncoderModel has no original single file"):
        save_single_file({"transformer": make(T5EncoderModel, T5)}, tmp_path / "a.safetensors")
    with pytest.raises(
        DaedalError,
        match="text_encoder_2 has no place in a single file of this family; it holds unet, vae, text_encoder",
    ):
        save_single_file(
            parts_of("sd1") | {"text_encoder_2": make(CLIPTextModel, CLIP_L)},
            tmp_path / "a.safetensors",
        )


def test_schedulers_are_those_that_daedal_reads():
    for name, family in families.FAMILIES.items():
        schedule = read(families.scheduler_config(name, {}, {}) | family.scheduler)
        assert schedule.levels(10, **({"tokens": 64} if name == "flux" else {})).sigma[-1] < 0.05
    read(families.scheduler_config("flux", {}, {"guidance_in.in_layer.weight": (1, 1)})).levels(
        10, tokens=64
    )
    read(families.scheduler_config("sdxl", {"v_pred": 1, "ztsnr": 1}, {})).levels(10)


def test_a_pickle_that_would_run_code_does_not(tmp_path):
    torch.save({"state_dict": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(DaedalError, match="cannot be read as plain tensors"):
        load_single_file(tmp_path / "evil.ckpt", allow_pickle=True)


def test_a_wrong_family_gets_one_sentence(tmp_path):
    save_file(to_original(make(FluxTransformer2DModel, FLUX)), tmp_path / "flux.safetensors")
    with pytest.raises(DaedalError, match=r"is a FLUX.1, not family 'sd3'"):
        load_single_file(tmp_path / "flux.safetensors", family="sd3")
    with pytest.raises(DaedalError, match="no averaged weights"):
        save_file(
            {
                f"model.diffusion_model.{n}": t
                for n, t in to_original(make(UNet2DConditionModel, SD1)).items()
            },
            tmp_path / "sd.safetensors",
        )
        load_single_file(tmp_path / "sd.safetensors", ema=True)
