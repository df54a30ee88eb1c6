"""What the original files of Stable Diffusion, SD3, FLUX, Wan and LTX-Video call the tensors of
diffusers' and transformers' folders, for every family one table or one rule, read in both
directions (checkpoints.single_file; of Wan and LTX-Video not yet) and by LoRAs that name original
modules (checkpoints.lora_files).

    layout("FluxTransformer2DModel", names)["double_blocks.0.img_attn.qkv.weight"].ours      # to_q,
    to_k and to_v of block 0, one above the other
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from daedal.checkpoints.files import Shapes
from daedal.errors import DaedalError


@dataclass(frozen=True)
class Original:
    """One tensor of an original file: the names it has in a folder, several where it holds their
    rows one after another."""

    ours: tuple[str, ...]
    # its first half is the shift, its second the scale; in a folder scale comes first
    swapped: bool = False
    transposed: bool = False
    conv: bool = False  # a 1 x 1 convolution, in a folder a linear layer

    def to_ours(self, key: str, tensor: Tensor, shapes: Shapes) -> dict[str, Tensor]:
        """The tensors of a folder, of these shapes, out of the original one called `key`."""
        tensor = tensor.mT if self.transposed else tensor
        tensor = halves_swapped(tensor) if self.swapped else tensor
        tensor = tensor.flatten(1) if self.conv and tensor.dim() > 2 else tensor
        rows = [shapes[name][0] for name in self.ours]
        if len(rows) > 1 and sum(rows) != len(tensor):
            raise DaedalError(
                f"{key} has {len(tensor)} rows where {' and '.join(self.ours)} have {sum(rows)}; the file is not what it seems to be."
            )
        return dict(zip(self.ours, tensor.split(rows) if len(rows) > 1 else [tensor], strict=True))

    def to_original(self, tensors: dict[str, Tensor]) -> Tensor:
        """The inverse of `to_ours`."""
        if len(self.ours) > 1:
            tensor = torch.cat([tensors[name] for name in self.ours])
        else:
            tensor = tensors[self.ours[0]]
        tensor = halves_swapped(tensor) if self.swapped else tensor
        tensor = tensor[..., None, None] if self.conv and tensor.dim() == 2 else tensor
        return (tensor.mT if self.transposed else tensor).contiguous()


def halves_swapped(tensor: Tensor) -> Tensor:
    return torch.cat(tensor.chunk(2)[::-1])


Layout = dict[str, Original]  # by the name in the original file


def layout(kind: str, names: Iterable[str]) -> Layout:
    """The original names of a network of class `kind` whose tensors are called `names` in a folder.
    Those that have none are left out."""
    return RULES[kind](list(names)) if kind in RULES else {}


# Tables: original module or tensor -> ours, several where it is fused. # is the number of a block.

SD3 = {
    "pos_embed": "pos_embed.pos_embed",
    "x_embedder.proj": "pos_embed.proj",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "context_embedder": "context_embedder",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}
SD3_BLOCK = {
    "x_block.attn.qkv": "attn.to_q attn.to_k attn.to_v",
    "x_block.attn.proj": "attn.to_out.0",
    "x_block.attn.ln_q": "attn.norm_q",
    "x_block.attn.ln_k": "attn.norm_k",
    "x_block.attn2.qkv": "attn2.to_q attn2.to_k attn2.to_v",
    "x_block.attn2.proj": "attn2.to_out.0",
    "x_block.attn2.ln_q": "attn2.norm_q",
    "x_block.attn2.ln_k": "attn2.norm_k",
    "x_block.adaLN_modulation.1": "norm1.linear",
    "x_block.mlp.fc1": "ff.net.0.proj",
    "x_block.mlp.fc2": "ff.net.2",
    "context_block.attn.qkv": "attn.add_q_proj attn.add_k_proj attn.add_v_proj",
    "context_block.attn.proj": "attn.to_add_out",
    "context_block.attn.ln_q": "attn.norm_added_q",
    "context_block.attn.ln_k": "attn.norm_added_k",
    "context_block.adaLN_modulation.1": "norm1_context.linear",
    "context_block.mlp.fc1": "ff_context.net.0.proj",
    "context_block.mlp.fc2": "ff_context.net.2",
}
FLUX = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}
FLUX_DOUBLE = {
    "img_mod.lin": "norm1.linear",
    "img_attn.qkv": "attn.to_q attn.to_k attn.to_v",
    "img_attn.norm.query_norm.scale": "attn.norm_q.weight",
    "img_attn.norm.key_norm.scale": "attn.norm_k.weight",
    "img_attn.proj": "attn.to_out.0",
    "img_mlp.0": "ff.net.0.proj",
    "img_mlp.2": "ff.net.2",
    "txt_mod.lin": "norm1_context.linear",
    "txt_attn.qkv": "attn.add_q_proj attn.add_k_proj attn.add_v_proj",
    "txt_attn.norm.query_norm.scale": "attn.norm_added_q.weight",
    "txt_attn.norm.key_norm.scale": "attn.norm_added_k.weight",
    "txt_attn.proj": "attn.to_add_out",
    "txt_mlp.0": "ff_context.net.0.proj",
    "txt_mlp.2": "ff_context.net.2",
}
FLUX_SINGLE = {
    "modulation.lin": "norm.linear",
    "linear1": "attn.to_q attn.to_k attn.to_v proj_mlp",
    "linear2": "proj_out",
    "norm.query_norm.scale": "attn.norm_q.weight",
    "norm.key_norm.scale": "attn.norm_k.weight",
}
OPEN_CLIP = {
    "token_embedding": "text_model.embeddings.token_embedding",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final": "text_model.final_layer_norm",
    "text_projection": "text_projection.weight",
}
OPEN_CLIP_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.in_proj_weight": "self_attn.q_proj.weight self_attn.k_proj.weight self_attn.v_proj.weight",
    "attn.in_proj_bias": "self_attn.q_proj.bias self_attn.k_proj.bias self_attn.v_proj.bias",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
# Wan's transformer; the second linear layer of each embedding is called 2.
WAN = {
    "patch_embedding": "patch_embedding",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
    "img_emb.emb_pos": "condition_embedder.image_embedder.pos_embed",
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
}
WAN_BLOCK = {
    f"{theirs}_attn.{layer}": f"{ours}.{name}"
    for theirs, ours in (("self", "attn1"), ("cross", "attn2"))
    for layer, name in (
        ("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("o", "to_out.0"), ("norm_q", "norm_q"), ("norm_k", "norm_k"),
    )
} | {
    "cross_attn.k_img": "attn2.add_k_proj",
    "cross_attn.v_img": "attn2.add_v_proj",
    "cross_attn.norm_k_img": "attn2.norm_added_k",
    "norm3": "norm2",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    "modulation": "scale_shift_table",
}  # fmt: skip


def blocks(table: dict[str, str], original: str, ours: str) -> dict[str, str]:
    """A table of one block as rows of the whole network's."""
    return {
        f"{original}.#.{key}": " ".join(f"{ours}.#.{name}" for name in row.split())
        for key, row in table.items()
    }


SD3 |= blocks(SD3_BLOCK, "joint_blocks", "transformer_blocks")
FLUX |= blocks(FLUX_DOUBLE, "double_blocks", "transformer_blocks")
FLUX |= blocks(FLUX_SINGLE, "single_blocks", "single_transformer_blocks")
WAN |= blocks(WAN_BLOCK, "blocks", "blocks")
OPEN_CLIP |= blocks(OPEN_CLIP_LAYER, "transformer.resblocks", "text_model.encoder.layers")


def by_table(table: dict[str, str], names: list[str]) -> Layout:
    places = {
        name: (original, place)
        for original, row in table.items()
        for place, name in enumerate(row.split())
    }
    found: dict[str, dict[int, str]] = {}
    for name in names:
        outside = name in places or name.rpartition(".")[0] in places
        block = None if outside else re.search(r"\.(\d+)\.", name)
        number = block[1] if block else ""
        general = name.replace(f".{number}.", ".#.", 1) if block else name
        module, _, leaf = general.rpartition(".")
        if general in places:
            original, place = places[general]
        elif module in places:
            original, place = f"{places[module][0]}.{leaf}", places[module][1]
        else:
            continue
        found.setdefault(original.replace("#", number), {})[place] = name
    in_order = {key: tuple(ours[place] for place in sorted(ours)) for key, ours in found.items()}
    return {original: Original(ours) for original, ours in in_order.items()}


def flux(names: list[str]) -> Layout:
    found, last = by_table(FLUX, names), "final_layer.adaLN"
    return {key: replace(entry, swapped=key.startswith(last)) for key, entry in found.items()}


def sd3(names: list[str]) -> Layout:
    """The last block reads the text and does not write it: its modulation of the text is, like the
    final layer's, a shift and a scale."""
    written = {name.split(".")[1] for name in names if ".ff_context." in name}

    def swapped(key: str) -> bool:
        unwritten = ".context_block.adaLN" in key and key.split(".")[1] not in written
        return unwritten or key.startswith("final_layer.adaLN")

    found = by_table(SD3, names)
    return {key: replace(entry, swapped=swapped(key)) for key, entry in found.items()}


def open_clip(names: list[str]) -> Layout:
    found, turned = by_table(OPEN_CLIP, names), "text_projection"
    return {key: replace(entry, transposed=key == turned) for key, entry in found.items()}


LTX = (  # ours, theirs
    ("proj_in.", "patchify_proj."),
    ("time_embed.", "adaln_single."),
    (".norm_q.", ".q_norm."),
    (".norm_k.", ".k_norm."),
)


def ltx(names: list[str]) -> Layout:
    found = {}
    for name in names:
        original = name
        for ours, theirs in LTX:
            original = original.replace(ours, theirs)
        found[original] = Original((name,))
    return found


# The U-Net and its ControlNet number their layers through all levels.

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}  # fmt: skip
OUTSIDE = {
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2", "class_embedding": "label_emb",
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "time_embedding.cond_proj": "time_embed.cond_proj",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "class_embedding.linear_1": "label_emb.0.0", "class_embedding.linear_2": "label_emb.0.2",
    "controlnet_cond_embedding.conv_in": "input_hint_block.0", "controlnet_mid_block": "middle_block_out.0",
}  # fmt: skip


def counted(names: Iterable[str], prefix: str) -> int:
    """How many numbers follow `prefix` and a dot, from 0 on."""
    rests = (name[len(prefix) + 1 :] for name in names if name.startswith(f"{prefix}."))
    return sum(number.isdigit() for number in {rest.split(".")[0] for rest in rests})


def unet_places(names: list[str]) -> dict[str, str]:
    """Where each layer of the levels stands: "down_blocks.1.resnets.0" -> "input_blocks.4.0"."""
    places: dict[str, str] = {}
    for side, word, n in (("down_blocks", "input_blocks", 1), ("up_blocks", "output_blocks", 0)):
        for level in (f"{side}.{i}" for i in range(counted(names, side))):
            for j in range(counted(names, f"{level}.resnets")):
                places[f"{level}.resnets.{j}"] = f"{word}.{n}.0"
                places[f"{level}.attentions.{j}"] = f"{word}.{n}.1"
                n += 1
            if side == "down_blocks":
                places[f"{level}.downsamplers.0"] = f"{word}.{n}.0"
                n += 1
            else:
                behind = 2 if counted(names, f"{level}.attentions") else 1
                places[f"{level}.upsamplers.0"] = f"{word}.{n - 1}.{behind}"
    for j in range(counted(names, "mid_block.resnets")):
        places[f"mid_block.resnets.{j}"] = f"middle_block.{2 * j}"
        places[f"mid_block.attentions.{j}"] = f"middle_block.{2 * j + 1}"
    return places


def unet(names: list[str]) -> Layout:
    places, hints = unet_places(names), counted(names, "controlnet_cond_embedding.blocks")
    for i in range(hints):
        places[f"controlnet_cond_embedding.blocks.{i}"] = f"input_hint_block.{2 * i + 2}"
    for i in range(counted(names, "controlnet_down_blocks")):
        places[f"controlnet_down_blocks.{i}"] = f"zero_convs.{i}.0"
    places |= OUTSIDE | {"controlnet_cond_embedding.conv_out": f"input_hint_block.{2 * hints + 2}"}
    found = {}
    for name in names:
        prefix = next((prefix for prefix in prefixes(name) if prefix in places), None)
        if prefix is not None:
            found[places[prefix] + unet_rest(prefix, name[len(prefix) :])] = Original((name,))
    return found


def prefixes(name: str) -> list[str]:
    """Every module a tensor is in, the innermost first."""
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(len(parts) - 1, 0, -1)]


def unet_rest(prefix: str, rest: str) -> str:
    """What stands behind a layer's place: ".conv1.weight" of a residual block ->
    ".in_layers.2.weight"."""
    if ".resnets." in prefix:
        _, module, leaf = rest.split(".")
        return f".{RESNET.get(module, module)}.{leaf}"
    return rest.replace(".conv.", ".op.") if ".downsamplers." in prefix else rest


# The autoencoder counts the decoder's levels from the finest.

VAE = [
    (r"^encoder\.down_blocks\.(\d+)\.", r"encoder.down.\1."), (r"\.resnets\.", ".block."), (r"\.(down|up)samplers\.0\.", r".\1sample."),
    (r"\.mid_block\.attentions\.0\.", ".mid.attn_1."), (r"\.conv_norm_out\.", ".norm_out."), (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.group_norm\.", ".norm."), (r"\.to_([qkv])\.", r".\1."), (r"\.to_out\.0\.", ".proj_out."), (r"\.attentions\.", ".attn."),
]  # fmt: skip


def vae(names: list[str]) -> Layout:
    levels = counted(names, "decoder.up_blocks")

    def original(name: str) -> str:
        if match := re.match(r"decoder\.up_blocks\.(\d+)\.", name):
            name = f"decoder.up.{levels - 1 - int(match[1])}.{name[match.end() :]}"
        middle = r"\.mid_block\.resnets\.(\d+)\."
        name = re.sub(middle, lambda match: f".mid.block_{int(match[1]) + 1}.", name)
        for ours, theirs in VAE:
            name = re.sub(ours, theirs, name)
        return name

    conv = re.compile(r"\.attentions\.\d+\.to_\w+\.(0\.)?weight$")
    return {original(name): Original((name,), conv=bool(conv.search(name))) for name in names}


RULES: dict[str, Callable[[list[str]], Layout]] = {
    "UNet2DConditionModel": unet,
    "ControlNetModel": unet,
    "AutoencoderKL": vae,
    "SD3Transformer2DModel": sd3,
    "FluxTransformer2DModel": flux,
    "OpenCLIP": open_clip,
    "WanTransformer3DModel": partial(by_table, WAN),
    "LTXVideoTransformer3DModel": ltx,
}
