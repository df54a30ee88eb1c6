"""Networks, one file a family. `FAMILIES` maps `model_type` of config.json to (module, config class)."""

import importlib
from typing import TYPE_CHECKING, Any

from daedal.errors import DaedalError, nearest

if TYPE_CHECKING:
    from daedal.networks.decoder import Decoder, DecoderConfig

FAMILIES = {
    "llama": ("llama", "LlamaConfig"), "mistral": ("llama", "MistralConfig"), "smollm3": ("llama", "SmolLM3Config"),
    "mixtral": ("mixtral", "MixtralConfig"), "qwen2": ("qwen", "Qwen2Config"), "qwen3": ("qwen", "Qwen3Config"),
    "qwen3_moe": ("qwen", "Qwen3MoeConfig"), "gemma2": ("gemma", "Gemma2Config"), "gemma3_text": ("gemma", "Gemma3Config"),
    "phi3": ("phi", "Phi3Config"), "olmo2": ("olmo", "Olmo2Config"), "gpt2": ("gpt", "GPT2Config"), "gpt_neox": ("gpt", "GPTNeoXConfig"),
    "starcoder2": ("gpt", "Starcoder2Config"),
}  # fmt: skip


def config_from_dict(raw: dict[str, Any]) -> "DecoderConfig":
    """The family's config of a parsed `config.json`."""
    name = raw.get("model_type", "")
    if name not in FAMILIES:
        known = sorted(FAMILIES)
        raise DaedalError(f"model_type {name!r} is not a family Daedal knows{nearest(name, known)}; it knows {', '.join(known)}.")
    module, config = FAMILIES[name]
    return getattr(importlib.import_module(f"daedal.networks.{module}"), config).from_dict(raw)


def build(config: "DecoderConfig") -> "Decoder":
    """A network of that config, its weights not yet filled: `Decoder.init_weights` draws them, `daedal.checkpoints.load` reads them."""
    return importlib.import_module(f"daedal.networks.{FAMILIES[config.model_type][0]}").build(config)
