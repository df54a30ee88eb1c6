"""An adapter folder as peft writes it, adapter_config.json and adapter_model.safetensors, for a
network with LoRA layers (daedal.nn.lora).

    save_adapter(network, "runs/mine/adapter", "meta-llama/Llama-3.2-1B")
    load_adapter(network, "runs/mine/adapter")                  # the layers on, or
    merge_lora(network) after that

For image models there is one file of all parts: daedal.checkpoints.lora."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from daedal.checkpoints.files import shortened, tensors, write
from daedal.checkpoints.folder import names_of, put
from daedal.checkpoints.resolve import resolve
from daedal.errors import DaedalError
from daedal.networks.names import Fused, Names
from daedal.nn.lora import LoRALayer, adapters, add_lora, lora_state

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


def load_adapter(network: nn.Module, folder: str | Path, whole: bool = True) -> list[str]:
    """Put the LoRA layers of a folder on `network` and fill them; the names of its layers. Pairs on
    matrices that are fused on disk become pairs on their parts. What the folder holds whole (peft's
    modules_to_save, biases, updates of embeddings) replaces the network's own, unless `whole` is
    False: then it is an error, as any tensor for no layer is."""
    folder = Path(folder)
    path = folder / "adapter_config.json"
    if not path.is_file():
        raise DaedalError(
            f"{folder} has no adapter_config.json, so it is not an adapter folder; give one that peft or Daedal saved."
        )
    config = json.loads(path.read_text())
    state = {
        key.removeprefix(PREFIX).replace(".base_layer.", "."): tensor
        for key, tensor in tensors(folder, stem="adapter_model")
    }
    pairs = {key: state.pop(key) for key in list(state) if PAIR.search(key)}
    wanted, where = {PAIR.split(key)[0] for key in pairs}, places(network)
    if unknown := sorted(wanted - set(where)):
        raise DaedalError(
            f"{folder} is an adapter for another model: {type(network).__name__} has no layer {shortened(unknown)}."
        )
    if state and not whole:
        raise DaedalError(
            f"{folder} holds {shortened(sorted(state))} whole, which cannot change with the request; load it as BASE:{folder}."
        )
    names = []
    for disk in sorted(wanted):
        rank = len(pairs[f"{disk}.lora_A.weight"])
        alpha = by_pattern(config.get("alpha_pattern") or {}, disk, config.get("lora_alpha", rank))
        fused, parts = where[disk]
        dora = f"{disk}.lora_magnitude_vector" in pairs
        names += add_lora(
            network, rank, alpha, parts, rslora=config.get("use_rslora", False), dora=dora
        )
        fill(network, pairs, disk, fused, parts, folder)
    if pairs:
        raise DaedalError(f"{folder} holds tensors that no LoRA layer has: {shortened(pairs)}.")
    replace(network, state, config, folder)
    return names


PAIR = re.compile(r"\.lora_(?=[AB]\.|magnitude_vector)")
Places = dict[str, tuple[Fused | None, list[str]]]


def places(network: nn.Module) -> Places:
    """Name of a layer on disk -> how it is fused there, and our layers that it holds, in order."""
    names: Names = getattr(network, "family_names", names_of(network))
    ours = [f"{name}.weight" for name, m in network.named_modules() if hasattr(m, "in_features")]
    return {
        disk.removesuffix(".weight"): (fused, [part.removesuffix(".weight") for part in parts])
        for disk, (fused, parts) in names.layout(ours).items()
    }


def by_pattern(patterns: dict[str, Any], name: str, default: Any) -> Any:
    """The value of the first pattern that a layer's whole name ends in, as peft matches them."""
    return next(
        (value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", name)), default
    )


@torch.no_grad()
def fill(
    network: nn.Module,
    pairs: dict[str, Tensor],
    disk: str,
    fused: Fused | None,
    parts: list[str],
    folder: Path,
) -> None:
    """Take the tensors of one layer on disk out of `pairs` for the layers of ours that are its
    parts: each has its rows of lora_B and of the magnitudes, and all of lora_A."""
    layers = [cast(LoRALayer, network.get_submodule(part)) for part in parts]
    rows = [len(layer.lora_B.weight) for layer in layers]
    for leaf in [key.removeprefix(f"{disk}.") for key in pairs if key.startswith(f"{disk}.lora_")]:
        found = pairs.pop(f"{disk}.{leaf}")
        shared = fused is None or leaf.startswith("lora_A")
        held = [layer.get_parameter(leaf) for layer in layers]
        right = (len(found) if leaf.startswith("lora_A") else sum(rows), *held[0].shape[1:])
        if found.shape != right:
            raise DaedalError(
                f"{folder} is an adapter for another model: {disk}.{leaf} is {tuple(found.shape)} instead of {right}."
            )
        each = [found] * len(held) if shared else fused.split(found, rows)  # type: ignore[union-attr]
        for parameter, tensor in zip(held, each, strict=True):
            parameter.copy_(tensor)


# ---- what an adapter holds whole -----------------------------------------------------------------


@torch.no_grad()
def replace(network: Any, state: dict[str, Tensor], config: dict[str, Any], folder: Path) -> None:
    """Put whole tensors of a folder in place of the network's. Heads and embeddings that were one
    tensor are two afterwards, as peft leaves them."""
    names: Names = getattr(network, "family_names", names_of(network))
    own = {name.replace(".base_layer.", "."): name for name in network.state_dict()}
    layout = names.layout(own)
    for key, tensor in state.items():
        layer, _, leaf = key.rpartition(".")
        update = leaf.startswith("lora_embedding_")
        disk = f"{layer}.weight" if update else key
        if disk not in layout:
            raise DaedalError(
                f"{folder} holds {key}, which is not read; merge the adapter with peft, and load the result."
            )
        fused, ours = layout[disk]
        held = [network.state_dict()[own[name]] for name in ours]
        if any(not each.is_floating_point() for each in held):
            raise DaedalError(
                f"{folder} holds {key} whole, and the model's is packed; load the adapter on the unquantised model."
            )
        if update:
            if leaf.endswith("B"):
                continue  # with its A
            up = state[f"{layer}.lora_embedding_B"]
            alpha = by_pattern(config.get("alpha_pattern") or {}, layer, config["lora_alpha"])
            by = len(tensor) ** (0.5 if config.get("use_rslora") else 1)
            tensor = held[0].float() + alpha / by * (up.float() @ tensor.float()).mT
        parts = names.to_ours(disk, tensor, fused, [len(each) for each in held])
        for name, each, part in zip(ours, held, parts, strict=True):
            if part.shape != each.shape:
                raise DaedalError(
                    f"{folder} is an adapter for another model: {key} is {tuple(part.shape)}, and the model's {tuple(each.shape)}."
                )
            put(network, own[name], part.to(each).contiguous())
    untie(network)


def untie(network: Any) -> None:
    """Let the config say so where head and embedding were one tensor and are two."""
    config = getattr(network, "config", None)
    if not getattr(config, "tie_word_embeddings", False):
        return
    # a packed head that is the embedding has no weight of its own
    head = getattr(network.lm_head, "weight", network.embed_tokens.weight)
    if head is not network.embed_tokens.weight:
        network.config = dataclasses.replace(cast(Any, config), tie_word_embeddings=False)
