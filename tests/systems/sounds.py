"""Small random models of sounds as diffusers saves them."""

import sys
from copy import deepcopy
from importlib import import_module
from types import ModuleType
from typing import Any

import diffusers
import torch
import transformers
from diffusers.pipelines.audioldm2.modeling_audioldm2 import (
    AudioLDM2ProjectionModel,
    AudioLDM2UNet2DConditionModel,
)
from diffusers.pipelines.audioldm2.pipeline_audioldm2 import AudioLDM2Pipeline
from diffusers.pipelines.deprecated.audioldm.pipeline_audioldm import AudioLDMPipeline
from diffusers.pipelines.stable_audio.modeling_stable_audio import StableAudioProjectionModel
from diffusers.pipelines.stable_audio.pipeline_stable_audio import StableAudioPipeline

from tests.networks.test_clap import AUDIO, GAN, TEXT, randomised
from tests.networks.test_stable_audio import DIT, OOBLECK

# diffusers' solver asks for torchsde, which draws the noise that is drawn otherwise below
sys.modules.setdefault("torchsde", ModuleType("torchsde"))
cosine = import_module("diffusers.schedulers.scheduling_cosine_dpmsolver_multistep")


def pieces(zoo: Any) -> Any:
    """T5's tokenizer, of sixteen tokens at most."""
    tokenizer = deepcopy(zoo.pieces)
    tokenizer.model_max_length = 16
    return tokenizer


def stable_audio(zoo: Any, folder: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    vae = diffusers.AutoencoderOobleck(**OOBLECK)
    parts = (
        StableAudioProjectionModel(20, 24, 0, 512),
        diffusers.StableAudioDiTModel(**DIT),
    )
    with torch.no_grad():
        for part in (vae, *parts):
            for name, tensor in part.state_dict().items():
                torch.nn.init.normal_(tensor, std=0.2)
                if name.endswith("weight_g"):
                    tensor.abs_().add_(0.3)
    scheduler = cosine.CosineDPMSolverMultistepScheduler(**options)
    text = zoo.t5(20)
    pipe = StableAudioPipeline(
        vae.eval(), text, parts[0].eval(), pieces(zoo), parts[1].eval(), scheduler
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(folder)
    return pipe


SCHEDULE = dict(beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1)  # fmt: skip
UNET = dict(block_out_channels=(16, 32), layers_per_block=1, sample_size=32, in_channels=4, out_channels=4, norm_num_groups=8, attention_head_dim=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"))  # fmt: skip


def words() -> Any:
    """A tokenizer of RoBERTa of single letters."""
    letters = [chr(i) for i in range(97, 123)]
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "Ġ", ",", *letters, *(f"Ġ{c}" for c in letters)]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    merges = [("Ġ", c) for c in letters]
    return transformers.RobertaTokenizer(vocab=vocab, merges=merges, model_max_length=36)


def mel_parts() -> dict[str, Any]:
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        in_channels=1, out_channels=1, latent_channels=4, norm_num_groups=8, block_out_channels=(16, 32), scaling_factor=0.9,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    ).eval()  # fmt: skip
    gan = randomised(transformers.SpeechT5HifiGan(transformers.SpeechT5HifiGanConfig(**GAN)))
    scheduler = diffusers.DDIMScheduler(**SCHEDULE)
    return {"vae": vae, "vocoder": gan, "scheduler": scheduler, "tokenizer": words()}


def saved(pipe: Any, folder: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(folder)
    return pipe


def audioldm(folder: Any) -> Any:
    parts, text = mel_parts(), transformers.ClapTextConfig(**TEXT)
    unet = diffusers.UNet2DConditionModel(
        **UNET, cross_attention_dim=(16, 32), class_embed_type="simple_projection", projection_class_embeddings_input_dim=12,
        class_embeddings_concat=True,
    ).eval()  # fmt: skip
    tower = randomised(transformers.ClapTextModelWithProjection(text))
    return saved(AudioLDMPipeline(text_encoder=tower, unet=unet, **parts), folder)


def audioldm2(zoo: Any, folder: Any) -> Any:
    parts = mel_parts()
    clap = transformers.ClapConfig(text_config=TEXT, audio_config=AUDIO, projection_dim=12)
    unet = AudioLDM2UNet2DConditionModel(**UNET, cross_attention_dim=([None, 24, 20], [None, 24, 20])).eval()  # fmt: skip
    gpt = transformers.GPT2Config(vocab_size=32, n_embd=24, n_layer=2, n_head=3, n_positions=96)
    extractor = transformers.ClapFeatureExtractor(feature_size=16, hop_length=1920, truncation="rand_trunc", frequency_min=50)  # fmt: skip
    parts |= {
        "text_encoder": randomised(transformers.ClapModel(clap)),
        "text_encoder_2": zoo.t5(20),
        "projection_model": randomised(AudioLDM2ProjectionModel(12, 20, 24)),
        "language_model": randomised(transformers.GPT2LMHeadModel(gpt)),
        "tokenizer_2": pieces(zoo),
        "feature_extractor": extractor,
        "unet": unet,
    }
    return saved(AudioLDM2Pipeline(**parts), folder)


def ear(folder: Any) -> Any:
    """A CLAP with what it needs to listen."""
    clap = transformers.ClapConfig(text_config=TEXT, audio_config=AUDIO, projection_dim=12)
    randomised(transformers.ClapModel(clap)).save_pretrained(folder)
    words().save_pretrained(folder)
    extractor = transformers.ClapFeatureExtractor(feature_size=16, hop_length=1920, truncation="rand_trunc", frequency_min=50)  # fmt: skip
    extractor.save_pretrained(folder)
    return folder
