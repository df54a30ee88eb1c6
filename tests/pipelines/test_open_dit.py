"""Open image transformers against diffusers: the same folder, prompt and noise give the same
picture."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from daedal.errors import DaedalError
from daedal.pipelines import image
from daedal.pipelines.image import ImagePipeline

LABELS = {7: "cock", 207: "golden retriever, dog"}


def sd3(zoo: Any, t5: bool = True) -> Any:
    transformer = zoo.diffusers.SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=16, num_layers=2, attention_head_dim=8, num_attention_heads=4, joint_attention_dim=72,
        caption_projection_dim=32, pooled_projection_dim=64, out_channels=16, pos_embed_max_size=24, qk_norm="rms_norm",
    )  # fmt: skip
    return zoo.diffusers.StableDiffusion3Pipeline(
        transformer=transformer.eval(), vae=zoo.vae(16, shift_factor=0.06, scaling_factor=1.5, use_quant_conv=False, use_post_quant_conv=False),
        scheduler=zoo.diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), text_encoder=zoo.tower(projected=True), tokenizer=zoo.words,
        text_encoder_2=zoo.tower(projected=True), tokenizer_2=zoo.words, text_encoder_3=zoo.t5(72) if t5 else None,
        tokenizer_3=zoo.pieces if t5 else None,
    )  # fmt: skip


def flux(zoo: Any, dev: bool = True, channels: int = 16) -> Any:
    transformer = zoo.diffusers.FluxTransformer2DModel(
        in_channels=channels, out_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, guidance_embeds=dev, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    shift = {"use_dynamic_shifting": True, "shift": 3.0} if dev else {"shift": 1.0}
    kind = zoo.diffusers.FluxFillPipeline if channels > 32 else zoo.diffusers.FluxPipeline
    return kind(
        transformer=transformer.eval(), vae=zoo.vae(4, shift_factor=0.1, scaling_factor=0.36, use_quant_conv=False, use_post_quant_conv=False),
        scheduler=zoo.diffusers.FlowMatchEulerDiscreteScheduler(**shift), text_encoder=zoo.tower(), tokenizer=zoo.words,
        text_encoder_2=zoo.t5(), tokenizer_2=zoo.pieces,
    )  # fmt: skip


def pixart(zoo: Any, side: int = 16, sigma: bool = False) -> Any:
    transformer = zoo.diffusers.PixArtTransformer2DModel(
        sample_size=side, num_layers=2, attention_head_dim=12, num_attention_heads=2, in_channels=4, out_channels=8, cross_attention_dim=24,
        caption_channels=32, use_additional_conditions=False if sigma else None,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    kind = zoo.diffusers.PixArtSigmaPipeline if sigma else zoo.diffusers.PixArtAlphaPipeline
    scheduler = zoo.diffusers.DPMSolverMultistepScheduler()
    return kind(
        tokenizer=zoo.pieces,
        text_encoder=zoo.t5(),
        vae=zoo.vae(),
        transformer=transformer.eval(),
        scheduler=scheduler,
    )


def dit(zoo: Any) -> Any:
    transformer = zoo.diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=16,
    )
    scheduler = zoo.diffusers.DDIMScheduler(clip_sample=False)
    return zoo.diffusers.DiTPipeline(
        transformer=transformer.eval(), vae=zoo.vae(), scheduler=scheduler, id2label=LABELS
    )


def saved(pipe: Any, folder: Path) -> ImagePipeline:
    """As published: DiT's names of classes stand in model_index.json, where diffusers reads them
    but does not write them."""
    pipe.save_pretrained(folder)
    if hasattr(pipe, "labels"):
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps(index | {"id2label": LABELS}))
    return image.load(folder, device="cpu", dtype="fp32")


MAKERS = {
    "sd3": sd3,
    "sd3-without-t5": lambda zoo: sd3(zoo, t5=False),
    "flux-dev": flux,
    "flux-schnell": lambda zoo: flux(zoo, dev=False),
    "pixart-alpha": pixart,
    "pixart-alpha-1024": lambda zoo: pixart(zoo, 128),
    "pixart-sigma": lambda zoo: pixart(zoo, sigma=True),
    "dit": dit,
}
# as its authors have it
TOLD: dict[str, dict[str, Any]] = {"flux-schnell": {"max_sequence_length": 256}}
TOLD |= {name: {"use_resolution_binning": False} for name in MAKERS if "pixart" in name}


@pytest.fixture(scope="module", params=MAKERS)
def both(
    request: pytest.FixtureRequest, zoo: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Any, ImagePipeline]:
    torch.manual_seed(0)
    pipe = MAKERS[request.param](zoo)
    return request.param, pipe, saved(pipe, tmp_path_factory.mktemp("open"))


def reference(
    zoo: Any, name: str, pipe: Any, prompt: str, seeds: list[int], scale: float, negative: str = ""
) -> np.ndarray:
    if name == "dit":
        pipe.set_progress_bar_config(disable=True)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return pipe(pipe.get_label_ids([prompt] * len(seeds)), scale, generators, 4, "np").images
    options: dict[str, Any] = {"guidance_scale": scale} | TOLD.get(name, {})
    if "flux" not in name:
        options["negative_prompt"] = [negative] * len(seeds)
    elif name == "flux-schnell" and scale != 1:
        options["true_cfg_scale"], options["negative_prompt"] = scale, [negative] * len(seeds)
    return zoo.theirs(pipe, prompt, seeds, **options)


def test_a_whole_generation_is_theirs(zoo: Any, both: tuple[str, Any, ImagePipeline]) -> None:
    name, pipe, pipeline = both
    prompt, negative = (
        ("dog", "") if name == "dit" else ("a Red cat", "" if name == "flux-dev" else "dog")
    )
    made = zoo.ours(pipeline, prompt, seed=3, n=2, guidance_scale=4.5, negative=negative)
    zoo.same(made, reference(zoo, name, pipe, prompt, [3, 4], 4.5, negative))


def test_without_guidance_and_alone(zoo: Any, both: tuple[str, Any, ImagePipeline]) -> None:
    name, pipe, pipeline = both
    zoo.same(
        zoo.ours(pipeline, "dog", seed=9, guidance_scale=1.0),
        reference(zoo, name, pipe, "dog", [9], 1.0),
    )
    assert (
        np.abs(
            zoo.ours(pipeline, "dog", seed=8, n=2)[1] - zoo.ours(pipeline, "dog", seed=9)[0]
        ).max()
        <= 1 / 255
    )


def test_unmasked_pixels_stay_bit_identical(zoo: Any, both: tuple[str, Any, ImagePipeline]) -> None:
    _, _, pipeline = both
    picture, mask = zoo.picture(), zoo.mask()
    out = pipeline("dog", init=picture, mask=mask, seed=2, steps=3, strength=1.0).pixels
    assert np.array_equal(out[~mask], picture[~mask]) and (out[mask] != picture[mask]).mean() > 0.5


def test_a_picture_to_start_from_is_kept_the_more_the_less_strength(
    zoo: Any, both: tuple[str, Any, ImagePipeline]
) -> None:
    _, _, pipeline = both
    picture = zoo.picture()
    weak, strong = (
        pipeline("dog", init=picture, seed=2, steps=4, strength=strength, guidance_scale=1.0).pixels
        for strength in (0.25, 1.0)
    )
    codec = pipeline.painter.vae
    start = torch.from_numpy(picture).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        known = (
            ((codec.decode(codec.encode(start))[0].clamp(-1, 1) + 1) * 127.5)
            .permute(1, 2, 0)
            .numpy()
        )
    assert np.abs(weak - known).mean() < np.abs(strong - known).mean()


def test_dit_takes_a_number_or_a_name(zoo: Any, tmp_path: Path) -> None:
    pipeline = saved(dit(zoo), tmp_path)
    assert np.array_equal(zoo.ours(pipeline, "7", seed=1), zoo.ours(pipeline, "cock", seed=1))
    assert not np.array_equal(zoo.ours(pipeline, "8", seed=1), zoo.ours(pipeline, "cock", seed=1))
    with pytest.raises(
        DaedalError, match=r"'a cock' is not a class of this model.*did you mean 'cock'.*0 to 999"
    ):
        pipeline("a cock")
    with pytest.raises(DaedalError, match="'1000' is not a class"):
        pipeline("1000")


def test_flux_dev_has_no_negative_prompt(zoo: Any, tmp_path: Path) -> None:
    with pytest.raises(DaedalError, match="guidance built in and reads no negative prompt"):
        saved(flux(zoo), tmp_path)("a cat", negative="dog")


def test_flux_fill_is_theirs(zoo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its mask has a channel for each pixel of a cell. (Theirs draws from the codec's posterior,
    ours takes its mean.)"""
    zoo.encode_means(monkeypatch)
    torch.manual_seed(0)
    pipe = flux(zoo, channels=16 + 16 + 4 * 2**2)
    pipeline, picture, mask = saved(pipe, tmp_path), zoo.picture(), zoo.mask()
    given = {
        "image": torch.from_numpy(picture).permute(2, 0, 1)[None] / 255,
        "mask_image": torch.from_numpy(mask).float()[None, None],
    }
    reference = zoo.theirs(pipe, "a cat", [3], guidance_scale=9.0, **given)
    made = zoo.ours(
        pipeline, "a cat", seed=3, guidance_scale=9.0, init=picture, mask=mask, strength=1.0
    )
    zoo.same(made[0][mask], reference[0][mask])
    assert np.array_equal(made[0][~mask], picture[~mask] / 255)


@pytest.mark.parametrize("large", [False, True])
def test_sd3_controlnets_are_theirs(
    zoo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    """InstantX's are told no pooled text, and encoded without the shift; those of 3.5 large read no
    text, and the model's own tokens."""
    zoo.encode_means(monkeypatch)
    torch.manual_seed(0)
    pipe = sd3(zoo)
    pipeline, config = (
        saved(pipe, tmp_path / "model"),
        {k: v for k, v in pipe.transformer.config.items() if not k.startswith("_")},
    )
    more = {
        "use_pos_embed": False,
        "joint_attention_dim": None,
        "force_zeros_for_pooled_projection": False,
        "pos_embed_type": None,
    }
    config |= {"num_layers": 1, "extra_conditioning_channels": 0, "qk_norm": None} | (
        more if large else {}
    )
    control = zoo.shaken(zoo.diffusers.SD3ControlNetModel(**config))
    control.save_pretrained(tmp_path / "tile")
    Image.fromarray(zoo.picture(4)).save(tmp_path / "far.png")
    controlled = zoo.diffusers.StableDiffusion3ControlNetPipeline(
        **pipe.components, controlnet=control
    )
    options = {
        "control_image": Image.open(tmp_path / "far.png"),
        "controlnet_conditioning_scale": 0.7,
        "guidance_scale": 4.0,
    }
    theirs = zoo.theirs(controlled, "a cat", [5], **options)
    asked = {
        "control": f"tile:{tmp_path / 'far.png'}",
        "control_model": str(tmp_path / "tile"),
        "control_scale": 0.7,
    }
    zoo.same(zoo.ours(pipeline, "a cat", seed=5, guidance_scale=4.0, **asked), theirs)


@pytest.mark.parametrize("modes", [None, 7])
def test_flux_controlnets_are_theirs(
    zoo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, modes: int | None
) -> None:
    """One for each kind, or one for all, which is told the kind's number."""
    zoo.encode_means(monkeypatch)
    torch.manual_seed(0)
    pipe = flux(zoo)
    pipeline, config = (
        saved(pipe, tmp_path / "model"),
        dict(pipe.transformer.config)
        | {"num_layers": 1, "num_single_layers": 1, "num_mode": modes},
    )
    control = zoo.shaken(
        zoo.diffusers.FluxControlNetModel(
            **{k: v for k, v in config.items() if k != "out_channels" and not k.startswith("_")}
        )
    )
    control.save_pretrained(tmp_path / "depth")
    Image.fromarray(zoo.picture(4)).save(tmp_path / "far.png")
    controlled = zoo.diffusers.FluxControlNetPipeline(**pipe.components, controlnet=control)
    options = {
        "control_image": Image.open(tmp_path / "far.png"),
        "controlnet_conditioning_scale": 0.7,
        "guidance_scale": 4.0,
    }
    theirs = zoo.theirs(controlled, "a cat", [5], control_mode=modes and 2, **options)
    asked = {
        "control": f"depth:{tmp_path / 'far.png'}",
        "control_model": str(tmp_path / "depth"),
        "control_scale": 0.7,
    }
    zoo.same(zoo.ours(pipeline, "a cat", seed=5, guidance_scale=4.0, **asked), theirs)
    if modes:
        with pytest.raises(DaedalError, match="'scribble' is not a kind this model knows"):
            pipeline("a cat", **asked | {"control": f"scribble:{tmp_path / 'far.png'}"})


def test_flux_depth_is_theirs_as_a_model_and_as_a_lora(
    zoo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control picture's latents stand beside the noisy ones; a LoRA can teach dev to read them."""
    zoo.encode_means(monkeypatch)
    torch.manual_seed(0)
    pipe = flux(zoo)
    saved(pipe, tmp_path / "dev")
    wide = flux(zoo, channels=32).transformer
    weights = pipe.transformer.state_dict()
    wide.load_state_dict(
        weights
        | {"x_embedder.weight": torch.cat([weights["x_embedder.weight"], torch.randn(32, 16)], 1)}
    )
    parts = {
        name: part
        for name, part in pipe.components.items()
        if name not in ("image_encoder", "feature_extractor")
    }
    controlled = zoo.diffusers.FluxControlPipeline(**parts | {"transformer": wide})
    pipeline = saved(controlled, tmp_path / "depth")
    Image.fromarray(zoo.picture(4)).save(tmp_path / "far.png")
    theirs = zoo.theirs(
        controlled,
        "a cat",
        [5],
        control_image=Image.open(tmp_path / "far.png"),
        guidance_scale=10.0,
    )
    asked = {"control": f"depth:{tmp_path / 'far.png'}", "guidance_scale": 10.0}
    zoo.same(zoo.ours(pipeline, "a cat", seed=5, **asked), theirs)
    with pytest.raises(DaedalError, match=r"follows one picture.*give control="):
        pipeline("a cat")
    down, up = torch.zeros(32, 32), torch.zeros(32, 32)
    down[:16, 16:], up[:, :16] = torch.eye(16), wide.x_embedder.weight.data[:, 16:]
    save_file(
        {"transformer.x_embedder.lora_A.weight": down, "transformer.x_embedder.lora_B.weight": up},
        tmp_path / "depth.safetensors",
    )
    dev = image.load(tmp_path / "dev", device="cpu", dtype="fp32")
    plain = zoo.ours(dev, "a cat", seed=5)
    zoo.same(
        zoo.ours(dev, "a cat", seed=5, lora=str(tmp_path / "depth.safetensors"), **asked), theirs
    )
    assert np.array_equal(zoo.ours(dev, "a cat", seed=5), plain)
