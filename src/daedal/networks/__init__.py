"""Networks, one file a family, and the registry that finds one by what its `config.json` says.

config = config_from_dict(raw)       # of a parsed config.json
network = build(config)              # its weights not filled: init_weights draws them,
checkpoints.load reads them"""

import importlib
from typing import Any

from daedal.errors import DaedalError, nearest
from daedal.networks.config import name_of, parse

# Language models: `model_type` -> (module, config class). The module's `build` makes the network.
FAMILIES = {
    "llama": ("llama", "LlamaConfig"), "mistral": ("llama", "MistralConfig"), "smollm3": ("llama", "SmolLM3Config"),
    "mixtral": ("mixtral", "MixtralConfig"), "qwen2": ("qwen", "Qwen2Config"), "qwen3": ("qwen", "Qwen3Config"),
    "qwen3_moe": ("qwen", "Qwen3MoeConfig"), "gemma2": ("gemma", "Gemma2Config"), "gemma3_text": ("gemma", "Gemma3Config"),
    "phi3": ("phi", "Phi3Config"), "olmo2": ("olmo", "Olmo2Config"), "gpt2": ("gpt", "GPT2Config"), "gpt_neox": ("gpt", "GPTNeoXConfig"),
    "starcoder2": ("gpt", "Starcoder2Config"),
}  # fmt: skip
# All others: `_class_name` or architecture -> module. The class there has that name, and a
# `config_class`.
COMPONENTS = {
    "AutoencoderKL": "autoencoder", "AutoencoderKLWan": "autoencoder_wan", "AutoencoderKLLTXVideo": "autoencoder_ltx",
    "AutoencoderKLCogVideoX": "autoencoder_cogvideox", "CogVideoXTransformer3DModel": "cogvideox", "VQModel": "vq",
    "UNet2DConditionModel": "unet", "UNetMotionModel": "motion", "MotionAdapter": "motion", "AudioLDM2UNet2DConditionModel": "unet",
    "AudioLDM2ProjectionModel": "audioldm2", "ControlNetModel": "controlnet", "T2IAdapter": "t2i_adapter",
    "DiTTransformer2DModel": "dit", "PixArtTransformer2DModel": "pixart", "Transformer2DModel": "pixart",
    "SD3Transformer2DModel": "mmdit", "FluxTransformer2DModel": "flux", "WanTransformer3DModel": "wan",
    "LTXVideoTransformer3DModel": "ltx",
    "SD3ControlNetModel": "controlnet_dit", "FluxControlNetModel": "controlnet_dit",
    "CLIPTextModel": "clip", "CLIPTextModelWithProjection": "clip", "CLIPVisionModelWithProjection": "clip", "CLIPVisionModel": "clip", "CLIPModel": "clip",
    "T5EncoderModel": "t5", "UMT5EncoderModel": "t5",
    "BertModel": "bert", "BertForMaskedLM": "bert", "BertForPreTraining": "bert", "RobertaModel": "bert", "RobertaForMaskedLM": "bert",
    "XLMRobertaModel": "bert", "XLMRobertaForMaskedLM": "bert", "MPNetModel": "bert", "MPNetForMaskedLM": "bert",
    "ModernBertModel": "modernbert", "ModernBertForMaskedLM": "modernbert",
    "MediaTransformer": "media", "WhisperForConditionalGeneration": "whisper",
    "AutoencoderOobleck": "oobleck", "StableAudioDiTModel": "stable_audio", "StableAudioProjectionModel": "stable_audio",
    "ClapModel": "clap", "ClapTextModelWithProjection": "clap", "SpeechT5HifiGan": "hifigan",
    "BarkModel": "bark", "EncodecModel": "encodec", "DacModel": "dac", "MusicgenForConditionalGeneration": "musicgen",
    "MusicgenMelodyForConditionalGeneration": "musicgen",
    "BigGANGenerator": "biggan", "BigGANDiscriminator": "biggan",
    "VitsModel": "vits", "LettersToPhonemes": "phonemes",
    "StyleGAN2Generator": "stylegan", "StyleGAN2Discriminator": "stylegan", "StyleGAN3Generator": "stylegan3",
}  # fmt: skip


def component(name: str) -> Any:
    """The network class of a `_class_name` or architecture."""
    if name not in COMPONENTS:
        known, near = ", ".join(sorted(COMPONENTS)), nearest(name, list(COMPONENTS))
        raise DaedalError(f"{name!r} is not a component Daedal knows{near}; it knows {known}.")
    return getattr(importlib.import_module(f"daedal.networks.{COMPONENTS[name]}"), name)


def class_name(raw: dict[str, Any]) -> str:
    """What a parsed `config.json` calls its network's class."""
    return raw.get("_class_name") or (raw.get("architectures") or [""])[0]


def config_from_dict(raw: dict[str, Any]) -> Any:
    """The config of a parsed `config.json`."""
    if "_class_name" in raw or class_name(raw) in COMPONENTS:
        return parse(component(class_name(raw)).config_class, raw)
    name, known = raw.get("model_type", ""), sorted(FAMILIES)
    if name not in FAMILIES:
        near = nearest(name, known)
        raise DaedalError(
            f"model_type {name!r} is not a family Daedal knows{near}; it knows {', '.join(known)}."
        )
    module, config = FAMILIES[name]
    return parse(getattr(importlib.import_module(f"daedal.networks.{module}"), config), raw)


def build(config: Any) -> Any:
    """A network of that config, its weights not filled."""
    if name_of(type(config)) in COMPONENTS:
        return component(name_of(type(config)))(config)
    return importlib.import_module(f"daedal.networks.{FAMILIES[config.model_type][0]}").build(
        config
    )
