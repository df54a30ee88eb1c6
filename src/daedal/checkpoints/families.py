"""Which model a single file holds, told from the shapes of its tensors alone, and the config.json
that each of its networks would have. What shapes do not say (how latents are scaled, which
scheduler the model was trained with) is a table of families.

Legend: shapes are those of original names (checkpoints.original_names), the prefix of the part
removed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from daedal.checkpoints.original_names import Shapes, counted
from daedal.errors import DaedalError, nearest

Config = dict[str, Any]

SD_BETAS: Config = dict(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000
)
SD_STEPS: Config = SD_BETAS | dict(
    set_alpha_to_one=False, steps_offset=1, skip_prk_steps=True, timestep_spacing="leading"
)
FLOW: Config = dict(_class_name="FlowMatchEulerDiscreteScheduler", num_train_timesteps=1000)
EDM: Config = dict(
    _class_name="EDMDPMSolverMultistepScheduler", sigma_min=0.002, sigma_max=80.0, sigma_data=0.5
)


@dataclass(frozen=True)
class Family:
    """`pipeline` is the stem of diffusers' class name; `vae` and `scheduler` are keys of the
    configs that no shape tells and that are not the default of their class."""

    title: str
    pipeline: str
    vae: Config
    scheduler: Config
    flags: Config = field(default_factory=dict)


XL = Family(
    "Stable Diffusion XL",
    "StableDiffusionXL",
    dict(scaling_factor=0.13025, sample_size=1024),
    SD_STEPS | dict(_class_name="EulerDiscreteScheduler", prediction_type="epsilon"),
    dict(force_zeros_for_empty_prompt=True),
)
FAMILIES: dict[str, Family] = {
    "sd1": Family(
        "Stable Diffusion 1",
        "StableDiffusion",
        dict(sample_size=512),
        SD_STEPS | dict(_class_name="PNDMScheduler", clip_sample=False),
    ),
    "sd2": Family(
        "Stable Diffusion 2",
        "StableDiffusion",
        dict(sample_size=768),
        SD_STEPS | dict(_class_name="DDIMScheduler", clip_sample=False),
    ),
    "sdxl": XL,
    "refiner": Family(
        "Stable Diffusion XL Refiner",
        XL.pipeline,
        XL.vae,
        XL.scheduler,
        dict(force_zeros_for_empty_prompt=False, requires_aesthetics_score=True),
    ),
    "playground": Family(
        "Playground 2.5", XL.pipeline, XL.vae | dict(scaling_factor=0.5), EDM, XL.flags
    ),
    "sd3": Family(
        "Stable Diffusion 3",
        "StableDiffusion3",
        dict(scaling_factor=1.5305, shift_factor=0.0609, sample_size=1024),
        FLOW | dict(shift=3.0),
    ),
    "flux": Family(
        "FLUX.1",
        "Flux",
        dict(scaling_factor=0.3611, shift_factor=0.1159, sample_size=1024),
        FLOW | dict(shift=1.0),
    ),
}
FLUX_GUIDED: Config = dict(shift=3.0, use_dynamic_shifting=True)
# of what the U-Net's cross-attention reads
TEXT_WIDTHS = {768: "sd1", 1024: "sd2", 2048: "sdxl", 1280: "refiner"}
# first convolution: latent, and a mask, an image, or both
UNET_INPUTS = {4: "", 9: "Inpaint", 8: "InstructPix2Pix", 5: "Depth2Img"}
FLUX_INPUTS = {64: "", 384: "Fill", 128: "Control"}
# spread of a bias of Stable Diffusion 2's last block above which the model predicts v, not the
# noise
V_BIAS = 0.09


def family_of(shapes: Shapes) -> str:
    """The key in FAMILIES of a denoiser with these shapes."""
    if "img_in.weight" in shapes:
        return "flux"
    if "x_embedder.proj.weight" in shapes:
        return "sd3"
    width = text_width(shapes)
    if width not in TEXT_WIDTHS:
        known = ", ".join(f"{w} ({FAMILIES[f].title})" for w, f in TEXT_WIDTHS.items())
        raise DaedalError(
            f"the file's U-Net reads text of width {width}, which is none of {known}; open the model's folder instead."
        )
    return TEXT_WIDTHS[width]


def text_width(shapes: Shapes) -> int:
    """Width of the text that a U-Net's attention reads; 0 where it reads none."""
    return next(
        (shape[1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight")), 0
    )


def named_family(name: str) -> Family:
    if name not in FAMILIES:
        raise DaedalError(
            f"family {name!r} is not one of {', '.join(FAMILIES)}{nearest(name, list(FAMILIES))}."
        )
    return FAMILIES[name]


def pipeline_class(family: Family, shapes: Shapes) -> str:
    """diffusers' name for the pipeline that a denoiser with these shapes is meant for."""
    if "img_in.weight" in shapes:
        kinds, channels = FLUX_INPUTS, shapes["img_in.weight"][1]
    elif "input_blocks.0.0.weight" in shapes:
        kinds, channels = UNET_INPUTS, shapes["input_blocks.0.0.weight"][1]
    else:
        return f"{family.pipeline}Pipeline"
    if channels not in kinds:
        raise DaedalError(
            f"the file's {family.title} reads {channels} channels, which is none of {', '.join(map(str, kinds))}; open its folder instead."
        )
    return f"{family.pipeline}{kinds[channels]}Pipeline"


# One config each. What is not written is the default of the config class, or told by the family.


def unet_config(shapes: Shapes) -> Config:
    """Of a U-Net or, where there is no way up, its ControlNet."""
    down, up = levels(shapes, "input_blocks"), levels(shapes, "output_blocks")[::-1]
    channels = tuple(level[0].channels for level in down)
    linear = any(len(shapes[name]) == 2 for name in shapes if name.endswith("proj_in.weight"))
    depths = tuple(simplest(tuple(layer.depth for layer in level)) for level in down)
    config: Config = dict(
        in_channels=shapes["input_blocks.0.0.weight"][1],
        block_out_channels=channels,
        layers_per_block=simplest(tuple(len(level) for level in down)),
        down_block_types=block_types(down, "DownBlock2D"),
        cross_attention_dim=text_width(shapes),
        attention_head_dim=tuple(C // 64 for C in channels) if linear else 8,
        use_linear_projection=linear,
        upcast_attention=linear and text_width(shapes) == 1024,
        **middle(shapes, depths),
        **conditions(shapes),
    )
    if not up:
        return config
    mirrored = tuple(simplest(tuple(layer.depth for layer in level)) or 1 for level in up)
    uneven = mirrored != tuple(depth or 1 for depth in depths)
    return config | dict(
        out_channels=shapes["out.2.weight"][0],
        up_block_types=block_types(up[::-1], "UpBlock2D"),
        reverse_transformer_layers_per_block=mirrored[::-1] if uneven else None,
    )


@dataclass(frozen=True)
class Layer:
    channels: int
    depth: int  # of its transformer, 0 where it has none


def levels(shapes: Shapes, side: str) -> list[list[Layer]]:
    """The layers of each resolution, in the order of the file."""
    out: list[list[Layer]] = [[]]
    for n in range(side == "input_blocks", counted(shapes, side)):
        block = f"{side}.{n}"
        if f"{block}.0.in_layers.2.weight" in shapes:
            depth = counted(shapes, f"{block}.1.transformer_blocks")
            out[-1].append(Layer(shapes[f"{block}.0.in_layers.2.weight"][0], depth))
        # it resamples
        if any(f"{block}.{name}.weight" in shapes for name in ("0.op", "1.conv", "2.conv")):
            out.append([])
    return [level for level in out if level]


def block_types(levels: list[list[Layer]], plain: str) -> tuple[str, ...]:
    """The class of each level's block, by whether it attends to the text."""
    attends = (any(layer.depth for layer in level) for level in levels)
    return tuple(f"CrossAttn{plain}" if attending else plain for attending in attends)


def middle(shapes: Shapes, depths: tuple[Any, ...]) -> Config:
    """The middle has the depth of the last level, which may itself have no attention."""
    depth = counted(shapes, "middle_block.1.transformer_blocks")
    kinds = {2: "UNetMidBlock2DCrossAttn", 1: "UNetMidBlock2D", 0: None}
    kind = kinds[2 if depth else int("middle_block.0.in_layers.0.weight" in shapes)]
    filled = (*(each or 1 for each in depths[:-1]), depths[-1] or depth or 1)
    attending = {each for each in (*depths, depth) if each}
    return dict(
        mid_block_type=kind,
        transformer_layers_per_block=attending.pop() if len(attending) == 1 else filled,
    )


def conditions(shapes: Shapes) -> Config:
    """What is added to the time embedding: SDXL's sizes and pooled text, unCLIP's image, LCM's
    guidance scale."""
    out: Config = {}
    if added := shapes.get("label_emb.0.0.weight"):
        kind = "addition_embed_type" if text_width(shapes) != 1024 else "class_embed_type"
        out = {
            kind: "text_time" if kind == "addition_embed_type" else "projection",
            "projection_class_embeddings_input_dim": added[1],
        }
        out |= {"addition_time_embed_dim": 256} if kind == "addition_embed_type" else {}
    if guided := shapes.get("time_embed.cond_proj.weight"):
        out["time_cond_proj_dim"] = guided[1]
    return out


def simplest(values: tuple[Any, ...]) -> Any:
    """One value where all are the same."""
    return values[0] if len(set(values)) == 1 else values


def controlnet_config(shapes: Shapes) -> Config:
    count = len({name.split(".")[1] for name in shapes if name.startswith("input_hint_block.")})
    hints = [shapes[f"input_hint_block.{2 * i}.weight"] for i in range(count)]
    sizes = tuple(shape[0] for shape in hints[:-1:2])
    channels = dict(conditioning_channels=hints[0][1], conditioning_embedding_out_channels=sizes)
    return unet_config(shapes) | channels


def vae_config(shapes: Shapes) -> Config:
    levels = counted(shapes, "encoder.down")
    channels = (shapes[f"encoder.down.{i}.block.0.conv2.weight"][0] for i in range(levels))
    return dict(
        in_channels=shapes["encoder.conv_in.weight"][1],
        out_channels=shapes["decoder.conv_out.weight"][0],
        latent_channels=shapes["decoder.conv_in.weight"][1],
        block_out_channels=tuple(channels),
        layers_per_block=counted(shapes, "encoder.down.0.block"),
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        use_quant_conv="quant_conv.weight" in shapes,
        use_post_quant_conv="post_quant_conv.weight" in shapes,
    )


def sd3_config(shapes: Shapes) -> Config:
    inner, channels, patch, _ = shapes["x_embedder.proj.weight"]
    layers = counted(shapes, "joint_blocks")
    norm = shapes.get("joint_blocks.0.x_block.attn.ln_q.weight")
    head = norm[0] if norm else 64
    return dict(
        sample_size=128,
        patch_size=patch,
        in_channels=channels,
        out_channels=shapes["final_layer.linear.weight"][0] // patch**2,
        num_layers=layers,
        attention_head_dim=head,
        num_attention_heads=inner // head,
        joint_attention_dim=shapes["context_embedder.weight"][1],
        caption_projection_dim=shapes["context_embedder.weight"][0],
        pooled_projection_dim=shapes["y_embedder.mlp.0.weight"][1],
        pos_embed_max_size=round(shapes["pos_embed"][1] ** 0.5),
        dual_attention_layers=tuple(
            i for i in range(layers) if f"joint_blocks.{i}.x_block.attn2.qkv.weight" in shapes
        ),
        qk_norm="rms_norm" if norm else None,
    )


def flux_config(shapes: Shapes) -> Config:
    inner, channels = shapes["img_in.weight"]
    (head,) = shapes["double_blocks.0.img_attn.norm.query_norm.scale"]
    return dict(
        patch_size=1,
        in_channels=channels,
        out_channels=shapes["final_layer.linear.weight"][0],
        num_layers=counted(shapes, "double_blocks"),
        num_single_layers=counted(shapes, "single_blocks"),
        attention_head_dim=head,
        num_attention_heads=inner // head,
        joint_attention_dim=shapes["txt_in.weight"][1],
        pooled_projection_dim=shapes["vector_in.in_layer.weight"][1],
        guidance_embeds="guidance_in.in_layer.weight" in shapes,
        axes_dims_rope=(head // 8, head * 7 // 16, head * 7 // 16),
    )


def clip_config(shapes: Shapes) -> Config:
    """Of a CLIP text tower under transformers' names, or OpenCLIP's. OpenAI's is the one of width
    768."""
    if "token_embedding.weight" in shapes:  # OpenCLIP
        vocabulary, width = shapes["token_embedding.weight"]
        positions = shapes["positional_embedding"][0]
        layer = "transformer.resblocks"
        inner = shapes[f"{layer}.0.mlp.c_fc.weight"][0]
        projection = shapes.get("text_projection", (width, width))[1]
    else:
        vocabulary, width = shapes["text_model.embeddings.token_embedding.weight"]
        layer = "text_model.encoder.layers"
        positions = shapes["text_model.embeddings.position_embedding.weight"][0]
        inner = shapes[f"{layer}.0.mlp.fc1.weight"][0]
        projection = shapes.get("text_projection.weight", (width, width))[0]
    return dict(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        projection_dim=projection,
        num_hidden_layers=counted(shapes, layer),
        num_attention_heads=max(1, width // 64),
        max_position_embeddings=positions,
        hidden_act="quick_gelu" if width == 768 else "gelu",
    )


def t5_config(shapes: Shapes) -> Config:
    attention = "encoder.block.0.layer.0.SelfAttention"
    vocabulary, width = shapes["shared.weight"]
    buckets, heads = shapes[f"{attention}.relative_attention_bias.weight"]
    gated = "encoder.block.0.layer.1.DenseReluDense.wi_0.weight" in shapes
    return dict(
        vocab_size=vocabulary,
        d_model=width,
        d_kv=shapes[f"{attention}.q.weight"][0] // heads,
        d_ff=shapes["encoder.block.0.layer.1.DenseReluDense.wo.weight"][1],
        num_layers=counted(shapes, "encoder.block"),
        num_heads=heads,
        relative_attention_num_buckets=buckets,
        feed_forward_proj="gated-gelu" if gated else "relu",
    )


def scheduler_config(name: str, marks: Mapping[str, float], shapes: Shapes) -> Config:
    """The family's, and what the file itself says: `marks` are the spread of the bias that tells
    v-prediction ("bias"), and the presence of the keys with which fine-tuned SDXL files say so
    ("v_pred", "ztsnr")."""
    config = dict(FAMILIES[name].scheduler)
    if name == "flux" and "guidance_in.in_layer.weight" in shapes:
        return config | FLUX_GUIDED
    if "v_pred" in marks or (name == "sd2" and marks.get("bias", 0.0) > V_BIAS):
        config["prediction_type"] = "v_prediction"
    if "ztsnr" in marks:
        config |= dict(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    return config
