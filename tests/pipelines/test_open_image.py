"""Open image models against diffusers: the same folder, prompt and noise give the same picture."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from daedal.errors import DaedalError
from daedal.nn import quick
from daedal.nn.conv import Conv2d
from daedal.pipelines import image
from daedal.pipelines.image import ImagePipeline
from daedal.processes.samplers import finished

SCHEDULERS = {
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}),
    "euler": ("EulerDiscreteScheduler", {"timestep_spacing": "leading", "steps_offset": 1}),
    "dpm": ("DPMSolverMultistepScheduler", {}),
}


SD_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def saved(zoo: Any, folder: Path, xl: bool, scheduler: str = "ddim", channels: int = 4) -> Any:
    name, options = SCHEDULERS[scheduler]
    kinds = zoo.diffusers
    kind = (
        kinds.StableDiffusionXLPipeline
        if xl
        else kinds.StableDiffusionInpaintPipeline
        if channels == 9
        else kinds.StableDiffusionPipeline
    )
    pipe = kind(
        **zoo.stable_diffusion(xl, channels), scheduler=getattr(kinds, name)(**SD_BETAS, **options)
    )
    pipe.save_pretrained(folder)
    return pipe


@pytest.fixture(
    scope="module",
    params=[("sd", "ddim"), ("sd", "euler"), ("sd", "dpm"), ("xl", "euler")],
    ids="-".join,
)
def both(
    request: pytest.FixtureRequest, zoo: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, ImagePipeline]:
    folder = tmp_path_factory.mktemp("open")
    pipe = saved(zoo, folder, request.param[0] == "xl", request.param[1])
    return pipe, image.load(folder, device="cpu", dtype="fp32")


def test_a_whole_generation_is_theirs(zoo: Any, both: tuple[Any, ImagePipeline]) -> None:
    pipe, pipeline = both
    made = zoo.ours(pipeline, "a red cat", seed=3, n=2, negative="dog", guidance_scale=6.0)
    zoo.same(
        made, zoo.theirs(pipe, "a red cat", [3, 4], negative_prompt=["dog"] * 2, guidance_scale=6.0)
    )


def test_quick_convolutions_paint_theirs_too(
    zoo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The zoo's networks are too narrow to gain from them; here all go this way."""
    monkeypatch.setattr(quick, "CHANNELS", 1)
    pipe = saved(zoo, tmp_path, xl=False)
    pipeline = image.load(tmp_path, device="cpu", dtype="fp32")
    zoo.same(
        zoo.ours(pipeline, "a red cat", seed=3, guidance_scale=6.0),
        zoo.theirs(pipe, "a red cat", [3], guidance_scale=6.0),
    )
    used = [
        layer.quick
        for layer in pipeline.painter.network.modules()
        if isinstance(layer, Conv2d) and layer.quick
    ]  # type: ignore[attr-defined]
    assert len(used) > 10 and all(way.kernels.numel() for way in used)


def test_no_negative_prompt_is_theirs_too(zoo: Any, both: tuple[Any, ImagePipeline]) -> None:
    """SDXL's zeros for an empty prompt, SD's encoded empty prompt."""
    pipe, pipeline = both
    zoo.same(
        zoo.ours(pipeline, "a cat", seed=1, guidance_scale=5.0),
        zoo.theirs(pipe, "a cat", [1], guidance_scale=5.0),
    )


def test_without_guidance_and_alone(zoo: Any, both: tuple[Any, ImagePipeline]) -> None:
    pipe, pipeline = both
    zoo.same(
        zoo.ours(pipeline, "dog", seed=9, guidance_scale=1.0),
        zoo.theirs(pipe, "dog", [9], guidance_scale=1.0),
    )
    assert (
        np.abs(
            zoo.ours(pipeline, "dog", seed=8, n=2)[1] - zoo.ours(pipeline, "dog", seed=9)[0]
        ).max()
        <= 1 / 255
    )


def test_unmasked_pixels_stay_bit_identical(zoo: Any, both: tuple[Any, ImagePipeline]) -> None:
    _, pipeline = both
    picture, mask = zoo.picture(), zoo.mask()
    out = pipeline("a cat", init=picture, mask=mask, seed=2, steps=3, strength=1.0).pixels
    assert np.array_equal(out[~mask], picture[~mask]) and (out[mask] != picture[mask]).mean() > 0.5


def test_long_prompts_are_read_to_their_end(zoo: Any, both: tuple[Any, ImagePipeline]) -> None:
    _, pipeline = both
    long = "a red cat " * 60
    assert not np.array_equal(
        zoo.ours(pipeline, long + "dog", seed=1), zoo.ours(pipeline, long + "cat", seed=1)
    )


def test_previews_are_as_large_as_the_latents(both: tuple[Any, ImagePipeline]) -> None:
    shown: list[np.ndarray] = []
    both[1].results(
        "a cat", seed=0, n=2, steps=2, on_event=lambda event: shown.append(event.preview())
    )
    side = both[1].painter.defaults["height"] // both[1].painter.vae.factor  # type: ignore[attr-defined]
    assert [each.shape for each in shown] == [(2, side, side, 3)] * 2 and shown[0].std() > 0


def test_other_scripts_get_a_remark(both: tuple[Any, ImagePipeline]) -> None:
    painter = both[1].painter
    assert painter.remark("a cat " * 60) == "" and "'красный' is in signs" in painter.remark(
        "a красный cat"
    )


def test_weights_matter_and_brackets_can_be_escaped(
    zoo: Any, both: tuple[Any, ImagePipeline]
) -> None:
    _, pipeline = both
    plain, heavy, one = (
        zoo.ours(pipeline, prompt, seed=1)
        for prompt in ("a red cat", "a (red:1.6) cat", "a (red:1.0) cat")
    )
    assert np.array_equal(plain, one) and not np.array_equal(plain, heavy)


def test_an_inpainting_model_is_theirs_and_asks_for_its_mask(
    zoo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo.encode_means(monkeypatch)
    pipe = saved(zoo, tmp_path, False, channels=9)
    pipeline, picture, mask = (
        image.load(tmp_path, device="cpu", dtype="fp32"),
        zoo.picture(),
        zoo.mask(),
    )
    with pytest.raises(DaedalError, match="inpainting model; give init="):
        pipeline("a cat")
    given = {
        "image": torch.from_numpy(picture).permute(2, 0, 1)[None] / 255,
        "mask_image": torch.from_numpy(mask).float()[None, None],
    }
    reference = zoo.theirs(pipe, "a cat", [3], guidance_scale=5.0, **given)
    made = zoo.ours(
        pipeline, "a cat", seed=3, guidance_scale=5.0, init=picture, mask=mask, strength=1.0
    )
    zoo.same(made[0][mask], reference[0][mask])
    assert np.array_equal(made[0][~mask], picture[~mask] / 255)


def test_the_refiner_is_theirs(zoo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with XL's second tower alone, told a picture to start from and how beautiful it
    should be."""
    zoo.encode_means(monkeypatch)
    parts = zoo.stable_diffusion(xl=True) | {"text_encoder": None, "tokenizer": None}
    parts["unet"] = zoo.unet(
        xl=True, cross_attention_dim=32, projection_class_embeddings_input_dim=32 + 5 * 8
    )
    euler = zoo.diffusers.EulerDiscreteScheduler(
        **SD_BETAS, timestep_spacing="leading", steps_offset=1
    )
    pipe = zoo.diffusers.StableDiffusionXLImg2ImgPipeline(
        **parts, scheduler=euler, requires_aesthetics_score=True
    )
    pipe.save_pretrained(tmp_path)
    pipeline, picture = image.load(tmp_path, device="cpu", dtype="fp32"), zoo.picture()
    given = torch.from_numpy(picture).permute(2, 0, 1)[None] / 255
    reference = zoo.theirs(
        pipe,
        "a cat",
        [3],
        image=given,
        strength=0.5,
        num_inference_steps=8,
        guidance_scale=5.0,
        negative_prompt=["dog"],
    )
    zoo.same(
        zoo.ours(
            pipeline,
            "a cat",
            seed=3,
            init=picture,
            strength=0.5,
            steps=8,
            guidance_scale=5.0,
            negative="dog",
        ),
        reference,
    )


def test_a_distilled_unet_is_told_the_scale(zoo: Any, tmp_path: Path) -> None:
    """LCM: one pass a step, the guidance scale embedded, x0 trusted and noised anew."""
    parts = zoo.stable_diffusion() | {"unet": zoo.unet(time_cond_proj_dim=16)}
    pipe = zoo.diffusers.StableDiffusionPipeline(**parts, scheduler=zoo.diffusers.LCMScheduler())
    pipe.save_pretrained(tmp_path)
    pipeline = image.load(tmp_path, device="cpu", dtype="fp32")
    assert pipeline.painter.defaults["sampler"] == "lcm" and pipeline.painter.defaults["steps"] == 4
    zoo.same(
        zoo.ours(pipeline, "a cat", seed=3, guidance_scale=8.0),
        zoo.theirs(pipe, "a cat", [3], guidance_scale=8.0),
    )


def test_large_pictures_are_decoded_in_tiles(
    zoo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(zoo, tmp_path, False)
    pipeline = image.load(tmp_path, device="cpu", dtype="fp32")
    x = torch.randn(2, 4, 80, 70)
    painter = pipeline.painter
    whole = finished(painter.decode(x))
    monkeypatch.setattr("daedal.pipelines.open_image.WHOLE", 64 * 64)
    tiled = finished(painter.decode(x))
    assert tiled.shape == whole.shape and not torch.equal(tiled, whole)
    assert (tiled - whole).abs().mean() < 0.1 * whole.std()
