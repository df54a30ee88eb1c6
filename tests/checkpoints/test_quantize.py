"""Quantised folders: what is written loads packed, gives the same logits, and takes the bytes it
should."""

import json

import pytest
import torch

from daedal.checkpoints import load, save
from daedal.checkpoints.packed import prepare_
from daedal.checkpoints.quantize import quantize
from daedal.errors import DaedalError
from daedal.networks import build, config_from_dict
from daedal.nn.quantized import QuantLinear, quantize_

TINY = {
    "model_type": "llama", "vocab_size": 80, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64, "rope_theta": 10000.0,
}  # fmt: skip


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def folder(request, tmp_path):
    torch.manual_seed(0)
    network = build(config_from_dict({**TINY, "tie_word_embeddings": request.param}))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2) if parameter.dim() > 1 else torch.nn.init.ones_(
            parameter
        )
    save(network, tmp_path / "full")
    (tmp_path / "full" / "tokenizer.json").write_text("{}")
    return tmp_path / "full"


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("shard", [5_000_000_000, 10_000])
def test_a_folder_loads_packed_with_the_same_logits(folder, tmp_path, bits, shard) -> None:
    quantize(folder, tmp_path / "out", bits, max_shard_bytes=shard)
    tokens = torch.arange(9)[None]
    with torch.inference_mode():
        ours, reference = load(tmp_path / "out"), quantize_(load(folder), bits)
        assert torch.equal(ours(tokens), reference(tokens))
    assert sum(isinstance(m, QuantLinear) for m in ours.modules()) == 2 * 7 + 1 + (
        bits == 4 and not ours.config.tie_word_embeddings
    )
    assert (tmp_path / "out" / "tokenizer.json").exists()
    assert (
        json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["bits"]
        == bits
    )
    if shard == 10_000:
        assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1


def test_calibrated_int4_keeps_logits_nearer(folder, tmp_path) -> None:
    torch.manual_seed(1)
    tokens = torch.randint(0, 80, (4, 48))
    quantize(folder, tmp_path / "nearest", 4)
    quantize(folder, tmp_path / "gptq", 4, calibration=[tokens])
    with torch.inference_mode():
        full = load(folder)(tokens)
        error = {
            name: (load(tmp_path / name)(tokens) - full).norm().item()
            for name in ("nearest", "gptq")
        }
    assert error["gptq"] < error["nearest"]


def test_quantised_folders_of_others_and_twice_quantised_are_refused(folder, tmp_path) -> None:
    with pytest.raises(DaedalError, match="gptq"):
        prepare_(build(config_from_dict(TINY)), {"quant_method": "gptq", "bits": 4})
    with pytest.raises(DaedalError, match="older Daedal"):
        prepare_(build(config_from_dict(TINY)), {"quant_method": "daedal", "bits": 4})
    quantize(folder, tmp_path / "once", 8)
    with pytest.raises(DaedalError, match="already"):
        quantize(tmp_path / "once", tmp_path / "twice", 8)
