"""Open image models against diffusers: the same folder, prompt and noise give the same picture."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from daedal.errors import DaedalError
from daedal.pipelines import image
from daedal.pipelines.image import ImagePipeline

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")


def clip_tokenizer(folder: Path) -> Any:
    """A CLIP tokenizer of single characters and a few merges."""
    alphabet = [chr(i) for i in range(33, 127)]
    merges = ["a t</w>", "c at</w>", "o g</w>", "d og</w>", "r e", "re d</w>"]
    pieces = [*alphabet, *(c + "</w>" for c in alphabet), *(m.replace(" ", "") for m in merges), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)


def text_tower(vocab: int, width: int, projected: bool = False) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=vocab, hidden_size=width, intermediate_size=37, num_hidden_layers=3, num_attention_heads=4, projection_dim=32,
        eos_token_id=vocab - 1, bos_token_id=vocab - 2, pad_token_id=vocab - 1, hidden_act="quick_gelu",
    )  # fmt: skip
    return (transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel)(config).eval()


def parts(folder: Path, xl: bool, channels: int = 4) -> dict[str, Any]:
    torch.manual_seed(0)
    tokenizer = clip_tokenizer(folder / "words")
    vocab = len(tokenizer)
    added = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 32 + 6 * 8,
        "transformer_layers_per_block": (1, 2),
    }
    unet = diffusers.UNet2DConditionModel(
        sample_size=16, in_channels=channels, out_channels=4, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=64 if xl else 32, attention_head_dim=4, use_linear_projection=xl, **(added if xl else {}),
    ).eval()  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=(16, 32), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4,
        norm_num_groups=8, sample_size=32,
    ).eval()  # fmt: skip
    common = {"unet": unet, "vae": vae, "text_encoder": text_tower(vocab, 32), "tokenizer": tokenizer}
    if xl:
        return common | {"text_encoder_2": text_tower(vocab, 32, projected=True), "tokenizer_2": tokenizer}
    return common | {"safety_checker": None, "feature_extractor": None}


SD_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SCHEDULERS = {
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}),
    "euler": ("EulerDiscreteScheduler", {"timestep_spacing": "leading", "steps_offset": 1}),
    "dpm": ("DPMSolverMultistepScheduler", {}),
}


def save(folder: Path, xl: bool, scheduler: str, channels: int = 4) -> Any:
    name, options = SCHEDULERS[scheduler]
    made = getattr(diffusers, name)(**SD_BETAS, **options)
    kind = (
        diffusers.StableDiffusionXLPipeline
        if xl
        else diffusers.StableDiffusionInpaintPipeline
        if channels == 9
        else diffusers.StableDiffusionPipeline
    )
    pipe = kind(**parts(folder, xl, channels), scheduler=made)
    pipe.save_pretrained(folder / "model")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module", params=[("sd", "ddim"), ("sd", "euler"), ("sd", "dpm"), ("xl", "euler")], ids="-".join)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ImagePipeline]:
    folder = tmp_path_factory.mktemp("open")
    pipe = save(folder, request.param[0] == "xl", request.param[1])
    return pipe, image.load(folder / "model", device="cpu", dtype="fp32")


def theirs(pipe: Any, prompt: str, seeds: list[int], **options: Any) -> np.ndarray:
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    prompts = [prompt] * len(seeds)
    return pipe(prompts, generator=generators, num_inference_steps=4, height=32, width=32, output_type="np", **options).images


def ours(pipeline: ImagePipeline, prompt: str, **options: Any) -> np.ndarray:
    made = pipeline.results(prompt, steps=4, width=32, height=32, **options)
    return np.stack([picture.pixels for picture in made]) / 255


def test_a_whole_generation_is_theirs(both: tuple[Any, ImagePipeline]) -> None:
    pipe, pipeline = both
    options = {"guidance_scale": 6.0}
    reference = theirs(pipe, "a red cat", [3, 4], negative_prompt=["dog"] * 2, **options)
    assert np.abs(ours(pipeline, "a red cat", seed=3, n=2, negative="dog", **options) - reference).max() < 0.5 / 255 + 1e-3


def test_no_negative_prompt_is_theirs_too(both: tuple[Any, ImagePipeline]) -> None:
    """SDXL's zeros for an empty prompt, SD's encoded empty prompt."""
    pipe, pipeline = both
    assert np.abs(ours(pipeline, "a cat", seed=1, guidance_scale=5.0) - theirs(pipe, "a cat", [1], guidance_scale=5.0)).max() < 0.5 / 255 + 1e-3


def test_without_guidance_and_alone(both: tuple[Any, ImagePipeline]) -> None:
    pipe, pipeline = both
    assert np.abs(ours(pipeline, "dog", seed=9, guidance_scale=1.0) - theirs(pipe, "dog", [9], guidance_scale=1.0)).max() < 0.5 / 255 + 1e-3
    assert np.abs(ours(pipeline, "dog", seed=8, n=2)[1] - ours(pipeline, "dog", seed=9)[0]).max() <= 1 / 255


def test_unmasked_pixels_stay_bit_identical(both: tuple[Any, ImagePipeline]) -> None:
    _, pipeline = both
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    mask = np.zeros((32, 32), bool)
    mask[5:20, 7:30] = True
    out = pipeline("a cat", init=picture, mask=mask, seed=2, steps=3, strength=1.0).pixels
    assert np.array_equal(out[~mask], picture[~mask]) and (out[mask] != picture[mask]).mean() > 0.5


def test_long_prompts_are_read_to_their_end(both: tuple[Any, ImagePipeline]) -> None:
    _, pipeline = both
    long = "a red cat " * 60
    assert not np.array_equal(ours(pipeline, long + "dog", seed=1), ours(pipeline, long + "cat", seed=1))


def test_weights_matter_and_brackets_can_be_escaped(both: tuple[Any, ImagePipeline]) -> None:
    _, pipeline = both
    plain, heavy, one = (ours(pipeline, prompt, seed=1) for prompt in ("a red cat", "a (red:1.6) cat", "a (red:1.0) cat"))
    assert np.array_equal(plain, one) and not np.array_equal(plain, heavy)


def test_an_inpainting_model_asks_for_its_mask(tmp_path: Path) -> None:
    save(tmp_path, False, "ddim", channels=9)
    pipeline = image.load(tmp_path / "model", device="cpu", dtype="fp32")
    picture = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    mask = np.zeros((32, 32), bool)
    mask[8:24, 8:24] = True
    with pytest.raises(DaedalError, match="inpainting model; give init="):
        pipeline("a cat")
    out = pipeline("a cat", init=picture, mask=mask, strength=1.0, steps=2, seed=0).pixels
    assert np.array_equal(out[~mask], picture[~mask])
