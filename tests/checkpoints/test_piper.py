"""Piper's ONNX voices: one of our own networks written as the exporter writes, and read again."""

import json

import pytest
import torch

from daedal.checkpoints import onnx_file, piper
from daedal.errors import DaedalError
from daedal.networks.vits import VitsConfig, VitsModel

onnx = pytest.importorskip("onnx")

SMALL = VitsConfig(
    vocab_size=20,
    hidden_size=16,
    num_hidden_layers=2,
    ffn_dim=24,
    flow_size=8,
    upsample_initial_channel=16,
    upsample_rates=(4, 2),
    upsample_kernel_sizes=(8, 4),
    resblock_kernel_sizes=(3, 5),
    resblock_dilation_sizes=((1, 2), (2, 6)),
    resblock="2",
    has_posterior=False,
    prior_encoder_num_flows=4,
    prior_encoder_num_wavenet_layers=2,
    sampling_rate=8000,
)


def theirs(name):
    """The original's name of one of ours."""
    import re

    name = re.sub(
        r"layers\.(\d+)\.(attention|layer_norm|feed_forward|final_layer_norm)\.",
        lambda m: {
            "attention": f"attn_layers.{m[1]}.",
            "layer_norm": f"norm_layers_1.{m[1]}.",
            "feed_forward": f"ffn_layers.{m[1]}.",
            "final_layer_norm": f"norm_layers_2.{m[1]}.",
        }[m[2]],
        name,
    )
    if name.startswith("flow."):
        name = re.sub(r"flows\.(\d+)", lambda m: f"flows.{2 * int(m[1])}", name)
    if name.startswith("duration_predictor.flows."):
        name = re.sub(r"flows\.(\d+)", lambda m: f"flows.{max(0, 2 * int(m[1]) - 1)}", name)
    if "norm" in name:
        name = name.replace("weight", "gamma").replace("bias", "beta")
    pairs = (
        ("conv_dds.convs_dilated", "convs.convs_sep"),
        ("conv_dds.convs_pointwise", "convs.convs_1x1"),
        ("conv_dds.norms_", "convs.norms_"),
        ("text_encoder.embed_tokens", "enc_p.emb"),
        ("text_encoder.project", "enc_p.proj"),
        ("text_encoder.", "enc_p."),
        ("decoder.upsampler", "dec.ups"),
        ("decoder.", "dec."),
        ("convs1", "convs"),
        ("wavenet", "enc"),
        ("duration_predictor", "dp"),
        ("translate", "m"),
        ("log_scale", "logs"),
        ("q_proj", "conv_q"),
        ("k_proj", "conv_k"),
        ("v_proj", "conv_v"),
        ("out_proj", "conv_o"),
    )
    for ours, original in pairs:
        name = name.replace(ours, original)
    if name.startswith(("flow.", "dp.")):
        name = re.sub(r"\.conv_(pre|post|proj)\.", r".\1.", name)
    return name


def exported(network, path):
    """The weights and nodes of an export: weight norms folded under new names, some constants too."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, weights = [], []
    for i, (name, tensor) in enumerate(network.state_dict().items()):
        original = theirs(name)
        array = tensor.numpy()
        if "_proj.weight" in name and "text_encoder" in name:
            array = array[..., None]
        stored = f"onnx::Conv_{8000 + i}" if "wavenet" in name and "weight" in name else original
        if original == "dp.flows.0.logs":
            stored, array = "/dp/flows.0/Exp_output_0", (-tensor).exp().numpy()
        weights.append(numpy_helper.from_array(array, stored))
        stem, _, kind = original.rpartition(".")
        path_of = "/" + "/".join(pieces_of(stem))
        if kind == "weight" and array.ndim == 3:
            module = network.get_submodule(name.rpartition(".")[0])
            transposed = isinstance(module, torch.nn.ConvTranspose1d)
            more = (
                dict(strides=list(module.stride), dilations=list(module.dilation))
                if hasattr(module, "stride")
                else {}
            )
            nodes.append(
                helper.make_node(
                    "ConvTranspose" if transposed else "Conv",
                    ["x", stored],
                    ["y"],
                    f"{path_of}/Conv",
                    **more,
                )
            )
        elif original == "enc_p.emb.weight":
            weights[-1].name = "sid"
            nodes.append(helper.make_node("Gather", ["sid", "x"], ["y"], "/enc_p/emb/Gather"))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [x], [x], weights)), path)


def pieces_of(stem):
    """A module's path as scopes: a number belongs to the list in front of it."""
    made = []
    for part in stem.split("."):
        if part.isdigit():
            made[-1] += f".{part}"
        else:
            made.append(part)
    return made


@pytest.fixture
def voice(tmp_path):
    torch.manual_seed(0)
    network = VitsModel(SMALL).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    file = tmp_path / "voice.onnx"
    exported(network, file)
    about = {
        "audio": {"sample_rate": 8000},
        "phoneme_id_map": {c: [i] for i, c in enumerate("_^$ .abc")},
    }
    (tmp_path / "voice.onnx.json").write_text(json.dumps(about))
    return network, file


def test_an_exported_voice_is_the_voice(voice):
    network, file = voice
    assert piper.voice_file(file.parent) == file and piper.is_piper(file)
    made, about = piper.load(file)
    assert made.config == network.config and about["audio"]["sample_rate"] == 8000
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(made.state_dict()[name], tensor)
    tokens = torch.tensor([[1, 0, 5, 0, 6, 0, 2]])
    with torch.no_grad():
        torch.testing.assert_close(made(tokens), network(tokens))


def test_the_reader_agrees_with_onnx(voice):
    from onnx import numpy_helper

    _, file = voice
    weights, nodes = onnx_file.read(file)
    graph = onnx.load(file).graph
    assert weights.keys() == {tensor.name for tensor in graph.initializer}
    for tensor in graph.initializer:
        assert (weights[tensor.name] == numpy_helper.to_array(tensor)).all()
    assert [node.name for node in nodes] == [node.name for node in graph.node]
    assert nodes[-1].inputs == list(graph.node[-1].input)


@pytest.mark.parametrize("cut", [0, 40, 3000])
def test_a_broken_file_is_one_sentence(voice, cut):
    _, file = voice
    file.write_bytes(file.read_bytes()[:cut] if cut else b"no protobuf at all")
    with pytest.raises(DaedalError, match=r"voice\.onnx is (no ONNX file|an ONNX file, but)"):
        piper.load(file)
