"""LoRAs, learned words and single files: what people put on open models."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import daedal
from daedal import checkpoints
from daedal.checkpoints.single_file import save_single_file
from daedal.errors import DaedalError
from daedal.pipelines import image
from daedal.pipelines.image import ImagePipeline

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.fixture(scope="module")
def model(zoo: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("model")
    pipe = zoo.diffusers.StableDiffusionPipeline(
        **zoo.stable_diffusion(), scheduler=zoo.diffusers.EulerDiscreteScheduler(**BETAS)
    )
    pipe.save_pretrained(folder)
    return pipe, folder


@pytest.fixture
def pipeline(model: tuple[Any, Path]) -> ImagePipeline:
    return image.load(model[1], device="cpu", dtype="fp32")


def lora(pipe: Any, file: Path, seed: int, rank: int = 3) -> dict[str, torch.Tensor]:
    """Of every cross-attention's queries and keys, as peft writes it; the updates themselves."""
    torch.manual_seed(seed)
    tensors, updates = {}, {}
    for name, module in pipe.unet.named_modules():
        if name.endswith(("attn2.to_q", "attn2.to_k")):
            rows, columns = module.weight.shape
            down, up = torch.randn(rank, columns), torch.randn(rows, rank)
            tensors |= {f"unet.{name}.lora_A.weight": down, f"unet.{name}.lora_B.weight": up}
            updates[f"{name}.weight"] = up @ down
    save_file(tensors, file)
    return updates


def test_loras_add_up_and_come_off_again(
    zoo: Any, model: tuple[Any, Path], pipeline: ImagePipeline, tmp_path: Path
) -> None:
    pipe, _ = model
    files = [tmp_path / "style.safetensors", tmp_path / "face.safetensors"]
    updates = [lora(pipe, file, seed) for seed, file in enumerate(files)]
    plain = pipeline("a cat", seed=1, steps=4)
    worn = pipeline(
        "a cat", seed=1, steps=4, lora=[f"{files[0]}:0.5", files[1]], guidance_scale=4.0
    )
    before = {name: tensor.clone() for name, tensor in pipe.unet.state_dict().items()}
    merged = {name: before[name] + 0.5 * updates[0][name] + updates[1][name] for name in updates[0]}
    pipe.unet.load_state_dict(before | merged)
    zoo.same(worn.pixels[None] / 255, zoo.theirs(pipe, "a cat", [1], guidance_scale=4.0))
    pipe.unet.load_state_dict(before)
    assert np.array_equal(pipeline("a cat", seed=1, steps=4).pixels, plain.pixels)
    assert np.array_equal(pipeline.reproduce(worn.recipe).pixels, worn.pixels)
    lora(pipe, files[0], 7)
    with pytest.raises(DaedalError, match=r"style.safetensors is no longer what the recipe used"):
        pipeline.reproduce(worn.recipe)


def test_a_lora_of_another_model_gets_a_sentence_and_changes_nothing(
    model: tuple[Any, Path], pipeline: ImagePipeline, tmp_path: Path
) -> None:
    plain = pipeline("a cat", seed=1, steps=2)
    good, bad = tmp_path / "good.safetensors", tmp_path / "bad.safetensors"
    lora(model[0], good, 1)
    save_file(
        {
            "unet.nowhere.to_q.lora_A.weight": torch.zeros(2, 4),
            "unet.nowhere.to_q.lora_B.weight": torch.zeros(4, 2),
        },
        bad,
    )
    with pytest.raises(DaedalError, match=r"bad.safetensors"):
        pipeline("a cat", seed=1, steps=2, lora=[good, bad])
    with pytest.raises(
        DaedalError, match=r"nowhere.safetensors is neither a LoRA file nor a folder"
    ):
        pipeline("a cat", lora="nowhere.safetensors:0.5")
    assert np.array_equal(pipeline("a cat", seed=1, steps=2).pixels, plain.pixels)


def test_a_learned_word_is_theirs_and_is_forgotten_again(
    zoo: Any, model: tuple[Any, Path], pipeline: ImagePipeline, tmp_path: Path
) -> None:
    folder = model[1]
    torch.manual_seed(1)
    save_file({"<thing>": torch.randn(2, 32)}, tmp_path / "thing.safetensors")
    plain = zoo.ours(pipeline, "a <thing>", seed=1, guidance_scale=4.0)
    made = zoo.ours(
        pipeline, "a <thing>", seed=1, guidance_scale=4.0, embedding=tmp_path / "thing.safetensors"
    )
    other = zoo.diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    other.load_textual_inversion(str(tmp_path / "thing.safetensors"))
    zoo.same(made, zoo.theirs(other, "a <thing>", [1], guidance_scale=4.0))
    assert np.array_equal(
        zoo.ours(pipeline, "a <thing>", seed=1, guidance_scale=4.0), plain
    ) and not np.array_equal(made, plain)
    save_file({"<wide>": torch.randn(2, 48)}, tmp_path / "wide.safetensors")
    with pytest.raises(DaedalError, match="width 48"):
        pipeline("a <wide>", embedding=tmp_path / "wide.safetensors")


def test_a_single_file_is_the_folder_it_was_made_of(
    zoo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it lacks is looked for beside it: tokenizers, and here the text encoder."""
    order = dict(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    parts = zoo.stable_diffusion() | {
        "unet": zoo.unet(**order, cross_attention_dim=768, attention_head_dim=8, norm_num_groups=32)
    }
    parts |= {
        "text_encoder": zoo.tower(width=768),
        "vae": zoo.vae(norm_num_groups=32, block_out_channels=(32, 64), layers_per_block=2),
    }
    pndm = zoo.diffusers.PNDMScheduler(
        **BETAS, skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False
    )
    zoo.diffusers.StableDiffusionPipeline(**parts, scheduler=pndm).save_pretrained(
        tmp_path / "model"
    )
    ours = checkpoints.load_parts(tmp_path / "model")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "files").mkdir()
    save_single_file(
        {"unet": ours["unet"], "vae": ours["vae"]}, tmp_path / "files" / "all.safetensors"
    )
    with pytest.raises(
        DaedalError, match=r"all.safetensors has no text_encoder; put these folders"
    ):
        image.load(tmp_path / "files" / "all.safetensors", device="cpu")
    (tmp_path / "files" / "text_encoder").symlink_to(tmp_path / "model" / "text_encoder")
    with pytest.raises(
        DaedalError, match=r"no tokenizer, and that of openai/clip-vit-large-patch14 cannot be had"
    ):
        image.load(tmp_path / "files" / "all.safetensors", device="cpu")
    (tmp_path / "files" / "tokenizer").symlink_to(tmp_path / "model" / "tokenizer")
    file, folder = (
        daedal.load(place, device="cpu", dtype="fp32")
        for place in (tmp_path / "files" / "all.safetensors", tmp_path / "model")
    )
    made = file("a red cat", seed=1, steps=4, width=32, height=32)
    assert np.array_equal(
        made.pixels, folder("a red cat", seed=1, steps=4, width=32, height=32).pixels
    )
    assert len(made.recipe["digest"]) == 64 and np.array_equal(
        file.reproduce(made.recipe).pixels, made.pixels
    )
