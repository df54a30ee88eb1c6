"""What a bad folder says, and what a good one survives."""

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from daedal import checkpoints
from daedal.errors import DaedalError
from daedal.networks.autoencoder import AutoencoderKL, AutoencoderKLConfig
from daedal.networks.config import parse
from daedal.networks.decoder import Decoder
from daedal.networks.scalar import ScalarModel


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
        assert all(
            torch.equal(a, b) and a.dtype == dtype
            for a, b in zip(network.parameters(), again.parameters(), strict=True)
        )


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
        (
            lambda f: (f / "model.safetensors").write_bytes(
                (f / "model.safetensors").read_bytes()[:-500]
            ),
            "truncated",
        ),
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
        (lambda f: edit(f, model_type="lama"), r"'lama'.*did you mean 'llama'"),
        (
            lambda f: edit(f, intermediate_size=64),
            r"6 misshapen tensors: .*down_proj.weight \(.*\) instead of",
        ),
        (lambda f: edit(f, num_hidden_layers=3), r"9 missing tensors: model.layers.2"),
        (
            lambda f: edit(f, num_hidden_layers=1),
            r"LlamaForCausalLM: 9 unmatched tensors: model.layers.1",
        ),
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
    torch.save(
        {network.names.rename(k): v for k, v in network.state_dict().items()},
        folder / "pytorch_model.bin",
    )
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


# What a folder may hold beside what was saved last.


def test_of_a_single_file_and_old_shards_the_file_counts(folder):
    """As in transformers, whose later save leaves the index behind."""
    network = checkpoints.load(folder)
    checkpoints.save(network, folder, max_shard_bytes=50_000)
    shards = {path.name: path.read_bytes() for path in folder.glob("model*")}
    for parameter in network.parameters():
        parameter.data.mul_(2)
    checkpoints.save(network, folder)
    for name, content in shards.items():
        (folder / name).write_bytes(content)
    assert (folder / "model.safetensors.index.json").exists()
    assert torch.equal(checkpoints.load(folder).norm.weight, network.norm.weight)


@pytest.mark.parametrize("says", [True, False])
@pytest.mark.parametrize(
    "kept",
    [
        ("lm_head.weight",),
        ("model.embed_tokens.weight",),
        ("lm_head.weight", "model.embed_tokens.weight"),
    ],
)
def test_a_tied_tensor_may_have_either_name(folder, kept, says):
    state = load_file(folder / "model.safetensors")
    embedding, tied = (
        state.pop("model.embed_tokens.weight"),
        says or kept == ("model.embed_tokens.weight",),
    )
    state.pop("lm_head.weight", None)
    save_file(
        state | {name: embedding.clone() for name in kept},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    edit(folder, tie_word_embeddings=says)
    if not says and kept == ("lm_head.weight",):
        with pytest.raises(DaedalError, match=r"1 missing tensors: model.embed_tokens.weight"):
            checkpoints.load(folder)
        return
    network = checkpoints.load(folder)
    assert torch.equal(network.lm_head.weight, embedding) and torch.equal(
        network.embed_tokens.weight, embedding
    )
    assert (network.lm_head.weight is network.embed_tokens.weight) == tied


def test_a_folder_of_another_kind_is_told(folder, tmp_path):
    vae = AutoencoderKL(parse(AutoencoderKLConfig, {})).init_weights(0)
    checkpoints.save(vae, tmp_path / "vae")
    checkpoints.save(ScalarModel(checkpoints.load(folder)), tmp_path / "reward")
    assert isinstance(checkpoints.load(tmp_path / "vae"), AutoencoderKL)
    assert isinstance(checkpoints.load(tmp_path / "reward"), ScalarModel)
    for name, words in (
        ("vae", "holds a AutoencoderKL, not a language model"),
        ("reward", "holds a reward model, not a language model"),
    ):
        with pytest.raises(DaedalError, match=words):
            checkpoints.load(tmp_path / name, kind=Decoder)


def test_attention_of_gpt2_may_shrink_with_depth(tmp_path):
    config = transformers.GPT2Config(
        vocab_size=50,
        n_positions=16,
        n_embd=16,
        n_layer=3,
        n_head=2,
        scale_attn_by_inverse_layer_idx=True,
        attn_implementation="eager",
    )
    theirs = transformers.GPT2LMHeadModel(config).eval()
    theirs.save_pretrained(tmp_path)
    tokens = torch.arange(12)[None]
    with torch.inference_mode():
        torch.testing.assert_close(
            checkpoints.load(tmp_path)(tokens), theirs(tokens).logits, atol=1e-5, rtol=1e-4
        )
