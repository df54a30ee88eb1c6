"""LoRA files: one update in every dialect, other kinds of updates, diffusers' converters as
oracles, merging and taking out, what a bad file says."""

import functools
import json
import re

import pytest
import torch
from diffusers.loaders import lora_conversion_utils as theirs
from safetensors.torch import load_file, save_file

from daedal.checkpoints.folder import disk_name
from daedal.checkpoints.lora import Adapters, Decomposed, Hadamard, Kronecker, LowRank, save_lora
from daedal.checkpoints.lora_files import read_lora
from daedal.checkpoints.original_names import layout
from daedal.errors import DaedalError
from daedal.networks.clip import CLIPTextModel
from daedal.networks.config import parse
from daedal.networks.flux import FluxTransformer2DModel
from daedal.networks.mmdit import SD3Transformer2DModel
from daedal.networks.t5 import T5EncoderModel
from daedal.networks.unet import UNet2DConditionModel
from daedal.networks.wan import WanTransformer3DModel

RANK, ALPHA = 4, 2.0
SD1 = dict(
    block_out_channels=(32, 64), down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    cross_attention_dim=768, layers_per_block=1,
)  # fmt: skip
FLUX = dict(num_layers=2, num_single_layers=2, attention_head_dim=8, num_attention_heads=2, joint_attention_dim=6, pooled_projection_dim=5,
            guidance_embeds=True, axes_dims_rope=(2, 2, 4))  # fmt: skip
SD3 = dict(num_layers=2, attention_head_dim=8, num_attention_heads=2, joint_attention_dim=6, caption_projection_dim=16, pooled_projection_dim=5,
           pos_embed_max_size=4)  # fmt: skip
CLIP = dict(
    vocab_size=30, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
)
T5 = dict(
    vocab_size=30,
    d_model=16,
    d_kv=8,
    d_ff=24,
    num_layers=2,
    num_heads=2,
    feed_forward_proj="gated-gelu",
)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


@functools.cache
def weights(kind, **config):
    module = kind(parse(kind.config_class, config))
    return {
        name: draw(*tensor.shape, seed=i)
        for i, (name, tensor) in enumerate(module.state_dict().items())
    }


def make(kind, config):
    module = kind(parse(kind.config_class, config))
    module.load_state_dict(weights(kind, **config))
    return module.eval()


@pytest.fixture
def sd():
    return {
        "unet": make(UNet2DConditionModel, SD1),
        "text_encoder": make(CLIPTextModel, CLIP),
        "scheduler": {},
        "tokenizer": None,
    }


@pytest.fixture
def flux():
    parts = {
        "transformer": make(FluxTransformer2DModel, FLUX),
        "text_encoder": make(CLIPTextModel, CLIP),
    }
    return parts | {"text_encoder_2": make(T5EncoderModel, T5)}


def shapes_of(parts, role):
    return {
        disk_name(parts[role], name): tuple(tensor.shape)
        for name, tensor in parts[role].state_dict().items()
    }


def update_of(parts, role, wanted):
    """{module of a folder: (down, up)} of rank 4 for the layers whose name ends in one of `wanted`."""
    out = {}
    for i, (name, shape) in enumerate(shapes_of(parts, role).items()):
        module = name.removesuffix(".weight")
        if name.endswith(".weight") and module.endswith(wanted) and len(shape) > 1:
            out[module] = (
                draw(RANK, *shape[1:], seed=i),
                draw(shape[0], RANK, *[1] * (len(shape) - 2), seed=i + 1),
            )
    return out


def written(path, tensors, metadata=None):
    save_file(
        {name: tensor.contiguous().clone() for name, tensor in tensors.items()},
        path,
        metadata or {"format": "pt"},
    )
    return path


def deltas(lora, role):
    return {name: update.delta() for name, update in lora.updates[role].items()}


def expected(update, scale=1.0):
    return {
        f"{module}.weight": scale * up.flatten(1) @ down.flatten(1)
        for module, (down, up) in update.items()
    }


def close(a, b):
    assert a.keys() == b.keys(), a.keys() ^ b.keys()
    assert all(torch.allclose(a[name], b[name], atol=1e-5) for name in a), [
        n for n in a if not torch.allclose(a[n], b[n], atol=1e-5)
    ]


# One update, in every dialect.

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
LAYERS = (
    *ATTENTION,
    "ff.net.0.proj",
    "proj_in",
    "conv1",
    "conv_in",
    "linear_1",
    "time_emb_proj",
    "downsamplers.0.conv",
)
TEXT = ("q_proj", "out_proj", "fc1")


def pair(prefix, module, ends, down, up, alpha=None, scale=1.0):
    """Two keys of a layer, and its alpha."""
    out = {f"{prefix}{module}{ends[0]}": down, f"{prefix}{module}{ends[1]}": up * scale}
    return out | ({} if alpha is None else {f"{prefix}{module}.alpha": torch.tensor(alpha)})


PEFT, KOHYA, OLD = (
    (".lora_A.weight", ".lora_B.weight"),
    (".lora_down.weight", ".lora_up.weight"),
    ("_lora.down.weight", "_lora.up.weight"),
)


def originals(parts, role):
    table = layout(type(parts[role]).__name__, shapes_of(parts, role))
    return {
        entry.ours[0].removesuffix(".weight"): name.removesuffix(".weight")
        for name, entry in table.items()
        if name.endswith(".weight")
    }


def in_dialect(dialect, parts, unet, text):
    """The keys of a whole file. Those with an alpha carry the update at twice its size, and alpha /
    rank is a half."""
    out, names, flat = {}, originals(parts, "unet"), lambda name: name.replace(".", "_")
    old_text = {"q_proj": "to_q", "out_proj": "to_out"}
    for module, (down, up) in unet.items():
        parent, _, leaf = module.removesuffix(".0").rpartition(".")
        match dialect:
            case "peft":
                out |= pair("unet.", module, PEFT, down, up)
            case "peft without a prefix":
                out |= pair(
                    "", module, (".lora_A.default.weight", ".lora_B.default.weight"), down, up
                )
            case "diffusers":
                out |= pair("unet.", module, (".lora.down.weight", ".lora.up.weight"), down, up)
            case "diffusers of 2023":
                out |= pair(f"unet.{parent}.processor.", leaf, OLD, down, up)
            case "kohya":
                out |= pair("lora_unet_", flat(module), KOHYA, down, up, ALPHA, 2)
            case "kohya, original names":
                out |= pair("lora_unet_", flat(names[module]), KOHYA, down, up, ALPHA, 2)
            case "ComfyUI":
                out |= pair("diffusion_model.", names[module], PEFT, down, up, ALPHA, 2)
            case "LyCORIS":
                out |= pair("lycoris_", flat(module), KOHYA, down, up, ALPHA, 2)
    for module, (down, up) in text.items():
        parent, _, leaf = module.rpartition(".")
        match dialect:
            case "peft without a prefix":  # as the towers of transformers 5 are called
                out |= pair("text_encoder.", module.removeprefix("text_model."), PEFT, down, up)
            case "peft" | "diffusers" | "LyCORIS":
                out |= pair("text_encoder.", module, PEFT, down, up)
            case "diffusers of 2023" if leaf in old_text:
                out |= pair(f"text_encoder.{parent}.", old_text[leaf], OLD, down, up)
            case "diffusers of 2023":
                out |= pair(
                    "text_encoder.",
                    module,
                    (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
                    down,
                    up,
                )
            case "kohya":
                out |= pair("lora_te_", flat(module), KOHYA, down, up, ALPHA, 2)
            case "kohya, original names":
                out |= pair("lora_te1_", flat(module), KOHYA, down, up, ALPHA, 2)
            case "ComfyUI":
                out |= pair("text_encoders.clip_l.transformer.", module, PEFT, down, up, ALPHA, 2)
    return out


DIALECTS = (
    "peft",
    "peft without a prefix",
    "diffusers",
    "diffusers of 2023",
    "kohya",
    "kohya, original names",
    "ComfyUI",
    "LyCORIS",
)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_one_update_in_every_dialect(dialect, sd, tmp_path):
    unet = update_of(sd, "unet", ATTENTION if dialect == "diffusers of 2023" else LAYERS)
    text = update_of(sd, "text_encoder", TEXT)
    assert len(unet) > 20 and len(text) == 6
    lora = read_lora(written(tmp_path / "a.safetensors", in_dialect(dialect, sd, unet, text)), sd)
    close(deltas(lora, "unet"), expected(unet))
    close(deltas(lora, "text_encoder"), expected(text))


def fused_update(parts):
    """{original layer of FLUX: (down, up)}."""
    shapes = shapes_of(parts, "transformer")
    table = layout("FluxTransformer2DModel", shapes)
    out = {}
    for i, (name, entry) in enumerate(table.items()):
        rows, columns = sum(shapes[ours][0] for ours in entry.ours), shapes[entry.ours[0]][1:]
        if columns:
            out[name.removesuffix(".weight")] = (
                draw(RANK, *columns, seed=i),
                draw(rows, RANK, seed=i + 1),
                entry,
            )
    return out


def split_update(parts, fused):
    """The same, for the layers of a folder."""
    shapes, out = shapes_of(parts, "transformer"), {}
    for down, up, entry in fused.values():
        for name, rows in zip(
            entry.ours, up.split([shapes[name][0] for name in entry.ours]), strict=True
        ):
            out[name.removesuffix(".weight")] = (
                down,
                torch.cat(rows.chunk(2)[::-1]) if entry.swapped else rows,
            )
    return out


XLABS = {
    "img_attn.qkv": "qkv_lora1",
    "img_attn.proj": "proj_lora1",
    "txt_attn.qkv": "qkv_lora2",
    "txt_attn.proj": "proj_lora2",
}


@pytest.mark.parametrize(
    "dialect",
    ["peft", "kohya", "ComfyUI", "Black Forest Labs", "fal", "XLabs", "transformer of 2024"],
)
def test_one_update_of_flux_in_every_dialect(dialect, flux, tmp_path):
    fused, tensors = fused_update(flux), {}
    if dialect == "XLabs":  # attention only, and of linear1 only q, k and v
        fused = {
            name: entry
            for name, entry in fused.items()
            if name.endswith((*XLABS, "linear1", "linear2"))
        }
        fused |= {
            name: (down, up * (torch.arange(len(up)) < 48)[:, None], e)
            for name, (down, up, e) in fused.items()
            if name.endswith("linear1")
        }
    split = split_update(flux, fused)
    for name, (down, up, _) in fused.items():
        block, _, leaf = name.partition(".")[2].partition(".")
        match dialect:
            case "kohya":
                tensors |= pair("lora_unet_", name.replace(".", "_"), KOHYA, down, up, ALPHA, 2)
            case "ComfyUI":
                tensors |= pair("diffusion_model.", name, KOHYA, down, up, ALPHA, 2)
            case "Black Forest Labs":
                tensors |= pair("", name, PEFT, down, up)
            case "fal":
                tensors |= pair("base_model.model.", name, PEFT, down, up)
            case "XLabs" if name.startswith("double"):
                tensors |= pair(
                    f"double_blocks.{block}.processor.",
                    XLABS[leaf],
                    (".down.weight", ".up.weight"),
                    down,
                    up,
                )
            case "XLabs":
                processor = "qkv_lora" if leaf == "linear1" else "proj_lora"
                tensors |= pair(
                    f"single_blocks.{block}.processor.",
                    processor,
                    (".down.weight", ".up.weight"),
                    down,
                    up[: 48 if leaf[-1] == "1" else None],
                )
    for name, (down, up) in split.items():
        if dialect == "peft":
            tensors |= pair("transformer.", name, PEFT, down, up)
        if dialect == "transformer of 2024":
            tensors |= pair("lora_transformer_", name.replace(".", "_"), KOHYA, down, up, ALPHA, 2)
    if dialect == "XLabs":
        split = {name: update for name, update in split.items() if not name.endswith("proj_mlp")}
    lora = read_lora(written(tmp_path / "a.safetensors", tensors), flux)
    close(deltas(lora, "transformer"), expected(split))


def test_text_encoders_of_flux_and_sd3(flux, tmp_path):
    small, t5 = (
        update_of(flux, "text_encoder", TEXT),
        update_of(flux, "text_encoder_2", ("SelfAttention.q", "DenseReluDense.wo")),
    )
    assert len(t5) == 4
    for te, xxl in (
        ("lora_te1_", "lora_te3_"),
        ("text_encoders.clip_l.transformer.", "text_encoders.t5xxl.transformer."),
        ("text_encoder.", "text_encoder_2."),
    ):
        tensors = {}
        for prefix, update in ((te, small), (xxl, t5)):
            for module, (down, up) in update.items():
                tensors |= pair(
                    prefix, module if "." in prefix else module.replace(".", "_"), KOHYA, down, up
                )
        lora = read_lora(written(tmp_path / "a.safetensors", tensors), flux)
        close(deltas(lora, "text_encoder"), expected(small))
        close(deltas(lora, "text_encoder_2"), expected(t5))
    parts = {
        "transformer": make(SD3Transformer2DModel, SD3),
        "text_encoder_3": flux["text_encoder_2"],
    }
    tensors = pair(
        "lora_te3_",
        "encoder_block_0_layer_0_SelfAttention_q",
        KOHYA,
        *t5["encoder.block.0.layer.0.SelfAttention.q"],
    )
    assert read_lora(written(tmp_path / "a.safetensors", tensors), parts).updates.keys() == {
        "text_encoder_3"
    }


def test_sd3_in_original_names(tmp_path):
    """The last block's modulation of the text and the final one have shift and scale the other way
    round."""
    parts = {"transformer": make(SD3Transformer2DModel, SD3)}
    update = update_of(parts, "transformer", ("norm1_context.linear", "norm_out.linear"))
    tensors, final = {}, {}
    for module, (down, up) in update.items():
        original = (
            "final_layer_adaLN_modulation_1"
            if "norm_out" in module
            else f"joint_blocks_{module.split('.')[1]}_context_block_adaLN_modulation_1"
        )
        tensors |= pair("lora_unet_", original, KOHYA, down, up)
        swapped = "norm_out" in module or module.split(".")[1] == "1"
        final[module] = down, torch.cat(up.chunk(2)[::-1]) if swapped else up
    assert len(update) == 3
    close(
        deltas(read_lora(written(tmp_path / "a.safetensors", tensors), parts), "transformer"),
        expected(final),
    )


# diffusers' converters as oracles.


def products(converted, prefix):
    """{module: up @ down} of the first rows of what their converters give."""
    downs = {
        name.removesuffix(".lora_A.weight"): tensor
        for name, tensor in converted.items()
        if name.endswith(".lora_A.weight")
    }
    return {
        f"{name.removeprefix(prefix)}.weight": converted[f"{name}.lora_B.weight"][:3] @ down[:, :40]
        for name, down in downs.items()
    }


@functools.cache
def real_flux():
    with torch.device("meta"):
        return FluxTransformer2DModel(
            parse(
                FluxTransformer2DModel.config_class,
                dict(guidance_embeds=True, in_channels=128, out_channels=64),
            )
        )


@pytest.mark.parametrize(
    ("convert", "prefix", "ends"),
    [
        (theirs._convert_kohya_flux_lora_to_diffusers, "lora_unet_", KOHYA),
        (theirs._convert_bfl_flux_control_lora_to_diffusers, "", PEFT),
        (theirs._convert_fal_kontext_lora_to_diffusers, "base_model.model.", PEFT),
    ],
    ids=["kohya", "Black Forest Labs", "fal"],
)
def test_flux_as_diffusers_reads_it(convert, prefix, ends, tmp_path):
    """Their converters know FLUX in its own size only, so here it is, at rank 2. That of Black
    Forest Labs' files turns the final modulation's lora_A as well as its lora_B, which makes
    another update of it: it is left out."""
    module = real_flux()
    shapes, tensors = (
        {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()},
        {},
    )
    for i, (name, entry) in enumerate(layout("FluxTransformer2DModel", shapes).items()):
        shape = shapes[entry.ours[0]]
        rows = sum(shapes[ours][0] for ours in entry.ours)
        if len(shape) > 1 and (
            prefix != "base_model.model." or "_blocks" in name or "final_layer.linear" in name
        ):
            layer = name.removesuffix(".weight").replace(
                ".", "_" if prefix == "lora_unet_" else "."
            )
            tensors |= {
                f"{prefix}{layer}{ends[0]}": draw(2, shape[1], seed=i),
                f"{prefix}{layer}{ends[1]}": draw(rows, 2, seed=i + 1),
            }
            if prefix == "lora_unet_" and "final" not in layer:  # whose alpha they leave out
                tensors[f"{prefix}{layer}.alpha"] = torch.tensor(0.5)
        elif prefix == "" and name.endswith(".scale"):
            tensors[name] = draw(*shape, seed=i)
    lora = read_lora(written(tmp_path / "a.safetensors", tensors), {"transformer": module})
    converted = {
        name if name.startswith("transformer.") else f"transformer.{name}": tensor
        for name, tensor in convert(dict(tensors)).items()
    }
    ours = {
        name: u.scale * u.up[:3] @ u.down[:, :40]
        for name, u in lora.updates["transformer"].items()
        if isinstance(u, LowRank)
    }
    read = products(converted, "transformer.")
    if prefix == "":
        assert ours.keys() == read.keys() and not torch.allclose(
            ours.pop("norm_out.linear.weight"), read.pop("norm_out.linear.weight")
        )
    close(ours, read)
    norms = {
        f"transformer.{name}": u.value
        for name, u in lora.updates["transformer"].items()
        if not isinstance(u, LowRank)
    }
    close(norms, {name: tensor for name, tensor in converted.items() if ".lora_" not in name})


def test_wan_as_diffusers_reads_it(tmp_path):
    """Every linear layer of Wan from a picture, under the authors' names."""
    sizes = dict(num_attention_heads=2, attention_head_dim=4, in_channels=12, out_channels=4, text_dim=6, freq_dim=10, ffn_dim=14,
                 num_layers=2, image_dim=16, added_kv_proj_dim=8)  # fmt: skip
    with torch.device("meta"):
        module = WanTransformer3DModel(parse(WanTransformer3DModel.config_class, sizes))
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    known = layout("WanTransformer3DModel", shapes)
    assert sorted(name for entry in known.values() for name in entry.ours) == sorted(shapes)
    tensors = {}
    for i, (name, entry) in enumerate(known.items()):
        rows, *columns = shapes[entry.ours[0]]
        # the tokens of a picture are not among what their converter keeps
        if len(columns) == 1 and not name.startswith("img_emb"):
            layer = f"diffusion_model.{name.removesuffix('.weight')}"
            tensors |= {
                f"{layer}.lora_A.weight": draw(2, *columns, seed=i),
                f"{layer}.lora_B.weight": draw(rows, 2, seed=i + 1),
            }
    lora = read_lora(written(tmp_path / "a.safetensors", tensors), {"transformer": module})
    converted = theirs._convert_non_diffusers_wan_lora_to_diffusers(dict(tensors))
    wanted = products(converted, "transformer.")
    assert len(wanted) == len(tensors) // 2 > 25
    found = deltas(lora, "transformer")
    close({name: delta[:3, :40] for name, delta in found.items()}, wanted)


def test_ltx_in_original_names(tmp_path):
    names = (
        "proj_in.weight",
        "time_embed.linear.weight",
        "transformer_blocks.0.attn1.norm_q.weight",
        "proj_out.bias",
    )
    assert list(layout("LTXVideoTransformer3DModel", names)) == [
        "patchify_proj.weight", "adaln_single.linear.weight", "transformer_blocks.0.attn1.q_norm.weight", "proj_out.bias",
    ]  # fmt: skip


def test_xlabs_as_diffusers_reads_it(flux, tmp_path):
    tensors = {}
    for processor, rows in (
        ("double_blocks.0.processor.qkv_lora1", 48),
        ("double_blocks.1.processor.proj_lora2", 16),
        ("single_blocks.1.processor.qkv_lora", 48),
    ):
        tensors |= {
            f"{processor}.down.weight": draw(RANK, 16, seed=rows),
            f"{processor}.up.weight": draw(rows, RANK),
        }
    lora = read_lora(written(tmp_path / "a.safetensors", tensors), flux)
    converted = products(
        theirs._convert_xlabs_flux_lora_to_diffusers(dict(tensors)), "transformer."
    )
    close({name: delta[:3, :40] for name, delta in deltas(lora, "transformer").items()}, converted)


def test_kohya_as_diffusers_reads_it(sd, tmp_path):
    update = update_of(sd, "unet", ("attn1.to_q", "attn2.to_v", "ff.net.0.proj", "proj_in"))
    tensors = {}
    for module, (down, up) in update.items():
        tensors |= pair("lora_unet_", module.replace(".", "_"), KOHYA, down, up, ALPHA)
    converted, alphas = theirs._convert_non_diffusers_lora_to_diffusers(dict(tensors))
    # their names are a dialect as well
    read = read_lora(written(tmp_path / "a.safetensors", converted), sd)
    ours = read_lora(written(tmp_path / "b.safetensors", tensors), sd)
    assert set(alphas.values()) == {ALPHA}
    close(
        deltas(ours, "unet"),
        {name: delta * ALPHA / RANK for name, delta in deltas(read, "unet").items()},
    )


# How large an update is.


def one(sd, tmp_path, metadata=None, folder=None):
    module = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    if folder is not None:
        (tmp_path / "adapter_config.json").write_text(json.dumps(folder))
    path = written(
        tmp_path / "adapter_model.safetensors",
        pair("unet." if metadata else "base_model.model.", module, PEFT, draw(4, 64), draw(64, 4)),
        metadata,
    )
    lora = read_lora(tmp_path if folder is not None else path, {"unet": sd["unet"]})
    return lora.updates["unet"][f"{module}.weight"].scale


def test_what_peft_says_of_alpha_is_heard(sd, tmp_path):
    of_diffusers = {
        "lora_adapter_metadata": json.dumps(
            {"unet.r": 4, "unet.lora_alpha": 8, "unet.alpha_pattern": {}}
        )
    }
    assert one(sd, tmp_path, of_diffusers) == 2.0
    assert (
        one(
            sd,
            tmp_path,
            {
                "lora_adapter_metadata": json.dumps(
                    {"text_encoder.r": 4, "text_encoder.lora_alpha": 8}
                )
            },
        )
        == 1.0
    )
    assert one(sd, tmp_path, folder={"r": 4, "lora_alpha": 6}) == 1.5
    assert one(sd, tmp_path, folder={"r": 4, "lora_alpha": 6, "use_rslora": True}) == 3.0
    assert (
        one(
            sd,
            tmp_path,
            folder={"r": 4, "lora_alpha": 6, "alpha_pattern": {"attn1.to_q": 16, "attn2.to_q": 1}},
        )
        == 4.0
    )


# Other kinds of updates, by their formulas.

LINEAR, CONV = (
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.0.resnets.0.conv1",
)


def of_kind(kind):
    """(slots of a linear layer, slots of a convolution, their deltas) for weights (32, 32) and (32,
    32, 3, 3)."""
    a, b = lambda *shape: draw(*shape, seed=1), lambda *shape: draw(*shape, seed=2)
    if kind == "loha":
        linear = {
            "hada_w1_a": a(32, 4),
            "hada_w1_b": a(4, 32),
            "hada_w2_a": b(32, 4),
            "hada_w2_b": b(4, 32),
        }
        conv = {
            "hada_w1_a": a(4, 32),
            "hada_w1_b": a(4, 32),
            "hada_w2_a": b(4, 32),
            "hada_w2_b": b(4, 32),
        }
        conv |= {"hada_t1": a(4, 4, 3, 3), "hada_t2": b(4, 4, 3, 3)}

        def tucker(t: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            rows = [[x.T @ t[:, :, h, w] @ y for w in range(3)] for h in range(3)]
            return torch.stack([torch.stack(row, -1) for row in rows], -2)

        return (
            linear,
            conv,
            (a(32, 4) @ a(4, 32)) * (b(32, 4) @ b(4, 32)),
            tucker(a(4, 4, 3, 3), a(4, 32), a(4, 32)) * tucker(b(4, 4, 3, 3), b(4, 32), b(4, 32)),
        )
    if kind == "lokr":
        linear = {"lokr_w1": a(4, 8), "lokr_w2_a": a(8, 4), "lokr_w2_b": b(4, 4)}
        conv = {"lokr_w1_a": a(4, 4), "lokr_w1_b": b(4, 2), "lokr_w2": b(8, 16, 3, 3)}
        w1 = a(4, 4) @ b(4, 2)
        whole = torch.stack(
            [
                torch.stack([torch.kron(w1, b(8, 16, 3, 3)[:, :, h, w]) for w in range(3)], -1)
                for h in range(3)
            ],
            -2,
        )
        return linear, conv, torch.kron(a(4, 8), a(8, 4) @ b(4, 4)), whole
    core = torch.einsum(
        "or,rshw,si->oihw", b(32, 4, 1, 1)[..., 0, 0], a(4, 4, 3, 3), a(4, 32, 1, 1)[..., 0, 0]
    )
    conv = {
        "lora_down.weight": a(4, 32, 1, 1),
        "lora_mid.weight": a(4, 4, 3, 3),
        "lora_up.weight": b(32, 4, 1, 1),
    }
    return (
        {"lora_down.weight": a(4, 32), "lora_up.weight": b(32, 4)},
        conv,
        b(32, 4) @ a(4, 32),
        core,
    )


@pytest.mark.parametrize("kind", ["loha", "lokr", "locon"])
def test_other_kinds(kind, sd, tmp_path):
    linear, conv, first, second = of_kind(kind)
    tensors = {
        f"lora_unet_{LINEAR.replace('.', '_')}.{slot}": tensor
        for slot, tensor in (linear | {"alpha": torch.tensor(ALPHA)}).items()
    }
    tensors |= {
        f"lora_unet_{CONV.replace('.', '_')}.{slot}": tensor
        for slot, tensor in (conv | {"alpha": torch.tensor(ALPHA)}).items()
    }
    lora = read_lora(written(tmp_path / "a.safetensors", tensors), sd)
    close(
        deltas(lora, "unet"),
        {f"{LINEAR}.weight": first / 2, f"{CONV}.weight": second.flatten(1) / 2},
    )
    assert isinstance(
        lora.updates["unet"][f"{LINEAR}.weight"],
        {"loha": Hadamard, "lokr": Kronecker, "locon": LowRank}[kind],
    )
    before = sd["unet"].get_parameter(f"{CONV}.weight").clone()
    Adapters(sd).apply(lora, 0.5)
    assert torch.allclose(
        sd["unet"].get_parameter(f"{CONV}.weight"), before + second / 4, atol=1e-4
    )
    if kind != "locon":
        with pytest.raises(DaedalError, match="not low-rank; merge it and save the model"):
            save_lora(lora, tmp_path / "b.safetensors")


def test_alpha_of_full_kronecker_factors_counts_nothing(sd, tmp_path):
    name = f"lora_unet_{LINEAR.replace('.', '_')}"
    tensors = {
        f"{name}.lokr_w1": draw(4, 8),
        f"{name}.lokr_w2": draw(8, 4),
        f"{name}.alpha": torch.tensor(1e9),
    }
    lora = read_lora(written(tmp_path / "a.safetensors", tensors), sd)
    close(deltas(lora, "unet"), {f"{LINEAR}.weight": torch.kron(draw(4, 8), draw(8, 4))})


@pytest.mark.parametrize(
    "key", ["lora_magnitude_vector", "lora_magnitude_vector.default.weight", "dora_scale"]
)
def test_dora(key, sd, tmp_path):
    """m * (W + BA) / |W + BA|, rows (or, in old files, columns) being normed."""
    down, up = draw(4, 32), draw(32, 4, seed=3)
    before = sd["unet"].get_parameter(f"{LINEAR}.weight").clone()
    full = before + up @ down
    for magnitude, norm in (
        (draw(32).abs(), full.norm(dim=1, keepdim=True)),
        (draw(1, 32).abs(), full.norm(dim=0, keepdim=True)),
    ):
        if key != "dora_scale" and magnitude.dim() > 1:
            continue
        tensors = pair("unet.", LINEAR, PEFT, down, up) | {f"unet.{LINEAR}.{key}": magnitude}
        lora, adapters = read_lora(written(tmp_path / "a.safetensors", tensors), sd), Adapters(sd)
        assert isinstance(lora.updates["unet"][f"{LINEAR}.weight"], Decomposed)
        adapters.apply(lora)
        assert torch.allclose(
            sd["unet"].get_parameter(f"{LINEAR}.weight"),
            full * (magnitude.view_as(norm) / norm),
            atol=1e-5,
        )
        adapters.apply(lora, 0.0)
        assert torch.allclose(sd["unet"].get_parameter(f"{LINEAR}.weight"), before)
        adapters.remove(lora)


def test_dora_of_a_convolution(sd, tmp_path):
    """peft's magnitude (1, O, 1, 1) is one of rows, LyCORIS's (O, 1, 1, 1) too, its old (1, C, 1, 1)
    one of input channels."""
    down, up = draw(4, 32, 3, 3), draw(32, 4, 1, 1, seed=3)
    before = sd["unet"].get_parameter(f"{CONV}.weight").clone()
    full = before + (up.flatten(1) @ down.flatten(1)).view_as(before)
    m = draw(32).abs()
    rows = full * (m / full.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
    columns = full * (m / full.transpose(0, 1).flatten(1).norm(dim=1)).view(1, -1, 1, 1)
    for key, magnitude, want in (
        ("lora_magnitude_vector", m.view(1, -1, 1, 1), rows),
        ("dora_scale", m.view(-1, 1, 1, 1), rows),
        ("dora_scale", m.view(1, -1, 1, 1), columns),
    ):
        tensors = pair("unet.", CONV, PEFT, down, up) | {f"unet.{CONV}.{key}": magnitude}
        lora, adapters = read_lora(written(tmp_path / "a.safetensors", tensors), sd), Adapters(sd)
        adapters.apply(lora)
        assert torch.allclose(sd["unet"].get_parameter(f"{CONV}.weight"), want, atol=1e-5)
        adapters.remove(lora)


def test_differences_of_norms_as_lycoris_calls_them(sd, tmp_path):
    norm = LINEAR.rpartition(".attn1")[0] + ".norm1"
    own = {
        f"{norm}.{leaf}": sd["unet"].get_parameter(f"{norm}.{leaf}") for leaf in ("weight", "bias")
    }
    size = len(own[f"{norm}.weight"])
    key = f"lora_unet_{norm.replace('.', '_')}"
    tensors = {f"{key}.w_norm": draw(size), f"{key}.b_norm": draw(size, seed=3)}
    lora = read_lora(written(tmp_path / "a.safetensors", tensors), sd)
    want = {f"{norm}.weight": draw(size)[:, None], f"{norm}.bias": draw(size, seed=3)[:, None]}
    close(deltas(lora, "unet"), want)


def test_differences_biases_and_norms(sd, flux, tmp_path):
    tensors = {
        f"diffusion_model.{originals(sd, 'unet')[CONV]}.diff": draw(32, 32, 3, 3),
        f"lora_unet_{CONV.replace('.', '_')}.diff_b": draw(32),
    }
    lora = read_lora(written(tmp_path / "a.safetensors", tensors), sd)
    close(
        deltas(lora, "unet"),
        {f"{CONV}.weight": draw(32, 32, 3, 3).flatten(1), f"{CONV}.bias": draw(32)[:, None]},
    )
    tensors = pair("", "single_blocks.0.linear1", PEFT, draw(4, 16), draw(112, 4)) | {
        "single_blocks.0.linear1.lora_B.bias": draw(112)
    }
    tensors |= {"single_blocks.0.norm.query_norm.scale": draw(8)}
    lora, adapters = read_lora(written(tmp_path / "b.safetensors", tensors), flux), Adapters(flux)
    norm = flux["transformer"].single_transformer_blocks[0].attn.norm_q.weight.clone()
    bias = flux["transformer"].single_transformer_blocks[0].proj_mlp.bias.clone()
    adapters.apply(lora, 0.5)
    assert torch.allclose(
        flux["transformer"].single_transformer_blocks[0].attn.norm_q.weight, (norm + draw(8)) / 2
    )
    assert torch.allclose(
        flux["transformer"].single_transformer_blocks[0].proj_mlp.bias, bias + draw(112)[48:] / 2
    )
    save_lora(lora, tmp_path / "c.safetensors")
    again = read_lora(tmp_path / "c.safetensors", flux)
    close(deltas(again, "transformer"), deltas(lora, "transformer"))


# Merging, and taking out.


def state(parts):
    return {
        f"{role}.{name}": t.clone()
        for role in ("unet", "transformer", "text_encoder")
        if role in parts
        for name, t in parts[role].state_dict().items()
    }


def test_several_stack_and_come_out_exactly(sd, tmp_path):
    before, adapters = state(sd), Adapters(sd)
    identity = sd["unet"].conv_in.weight
    tensors = [
        in_dialect("kohya", sd, update_of(sd, "unet", LAYERS), update_of(sd, "text_encoder", TEXT)),
        pair("unet.", LINEAR, PEFT, draw(4, 32), draw(32, 4)),
    ]
    first, second = (
        read_lora(written(tmp_path / f"{i}.safetensors", each), sd)
        for i, each in enumerate(tensors)
    )
    adapters.apply(first, 0.7)
    adapters.apply(second, -0.3)
    name = f"{LINEAR}.weight"
    both = (
        before[f"unet.{name}"]
        + 0.7 * deltas(first, "unet")[name]
        - 0.3 * deltas(second, "unet")[name]
    )
    assert torch.allclose(sd["unet"].get_parameter(name), both, atol=1e-5)
    adapters.apply(first, 0.1)  # another scale, not once more
    adapters.remove(second)
    assert torch.allclose(
        sd["unet"].get_parameter(name),
        before[f"unet.{name}"] + 0.1 * deltas(first, "unet")[name],
        atol=1e-5,
    )
    adapters.remove(first)
    assert (
        all(torch.equal(tensor, before[name]) for name, tensor in state(sd).items())
        and sd["unet"].conv_in.weight is identity
    )
    with pytest.raises(DaedalError, match="1 is not applied; applied are none"):
        adapters.remove(second)


def test_half_precision_weights_are_merged_in_float32(sd, tmp_path):
    sd["unet"].bfloat16()
    before = sd["unet"].get_parameter(f"{LINEAR}.weight").clone()
    lora = read_lora(
        written(
            tmp_path / "a.safetensors",
            pair("unet.", LINEAR, PEFT, draw(4, 32).half(), draw(32, 4).half()),
        ),
        sd,
    )
    adapters = Adapters(sd)
    adapters.apply(lora)
    merged = sd["unet"].get_parameter(f"{LINEAR}.weight")
    assert torch.equal(
        merged, (before.float() + deltas(lora, "unet")[f"{LINEAR}.weight"]).bfloat16()
    )
    adapters.remove(lora)
    assert torch.equal(sd["unet"].get_parameter(f"{LINEAR}.weight"), before)


@torch.inference_mode()
def test_a_merged_update_is_an_added_layer(sd, tmp_path):
    """The output of a merged layer is the layer's plus scale * up(down(x))."""
    layer, x = sd["unet"].get_submodule(LINEAR), draw(3, 32)
    lora = read_lora(
        written(tmp_path / "a.safetensors", pair("unet.", LINEAR, PEFT, draw(4, 32), draw(32, 4))),
        sd,
    )
    expected = layer(x) + 0.6 * x @ draw(4, 32).T @ draw(32, 4).T
    Adapters(sd).apply(lora, 0.6)
    assert torch.allclose(layer(x), expected, atol=1e-4)


def test_control_loras_of_flux_widen_the_first_layer(flux, tmp_path):
    """Theirs reads the latent and an image: the columns of the image start at zero."""
    lora = read_lora(
        written(tmp_path / "a.safetensors", pair("", "img_in", PEFT, draw(4, 128), draw(16, 4))),
        flux,
    )
    transformer, adapters = flux["transformer"], Adapters(flux)
    before = transformer.x_embedder.weight.clone()
    adapters.apply(lora)
    assert (
        transformer.config.in_channels == 128 == transformer.x_embedder.in_features
        and transformer.config.out_channels == 64
    )
    assert torch.allclose(
        transformer.x_embedder.weight,
        torch.cat([before, torch.zeros(16, 64)], 1) + draw(16, 4) @ draw(4, 128),
        atol=1e-5,
    )
    adapters.remove(lora)
    assert (
        torch.equal(transformer.x_embedder.weight, before)
        and transformer.config.in_channels == 64 == transformer.x_embedder.in_features
    )


def test_saved_as_diffusers_does(sd, tmp_path):
    update = update_of(sd, "unet", LAYERS)
    lora = read_lora(
        written(
            tmp_path / "a.safetensors",
            in_dialect("kohya", sd, update, update_of(sd, "text_encoder", TEXT)),
        ),
        sd,
    )
    save_lora(lora, tmp_path / "b.safetensors")
    keys = load_file(tmp_path / "b.safetensors")
    assert (
        f"unet.{CONV}.lora_A.weight" in keys
        and "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_B.weight" in keys
    )
    assert keys[f"unet.{CONV}.lora_A.weight"].shape == (4, 32, 3, 3) and keys[
        f"unet.{CONV}.lora_B.weight"
    ].shape == (32, 4, 1, 1)
    again = read_lora(tmp_path / "b.safetensors", sd)
    for role in ("unet", "text_encoder"):
        close(deltas(again, role), deltas(lora, role))


# What is wrong with a file.


def good(sd):
    return in_dialect("kohya", sd, update_of(sd, "unet", LAYERS), {})


def misspelt(sd):
    tensors = good(sd)
    key = f"lora_unet_{LINEAR.replace('.', '_')}"
    return tensors | {f"{key}x.lora_down.weight": tensors.pop(f"{key}.lora_down.weight")}


def of_sdxl(sd):
    """Wide text, and layers that Stable Diffusion 1 has too."""
    return {
        name: draw(4, 2048) if re.search("attn2_to_[kv].lora_down", name) else tensor
        for name, tensor in good(sd).items()
    }


def deeper_sdxl(sd):
    layer = "lora_unet_input_blocks_8_1_transformer_blocks_9_attn2_to_k"
    return of_sdxl(sd) | pair("", layer, KOHYA, draw(4, 2048), draw(1280, 4))


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (misspelt, r"1 keys that name no layer of unet \(Stable Diffusion 1\).*attn1_to_qx.lora_down.weight \(did you mean '.*attn1_to_q'"),
        (of_sdxl, r"is a LoRA for Stable Diffusion XL: it changes .* x 2048 numbers of .*attn2.to_k.weight, which is .* in unet \(Stable Diffusion 1\)"),
        (deeper_sdxl, "is a LoRA for Stable Diffusion XL: 2 of its keys, such as .*_9_attn2_to_k"),
        (lambda sd: pair("lora_unet_", "double_blocks_0_img_attn_qkv", KOHYA, draw(4, 8), draw(8, 4)), r"is a LoRA for FLUX\.1: 2 of its keys"),
        (lambda sd: pair("lora_unet_", "joint_blocks_0_x_block_attn_qkv", KOHYA, draw(4, 8), draw(8, 4)), "is a LoRA for Stable Diffusion 3: 2"),
        (lambda sd: pair("whatever.", "layer", PEFT, draw(4, 8), draw(8, 4)), "is a LoRA for another model: 2 of its keys"),
        (lambda sd: good(sd) | {"lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha": torch.ones(())}, "also changes text_encoder_2, not given"),
        (lambda sd: good(sd) | {f"unet.{LINEAR}.oft_blocks": draw(2, 2)}, "holds OFT .*oft_blocks.*, which is not read; merge"),
        (lambda sd: {f"unet.{LINEAR}.{x}.weight": draw(2, 2) for x in ("a1", "a2", "b1", "b2")}, "holds GLoRA "),
        (lambda sd: {f"unet.{LINEAR}.weight": draw(32), f"unet.{LINEAR}.on_input": draw(1)}, "holds IA3 "),
        (lambda sd: good(sd) | {"bundle_emb.cat.string_to_param.*": draw(1, 32)}, "holds learned words bundled"),
        (lambda sd: {k: v for k, v in good(sd).items() if k != f"lora_unet_{LINEAR.replace('.', '_')}.lora_up.weight"}, f"lacks the up of {LINEAR}"),
        (lambda sd: {k: v for k, v in good(sd).items() if k != f"lora_unet_{LINEAR.replace('.', '_')}.lora_down.weight"}, "has only alpha, up for"),
    ],
    ids=["misspelt", "sdxl", "deeper", "flux", "sd3", "other", "absent part", "oft", "glora", "ia3", "words", "no up", "no down"],
)  # fmt: skip
def test_a_bad_file_gets_one_sentence(tensors, words, sd, tmp_path):
    with pytest.raises(DaedalError, match=words) as caught:
        read_lora(written(tmp_path / "a.safetensors", tensors(sd)), sd)
    assert str(caught.value).count(". ") == 0


def test_one_layer_under_two_names_gets_one_sentence(flux, tmp_path):
    twice = pair("", "single_blocks.0.linear1", PEFT, draw(4, 16), draw(112, 4))
    twice |= pair(
        "transformer.", "single_transformer_blocks.0.attn.to_k", PEFT, draw(4, 16), draw(16, 4)
    )
    with pytest.raises(
        DaedalError,
        match=r"changes single_transformer_blocks.0.attn.to_k.weight of the transformer twice",
    ):
        read_lora(written(tmp_path / "a.safetensors", twice), flux)


def test_files_that_are_none(sd, tmp_path):
    with pytest.raises(DaedalError, match="neither a LoRA file nor a folder"):
        read_lora(tmp_path / "absent.safetensors", sd)
    (tmp_path / "a.safetensors").write_bytes(b"no")
    with pytest.raises(DaedalError, match="truncated or not safetensors"):
        read_lora(tmp_path / "a.safetensors", sd)
    torch.save(pair("unet.", LINEAR, PEFT, draw(4, 32), draw(32, 4)), tmp_path / "a.bin")
    with pytest.raises(DaedalError, match="pickled file"):
        read_lora(tmp_path / "a.bin", sd)
    assert read_lora(tmp_path / "a.bin", sd, allow_pickle=True).updates.keys() == {"unet"}
