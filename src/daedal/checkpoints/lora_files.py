"""LoRA files in their dialects, read into one form (checkpoints.lora): peft and diffusers (old and
new), kohya, ComfyUI, XLabs, the control LoRAs of Black Forest Labs, fal, LyCORIS.

A key of such a file is a prefix for the part of the pipeline, the name of a layer (in a folder, or
in the original file; with dots or with underscores), and what the tensor is of it. All the names
that a layer can have are made from the network at hand and looked up, so nothing is guessed, and a
key that names no layer is an error."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from daedal.checkpoints.families import FAMILIES, TEXT_WIDTHS
from daedal.checkpoints.files import read, shortened
from daedal.checkpoints.folder import disk_name
from daedal.checkpoints.lora import (
    WIDENED,
    Decomposed,
    Difference,
    Hadamard,
    Kronecker,
    LoRA,
    LowRank,
    Replacement,
    Update,
    product,
)
from daedal.checkpoints.original_names import layout
from daedal.errors import DaedalError, nearest

Slots = dict[str, Tensor]  # the tensors of one layer by what they are
Adapter = dict[str, Any]  # adapter_config.json of peft

DENOISER: tuple[str, ...] = (
    "",
    "unet_",
    "transformer_",
    "lora_unet_",
    "lora_transformer_",
    "lycoris_",
)
DENOISER = (*DENOISER, "diffusion_model_", "model_diffusion_model_")
# the first text encoder in single files of the whole model
WHOLE_FILES = ("text_encoders_clip_l_transformer_", "cond_stage_model_transformer_")
PREFIXES: dict[str, tuple[str, ...]] = {
    "denoiser": (*DENOISER, *(f"base_model_model_{prefix}" for prefix in DENOISER)),
    "text_encoder": ("text_encoder_", "lora_te_", "lora_te1_", *WHOLE_FILES),
    "text_encoder_2": ("text_encoder_2_", "lora_te2_", "text_encoders_clip_g_transformer_"),
    "text_encoder_3": ("text_encoder_3_",),
    "t5": ("lora_te3_", "text_encoders_t5xxl_transformer_"),
}
# What a tensor is, by how its key ends.
SIDE = r"(\.lora_{0}(\.\w+)?|\.lora_{1}|[._]lora\.{1}|\.lora_linear_layer\.{1}|(?<=_lora[12])\.{1})"
LYCORIS = "hada_w1_a hada_w1_b hada_w2_a hada_w2_b hada_t1 hada_t2"  # by their own names
LYCORIS += " lokr_w1 lokr_w1_a lokr_w1_b lokr_w2 lokr_w2_a lokr_w2_b lokr_t2"
PATTERNS = [
    (SIDE.format("A", "down") + r"\.weight", "down"),
    (SIDE.format("B", "up") + r"\.weight", "up"),
    (r"\.lora_B(\.\w+)?\.bias", "bias"),
    (r"\.lora_mid\.weight", "middle"),
    (r"([._]lora)?\.alpha", "alpha"),
    (r"\.dora_scale", "magnitude"),
    (r"\.lora_magnitude_vector(\.\w+)*", "row magnitude"),
    (r"\.(diff|w_norm)", "difference"),
    (r"\.(diff_b|b_norm)", "bias"),
    *((rf"\.{slot}", slot) for slot in LYCORIS.split()),
    (r"\.(weight|scale)", "value"),  # of a norm
]
ENDINGS = [(re.compile(f"{pattern}$"), slot) for pattern, slot in PATTERNS]
# What no reader is for, by what its keys hold.
UNREAD = {
    "OFT": re.compile(r"\.(oft_blocks|oft_diag|oft_R(\.\w+)*|rescale)$"),
    "GLoRA": re.compile(r"\.[ab][12]\.weight$"),
    "IA3": re.compile(r"\.(on_input|ia3_l(\.\w+)*)$"),
    "learned words bundled with the LoRA": re.compile(r"^bundle_emb\."),
}
XLABS = {
    "qkv_lora1": "img_attn_qkv",
    "proj_lora1": "img_attn_proj",
    "qkv_lora2": "txt_attn_qkv",
    "proj_lora2": "txt_attn_proj",
}
OLD_TEXT = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}


@dataclass(frozen=True)
class Layer:
    """Whom a name means: a module of a part, or several whose rows stand one above another in the
    original file."""

    role: str
    modules: tuple[str, ...]
    swapped: bool = False


class Names:
    """Every name that a layer of these networks can have in a file, with underscores for dots."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.modules = modules
        self.shapes = {
            role: {disk_name(m, name): tuple(t.shape) for name, t in m.state_dict().items()}
            for role, m in modules.items()
        }
        self.tables = {
            role: dict(aliases(role, type(module).__name__, self.shapes[role]))
            for role, module in modules.items()
        }
        t5 = next((role for role, module in modules.items() if "T5" in type(module).__name__), "t5")
        denoisers = (role for role in modules if role in ("unet", "transformer"))
        self.roles = {"denoiser": next(denoisers, "denoiser"), "t5": t5}

    def find(self, body: str) -> Layer | None:
        """The layer whose key begins so."""
        name = body.replace(".processor", "").replace(".", "_")
        for role, prefixes in PREFIXES.items():
            table = self.tables.get(self.roles.get(role, role), {})
            for prefix in prefixes:
                if name.startswith(prefix) and (layer := table.get(name.removeprefix(prefix))):
                    return layer
        return None


def aliases(
    role: str, kind: str, shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, Layer]]:
    """(a name with underscores, the layer) of every layer of a network."""
    for disk in shapes:
        module, _, leaf = disk.rpartition(".")
        if leaf not in ("weight", "scale"):
            continue
        name, layer = module.replace(".", "_"), Layer(role, (module,))
        yield name, layer
        if name.endswith("_to_out_0"):
            yield name.removesuffix("_0"), layer
        if name.startswith("text_model_"):
            yield name.removeprefix("text_model_"), layer
        if (part := name.rpartition("self_attn_")[2]) in OLD_TEXT:
            yield name.removesuffix(part) + OLD_TEXT[part], layer
    for original, entry in layout(kind, shapes).items():
        module, _, leaf = original.rpartition(".")
        if leaf not in ("weight", "scale"):
            continue
        name = module.replace(".", "_")
        layer = Layer(role, tuple(ours.rpartition(".")[0] for ours in entry.ours), entry.swapped)
        yield name, layer
        yield from xlabs(name, layer)


def xlabs(name: str, layer: Layer) -> Iterator[tuple[str, Layer]]:
    """The names of XLabs' processors; of a fused layer they update q, k and v only."""
    for theirs, original in XLABS.items():
        if name.endswith(original):
            yield name.removesuffix(original) + theirs, layer
    if name.startswith("single_blocks_") and name.endswith(("_linear1", "_linear2")):
        fused, block = name.endswith("1"), name[: -len("linear1")]
        part = Layer(layer.role, layer.modules[:3]) if fused else layer
        yield block + ("qkv" if fused else "proj"), part


def read_lora(path: str | Path, parts: Mapping[str, Any], allow_pickle: bool = False) -> LoRA:
    """The LoRA of a file, or of a peft folder, for the networks in `parts` (unet or transformer,
    text_encoder, ...). A key that names no layer of theirs is an error that lists it, a file for
    another model an error that says for which."""
    path = weight_file(Path(path))
    tensors, adapter = read_file(path, allow_pickle)
    names = Names({role: part for role, part in parts.items() if isinstance(part, nn.Module)})
    layers, unknown = sorted_by_layer(tensors, names)
    if unknown:
        raise DaedalError(complaint(path, unknown, tensors, names))
    lora = LoRA(path.stem, {})
    for layer, slots in layers.items():
        shapes, config = names.shapes[layer.role], alpha_of(adapter, layer)
        for disk, update in updates_of(path, layer, slots, config, shapes).items():
            if not fits(update.shape(), shapes.get(disk), disk):
                raise DaedalError(mismatch(path, disk, update, tensors, names))
            if disk in lora.updates.get(layer.role, {}):
                raise DaedalError(
                    f"{path} changes {disk} of the {layer.role} twice, under two names; keep one of them."
                )
            lora.updates.setdefault(layer.role, {})[disk] = update
    return lora


def weight_file(path: Path) -> Path:
    """The file itself, or the one that a peft or diffusers folder holds."""
    names = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")
    if path.is_file():
        return path
    found = next((path / name for name in names if (path / name).is_file()), None)
    if found is None:
        raise DaedalError(
            f"{path} is neither a LoRA file nor a folder that holds {' or '.join(names)}; give one of these."
        )
    return found


def read_file(path: Path, allow_pickle: bool) -> tuple[dict[str, Tensor], Adapter]:
    """The tensors, and what peft says of them: adapter_config.json beside the file, or its part of
    the file's own metadata."""
    config_file = path.with_name("adapter_config.json")
    adapter: Adapter = {"": json.loads(config_file.read_text())} if config_file.is_file() else {}
    tensors, metadata = read(path, allow_pickle)
    own: Adapter = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    for key, value in own.items():
        role, _, name = key.partition(".")
        adapter.setdefault(role, {})[name] = value
    return tensors, adapter


def sorted_by_layer(
    tensors: dict[str, Tensor], names: Names
) -> tuple[dict[Layer, Slots], list[str]]:
    """The tensors of each layer, and the keys that name none."""
    layers: dict[Layer, Slots] = {}
    unknown = []
    for key, tensor in tensors.items():
        body, slot = parted(key)
        layer = names.find(body)
        if layer is None or (slot == "value" and tensor.dim() != 1):
            unknown.append(key)
        else:
            layers.setdefault(layer, {})[slot] = tensor
    return layers, unknown


def parted(key: str) -> tuple[str, str]:
    """A key as the layer and what the tensor is of it: "...to_q.lora_A.weight" -> "...to_q",
    "down"."""
    for pattern, slot in ENDINGS:
        if match := pattern.search(key):
            return key[: match.start()], slot
    return "", ""


def alpha_of(adapter: Adapter, layer: Layer) -> Adapter:
    """What peft says of one layer: lora_alpha, by a pattern where one fits, and use_rslora."""
    config: Adapter = adapter.get("") or adapter.get(layer.role) or {}
    patterns = config.get("alpha_pattern") or {}
    module, alpha = layer.modules[0], config.get("lora_alpha")
    fits = [a for pattern, a in patterns.items() if re.fullmatch(rf"(.*\.)?{pattern}", module)]
    return {"alpha": fits[0] if fits else alpha, "rslora": config.get("use_rslora", False)}


def updates_of(
    path: Path, layer: Layer, slots: Slots, config: Adapter, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Update]:
    """Name of a tensor in its folder -> update, of one layer of a file."""
    found: dict[str, Update] = {}
    weight, bias = weight_update(path, layer, slots, config), bias_update(slots, config)
    for leaf, update in (("weight", weight), ("bias", bias)):
        if update is not None:
            targets = [f"{module}.{leaf}" for module in layer.modules]
            rows = [shapes.get(target, (0,))[0] for target in targets]
            found |= zip(targets, split(update, layer, rows), strict=True)
    return found


def split(update: Update, layer: Layer, rows: list[int]) -> list[Update]:
    """An update of an original layer as updates of ours."""
    if layer.swapped:
        first, second = torch.arange(rows[0]).chunk(2)
        whole = update.shape()[0] == rows[0]
        return [update.rows(torch.cat([second, first])) if whole else update]
    if len(rows) == 1 or update.shape()[0] != sum(rows):
        return [update] * len(rows)  # of a wrong size, which is found out next
    return [update.rows(index) for index in torch.arange(sum(rows)).split(rows)]


def fits(size: tuple[int, int], shape: tuple[int, ...] | None, disk: str) -> bool:
    """Whether an update of (O, I) is one of a tensor of this shape; the first layer of FLUX may get
    wider."""
    if shape is None or size[0] != shape[0]:
        return False
    columns = torch.Size(shape[1:]).numel()
    return size[1] == columns or (disk == f"{WIDENED}.weight" and size[1] > columns)


def weight_update(path: Path, layer: Layer, slots: Slots, config: Adapter) -> Update | None:
    kinds = {"down": low_rank, "hada_w1_a": hadamard, "lokr_w2": kronecker, "lokr_w2_a": kronecker}
    try:
        build = next((build for slot, build in kinds.items() if slot in slots), None)
        update = build(slots, config) if build else None
    except KeyError as missing:
        raise DaedalError(
            f"{path} lacks the {missing.args[0]} of {', '.join(layer.modules)}; download it again."
        ) from None
    if update is not None and "row magnitude" in slots:  # peft's, of a convolution (1, O, 1, 1)
        return Decomposed(update, slots["row magnitude"].flatten())
    if update is not None and "magnitude" in slots:
        return Decomposed(update, slots["magnitude"])
    if "difference" in slots:
        return Difference(slots["difference"])
    if update is None and "value" in slots:
        return Replacement(slots["value"])
    if update is None and not slots.keys() <= {"bias", "alpha"}:
        raise DaedalError(
            f"{path} has only {', '.join(sorted(slots))} for {', '.join(layer.modules)}; download it again."
        )
    return update


def scale_of(slots: Slots, config: Adapter, rank: int) -> float:
    """alpha / rank (Hu et al. 2022, section 4.1), alpha / sqrt(rank) where peft says so
    (Kalajdzievski 2023); 1 where no alpha is given."""
    alpha = slots["alpha"].item() if "alpha" in slots else config["alpha"]
    return 1.0 if alpha is None else alpha / (rank**0.5 if config["rslora"] else rank)


def low_rank(slots: Slots, config: Adapter) -> Update:
    scale = scale_of(slots, config, len(slots["down"]))
    return LowRank(slots["down"], slots["up"], scale, slots.get("middle"))


def hadamard(slots: Slots, config: Adapter) -> Update:
    a1, b1, a2, b2 = (slots[f"hada_{name}"] for name in ("w1_a", "w1_b", "w2_a", "w2_b"))
    scale = scale_of(slots, config, len(b1))
    return Hadamard(a1, b1, a2, b2, scale, slots.get("hada_t1"), slots.get("hada_t2"))


def kronecker(slots: Slots, config: Adapter) -> Update:
    """Either factor may itself be of low rank, whose rank then counts; where neither is, alpha does
    not."""
    ranked = [len(slots[name]) for name in ("lokr_w1_b", "lokr_w2_b") if name in slots]
    first = slots.get("lokr_w1")
    if first is None:
        first = product(slots["lokr_w1_a"], slots["lokr_w1_b"])
    if "lokr_w2" in slots:
        second = slots["lokr_w2"].flatten(1)
    else:
        second = product(slots["lokr_w2_a"], slots["lokr_w2_b"], slots.get("lokr_t2"))
    return Kronecker(first, second, scale_of(slots, config, ranked[0]) if ranked else 1.0)


def bias_update(slots: Slots, config: Adapter) -> Update | None:
    if "bias" not in slots:
        return None
    scale = scale_of(slots, config, len(slots["down"])) if "down" in slots else 1.0
    return Difference(slots["bias"] * scale)


# What is wrong with a file.


def complaint(path: Path, unknown: list[str], tensors: Mapping[str, Tensor], names: Names) -> str:
    """A sentence on keys that name no layer."""
    for kind, pattern in UNREAD.items():
        if found := [key for key in unknown if pattern.search(key)]:
            return f"{path} holds {kind} ({shortened(found, 2)}), which is not read; merge it into the model with the tool that made it."
    owners = {absent_part(key, names) for key in unknown}
    if None not in owners:
        return f"{path} also changes {' and '.join(sorted(map(str, owners)))}, not given; pass that network among the parts."
    family, own = made_for(tensors), {family_of(module) for module in names.modules.values()}
    if family not in (None, *own) or len(unknown) > len(tensors) / 2:
        return f"{path} is a LoRA for {title(family)}: {len(unknown)} of its keys, such as {unknown[0]}, name no layer of {titles(names)}."
    known = [alias for table in names.tables.values() for alias in table]
    hint = nearest((parted(unknown[0])[0] or unknown[0]).replace(".", "_"), known)
    return f"{path} has {len(unknown)} keys that name no layer of {titles(names)}: {shortened(unknown)}{hint}."


def absent_part(key: str, names: Names) -> str | None:
    """The part of a pipeline that a key names, if that was not given."""
    name = key.replace(".", "_")
    for role, prefixes in reversed(PREFIXES.items()):
        if any(prefix and name.startswith(prefix) for prefix in prefixes):
            if names.roles.get(role, role) in names.modules:
                return None
            return {"t5": "the T5 encoder", "denoiser": "the denoiser"}.get(role, role)
    return None


def mismatch(
    path: Path, disk: str, update: Update, tensors: Mapping[str, Tensor], names: Names
) -> str:
    rows, columns = update.shape()
    shape = next((shapes[disk] for shapes in names.shapes.values() if disk in shapes), None)
    there = f"is {' x '.join(map(str, shape))}" if shape else "is not there"
    return f"{path} is a LoRA for {title(made_for(tensors))}: it changes {rows} x {columns} numbers of {disk}, which {there} in {titles(names)}."


def made_for(tensors: Mapping[str, Tensor]) -> str | None:
    """The family that a file's names and shapes show; None where they do not."""
    names = " ".join(tensors).replace(".", "_")
    if re.search(r"(single|double)_blocks_|single_transformer_blocks_", names):
        return "flux"
    if "joint_blocks_" in names:
        return "sd3"
    reads = re.compile(r"attn2[._](processor\.)?to_[kv]([._]lora\.down|\.lora_down|\.lora_A)")
    widths = {tensor.shape[1] for key, tensor in tensors.items() if reads.search(key)}
    return next((TEXT_WIDTHS[width] for width in sorted(widths) if width in TEXT_WIDTHS), None)


def family_of(module: nn.Module) -> str | None:
    known = {"FluxTransformer2DModel": "flux", "SD3Transformer2DModel": "sd3"}
    return known.get(type(module).__name__) or TEXT_WIDTHS.get(
        getattr(module.config, "cross_attention_dim", 0)
    )  # type: ignore[arg-type]


def title(family: str | None) -> str:
    return FAMILIES[family].title if family else "another model"


def titles(names: Names) -> str:
    """What the networks at hand are."""
    kinds = {role: family_of(module) for role, module in names.modules.items()}
    return ", ".join(
        f"{role} ({title(kind) if kind else type(names.modules[role]).__name__})"
        for role, kind in kinds.items()
    )
