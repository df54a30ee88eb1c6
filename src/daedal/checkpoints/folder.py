"""Folders of networks: config.json and safetensors, whole or in shards with an index, as
transformers and diffusers write them. One way in and one way out for every kind in the registry
(daedal.networks): language models, reward models, denoisers, autoencoders, encoders, ControlNets,
generators.

    network = load("models/unet")                      # whatever config.json says it is
    network = load("models/small", kind=Decoder)       # another kind is an error
    save(network, "models/copy")
    parts = load_parts("models/pipeline")              # a folder of such folders (model_index.json)

Reading never holds a tensor twice: the network is built on the meta device and each tensor of a
(memory-mapped) file is assigned to it. An unmatched, missing or misshapen tensor is an error that
lists it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from daedal.checkpoints import gguf_folder, gguf_names
from daedal.checkpoints.compact import Bits, compacted, expanded
from daedal.checkpoints.files import publish, read, shortened, tensors
from daedal.checkpoints.gguf_folder import file_of, folder_of
from daedal.checkpoints.packed import prepare_, unpack_
from daedal.checkpoints.weight_norm import folded, parts
from daedal.errors import DaedalError
from daedal.networks import build, class_name, config_from_dict
from daedal.networks.config import name_of, to_dict
from daedal.networks.ip_adapter import IPAdapter
from daedal.networks.names import Names
from daedal.networks.scalar import ScalarModel

# Endings of class names whose parts `load_parts` hands over as their folder: not networks, or not
# used.
FOLDERS = (
    "Tokenizer",
    "TokenizerFast",
    "Processor",
    "ProcessorFast",
    "ProcessorPil",
    "FeatureExtractor",
    "SafetyChecker",
    "Watermarker",
)
NO_NAMES = Names()


def read_config(folder: str | Path) -> dict[str, Any]:
    """The parsed `config.json` of a folder, or of a GGUF file."""
    folder = folder_of(folder)
    if not folder.is_dir():
        raise DaedalError(
            f"{folder} is not a folder; give a model folder, a house name such as house/text, or a Hub name such as owner/model.",
        )
    path = folder / "config.json"
    if not path.exists():
        if (folder / "model_index.json").exists():
            what = "a pipeline of several (model_index.json)"
        else:
            what = "not a model folder"
        raise DaedalError(
            f"{folder} has no config.json: it is {what}; a folder saved by transformers or Daedal has one."
        )
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise DaedalError(
            f"{path} is not valid JSON ({error}); download or save it again."
        ) from None


# Reading.


def load(
    folder: str | Path,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    allow_pickle: bool = False,
    kind: type[nn.Module] = nn.Module,
) -> Any:
    """The network of a folder, in evaluation mode; one that is not of class `kind` is an error.
    `dtype` None keeps the dtype on disk. Quantised folders of Daedal load packed."""
    folder = folder_of(folder)
    network = empty_network(folder)
    if not isinstance(network, kind):
        there, wanted = title(type(network)), title(kind)
        raise DaedalError(
            f"{folder} holds a {there}, not a {wanted}; give the folder of a {wanted}."
        )
    raw = read_config(folder)
    if gguf_folder.holds(folder):  # under our own names
        fill(network, gguf_names.stream(file_of(folder), raw), dtype, device, Names())
    else:
        stream = folded(expanded(tensors(folder, allow_pickle, stem_of(raw))))
        fill(network, stream, dtype, device)
    return network.eval()


def load_plain(
    folder: str | Path,
    dtype: torch.dtype | None = None,
    allow_pickle: bool = False,
    kind: type[nn.Module] = nn.Module,
) -> Any:
    """`load`, with packed weights unpacked to fp32: what can be trained, cut and saved."""
    return unpack_(load(folder, dtype, "cpu", allow_pickle, kind))


def empty_network(folder: str | Path) -> Any:
    """The network of a folder on the meta device: shapes without weights."""
    raw = read_config(folder)
    with torch.device("meta"):
        network = build(config_from_dict(raw))
        if class_name(raw).endswith(ScalarModel.ending):
            network = scalar(network, len(raw.get("id2label") or [""]), folder)
    packing = raw.get("quantization_config")
    return prepare_(network, packing) if packing else network


def scalar(decoder: nn.Module, labels: int, folder: str | Path) -> ScalarModel:
    if labels != 1:
        raise DaedalError(f"{folder} tells {labels} labels apart; a reward model has one.")
    return ScalarModel(decoder)  # type: ignore[arg-type]


def title(kind: type[nn.Module]) -> str:
    """What people call a class of networks."""
    return getattr(kind, "title", kind.__name__)


def stem_of(raw: dict[str, Any]) -> str:
    """diffusers and transformers name their weight files differently."""
    return "diffusion_pytorch_model" if "_class_name" in raw else "model"


def fill(
    network: nn.Module,
    stream: Iterator[tuple[str, Tensor]],
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    names: Names | None = None,
    keep: Callable[[nn.Module, str, Tensor], None] | None = None,
) -> None:
    """Give a meta-device network its weights from (disk name, tensor) pairs, `names` being those of
    its family if not given. Of tensors that are one here (a tied head, a second copy) any name will
    do. `keep` puts a tensor into the network otherwise than as it is."""
    names, tied = names or names_of(network), ties_of(network)
    empty = {name: t for name, t in network.state_dict().items() if name not in tied}
    layout, copies = names.layout(empty), dict(names.copies)
    copies |= {names.rename(copy): names.rename(source) for copy, source in tied.items()}
    spare, unknown, misshapen = dict[str, Tensor](), list[str](), list[str]()

    def take(disk: str, tensor: Tensor) -> None:
        place = next((name for name in names.today(disk) if name in layout), "")
        second = next((copies[name] for name in names.today(disk) if name in copies), "")
        if not place:
            if second:
                spare[second] = tensor
            elif not disk.endswith(names.skipped):
                unknown.append(disk)
            return
        fused, ours = layout[place]
        rows = [len(empty[name]) for name in ours if name in empty] if fused else []
        for name, part in zip(ours, names.to_ours(place, tensor, fused, rows), strict=True):
            if name not in empty:
                continue
            shape, cast = empty[name].shape, empty[name].dtype == torch.float32
            if part.shape != shape:
                misshapen.append(f"{disk} {tuple(part.shape)} instead of {tuple(shape)}")
                continue
            wanted = dtype if cast and part.is_floating_point() else None
            (keep or put)(network, name, part.to(device=device, dtype=wanted).contiguous())
            del empty[name]

    for disk, tensor in stream:
        take(disk, tensor)
    for disk, tensor in spare.items():
        if any(name in empty for name in layout[disk][1]):
            take(disk, tensor)
    tie(network, empty)
    missing = [] if misshapen else {names.rename(name) for name in empty}
    for what, listed in (("unmatched", unknown), ("misshapen", misshapen), ("missing", missing)):
        if listed:
            raise DaedalError(
                f"the weights do not fit the config of {called(network)}: {len(listed)} {what} tensors: {shortened(listed)}.",
            )


def called(network: nn.Module) -> str:
    """The name of the network in its config.json."""
    return name_of(type(network.config)) if hasattr(network, "config") else type(network).__name__


def names_of(network: nn.Module) -> Names:
    return getattr(network, "names", NO_NAMES)


def ties_of(network: nn.Module) -> dict[str, str]:
    """Our name of a tensor -> our name of the one that it is, as the config says."""
    tied = getattr(getattr(network, "config", None), "tie_word_embeddings", False)
    return getattr(network, "ties", {}) if tied else {}


def tie(network: nn.Module, empty: dict[str, Tensor]) -> None:
    """Make one tensor of those that are one, and of those that a file leaves out though the config
    does not say so (files of tied models whose config.json forgets)."""
    for copy, source in getattr(network, "ties", {}).items():
        if copy in ties_of(network) or set(empty) == {copy}:
            module, _, leaf = copy.rpartition(".")
            held = network.get_submodule(module)
            if leaf in held._parameters:  # packed heads keep a reference of their own
                setattr(held, leaf, network.get_parameter(source))
                empty.pop(copy, None)


def put(network: nn.Module, name: str, tensor: Tensor) -> None:
    """Replace the parameter or buffer called `name`."""
    path, _, leaf = name.rpartition(".")
    module = network.get_submodule(path)
    if leaf in module._buffers:
        module._buffers[leaf] = tensor
    else:
        setattr(module, leaf, nn.Parameter(tensor, requires_grad=tensor.is_floating_point()))


# Several in one.


def load_parts(
    folder: str | Path,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    allow_pickle: bool = False,
) -> dict[str, Any]:
    """Every part that a pipeline folder's `model_index.json` names: networks loaded, schedulers as
    their parsed `scheduler_config.json`, tokenizers and the like as folder paths; "model_index" is
    the parsed index with its flags."""
    folder = Path(folder)
    index = read_index(folder)
    parts = {
        name: load_part(folder / name, kind, dtype, device, allow_pickle)
        for name, kind in kinds_of(index).items()
    }
    return {"model_index": index} | parts


def read_index(folder: Path) -> dict[str, Any]:
    path = folder / "model_index.json"
    if not path.exists():
        raise DaedalError(
            f"{folder} has no model_index.json, so it is not a pipeline folder; give one saved by diffusers or Daedal."
        )
    return json.loads(path.read_text())


def kinds_of(index: dict[str, Any]) -> dict[str, str]:
    """Part -> its class name, of a parsed `model_index.json`."""
    pairs = {n: entry for n, entry in index.items() if isinstance(entry, list) and len(entry) == 2}
    return {name: kind for name, (_, kind) in pairs.items() if kind}


def networks_of(index: dict[str, Any]) -> list[str]:
    """The parts of a parsed `model_index.json` that are networks."""
    others = (*FOLDERS, "Scheduler")
    return [name for name, kind in kinds_of(index).items() if not kind.endswith(others)]


def load_part(folder: Path, kind: str, *options: Any) -> nn.Module | dict[str, Any] | Path:
    if kind.endswith("Scheduler"):
        return json.loads((folder / "scheduler_config.json").read_text())
    return folder if kind.endswith(FOLDERS) else load(folder, *options)


def load_ip_adapter(
    file: str | Path,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """The IP-Adapter of a safetensors file, in evaluation mode."""
    if Path(file).suffix != ".safetensors":
        raise DaedalError(
            f"{file} is not a safetensors file; IP-Adapters are published as safetensors too, take that one."
        )
    weights, _ = read(Path(file))
    with torch.device("meta"):
        adapter = IPAdapter.of_shapes({name: tensor.shape for name, tensor in weights.items()})
    fill(adapter, iter(weights.items()), dtype, device)
    return adapter.eval()


# Writing.


def save(
    network: Any,
    folder: str | Path,
    max_shard_bytes: int = 5_000_000_000,
    extra_config: dict[str, Any] | None = None,
    state: dict[str, Tensor] | None = None,
    compact: Bits | None = None,
) -> None:
    """Write config.json and safetensors that transformers or diffusers opens. The folder appears
    whole or not at all. `state` stands in for the network's own weights (an average, or those
    gathered from several processes). `compact` says to how many bits each tensor is rounded;
    such folders only Daedal reads."""
    raw = config_of(network)
    disk = dict(on_disk(network, state or network.state_dict()))
    disk = dict(compacted(disk.items(), compact)) if compact else disk
    if stem_of(raw) == "model" and not compact:
        dtypes = (t.dtype for t in disk.values() if t.is_floating_point())
        widest = max(dtypes, key=lambda dtype: dtype.itemsize)
        raw["torch_dtype"] = str(widest).removeprefix("torch.")
    publish(disk.items(), raw | (extra_config or {}), Path(folder), max_shard_bytes, stem_of(raw))


def config_of(network: Any) -> dict[str, Any]:
    """The config.json of a network."""
    raw = to_dict(network.config)
    return network.written(raw) if hasattr(network, "written") else raw


def on_disk(network: nn.Module, state: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """(disk name, tensor) of a network's tensors, a tied one once."""
    names, tied = names_of(network), ties_of(network)
    state = {name: tensor for name, tensor in state.items() if name not in tied}
    for disk, (fused, ours) in names.layout(state).items():
        tensor = names.to_disk(disk, [state[name].detach().cpu() for name in ours], fused)
        normed = names.is_normed(disk)
        yield from parts(disk, tensor, names.old_norm) if normed else [(disk, tensor)]


def disk_name(network: nn.Module, name: str) -> str:
    """What files call a parameter of ours that is not a part of another there."""
    return names_of(network).rename(name)
