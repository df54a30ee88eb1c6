"""Models that follow one another: DeepFloyd IF's stages and SDXL's refiner, each against diffusers."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from daedal.engine.store import STORE
from daedal.errors import DaedalError
from daedal.pipelines import image
from daedal.pipelines.image import ImagePipeline


def unet(zoo: Any, side: int, channels: int, **options: Any) -> Any:
    kinds = dict(
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"), mid_block_type="UNetMidBlock2DSimpleCrossAttn",
    )  # fmt: skip
    text = dict(
        encoder_hid_dim=32,
        encoder_hid_dim_type="text_proj",
        cross_attention_dim=32,
        addition_embed_type="text",
    )
    return zoo.diffusers.UNet2DConditionModel(
        sample_size=side, in_channels=channels, out_channels=6, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8,
        attention_head_dim=16, act_fn="gelu", resnet_time_scale_shift="scale_shift", cross_attention_norm="group_norm", time_embedding_act_fn="gelu",
        only_cross_attention=True, addition_embed_type_num_heads=4, **kinds, **text, **options,
    ).eval()  # fmt: skip


def scheduler(zoo: Any, largest: float) -> Any:
    return zoo.diffusers.DDPMScheduler(
        beta_schedule="squaredcos_cap_v2",
        variance_type="learned_range",
        thresholding=True,
        dynamic_thresholding_ratio=0.95,
        sample_max_value=largest,
    )


@pytest.fixture(scope="module")
def stages(zoo: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    """Stage I of 16 pixels, stage II of 32, side by side in one folder."""
    torch.manual_seed(0)
    folder, words = (
        tmp_path_factory.mktemp("cascade"),
        {"tokenizer": zoo.pieces, "text_encoder": zoo.t5()},
    )
    rest: dict[str, Any] = {
        "safety_checker": None,
        "feature_extractor": None,
        "watermarker": None,
        "requires_safety_checker": False,
    }
    first = zoo.diffusers.IFPipeline(
        **words, unet=unet(zoo, 16, 3), scheduler=scheduler(zoo, 1.5), **rest
    )
    large, noising = (
        unet(zoo, 32, 6, class_embed_type="timestep"),
        zoo.diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
    )
    second = zoo.diffusers.IFSuperResolutionPipeline(
        **words, unet=large, scheduler=scheduler(zoo, 1.0), image_noising_scheduler=noising, **rest
    )
    first.save_pretrained(folder / "IF-I")
    second.save_pretrained(folder / "IF-II")
    return first, second, folder


def load(folder: Path) -> ImagePipeline:
    return image.load(folder, device="cpu", dtype="fp32")


SMALL: dict[str, Any] = {"width": 16, "height": 16}


def test_stage_one_is_theirs(zoo: Any, stages: tuple[Any, Any, Path]) -> None:
    """Learned variance, dynamic thresholding, guidance on the noise alone."""
    first, _, folder = stages
    pipeline = load(folder / "IF-I")
    assert (
        pipeline.painter.defaults["sampler"] == "ddpm" and pipeline.painter.defaults["width"] == 16
    )
    theirs = zoo.theirs(
        first, "a Red cat", [3, 4], negative_prompt=["dog"] * 2, guidance_scale=5.0, **SMALL
    )
    zoo.same(
        zoo.ours(pipeline, "a Red cat", seed=3, n=2, negative="dog", guidance_scale=5.0, **SMALL),
        theirs,
    )
    plain = zoo.ours(pipeline, "a cat", seed=5, guidance_scale=1.0, **SMALL)
    zoo.same(plain, zoo.theirs(first, "a cat", [5], guidance_scale=1.0, **SMALL))


def test_stage_two_is_theirs(zoo: Any, stages: tuple[Any, Any, Path]) -> None:
    _, second, folder = stages
    pipeline, small = load(folder / "IF-II"), zoo.picture(1, 16)
    given = torch.from_numpy(small).permute(2, 0, 1)[None] / 127.5 - 1
    theirs = zoo.theirs(second, "a cat", [3], image=given, guidance_scale=4.0)
    made = pipeline.results("a cat", seed=3, steps=4, init=small, guidance_scale=4.0)
    zoo.same(made[0].pixels[None] / 255, theirs)
    with pytest.raises(DaedalError, match=r"enlarges a picture; give init="):
        pipeline("a cat")
    with pytest.raises(DaedalError, match=r"takes no mask"):
        pipeline("a cat", init=small, mask=np.ones((16, 16), bool))


def test_stages_follow_one_another(zoo: Any, stages: tuple[Any, Any, Path]) -> None:
    """Found in one folder, or named; what is not asked for is each stage's own choice."""
    _, _, folder = stages
    first, second, whole = load(folder / "IF-I"), load(folder / "IF-II"), load(folder)
    small = first("a cat", seed=3, steps=4).pixels
    large = second("a cat", seed=3, steps=4, init=small).pixels
    made = whole.results("a cat", seed=2, n=2, steps=4)
    assert large.shape == (32, 32, 3) and np.abs(made[1].pixels.astype(int) - large).max() <= 1
    named = first("a cat", seed=3, steps=4, then=str(folder / "IF-II"))
    assert np.array_equal(named.pixels, large) and np.array_equal(
        first.reproduce(named.recipe).pixels, large
    )
    keys = [
        key
        for key, _, leases in STORE.models()
        if key[:2] == ("painter", str(folder / "IF-II")) and not leases
    ]
    with ExitStack() as leases:
        later = [leases.enter_context(STORE.lease(key, pytest.fail)) for key in keys]
        assert first.painter.system.t5.encoder in [stage.system.t5.encoder for stage in later], (
            "T5 is read once"
        )
    assert first("a cat", seed=3, steps=4).pixels.shape == (16, 16, 3)


def test_a_picture_to_start_from_and_a_mask_in_stage_one(
    zoo: Any, stages: tuple[Any, Any, Path]
) -> None:
    pipeline, picture, mask = load(stages[2] / "IF-I"), zoo.picture(1, 16), zoo.mask(16)
    out = pipeline("a cat", init=picture, mask=mask, seed=2, steps=3, strength=1.0).pixels
    assert np.array_equal(out[~mask], picture[~mask]) and (out[mask] != picture[mask]).mean() > 0.5
    with pytest.raises(DaedalError, match=r"cannot be given control; .* it takes lora, then"):
        pipeline("a cat", control="canny:x.png")


def test_the_upscaler_is_theirs(zoo: Any, stages: tuple[Any, Any, Path], tmp_path: Path) -> None:
    """Stable Diffusion's, and IF's third stage: the noise of the small picture is drawn first."""
    parts = zoo.stable_diffusion()
    parts["unet"], parts["vae"] = zoo.unet(channels=7, num_class_embeds=1000), zoo.vae()
    low = zoo.diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    pipe = zoo.diffusers.StableDiffusionUpscalePipeline(
        **{key: value for key, value in parts.items() if key not in ("safety_checker", "feature_extractor")}, low_res_scheduler=low,
        scheduler=zoo.diffusers.DDIMScheduler(prediction_type="v_prediction", clip_sample=False), max_noise_level=350,
    )  # fmt: skip
    pipe.save_pretrained(tmp_path)
    pipeline, factor = load(tmp_path), 2 ** (len(parts["vae"].config.block_out_channels) - 1)
    small = zoo.picture(1, 16)
    given = torch.from_numpy(small).permute(2, 0, 1)[None] / 127.5 - 1
    for level in (20, 100):
        pipe.set_progress_bar_config(disable=True)
        theirs = pipe(
            "a cat",
            image=given,
            noise_level=level,
            guidance_scale=4.0,
            num_inference_steps=4,
            generator=torch.Generator().manual_seed(3),
            output_type="np",
        ).images
        made = pipeline.results(
            "a cat",
            seed=3,
            steps=4,
            init=small,
            guidance_scale=4.0,
            **({} if level == 20 else {"noise_level": level}),
        )
        assert made[0].pixels.shape == (16 * factor, 16 * factor, 3)
        zoo.same(made[0].pixels[None] / 255, theirs)
    with pytest.raises(DaedalError, match="noise_level=400 is more than"):
        pipeline("a cat", init=small, noise_level=400)
    (tmp_path / "IF-III").mkdir()
    pipe.save_pretrained(tmp_path / "IF-III")
    cascade = load(stages[2] / "IF-I")(
        "a cat", seed=3, steps=2, then=[str(stages[2] / "IF-II"), str(tmp_path / "IF-III")]
    )
    assert cascade.pixels.shape == (32 * factor, 32 * factor, 3)


def test_the_refiner_goes_on_from_the_base(zoo: Any, tmp_path: Path) -> None:
    for name, parts in (("base", {}), ("refiner", {"text_encoder": None, "tokenizer": None})):
        kind = (
            zoo.diffusers.StableDiffusionXLPipeline
            if name == "base"
            else zoo.diffusers.StableDiffusionXLImg2ImgPipeline
        )
        made = zoo.stable_diffusion(xl=True) | parts
        if parts:
            made["unet"] = zoo.unet(
                xl=True, cross_attention_dim=32, projection_class_embeddings_input_dim=32 + 5 * 8
            )
        kind(
            **made,
            scheduler=zoo.diffusers.EulerDiscreteScheduler(),
            **({"requires_aesthetics_score": True} if parts else {}),
        ).save_pretrained(tmp_path / name)
    base, refiner = load(tmp_path / "base"), load(tmp_path / "refiner")
    plain = base("a cat", seed=3, steps=8)
    refined = refiner("a cat", seed=3, steps=8, init=plain.pixels, strength=0.3).pixels
    assert np.array_equal(
        base("a cat", seed=3, steps=8, then=str(tmp_path / "refiner")).pixels, refined
    )
