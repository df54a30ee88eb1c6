"""Pictures as conditions, against diffusers: ControlNet, T2I-Adapter, IP-Adapter."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from daedal.cli import app
from daedal.errors import DaedalError
from daedal.media.images import open_image
from daedal.pipelines import image
from daedal.pipelines.image import ImagePipeline

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.fixture(scope="module", params=[False, True], ids=["sd", "xl"])
def model(
    request: pytest.FixtureRequest, zoo: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[bool, dict[str, Any], Path, ImagePipeline]:
    folder, xl = tmp_path_factory.mktemp("model"), request.param
    parts = zoo.stable_diffusion(xl) | {"scheduler": zoo.diffusers.EulerDiscreteScheduler(**BETAS)}
    (zoo.diffusers.StableDiffusionXLPipeline if xl else zoo.diffusers.StableDiffusionPipeline)(
        **parts
    ).save_pretrained(folder)
    return xl, parts, folder, image.load(folder, device="cpu", dtype="fp32")


def controlnet(zoo: Any, unet: Any, seed: int) -> Any:
    torch.manual_seed(seed)
    return zoo.shaken(
        zoo.diffusers.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32))
    )


def edges(zoo: Any, folder: Path, name: str, seed: int) -> Path:
    Image.fromarray(zoo.picture(seed)).save(folder / f"{name}.png")
    return folder / f"{name}.png"


def test_two_controlnets_by_kind_are_theirs(zoo: Any, model: Any, tmp_path: Path) -> None:
    xl, parts, _, pipeline = model
    nets = [controlnet(zoo, parts["unet"], seed) for seed in (1, 2)]
    for name, net in zip(("canny", "depth"), nets, strict=True):
        net.save_pretrained(tmp_path / name)
    files = [edges(zoo, tmp_path, name, seed) for name, seed in (("edges", 3), ("far", 4))]
    kind = (
        zoo.diffusers.StableDiffusionXLControlNetPipeline
        if xl
        else zoo.diffusers.StableDiffusionControlNetPipeline
    )
    kwargs = {
        "image": [Image.open(file) for file in files],
        "controlnet_conditioning_scale": [0.7, 0.7],
        "guidance_scale": 4.0,
    }
    kwargs |= {"negative_prompt": ["dog"] * 2}
    theirs = zoo.theirs(kind(**parts, controlnet=nets), "a cat", [5, 6], **kwargs)
    asked = {
        "control": [f"canny:{files[0]}", f"depth:{files[1]}"],
        "control_model": str(tmp_path),
        "control_scale": 0.7,
    }
    made = pipeline.results(
        "a cat",
        seed=5,
        n=2,
        steps=4,
        width=32,
        height=32,
        guidance_scale=4.0,
        negative="dog",
        **asked,
    )
    ours = np.stack([picture.pixels for picture in made]) / 255
    zoo.same(ours, theirs)
    assert (
        np.abs(
            ours - zoo.ours(pipeline, "a cat", seed=5, n=2, guidance_scale=4.0, negative="dog")
        ).max()
        > 0.02
    )
    assert np.array_equal(pipeline.reproduce(made[1].recipe).pixels, made[1].pixels)
    with pytest.raises(
        DaedalError, match=r"'deph' is not a kind this model knows.*did you mean 'depth'"
    ):
        pipeline("a cat", control=f"deph:{files[1]}", control_model=str(tmp_path))


def test_a_controlnet_in_the_models_folder_serves_every_kind(zoo: Any, tmp_path: Path) -> None:
    parts = zoo.stable_diffusion() | {"scheduler": zoo.diffusers.EulerDiscreteScheduler(**BETAS)}
    pipe = zoo.diffusers.StableDiffusionControlNetPipeline(
        **parts, controlnet=controlnet(zoo, parts["unet"], 1)
    )
    pipe.save_pretrained(tmp_path / "model")
    pipeline, file = (
        image.load(tmp_path / "model", device="cpu", dtype="fp32"),
        edges(zoo, tmp_path, "edges", 3),
    )
    theirs = zoo.theirs(pipe, "a cat", [5], image=Image.open(file), guidance_scale=4.0)
    zoo.same(
        zoo.ours(pipeline, "a cat", seed=5, control=f"canny:{file}", guidance_scale=4.0), theirs
    )
    Image.fromarray(zoo.picture(3, 80)).save(file)  # of another size: resized
    zoo.ours(pipeline, "a cat", seed=5, control=f"canny:{file}")
    with pytest.raises(
        DaedalError, match=r"'cany' is not a kind this model knows.*did you mean 'canny'"
    ):
        pipeline("a cat", control=f"cany:{file}")
    with pytest.raises(DaedalError, match="not KIND:FILE"):
        pipeline("a cat", control="canny")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_t2i_adapter_is_theirs(zoo: Any, tmp_path: Path, channels: int) -> None:
    """Its maps are of the size of Stable Diffusion's levels, of which the last has no attention."""
    order = dict(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    parts = zoo.stable_diffusion() | {
        "unet": zoo.unet(**order),
        "scheduler": zoo.diffusers.EulerDiscreteScheduler(**BETAS),
    }
    adapter = zoo.shaken(
        zoo.diffusers.T2IAdapter(
            in_channels=channels, channels=(32, 64), num_res_blocks=1, downscale_factor=2
        )
    )
    pipe = zoo.diffusers.StableDiffusionAdapterPipeline(**parts, adapter=adapter)
    pipe.save_pretrained(tmp_path / "model")
    pipeline, file = (
        image.load(tmp_path / "model", device="cpu", dtype="fp32"),
        edges(zoo, tmp_path, "sketch", 3),
    )
    picture = Image.open(file) if channels == 3 else Image.open(file).convert("L")
    theirs = zoo.theirs(
        pipe, "a cat", [5], image=picture, adapter_conditioning_scale=0.8, guidance_scale=4.0
    )
    zoo.same(
        zoo.ours(
            pipeline,
            "a cat",
            seed=5,
            guidance_scale=4.0,
            control=f"sketch:{file}",
            control_scale=0.8,
        ),
        theirs,
    )


def ip_adapter(zoo: Any, unet: Any, folder: Path, plus: bool) -> Path:
    """Random weights under the published names, and the image encoder beside them."""
    torch.manual_seed(2)
    config = zoo.transformers.CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=28,
        patch_size=7,
        projection_dim=24,
    )
    zoo.transformers.CLIPVisionModelWithProjection(config).save_pretrained(folder / "image_encoder")
    dim = unet.config.cross_attention_dim
    weights = {
        "image_proj.proj.weight": torch.randn(4 * dim, 24),
        "image_proj.proj.bias": torch.randn(4 * dim),
    }
    weights |= {
        "image_proj.norm.weight": torch.randn(dim),
        "image_proj.norm.bias": torch.randn(dim),
    }
    if plus:
        sizes = {
            "latents": (1, 4, 64),
            "proj_in.weight": (64, 32),
            "proj_in.bias": (64,),
            "proj_out.weight": (dim, 64),
            "proj_out.bias": (dim,),
        }
        sizes |= {"norm_out.weight": (dim,), "norm_out.bias": (dim,)}
        layer = {
            "0.norm1": (64,),
            "0.norm2": (64,),
            "0.to_q": (64, 64),
            "0.to_kv": (128, 64),
            "0.to_out": (64, 64),
            "1.0": (64,),
        }
        layer |= {"1.1": (256, 64), "1.3": (64, 256)}
        for name, size in layer.items():
            for depth in range(4):
                sizes |= {
                    f"layers.{depth}.{name}.{leaf}": size
                    for leaf in (["weight"] if len(size) == 2 else ["weight", "bias"])
                }
        weights = {f"image_proj.{name}": 0.3 * torch.randn(size) for name, size in sizes.items()}
    widths = [m.to_k.weight.shape[0] for name, m in unet.named_modules() if name.endswith("attn2")]
    for i, width in enumerate(widths):
        weights |= {
            f"ip_adapter.{2 * i + 1}.to_{kind}_ip.weight": 0.3 * torch.randn(width, dim)
            for kind in "kv"
        }
    save_file(weights, folder / "ip.safetensors")
    return folder / "ip.safetensors"


@pytest.mark.parametrize("plus", [False, True], ids=["plain", "plus"])
def test_a_reference_picture_is_theirs(zoo: Any, tmp_path: Path, plus: bool) -> None:
    parts = zoo.stable_diffusion() | {
        "scheduler": zoo.diffusers.EulerDiscreteScheduler(**BETAS),
        "image_encoder": None,
    }
    pipe = zoo.diffusers.StableDiffusionPipeline(**parts)
    pipe.save_pretrained(tmp_path / "model")
    pipeline, picture = (
        image.load(tmp_path / "model", device="cpu", dtype="fp32"),
        np.ascontiguousarray(zoo.picture(1, 60)[:40]),
    )
    file = ip_adapter(zoo, parts["unet"], tmp_path, plus)
    options = {"negative_prompt": ["dog"], "guidance_scale": 4.0}
    pipe.load_ip_adapter(
        str(tmp_path), subfolder="", weight_name=file.name, image_encoder_folder="image_encoder"
    )
    pipe.set_ip_adapter_scale(0.8)
    theirs = zoo.theirs(pipe, "a cat", [5], ip_adapter_image=Image.fromarray(picture), **options)
    asked = {"reference": picture, "reference_model": str(file), "reference_scale": 0.8}
    made = zoo.ours(pipeline, "a cat", seed=5, guidance_scale=4.0, negative="dog", **asked)
    zoo.same(made, theirs)
    assert (
        np.abs(made - zoo.ours(pipeline, "a cat", seed=5, guidance_scale=4.0, negative="dog")).max()
        > 0.02
    )


def test_what_does_not_fit_gets_a_sentence(zoo: Any, model: Any, tmp_path: Path) -> None:
    xl, _, folder, pipeline = model
    file, picture = edges(zoo, tmp_path, "edges", 3), zoo.picture()
    with pytest.raises(DaedalError, match="needs its network; give control_model="):
        pipeline("a cat", control=f"canny:{file}")
    with pytest.raises(
        DaedalError,
        match="AutoencoderKL is no control for this model; it takes ControlNetModel or T2IAdapter",
    ):
        pipeline("a cat", control=f"canny:{file}", control_model=str(folder / "vae"))
    controlnet(zoo, zoo.unet(not xl), 1).save_pretrained(tmp_path / "other")
    with pytest.raises(
        DaedalError, match=r"canny network is for another model.*take one made for this model"
    ):
        pipeline("a cat", control=f"canny:{file}", control_model=str(tmp_path / "other"))
    with pytest.raises(DaedalError, match="needs an IP-Adapter; give reference_model="):
        pipeline("a cat", reference=picture)


@pytest.mark.dtype
def test_the_command_line_takes_them(
    zoo: Any, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    xl, parts, folder, _ = model
    if xl:
        return
    monkeypatch.setenv("DAEDAL_HISTORY", str(tmp_path / "history.db"))
    controlnet(zoo, parts["unet"], 1).save_pretrained(tmp_path / "net")
    file = edges(zoo, tmp_path, "edges", 3)
    words = [
        "image",
        "a cat",
        "--model",
        str(folder),
        "--seed",
        "1",
        "--steps",
        "2",
        "--size",
        "32x32",
        "--device",
        "cpu",
    ]
    words += [
        "--control",
        f"canny:{file}",
        "--control-model",
        str(tmp_path / "net"),
        "--control-scale",
        "0.8",
        "-o",
        str(tmp_path / "a.png"),
    ]
    run = CliRunner().invoke(app, words)
    assert run.exit_code == 0, run.output
    asked = {
        "control": f"canny:{file}",
        "control_model": str(tmp_path / "net"),
        "control_scale": 0.8,
    }
    # dtype auto, as the command's
    made = image.load(folder, device="cpu")("a cat", seed=1, steps=2, width=32, height=32, **asked)
    assert np.array_equal(open_image(tmp_path / "a.png"), made.pixels)
    run = CliRunner().invoke(app, ["again", "1", "-o", str(tmp_path / "b.png")])
    assert (
        run.exit_code == 0
        and (tmp_path / "b.png").read_bytes() == (tmp_path / "a.png").read_bytes()
    ), run.output
