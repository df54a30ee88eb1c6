"""Files of tensors: which ones of a folder count, how each kind is opened, how shards are written.

Safetensors are mapped, so a tensor is read when it is asked for. Pickled files are refused unless
asked for, and then nothing but tensors is unpickled."""

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from daedal.errors import DaedalError

# Stem of safetensors -> stem of old .bin files.
PICKLED = {"model": "pytorch_model", "adapter_model": "adapter_model"}
COMPANIONS = (
    "*.json",
    "*.model",
    "*.jinja",
    "*.txt",
    "*.md",
    "LICENSE*",
)  # tokenizer, chat template, card

Shapes = dict[str, tuple[int, ...]]


def shortened(names: Any, most: int = 6) -> str:
    names = sorted(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


# Reading.


def tensors(
    folder: Path, allow_pickle: bool = False, stem: str = "model"
) -> Iterator[tuple[str, Tensor]]:
    """(disk name, tensor) of every weight in the folder, one file at a time."""
    for file in weight_files(folder, allow_pickle, stem):
        get, shapes, _ = opened(file, allow_pickle)
        for name in shapes:
            yield name, get(name)


def weight_files(folder: Path, allow_pickle: bool = False, stem: str = "model") -> list[Path]:
    """The weight files of a folder, as transformers chooses: a single file before shards (whose
    index a later save leaves behind), full precision before the half-precision variant, pickles
    last."""
    old = PICKLED.get(stem, stem)
    bins = [(f"{old}.bin", f"{old}.bin.index.json")]
    plain = [
        (f"{stem}.safetensors", f"{stem}.safetensors.index.json"),
        (f"{stem}.fp16.safetensors", f"{stem}.safetensors.index.fp16.json"),
    ]
    for single, index in plain + bins * allow_pickle:
        if (folder / single).exists():
            return [folder / single]
        if (folder / index).exists():
            names = sorted(set(json.loads((folder / index).read_text())["weight_map"].values()))
            if absent := [name for name in names if not (folder / name).exists()]:
                raise DaedalError(
                    f"{folder} lacks the shards {shortened(absent)} that its index names; download them."
                )
            return [folder / name for name in names]
    if any((folder / name).exists() for pair in bins for name in pair):
        raise DaedalError(
            f"{folder} holds pickled weights only, which can run code; convert them to safetensors or pass allow_pickle=True.",
        )
    gguf = any(folder.glob("*.gguf"))
    other = "; write its .gguf file as a folder first, with `daedal convert`" if gguf else ""
    raise DaedalError(
        f"{folder} holds no weights: neither {stem}.safetensors nor its shards are there{other}."
    )


def opened(
    path: Path, allow_pickle: bool = False
) -> tuple[Callable[[str], Tensor], Shapes, dict[str, str]]:
    """A file of tensors by name: how to get one, the shapes of all, and the metadata beside them."""
    if path.suffix != ".safetensors":
        found = plain_tensors(read_pickle(path, allow_pickle))
        return found.__getitem__, {name: tuple(tensor.shape) for name, tensor in found.items()}, {}
    try:
        file = safe_open(path, "pt")
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (not a dict)
        return file.get_tensor, shapes, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise DaedalError(
            f"{path} is truncated or not safetensors ({error}); download or save it again."
        ) from None


def read(path: Path, allow_pickle: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a file, and the metadata beside them."""
    get, shapes, metadata = opened(path, allow_pickle)
    return {name: get(name) for name in shapes}, metadata


def plain_tensors(state: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of an unpickled file, at its top or under "state_dict"."""
    return {name: t for name, t in state.get("state_dict", state).items() if isinstance(t, Tensor)}


def read_pickle(path: Path, allow_pickle: bool) -> dict[str, Any]:
    if not allow_pickle:
        raise DaedalError(
            f"{path} is a pickled file, which can run code; take a .safetensors file or pass allow_pickle=True."
        )
    try:
        state = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DaedalError(
            f"{path} cannot be read as plain tensors ({reason}); take a .safetensors file."
        ) from None
    if not isinstance(state, dict):
        raise DaedalError(
            f"{path} holds a {type(state).__name__}, not tensors by name; take a .safetensors file."
        )
    return state


# Writing.


def publish(
    disk: Iterable[tuple[str, Tensor]],
    config: dict[str, Any],
    folder: Path,
    max_shard_bytes: int,
    stem: str = "model",
) -> None:
    """config.json and weights side by side in a hidden folder, then moved into place; weight files
    that no longer belong are removed."""
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


def write_shards(
    disk: Iterable[tuple[str, Tensor]], folder: Path, max_shard_bytes: int, stem: str
) -> None:
    """One file, or shards of at most `max_shard_bytes` with the index that names them. One shard at
    a time is held in memory."""
    parts: list[list[str]] = []
    total = 0
    for shard in shards(disk, max_shard_bytes):
        write(shard, folder / f".part-{len(parts)}")
        parts.append(list(shard))
        total += sum(tensor.nbytes for tensor in shard.values())
    count = len(parts)
    numbered = [f"{stem}-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    files = numbered if count > 1 else [f"{stem}.safetensors"]
    for i, file in enumerate(files):
        os.replace(folder / f".part-{i}", folder / file)
    if count > 1:
        weight_map = {
            name: file for file, names in zip(files, parts, strict=True) for name in names
        }
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
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


def copy_companions(folder: Path, out: Path) -> None:
    """The small files beside the weights that a model needs or that describe it."""
    for pattern in COMPANIONS:
        for file in folder.glob(pattern):
            if file.name != "config.json" and not file.name.endswith(".safetensors.index.json"):
                shutil.copyfile(file, out / file.name)
