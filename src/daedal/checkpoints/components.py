"""Components of generative systems as folders: `config.json` and safetensors, as diffusers and transformers write them, and the pipeline
folder (`model_index.json`) that holds several.

A component class has `config_class` (see networks.config), and may have
  names    (ours, disk) substrings, applied in order to our parameter names; absent where the two agree
  former   (old, new) substrings of disk names, for tensors that only an old version's name fits
  skipped  endings of disk names that hold no weights of ours (constants, tied copies)
"""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from daedal.checkpoints.folder import publish, put, read_config, shortened, tensors
from daedal.errors import DaedalError, nearest
from daedal.networks.config import parse, to_dict

# Class name on disk -> (module of daedal.networks, our class), imported when it is asked for.
CLASSES = {
    "AutoencoderKL": ("autoencoder", "AutoencoderKL"),
    "VQModel": ("vq", "VQModel"),
    "UNet2DConditionModel": ("unet", "UNet2DConditionModel"),
    "ControlNetModel": ("controlnet", "ControlNetModel"),
    "T2IAdapter": ("t2i_adapter", "T2IAdapter"),
    "MediaTransformer": ("media", "MediaTransformer"),
    "BigGANGenerator": ("biggan", "BigGANGenerator"),
    "BigGANDiscriminator": ("biggan", "BigGANDiscriminator"),
    "StyleGAN2Generator": ("stylegan", "StyleGAN2Generator"),
    "StyleGAN3Generator": ("stylegan3", "StyleGAN3Generator"),
    "StyleGAN2Discriminator": ("stylegan", "StyleGAN2Discriminator"),
    "CLIPTextModel": ("clip", "CLIPTextModel"),
    "CLIPTextModelWithProjection": ("clip", "CLIPTextModelWithProjection"),
    "CLIPVisionModelWithProjection": ("clip", "CLIPVisionModelWithProjection"),
    "CLIPModel": ("clip", "CLIPModel"),
    "T5EncoderModel": ("t5", "T5EncoderModel"),
    "UMT5EncoderModel": ("t5", "UMT5EncoderModel"),
    "DiTTransformer2DModel": ("dit", "DiTTransformer2DModel"),
    "PixArtTransformer2DModel": ("pixart", "PixArtTransformer2DModel"),
    "Transformer2DModel": ("pixart", "Transformer2DModel"),
    "SD3Transformer2DModel": ("mmdit", "SD3Transformer2DModel"),
    "FluxTransformer2DModel": ("flux", "FluxTransformer2DModel"),
    "SD3ControlNetModel": ("controlnet_dit", "SD3ControlNetModel"),
    "FluxControlNetModel": ("controlnet_dit", "FluxControlNetModel"),
}  # fmt: skip
# Endings of class names that `load_components` hands over as their folder: not networks, or not used.
FOLDERS = ("Tokenizer", "TokenizerFast", "Processor", "FeatureExtractor", "SafetyChecker", "Watermarker")


def component_class(name: str) -> Any:
    """The network class of a `_class_name` or architecture."""
    if name not in CLASSES:
        raise DaedalError(f"{name!r} is not a component Daedal knows{nearest(name, list(CLASSES))}; it knows {', '.join(sorted(CLASSES))}.")
    module, ours = CLASSES[name]
    return getattr(importlib.import_module(f"daedal.networks.{module}"), ours)


def load_component(folder: str | Path, dtype: torch.dtype | None = None, device: torch.device | str = "cpu", allow_pickle: bool = False) -> nn.Module:
    """The network of a component folder, in evaluation mode. `dtype` None keeps the dtype on disk. An unmatched, missing or misshapen
    tensor is an error that lists it."""
    raw = read_config(folder)
    kind = component_class(raw.get("_class_name") or (raw.get("architectures") or [""])[0])
    with torch.device("meta"):
        module: nn.Module = kind(parse(kind.config_class, raw))
    fill(module, tensors(Path(folder), allow_pickle, stem_of(kind)), dtype, device)
    return module.eval()


def fill(module: nn.Module, stream: Iterator[tuple[str, Tensor]], dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> None:
    """Give a meta-device module its weights from (disk name, tensor) pairs."""
    layout = {disk_name(module, name): name for name in module.state_dict()}
    empty, unknown, misshapen = dict(module.state_dict()), [], []
    for disk, tensor in stream:
        name = layout.get(disk) or layout.get(current_name(module, disk))
        if name is None:
            unknown += [] if disk.endswith(tuple(getattr(module, "skipped", ()))) else [disk]
        elif tensor.shape != empty[name].shape:
            misshapen.append(f"{disk} {tuple(tensor.shape)} instead of {tuple(empty[name].shape)}")
        else:
            put(module, name, tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None).contiguous())
            del empty[name]
    for what, names in (("unmatched", unknown), ("misshapen", misshapen), ("missing", [] if misshapen else [disk_name(module, n) for n in empty])):
        if names:
            raise DaedalError(f"the weights do not fit the config of {type(module).__name__}: {len(names)} {what} tensors: {shortened(names)}.")


def save_component(module: nn.Module, folder: str | Path, max_shard_bytes: int = 5_000_000_000) -> None:
    """Write config.json and safetensors that diffusers or transformers open. The folder appears whole or not at all."""
    disk = {disk_name(module, name): tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    publish(disk.items(), to_dict(module.config), Path(folder), max_shard_bytes, stem_of(type(module)))  # type: ignore[arg-type]


def load_components(
    folder: str | Path, dtype: torch.dtype | None = None, device: torch.device | str = "cpu", allow_pickle: bool = False
) -> dict[str, Any]:
    """Every part that a pipeline folder's `model_index.json` names: networks loaded, schedulers as their parsed
    `scheduler_config.json`, tokenizers and the like as folder paths; "model_index" is the parsed index with its flags."""
    path = Path(folder) / "model_index.json"
    if not path.exists():
        raise DaedalError(f"{folder} has no model_index.json, so it is not a pipeline folder; give one saved by diffusers or Daedal.")
    index: dict[str, Any] = json.loads(path.read_text())
    parts = {name: entry[1] for name, entry in index.items() if isinstance(entry, list) and len(entry) == 2 and entry[1]}
    return {"model_index": index} | {name: load_part(Path(folder) / name, kind, dtype, device, allow_pickle) for name, kind in parts.items()}


def load_part(folder: Path, kind: str, *options: Any) -> nn.Module | dict[str, Any] | Path:
    if kind.endswith("Scheduler"):
        return json.loads((folder / "scheduler_config.json").read_text())
    return folder if kind.endswith(FOLDERS) else load_component(folder, *options)


def load_ip_adapter(file: str | Path, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> nn.Module:
    """The IP-Adapter of a safetensors file, in evaluation mode."""
    from daedal.networks.ip_adapter import IPAdapter

    if not Path(file).suffix == ".safetensors":
        raise DaedalError(f"{file} is not a safetensors file; IP-Adapters are published as safetensors too, take that one.")
    weights = load_file(file)
    with torch.device("meta"):
        adapter = IPAdapter.of_shapes({name: tensor.shape for name, tensor in weights.items()})
    fill(adapter, iter(weights.items()), dtype, device)
    return adapter.eval()


def disk_name(module: nn.Module, name: str) -> str:
    for ours, disk in getattr(module, "names", ()):
        name = name.replace(ours, disk)
    return name


def current_name(module: nn.Module, disk: str) -> str:
    """What an old file's tensor is called today."""
    for old, new in getattr(module, "former", ()):
        disk = disk.replace(old, new)
    return disk


def stem_of(kind: type[nn.Module]) -> str:
    """diffusers and transformers name their weight files differently."""
    return "diffusion_pytorch_model" if hasattr(kind.config_class, "class_name") else "model"  # type: ignore[attr-defined]
