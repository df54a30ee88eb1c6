"""Small random models of sounds as diffusers saves them."""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

import diffusers
import torch
from diffusers.pipelines.stable_audio.modeling_stable_audio import StableAudioProjectionModel
from diffusers.pipelines.stable_audio.pipeline_stable_audio import StableAudioPipeline

from tests.networks.test_stable_audio import DIT, OOBLECK

# diffusers' solver asks for torchsde, which draws the noise that is drawn otherwise below
sys.modules.setdefault("torchsde", ModuleType("torchsde"))
cosine = import_module("diffusers.schedulers.scheduling_cosine_dpmsolver_multistep")


def stable_audio(zoo: Any, folder: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    zoo.pieces.model_max_length = 16
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
        vae.eval(), text, parts[0].eval(), zoo.pieces, parts[1].eval(), scheduler
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(folder)
    return pipe
