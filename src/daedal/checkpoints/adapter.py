"""An adapter folder as peft writes it, adapter_config.json and adapter_model.safetensors, for a
network with LoRA layers (daedal.nn.lora).

    save_adapter(network, "runs/mine/adapter", "meta-llama/Llama-3.2-1B")
    load_adapter(network, "runs/mine/adapter")                  # the layers on, or
    merge_lora(network) after that

For image models there is one file of all parts: daedal.checkpoints.lora.
"""

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from daedal.checkpoints.files import shortened, tensors, write
from daedal.checkpoints.folder import names_of
from daedal.checkpoints.hub import resolve
from daedal.errors import DaedalError
from daedal.networks.names import Names
from daedal.nn.lora import adapters, add_lora, lora_state

PREFIX = "base_model.model."
WRITTEN: dict[str, Any] = {
    "peft_type": "LORA",
    "bias": "none",
    "lora_dropout": 0.0,
    "inference_mode": True,
}


def parted(name: str | Path) -> tuple[str | Path, Path | None]:
    """(base, adapter's folder or None) of a model's name: "BASE:ADAPTER", or an adapter alone,
    whose config names its base."""
    base, colon, adapter = str(name).rpartition(":")
    if colon and not Path(name).expanduser().exists():
        return base, resolve(adapter)
    if Path(name).expanduser().is_file():
        return name, None
    folder = resolve(name)
    config = folder / "adapter_config.json"
    if not config.is_file() or (folder / "config.json").exists():
        return name, None
    if not (base := json.loads(config.read_text()).get("base_model_name_or_path")):
        raise DaedalError(
            f"{folder} is an adapter that does not say for which model; write BASE:{name}."
        )
    return base, folder


def layer_names(network: nn.Module, ours: list[str]) -> dict[str, str]:
    """Our name of each layer -> its name in the folder that the network was loaded from."""
    return {name: on_disk(network, name) for name in ours}


def on_disk(network: nn.Module, name: str) -> str:
    # packed layers have none of their own
    names: Names = getattr(network, "family_names", names_of(network))
    [(disk, (fused, _))] = names.layout([f"{name}.weight"]).items()
    if fused is not None:
        whole = f"{name} is a part of {disk} on disk, whose adapter peft keeps whole"
        raise DaedalError(f"{whole}; leave it out of targets, or merge and save the model.")
    return disk.removesuffix(".weight")


def save_adapter(network: nn.Module, folder: str | Path, base: str = "") -> None:
    """Write the folder; `base` is the name or folder of the model that the adapter is for. Ranks
    may differ by layer."""
    layers = adapters(network)
    if not layers:
        raise DaedalError(
            f"{type(network).__name__} has no LoRA layers to save; put them on with add_lora first."
        )
    names, folder = layer_names(network, list(layers)), Path(folder)
    ranks = {names[name]: len(layer.lora_A.weight) for name, layer in layers.items()}
    alphas = {names[name]: layer.scale * len(layer.lora_A.weight) for name, layer in layers.items()}
    rank, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    config = WRITTEN | {
        "base_model_name_or_path": base, "r": rank, "lora_alpha": alpha, "target_modules": sorted(names.values()), "use_rslora": False,
        "use_dora": any(layer.lora_magnitude_vector is not None for layer in layers.values()),
        "rank_pattern": {name: r for name, r in ranks.items() if r != rank}, "alpha_pattern": {name: a for name, a in alphas.items() if a != alpha},
        "task_type": "CAUSAL_LM" if hasattr(network, "embed_tokens") else None,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: tensor.cpu().contiguous() for key, tensor in lora_state(network).items()}
    write(
        {PREFIX + renamed(key, names): tensor for key, tensor in state.items()},
        folder / "adapter_model.safetensors",
    )
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")


def renamed(key: str, names: dict[str, str]) -> str:
    """ "layers.0.to_q.lora_A.weight" with the layer's other name."""
    layer, _, rest = key.partition(".lora_")
    return f"{names[layer]}.lora_{rest}"


def load_adapter(network: nn.Module, folder: str | Path) -> list[str]:
    """Put the LoRA layers of a folder on `network` and fill them; the names of its layers. A tensor
    for no layer is an error that lists it."""
    folder = Path(folder)
    path = folder / "adapter_config.json"
    if not path.is_file():
        raise DaedalError(
            f"{folder} has no adapter_config.json, so it is not an adapter folder; give one that peft or Daedal saved."
        )
    config = json.loads(path.read_text())
    state = {
        key.removeprefix(PREFIX): tensor for key, tensor in tensors(folder, stem="adapter_model")
    }
    wanted = {key.partition(".lora_")[0] for key in state}
    ours = {
        on: name
        for name, layer in network.named_modules()
        if hasattr(layer, "in_features") and (on := known(network, name)) in wanted
    }
    if strange := sorted(wanted - set(ours)):
        raise DaedalError(
            f"{folder} is an adapter for another model: {type(network).__name__} has no layer {shortened(strange)}."
        )
    for disk, name in ours.items():
        rank = len(state[f"{disk}.lora_A.weight"])
        alpha = by_pattern(config.get("alpha_pattern") or {}, disk, config.get("lora_alpha", rank))
        add_lora(
            network,
            rank,
            alpha,
            [name],
            rslora=config.get("use_rslora", False),
            dora=f"{disk}.lora_magnitude_vector" in state,
        )
    fill(network, state, {name: disk for disk, name in ours.items()}, folder)
    return list(ours.values())


def by_pattern(patterns: dict[str, Any], name: str, default: Any) -> Any:
    """The value of the first pattern that a layer's whole name ends in, as peft matches them."""
    return next(
        (value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", name)), default
    )


def known(network: nn.Module, name: str) -> str:
    """The name on disk, or none for a layer that is a part of another there."""
    try:
        return on_disk(network, name)
    except DaedalError:
        return ""


@torch.no_grad()
def fill(network: nn.Module, state: dict[str, Tensor], names: dict[str, str], folder: Path) -> None:
    for key, tensor in lora_state(network).items():
        found = state.pop(renamed(key, names), None)
        if found is None or found.shape != tensor.shape:
            there = (
                "is not there"
                if found is None
                else f"is {tuple(found.shape)} instead of {tuple(tensor.shape)}"
            )
            raise DaedalError(
                f"{folder} is an adapter for another model: {renamed(key, names)} {there}."
            )
        tensor.copy_(found)
    if state:
        raise DaedalError(f"{folder} holds tensors that no LoRA layer has: {shortened(state)}.")
