"""`transformers` folders: config.json and safetensors, whole or in shards with an index.

Reading never holds a tensor twice: the network is built on the meta device and each tensor of a (memory-mapped) file is assigned to
it. An unmatched or misshapen tensor is an error that lists it. Pickled weights are refused unless asked for.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from daedal.errors import DaedalError
from daedal.networks import build, config_from_dict
from daedal.networks.decoder import Decoder

# Stem of safetensors -> stem of old .bin files.
PICKLED = {"model": "pytorch_model", "diffusion_pytorch_model": "diffusion_pytorch_model", "adapter_model": "adapter_model"}
IGNORED = ("rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias")  # constants of old files


def read_config(folder: str | Path) -> dict[str, Any]:
    """The parsed `config.json` of a folder."""
    path = Path(folder) / "config.json"
    if not Path(folder).is_dir():
        raise DaedalError(f"{folder} is not a folder; give a model folder, a house name such as house/text, or a Hub name such as owner/model.")
    if not path.exists():
        raise DaedalError(f"{folder} has no config.json, so it is not a model folder; a folder saved by transformers or Daedal has one.")
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise DaedalError(f"{path} is not valid JSON ({error}); download or save it again.") from None


def load(folder: str | Path, dtype: torch.dtype | None = None, device: torch.device | str = "cpu", allow_pickle: bool = False) -> Decoder:
    """The network of a model folder. `dtype` None keeps the dtype on disk. Quantised folders of Daedal load packed."""
    network = empty_network(folder)
    missing = assign(network, tensors(Path(folder), allow_pickle), dtype, device)
    if missing == {"lm_head.weight"}:  # files of tied models leave the head out even where config.json forgets to say so
        network.lm_head.weight = network.embed_tokens.weight
    elif missing:
        raise DaedalError(f"{folder} lacks {len(missing)} tensors that its config.json asks for: {shortened(missing)}.")
    return network.eval()


def empty_network(folder: str | Path) -> Decoder:
    """The network of a folder on the meta device: shapes without weights."""
    raw = read_config(folder)
    if "_class_name" in raw:
        raise DaedalError(f"{folder} holds a {raw['_class_name']}, not a language model; for pictures there is `daedal image`.")
    with torch.device("meta"):
        network = build(config_from_dict(raw))
    if quantization := raw.get("quantization_config"):
        from daedal.checkpoints.quantize import prepare_

        prepare_(network, quantization)
    return network


def assign(network: Decoder, stream: Iterator[tuple[str, Tensor]], dtype: torch.dtype | None, device: torch.device | str) -> set[str]:
    """Fill a meta-device network from disk tensors; the names that stayed empty are returned, a tied head not among them."""
    empty = dict([*network.named_parameters(), *network.named_buffers()])
    layout, unknown = network.names.layout(empty), []
    for disk, tensor in stream:
        entry = layout.get(disk) or layout.get(network.names.prefix + disk)  # base models are saved without the prefix
        if entry is None:
            if disk.endswith(IGNORED) or (network.config.tie_word_embeddings and "lm_head" in disk):
                continue
            unknown.append(disk)
            continue
        fused, ours = entry
        parts = network.names.to_ours(disk, tensor, fused, [empty[name].shape[0] for name in ours if name in empty])
        for name, part in zip(ours, parts, strict=True):
            if part.shape != empty[name].shape:
                raise DaedalError(f"{disk} has shape {tuple(part.shape)} where config.json asks for {tuple(empty[name].shape)} ({name}).")
            keep = dtype is None or not part.is_floating_point() or empty[name].dtype != torch.float32
            put(network, name, part.to(device=device, dtype=None if keep else dtype).contiguous())
            del empty[name]
    if unknown:
        raise DaedalError(f"the folder holds {len(unknown)} tensors that {network.config.model_type} has no place for: {shortened(unknown)}.")
    if network.config.tie_word_embeddings and hasattr(network.embed_tokens, "weight") and hasattr(network.lm_head, "weight"):
        network.lm_head.weight = network.embed_tokens.weight
    return set(empty)


def put(network: nn.Module, name: str, tensor: Tensor) -> None:
    """Replace the parameter or buffer called `name`."""
    path, _, leaf = name.rpartition(".")
    module = network.get_submodule(path)
    if leaf in module._buffers:
        module._buffers[leaf] = tensor
    else:
        setattr(module, leaf, nn.Parameter(tensor, requires_grad=tensor.is_floating_point()))


def shortened(names: Any, most: int = 6) -> str:
    names = sorted(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def tensors(folder: Path, allow_pickle: bool = False, stem: str = "model") -> Iterator[tuple[str, Tensor]]:
    """(disk name, tensor) of every weight in the folder, one file at a time."""
    for file in weight_files(folder, allow_pickle, stem):
        if file.suffix == ".bin":
            yield from torch.load(file, map_location="cpu", weights_only=True, mmap=True).items()
            continue
        try:
            with safe_open(file, "pt") as opened:
                for name in opened.keys():  # noqa: SIM118 (not a dict)
                    yield name, opened.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise DaedalError(f"{file} is truncated or not safetensors ({error}); download or save it again.") from None


def weight_files(folder: Path, allow_pickle: bool = False, stem: str = "model") -> list[Path]:
    """The weight files of a folder: whole or by an index, in full precision or, if only that is there, the half-precision variant."""
    bins = (f"{PICKLED[stem]}.bin.index.json", f"{PICKLED[stem]}.bin")
    wanted = [(f"{stem}.safetensors.index.json", f"{stem}.safetensors"), (f"{stem}.safetensors.index.fp16.json", f"{stem}.fp16.safetensors")]
    for index, single in [*wanted, *([bins] if allow_pickle else [])]:
        if (folder / index).exists():
            names = sorted(set(json.loads((folder / index).read_text())["weight_map"].values()))
            if absent := [name for name in names if not (folder / name).exists()]:
                raise DaedalError(f"{folder} lacks the shards {shortened(absent)} that its index names; download them.")
            return [folder / name for name in names]
        if (folder / single).exists():
            return [folder / single]
    if any((folder / name).exists() for name in bins):
        raise DaedalError(f"{folder} holds pickled weights only, which can run code; convert them to safetensors or pass allow_pickle=True.")
    raise DaedalError(f"{folder} holds no weights: neither {stem}.safetensors nor {stem}.safetensors.index.json is there.")


def save(
    network: Decoder,
    folder: str | Path,
    max_shard_bytes: int = 5_000_000_000,
    extra_config: dict[str, Any] | None = None,
    state: dict[str, Tensor] | None = None,
) -> None:
    """Write config.json and safetensors that transformers opens. The folder appears whole or not at all. `state` stands in for the
    network's own weights (an average, or those gathered from several processes)."""
    state = {
        name: t for name, t in (state or network.state_dict()).items() if not (network.config.tie_word_embeddings and name.startswith("lm_head."))
    }
    layout = network.names.layout(state)
    disk = {name: network.names.to_disk(name, [state[n].detach().cpu() for n in ours], fused) for name, (fused, ours) in layout.items()}
    dtype = str(next(t.dtype for t in disk.values() if t.is_floating_point())).removeprefix("torch.")
    publish(disk.items(), {**network.config.to_dict(), "torch_dtype": dtype, **(extra_config or {})}, Path(folder), max_shard_bytes)


def publish(disk: Iterable[tuple[str, Tensor]], config: dict[str, Any], folder: Path, max_shard_bytes: int, stem: str = "model") -> None:
    """config.json and weights side by side in a hidden folder, then moved into place; weight files that no longer belong are removed."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write_shards(disk, partial, max_shard_bytes, stem)
    (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(f"{stem}*.safetensors*"):
        if not (partial / stale.name).exists():
            stale.unlink(missing_ok=True)
    for file in partial.iterdir():
        os.replace(file, folder / file.name)
    partial.rmdir()


def write_shards(disk: Iterable[tuple[str, Tensor]], folder: Path, max_shard_bytes: int, stem: str = "model") -> None:
    """One file, or shards of at most `max_shard_bytes` with the index that names them. One shard at a time is held in memory."""
    parts: list[list[str]] = []
    sizes: list[int] = []
    for shard in shards(disk, max_shard_bytes):
        write(shard, folder / f".part-{len(parts)}")
        parts.append(list(shard))
        sizes.append(sum(tensor.nbytes for tensor in shard.values()))
    files = [f"{stem}-{i:05d}-of-{len(parts):05d}.safetensors" for i in range(1, len(parts) + 1)] if len(parts) > 1 else [f"{stem}.safetensors"]
    for i, file in enumerate(files):
        os.replace(folder / f".part-{i}", folder / file)
    if len(parts) > 1:
        weight_map = {name: file for file, names in zip(files, parts, strict=True) for name in names}
        index = {"metadata": {"total_size": sum(sizes)}, "weight_map": weight_map}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def shards(disk: Iterable[tuple[str, Tensor]], most: int) -> Iterator[dict[str, Tensor]]:
    """Tensors in their order, in dicts of at most so many bytes (or of one tensor that is larger)."""
    shard: dict[str, Tensor] = {}
    for name, tensor in disk:
        if shard and sum(t.nbytes for t in shard.values()) + tensor.nbytes > most:
            yield shard
            shard = {}
        shard[name] = tensor
    yield shard


def write(shard: dict[str, Tensor], path: Path) -> None:
    """One safetensors file, readable by others (the library makes it private)."""
    save_file(shard, path, {"format": "pt"})
    path.chmod(0o644)
