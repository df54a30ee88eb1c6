"""Piper's voices: an ONNX file of a VITS with a JSON file of the same name beside it, which has the
rate, the phonemes' ids and the defaults. The weights are taken out of the file; onnxruntime is not
needed.

    vits, about = load(Path("en_US-joe-medium.onnx"))

The exporter names a convolution by its module's path and may rename its weight (it folds weight
norms into "onnx::Conv_8168"), so weights are found through the nodes that use them."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from daedal.checkpoints import onnx_file
from daedal.checkpoints.folder import fill
from daedal.checkpoints.onnx_file import Node
from daedal.errors import DaedalError
from daedal.networks.vits import VitsConfig, VitsModel

CONVOLUTIONS = ("Conv", "ConvTranspose")
# substrings of the original's names, and of ours, in order
RENAMES = (
    ("enc_p.emb.", "text_encoder.embed_tokens."),
    ("enc_p.encoder.attn_layers.", "text_encoder.encoder.layers.@attention."),
    ("enc_p.encoder.norm_layers_1.", "text_encoder.encoder.layers.@layer_norm."),
    ("enc_p.encoder.ffn_layers.", "text_encoder.encoder.layers.@feed_forward."),
    ("enc_p.encoder.norm_layers_2.", "text_encoder.encoder.layers.@final_layer_norm."),
    ("enc_p.proj.", "text_encoder.project."), ("emb_g.", "embed_speaker."),
    ("conv_q.", "q_proj."), ("conv_k.", "k_proj."), ("conv_v.", "v_proj."), ("conv_o.", "out_proj."),
    ("dec.ups.", "decoder.upsampler."), ("dec.", "decoder."), (".convs.convs_sep.", ".conv_dds.convs_dilated."),
    (".convs.convs_1x1.", ".conv_dds.convs_pointwise."), (".convs.norms_", ".conv_dds.norms_"), (".enc.", ".wavenet."),
    ("dp.flows.0.m", "dp.flows.0.translate"), ("dp.flows.0.logs", "dp.flows.0.log_scale"), ("dp.", "duration_predictor."),
    ("gamma", "weight"), ("beta", "bias"),
)  # fmt: skip


def is_piper(path: Path) -> bool:
    """Whether a file, or the one ONNX file of a folder, is such a voice."""
    return voice_file(path) is not None


def voice_file(path: Path) -> Path | None:
    """The ONNX file with its JSON beside it, of a file or a folder."""
    files = [path] if path.is_file() else sorted(path.glob("*.onnx"))
    found = [file for file in files if file.suffix == ".onnx" and description(file).exists()]
    return found[0] if found else None


def description(file: Path) -> Path:
    return file.with_name(f"{file.name}.json")


def load(file: Path) -> tuple[VitsModel, dict[str, Any]]:
    """The voice of an ONNX file, in evaluation mode, and what its JSON says."""
    about = json.loads(description(file).read_text())
    weights, nodes = onnx_file.read(file)
    named = originals(weights, nodes)
    if "enc_p.emb.weight" not in named:
        raise DaedalError(f"{file} is an ONNX file, but holds no VITS as Piper exports one.")
    with torch.device("meta"):
        network = VitsModel(config_of(named, nodes, about))
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    fill(network, ours(named, shapes))  # type: ignore[arg-type]
    return network.eval(), about


def originals(weights: dict[str, np.ndarray], nodes: list[Node]) -> dict[str, np.ndarray]:
    """The weights under the names that they had before they were exported."""
    named = {
        name: array for name, array in weights.items() if re.match(r"(enc_p|dec|dp|flow)\.", name)
    }
    for node in nodes:
        path = ".".join(node.name.strip("/").split("/")[:-1])
        if node.kind in CONVOLUTIONS and node.inputs[1] in weights:
            named[f"{path}.weight"] = weights[node.inputs[1]]
        elif node.kind == "Gather" and path in ("enc_p.emb", "emb_g"):
            named[f"{path}.weight"] = weights[node.inputs[0]]
    if (scale := weights.get("/dp/flows.0/Exp_output_0")) is not None:  # exp(-logs), folded
        named["dp.flows.0.logs"] = -np.log(scale)
    return named


def ours(named: dict[str, np.ndarray], shapes: dict[str, torch.Size]) -> Any:
    """(our name, tensor) of each weight."""
    for name, array in named.items():
        place, tensor = our_name(name), torch.from_numpy(np.array(array))
        wanted = shapes.get(place, tensor.shape)
        # attention's projections are convolutions of width 1 there
        yield place, tensor[..., 0] if tensor.dim() == len(wanted) + 1 else tensor


def our_name(name: str) -> str:
    for theirs, mine in RENAMES:
        name = name.replace(theirs, mine)
    if "@" in name:  # layers.@attention.3.q_proj -> layers.3.attention.q_proj
        name = re.sub(r"@(\w+)\.(\d+)", r"\2.\1", name)
    if name.startswith("flow.flows."):  # there, every second flow is a flip
        name = re.sub(r"flows\.(\d+)", lambda m: f"flows.{int(m[1]) // 2}", name)
    if name.startswith("duration_predictor.flows."):
        name = re.sub(r"flows\.(\d+)", lambda m: f"flows.{(int(m[1]) + 1) // 2}", name)
    name = re.sub(r"resblocks\.(\d+)\.convs\.", r"resblocks.\1.convs1.", name)
    if name.startswith(("flow.", "duration_predictor.")):
        name = re.sub(r"\.(pre|post|proj)\.", r".conv_\1.", name)
    return name


def config_of(named: dict[str, np.ndarray], nodes: list[Node], about: dict[str, Any]) -> VitsConfig:
    """The config, told from shapes, strides and dilations, and from the JSON's defaults."""
    numbers = {".".join(node.name.strip("/").split("/")[:-1]): node.numbers for node in nodes}

    def count(stem: str) -> int:
        found = {int(m[1]) for name in named if (m := re.match(rf"{stem}\.(\d+)\.", name))}
        return len(found)

    vocabulary, width = named["enc_p.emb.weight"].shape
    offsets, head = named["enc_p.encoder.attn_layers.0.emb_rel_k"].shape[1:]
    inner, _, kernel = named["enc_p.encoder.ffn_layers.0.conv_1.weight"].shape
    ups = range(count("dec.ups"))
    blocks = range(count("dec.resblocks") // len(ups))
    paired = "dec.resblocks.0.convs1.0.weight" in named
    convs = "convs1" if paired else "convs"
    per_block = range(count(rf"dec\.resblocks\.0\.{convs}"))
    decoder = dict(
        upsample_initial_channel=named["dec.conv_pre.weight"].shape[0],
        upsample_rates=tuple(numbers[f"dec.ups.{i}"]["strides"][0] for i in ups),
        upsample_kernel_sizes=tuple(named[f"dec.ups.{i}.weight"].shape[2] for i in ups),
        resblock="1" if paired else "2",
        resblock_kernel_sizes=tuple(
            named[f"dec.resblocks.{i}.{convs}.0.weight"].shape[2] for i in blocks
        ),
        resblock_dilation_sizes=tuple(
            tuple(numbers[f"dec.resblocks.{i}.{convs}.{j}"]["dilations"][0] for j in per_block)
            for i in blocks
        ),
    )
    return VitsConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=count("enc_p.encoder.attn_layers"),
        num_attention_heads=width // head,
        window_size=offsets // 2,
        ffn_dim=inner,
        ffn_kernel_size=kernel,
        flow_size=named["enc_p.proj.weight"].shape[0] // 2,
        prior_encoder_num_flows=count("flow.flows"),
        prior_encoder_num_wavenet_layers=count(r"flow\.flows\.0\.enc\.in_layers"),
        wavenet_kernel_size=named["flow.flows.0.enc.in_layers.0.weight"].shape[2],
        has_posterior=False,
        **decoder,
        **manner_of(named, about),
    )


def manner_of(named: dict[str, np.ndarray], about: dict[str, Any]) -> dict[str, Any]:
    """The config's speakers, durations, rate, and how freely the voice varies."""
    inference, stochastic = about.get("inference", {}), "dp.flows.0.m" in named
    speakers = named.get("emb_g.weight", np.zeros((1, 0)))
    return dict(
        num_speakers=speakers.shape[0],
        speaker_embedding_size=speakers.shape[1],
        use_stochastic_duration_prediction=stochastic,
        duration_predictor_filter_channels=256 if stochastic else len(named["dp.conv_1.weight"]),
        sampling_rate=about["audio"]["sample_rate"],
        speaking_rate=1 / inference.get("length_scale", 1.0),
        noise_scale=inference.get("noise_scale", 0.667),
        noise_scale_duration=inference.get("noise_w", 0.8),
    )
