"""What a bad folder says, and what a good one survives."""

import json
import shutil

import pytest
import torch

from daedal import checkpoints
from daedal.errors import DaedalError


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "model")


def edit(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_shards_round_trip_in_every_dtype(folder, tmp_path):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        network = checkpoints.load(folder, dtype=dtype)
        checkpoints.save(network, tmp_path / "out", max_shard_bytes=50_000)
        assert len(list((tmp_path / "out").glob("*.safetensors"))) > 3
        again = checkpoints.load(tmp_path / "out")
        assert all(torch.equal(a, b) and a.dtype == dtype for a, b in zip(network.parameters(), again.parameters(), strict=True))


def test_saving_over_shards_leaves_no_stale_one(folder):
    network = checkpoints.load(folder)
    checkpoints.save(network, folder, max_shard_bytes=50_000)
    checkpoints.save(network, folder)
    assert [p.name for p in folder.glob("*.safetensors*")] == ["model.safetensors"]
    checkpoints.load(folder)


@pytest.mark.parametrize(
    ("breakage", "words"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "holds no weights"),
        (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-500]), "truncated"),
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
        (lambda f: edit(f, model_type="lama"), r"'lama'.*did you mean 'llama'"),
        (lambda f: edit(f, intermediate_size=64), "has shape .* where config.json asks for"),
        (lambda f: edit(f, num_hidden_layers=3), r"lacks 9 tensors"),
        (lambda f: edit(f, num_hidden_layers=1), r"9 tensors that llama has no place for"),
        (lambda f: edit(f, vocab_size=None), "lacks vocab_size"),
        (lambda f: edit(f, rope_scaling={"rope_type": "yarm", "factor": 2}), "did you mean 'yarn'"),
    ],
)
def test_a_bad_folder_gets_one_sentence(folder, breakage, words):
    breakage(folder)
    with pytest.raises(DaedalError, match=words):
        checkpoints.load(folder)(torch.zeros(1, 1, dtype=torch.long))


def test_pickled_weights_are_refused_unless_asked(folder):
    network = checkpoints.load(folder)
    torch.save({network.names.rename(k): v for k, v in network.state_dict().items()}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(DaedalError, match="pickled"):
        checkpoints.load(folder)
    again = checkpoints.load(folder, allow_pickle=True)
    assert torch.equal(again.lm_head.weight, network.lm_head.weight)


def test_names():
    with pytest.raises(DaedalError, match="neither a folder"):
        checkpoints.resolve("./nowhere")
    with pytest.raises(DaedalError, match="house model"):
        checkpoints.resolve("house/nothing")
    with pytest.raises(DaedalError, match="not downloaded and the Hub cannot be reached"):
        checkpoints.resolve("some-owner/some-model-that-is-not-here")
