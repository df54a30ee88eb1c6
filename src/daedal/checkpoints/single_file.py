"""Original single files: one .safetensors (or .ckpt) with all of a Stable Diffusion 1, 2, XL, 3 or
3.5 or a FLUX.1, or one network of it, under the names that its authors gave. What is in the file is
told from shapes, without a network connection and without a config.

    parts = load_single_file("model.safetensors")      # as `folder.load_parts` gives a folder: unet
    or transformer, vae, ...
    save_single_file(parts, "out.safetensors")         # for tools that read these files

Tokenizers are not in such files. Pickled .ckpt files are refused unless asked for, and then read as
plain tensors only."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from daedal.checkpoints import families
from daedal.checkpoints.families import FAMILIES, Config
from daedal.checkpoints.files import opened, shortened, write
from daedal.checkpoints.folder import disk_name, fill
from daedal.checkpoints.original_names import RULES, Layout, Shapes, layout
from daedal.errors import DaedalError
from daedal.networks import component
from daedal.networks.config import parse

# Constants of training, copies, and networks that nothing here runs.
IGNORED = re.compile(
    r"^(betas|(\w+_)?alphas_cumprod(_prev)?|posterior_\w+|logvar|lvlb_weights|scale_factor|global_step|model_ema\..*|loss\..*|denoiser\..*"
    r"|depth_model\..*|edm_mean|edm_std|v_pred|ztsnr|edm_vpred\..*|scaled_fp8)$|(position_ids|logit_scale|attn_mask|scale_weight|scale_input|weight_scale|weight_scale_inv|input_scale|comfy_quant)$"
)
# what the scale of an 8-bit weight is called, in ComfyUI's files of several years and in others
SCALES = ("scale_weight", "weight_scale", "weight_scale_inv")
# files of some versions of transformers
FORMER = re.compile(r"^(cond_stage_model\.transformer\.)(embeddings|encoder|final_layer_norm)\.")


@dataclass(frozen=True)
class Part:
    """A network in a single file: the prefix of its tensors, the name of one that it always has,
    and what it is called in a folder."""

    prefix: str
    mark: str
    role: str
    kind: str  # class name


DENOISER = "model.diffusion_model."
CLIP_L, CLIP_G, T5 = (
    f"text_encoders.{name}.transformer." for name in ("clip_l", "clip_g", "t5xxl")
)
# the tensors that each has
SD3_QKV, FLUX_QKV = "joint_blocks.0.x_block.attn.qkv.weight", "double_blocks.0.img_attn.qkv.weight"
CLIP_NORM = "text_model.final_layer_norm.weight"
PARTS = (
    Part(DENOISER, "input_blocks.0.0.weight", "unet", "UNet2DConditionModel"),
    Part(DENOISER, SD3_QKV, "transformer", "SD3Transformer2DModel"),
    Part(DENOISER, FLUX_QKV, "transformer", "FluxTransformer2DModel"),
    Part("control_model.", "input_hint_block.0.weight", "controlnet", "ControlNetModel"),
    Part("first_stage_model.", "decoder.up.0.block.0.norm1.weight", "vae", "AutoencoderKL"),
    Part("vae.", "decoder.up.0.block.0.norm1.weight", "vae", "AutoencoderKL"),
    Part("cond_stage_model.transformer.", CLIP_NORM, "text_encoder", "CLIPTextModel"),
    Part("cond_stage_model.model.", "ln_final.weight", "text_encoder", "OpenCLIP"),
    Part("conditioner.embedders.0.transformer.", CLIP_NORM, "text_encoder", "CLIPTextModel"),
    Part("conditioner.embedders.0.model.", "ln_final.weight", "text_encoder_2", "OpenCLIP"),
    Part("conditioner.embedders.1.model.", "ln_final.weight", "text_encoder_2", "OpenCLIP"),
    Part(CLIP_L, CLIP_NORM, "text_encoder", "CLIPTextModel"),
    Part(CLIP_G, CLIP_NORM, "text_encoder_2", "CLIPTextModelWithProjection"),
    Part(T5, "shared.weight", "text_encoder_3", "T5EncoderModel"),
)
ALONE = (  # files of one network need no prefix
    Part("", "input_hint_block.0.weight", "controlnet", "ControlNetModel"),
    *(replace(part, prefix="") for part in PARTS if part.prefix == DENOISER),
    Part("", "decoder.up.0.block.0.norm1.weight", "vae", "AutoencoderKL"),
    Part("", CLIP_NORM, "text_encoder", "CLIPTextModel"),
    Part("", "shared.weight", "text_encoder_3", "T5EncoderModel"),
)
CONFIGS: dict[str, Callable[[Shapes], Config]] = {
    "UNet2DConditionModel": families.unet_config,
    "ControlNetModel": families.controlnet_config,
    "SD3Transformer2DModel": families.sd3_config,
    "FluxTransformer2DModel": families.flux_config,
    "AutoencoderKL": families.vae_config,
    "T5EncoderModel": families.t5_config,
}  # the others are CLIP


class File:
    """The tensors of a file by name, each read when it is asked for. Numbers of 8 bits come as
    bfloat16, which holds them all."""

    def __init__(self, path: Path, allow_pickle: bool = False) -> None:
        if not path.is_file():
            raise DaedalError(
                f"{path} is not a file; give a .safetensors or .ckpt file, or open a model folder with load_parts."
            )
        self.path = path
        self.raw, shapes, _ = opened(path, allow_pickle)
        self.names = {FORMER.sub(r"\1text_model.\2.", name): name for name in shapes}
        self.shapes = {name: shapes[stored] for name, stored in self.names.items()}

    def get(self, name: str) -> Tensor:
        tensor = self.raw(self.names[name])
        if not (tensor.is_floating_point() and tensor.itemsize == 1):
            return tensor
        layer = name.removesuffix("weight")
        for scale in (layer + ending for ending in SCALES):
            if scale in self.names:
                factor = self.raw(self.names[scale]).float()
                if factor.numel() not in (1, len(tensor)):
                    raise DaedalError(
                        f"{self.path} has {factor.numel()} scales for the {len(tensor)} rows of {name}, and only one for all or one a row are read; take a file in another precision."
                    )
                rows = factor.view(-1, *[1] * (tensor.dim() - 1))
                return (tensor.float() * rows).bfloat16()
        return tensor.bfloat16()


def load_single_file(
    path: str | Path,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    allow_pickle: bool = False,
    family: str | None = None,
    ema: bool = False,
) -> dict[str, Any]:
    """Every network in the file, in evaluation mode, by the name it has in a folder; with a
    denoiser also "scheduler", a parsed scheduler_config.json, and "model_index". `dtype` None keeps
    the dtype on disk.

    An autoencoder alone does not say how its latents are scaled: name the `family` (a key of
    `families.FAMILIES`). `ema` takes the averaged weights of the U-Net from a .ckpt that has both.
    A tensor without a place, or one missing, is an error that lists it."""
    file = File(Path(path), allow_pickle)
    parts = parts_of(file)
    denoisers = (part for part in parts if part.role in ("unet", "transformer"))
    denoiser = next((stripped(file.shapes, part) for part in denoisers), None)
    family, out = told_family(file, denoiser, family), {}
    if denoiser:
        config = families.scheduler_config(family, marks(file), denoiser)
        out["scheduler"] = said_beside(Path(path), config)
        kind = families.pipeline_class(FAMILIES[family], denoiser)
        out["model_index"] = {"_class_name": kind, **FAMILIES[family].flags}
    sections = [Section(file, part, family, out.get("scheduler", {}), ema) for part in parts]
    return out | {section.role: section.load(dtype, device) for section in sections}


def parts_of(file: File) -> list[Part]:
    """The networks in a file; a tensor that belongs to none of them is an error."""
    parts = [part for part in PARTS if part.prefix + part.mark in file.shapes]
    if not parts:
        parts = [part for part in ALONE if part.mark in file.shapes][:1]
    if not parts:
        raise DaedalError(
            f"{file.path} holds no model under original names (it begins {shortened(file.shapes, 3)}); open a model folder instead."
        )
    prefixes = tuple(part.prefix for part in parts)
    others = [name for name in file.shapes if not name.startswith(prefixes)]
    if unknown := [name for name in others if not IGNORED.search(name)]:
        raise DaedalError(
            f"{file.path} holds {len(unknown)} tensors of no network that Daedal knows: {shortened(unknown)}."
        )
    return parts


def stripped(shapes: Shapes, part: Part) -> Shapes:
    """The tensors of one part, without its prefix."""
    own = {name.removeprefix(part.prefix): name for name in shapes if name.startswith(part.prefix)}
    return {name: shapes[whole] for name, whole in own.items() if not IGNORED.search(name)}


def told_family(file: File, denoiser: Shapes | None, family: str | None) -> str:
    """What the denoiser is, else what the caller says, else nothing."""
    if family is not None:
        families.named_family(family)
    if denoiser is None:
        return family or ""
    found = "playground" if "edm_mean" in file.shapes else families.family_of(denoiser)
    if family not in (None, found):
        raise DaedalError(
            f"{file.path} is a {FAMILIES[found].title}, not family {family!r}; leave family out."
        )
    return found


def marks(file: File) -> dict[str, float]:
    """What the file says of its training beside shapes (see `families.scheduler_config`)."""
    bias = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
    found = {name: 1.0 for name in ("v_pred", "ztsnr") if name in file.shapes}
    return found | ({"bias": file.get(bias).float().std().item()} if bias in file.shapes else {})


def said_beside(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The schedule as the files beside a single file say it: a folder `scheduler` as diffusers
    writes it, or the author's .yaml of the same name (CompVis's and Stability's training config)."""
    folder = path.with_name("scheduler") / "scheduler_config.json"
    if folder.is_file():
        return json.loads(folder.read_text())
    author = next((p for p in map(path.with_suffix, (".yaml", ".yml")) if p.is_file()), None)
    if author is None:
        return config
    raw = yaml.safe_load(author.read_text(encoding="utf-8")) or {}
    params = (raw.get("model") or {}).get("params") or {}
    denoiser = (params.get("denoiser_config") or {}).get("params") or {}
    scaling = str((denoiser.get("scaling_config") or {}).get("target", ""))
    if params.get("parameterization") == "v" or ".VScaling" in scaling:
        config = {**config, "prediction_type": "v_prediction"}
    names = {"linear_start": "beta_start", "linear_end": "beta_end"}
    names["timesteps"] = "num_train_timesteps"
    return config | {ours: params[key] for key, ours in names.items() if key in params}


@dataclass(frozen=True)
class Section:
    """One network in a file of a family ("" where nothing tells it)."""

    file: File
    part: Part
    family: str
    scheduler: Config
    ema: bool = False

    @property
    def role(self) -> str:
        if self.family == "flux" and self.part.role == "text_encoder_3":
            return "text_encoder_2"
        return self.part.role

    @cached_property
    def shapes(self) -> Shapes:
        return stripped(self.file.shapes, self.part)

    def load(self, dtype: torch.dtype | None, device: torch.device | str) -> nn.Module:
        """The network, built on the meta device and filled."""
        try:
            kind, config = self.identified()
        except KeyError as missing:
            raise DaedalError(
                f"{self.file.path} lacks {self.part.prefix}{missing.args[0]}; download it again."
            ) from None
        kind_of = component(kind)
        with torch.device("meta"):
            module: nn.Module = kind_of(parse(kind_of.config_class, config))
        state = module.state_dict()
        disk = {disk_name(module, name): tuple(tensor.shape) for name, tensor in state.items()}
        table = layout("OpenCLIP" if self.part.kind == "OpenCLIP" else kind, disk)
        fill(module, self.stream(disk, table), dtype, device)
        return module.eval()

    def identified(self) -> tuple[str, Config]:
        """Class name and config."""
        part, family = self.part, self.family
        config = CONFIGS.get(part.kind, families.clip_config)(self.shapes)
        if part.role == "unet":
            # the one for 512 pixels
            base = family == "sd2" and "prediction_type" not in self.scheduler
            side = 64 if base else FAMILIES[family].vae["sample_size"] // 8
            return part.kind, config | {"sample_size": side}
        if part.kind == "AutoencoderKL":
            return part.kind, config | self.latents()
        # reads the states before the last layer, which folders leave out
        if part.kind == "OpenCLIP" and family == "sd2":
            return "CLIPTextModel", config | {"num_hidden_layers": config["num_hidden_layers"] - 1}
        if "CLIP" not in part.kind:
            return part.kind, config
        alone = not part.prefix and not family and "text_projection.weight" in self.shapes
        projected = part.kind != "CLIPTextModel" or family == "sd3" or alone
        return "CLIPTextModelWithProjection" if projected else "CLIPTextModel", config

    def latents(self) -> Config:
        """How an autoencoder's latents are scaled."""
        if not self.family:
            named = ", ".join(FAMILIES)
            raise DaedalError(
                f"{self.file.path} is an autoencoder alone, which does not say how its latents are scaled; pass family= one of {named}."
            )
        scale = dict(FAMILIES[self.family].vae)
        if "edm_mean" in self.file.shapes:
            for name in ("mean", "std"):
                values = self.file.get(f"edm_{name}").flatten().tolist()
                scale[f"latents_{name}"] = tuple(values)
        return scale

    def stream(self, disk: Shapes, table: Layout) -> Iterator[tuple[str, Tensor]]:
        """(name in a folder, tensor) of every tensor. One without a place comes under its own name,
        for `fill` to list.

        Left out are a projection of a tower that is read before it, and the last layer of Stable
        Diffusion 2's. SD3 does not apply that of its first tower: folders hold the identity."""
        identity = self.family == "sd3" and self.role == "text_encoder"
        projected = "text_projection.weight" in disk and not identity
        left_out = () if "CLIP" not in self.part.kind or projected else ("text_projection",)
        if self.family == "sd2":
            layers = families.counted(self.shapes, "transformer.resblocks")
            left_out = (*left_out, f"transformer.resblocks.{layers - 1}.")
        for name in self.shapes:
            if name.startswith(left_out):
                continue
            if name in table:
                yield from table[name].to_ours(name, self.get(name), disk).items()
            else:
                yield name, self.get(name)
        if identity:
            yield "text_projection.weight", torch.eye(disk["text_projection.weight"][0])

    def get(self, name: str) -> Tensor:
        """A tensor, or its moving average, which old files keep under its name without dots."""
        name = self.part.prefix + name
        if not self.ema or self.part.role != "unet":
            return self.file.get(name)
        flat = "model_ema." + name.removeprefix("model.").replace(".", "")
        if flat not in self.file.shapes:
            raise DaedalError(
                f"{self.file.path} has no averaged weights ({flat} is missing); load it with ema=False."
            )
        return self.file.get(flat)


# And back.


def to_original(module: nn.Module, kind: str | None = None) -> dict[str, Tensor]:
    """The tensors of a network under original names, without a prefix; `kind` "OpenCLIP" for a CLIP
    tower under OpenCLIP's."""
    state = module.state_dict()
    disk = {disk_name(module, name): tensor.detach().cpu() for name, tensor in state.items()}
    table = layout(kind or type(module).__name__, disk)
    return {name: entry.to_original(disk) for name, entry in table.items()} or disk


def save_single_file(parts: Mapping[str, Any], path: str | Path) -> None:
    """Write the networks of `parts` (as `load_single_file` or `load_parts` gives them) as one
    safetensors file."""
    denoiser = parts.get("unet") or parts.get("transformer")
    if type(denoiser).__name__ not in RULES:
        raise DaedalError(
            f"a denoiser of class {type(denoiser).__name__} has no original single file; save its folder instead."
        )
    table, tensors = PREFIXES[family_of_network(denoiser)], marks_of(parts)  # type: ignore[arg-type]
    networks = {role: part for role, part in parts.items() if isinstance(part, nn.Module)}
    for role, module in networks.items():
        if role not in table:
            raise DaedalError(
                f"{role} has no place in a single file of this family; it holds {', '.join(table)}."
            )
        named = to_original(module, "OpenCLIP" if table[role].endswith(".model.") else None)
        tensors |= {table[role] + name: tensor for name, tensor in named.items()}
    write(tensors, Path(path))


def marks_of(parts: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors by which files say what no shape does."""
    config, scheduler = getattr(parts.get("vae"), "config", None), parts.get("scheduler") or {}
    found = {"v_pred": torch.ones(0)} if scheduler.get("prediction_type") == "v_prediction" else {}
    found |= {"ztsnr": torch.ones(0)} if scheduler.get("rescale_betas_zero_snr") else {}
    if config is None or not config.latents_mean:
        return found
    return found | {
        f"edm_{name}": torch.tensor(getattr(config, f"latents_{name}")) for name in ("mean", "std")
    }


def encoders(*prefixes: str) -> dict[str, str]:
    """The prefixes of the text encoders, in order."""
    return dict(zip(("text_encoder", "text_encoder_2", "text_encoder_3"), prefixes, strict=False))


SD: dict[str, str] = {"unet": DENOISER, "vae": "first_stage_model."}
PREFIXES: dict[str, dict[str, str]] = {
    "sd1": SD | {"text_encoder": "cond_stage_model.transformer."},
    "sd2": SD | {"text_encoder": "cond_stage_model.model."},
    "sdxl": SD | encoders("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."),
    "refiner": SD | {"text_encoder_2": "conditioner.embedders.0.model."},
    "sd3": {"transformer": DENOISER, "vae": "first_stage_model."} | encoders(CLIP_L, CLIP_G, T5),
    "flux": {"transformer": DENOISER, "vae": "vae."} | encoders(CLIP_L, T5),
}


def family_of_network(denoiser: nn.Module) -> str:
    names = {name: tuple(tensor.shape) for name, tensor in denoiser.state_dict().items()}
    table = layout(type(denoiser).__name__, names)
    return families.family_of({name: names[entry.ours[0]] for name, entry in table.items()})
