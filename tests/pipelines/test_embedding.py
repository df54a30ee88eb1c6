"""Sentences as vectors: what a sentence-transformers folder says, by hand and from the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import daedal
from daedal import checkpoints
from daedal.cli import main
from daedal.errors import DaedalError
from daedal.networks.bert import BertConfig, BertModel
from daedal.pipelines import embedding

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    *["a", "cat", "dog", "sat", "on", "the", "mat", "query", ":"],
]
TEXTS = ["a cat", "the dog sat on the mat", "cat", "a dog sat", ""]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    torch.manual_seed(0)
    network = BertModel(
        BertConfig(
            vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=24, max_position_embeddings=12,
        )
    )  # fmt: skip
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.5)
    checkpoints.save(network, tmp_path)
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    backend.enable_truncation(4)  # left by somebody's training
    backend.save(str(tmp_path / "tokenizer.json"))
    write(tmp_path / "tokenizer_config.json", {"cls_token": "[CLS]", "sep_token": "[SEP]"})
    return tmp_path


def write(path: Path, value: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value))


def modules(folder: Path, *kinds: str) -> None:
    entries = [{"type": "sentence_transformers.models.Transformer", "path": ""}] + [
        {"type": f"sentence_transformers.models.{kind}", "path": f"{i + 1}_{kind}"}
        for i, kind in enumerate(kinds)
    ]
    write(folder / "modules.json", entries)


def states(folder: Path, text: str) -> torch.Tensor:
    ids = [2, *(WORDS.index(word) for word in text.split()), 3]
    with torch.inference_mode():
        return checkpoints.load(folder)(torch.tensor(ids), [len(ids)])


def test_pooling_dense_and_norm_in_their_order(folder: Path) -> None:
    modules(folder, "Pooling", "Dense", "Normalize")
    pooling = {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}
    write(folder / "1_Pooling" / "config.json", pooling)
    weight, bias = torch.randn(6, 32), torch.randn(6)
    function = "torch.nn.modules.activation.Tanh"
    dense = {"in_features": 32, "out_features": 6, "bias": True, "activation_function": function}
    write(folder / "2_Dense" / "config.json", dense)
    save_file(
        {"linear.weight": weight, "linear.bias": bias}, folder / "2_Dense" / "model.safetensors"
    )
    embedder = daedal.load(folder)
    assert isinstance(embedder, embedding.Embedder)
    vectors = embedder.embed(TEXTS)
    assert vectors.shape == (5, 6) and vectors.dtype == np.float32
    for text, vector in zip(TEXTS, vectors, strict=True):
        x = states(folder, text)
        pooled = torch.tanh(weight @ torch.cat([x.mean(0), x.amax(0)]) + bias)
        np.testing.assert_allclose(vector, pooled / pooled.norm(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(embedder.embed(text), vector, rtol=1e-4, atol=1e-5)
    assert embedder.embed([]).shape[0] == 0


@pytest.mark.parametrize(
    ("mode", "of"),
    [
        ({"pooling_mode_cls_token": True}, lambda x: x[0]),
        ({"pooling_mode": "lasttoken"}, lambda x: x[-1]),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, lambda x: x.sum(0) / len(x) ** 0.5),
        (
            {"pooling_mode_weightedmean_tokens": True},
            lambda x: (x * torch.arange(1, len(x) + 1)[:, None]).sum(0) / sum(range(len(x) + 1)),
        ),
    ],
)
def test_ways_of_pooling(folder: Path, mode: dict, of) -> None:
    modules(folder, "Pooling")
    write(folder / "1_Pooling" / "config.json", mode)
    for text, vector in zip(TEXTS, daedal.load(folder).embed(TEXTS), strict=True):
        np.testing.assert_allclose(vector, of(states(folder, text)), rtol=1e-4, atol=1e-5)


def test_prompts_limits_and_case(folder: Path) -> None:
    said = {"prompts": {"query": "query : ", "document": ""}, "default_prompt_name": "query"}
    write(folder / "config_sentence_transformers.json", said)
    write(folder / "sentence_bert_config.json", {"max_seq_length": 6, "do_lower_case": True})
    embedder = daedal.load(folder)
    mean = states(folder, "query : a cat").mean(0)
    np.testing.assert_allclose(embedder.embed("A CAT"), mean, rtol=1e-4, atol=1e-5)
    plain = embedder.embed("a cat", prompt="document")
    np.testing.assert_allclose(plain, states(folder, "a cat").mean(0), rtol=1e-4, atol=1e-5)
    # cut to six tokens, the last of them [SEP]
    long = embedder.embed("the dog sat on the mat", prompt="document")
    np.testing.assert_allclose(long, states(folder, "the dog sat on").mean(0), rtol=1e-4, atol=1e-5)
    with pytest.raises(DaedalError, match=r"'quary' is not a prompt .*did you mean 'query'"):
        embedder.embed("a cat", prompt="quary")


def test_what_is_not_known_gets_a_sentence(folder: Path) -> None:
    modules(folder, "WordWeights")
    with pytest.raises(DaedalError, match="a module 'WordWeights' behind its encoder"):
        daedal.load(folder)
    (folder / "modules.json").unlink()
    with pytest.raises(
        DaedalError, match=r"quantize=8 does not apply to .* it takes device, dtype"
    ):
        daedal.load(folder, quantize=8)
    modules(folder, "Pooling")
    write(folder / "1_Pooling" / "config.json", {})
    with pytest.raises(DaedalError, match=r"pooling .* is none that Daedal knows"):
        daedal.load(folder)


def test_the_command_line(folder: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    def run(*args: object) -> None:
        monkeypatch.setattr("sys.argv", ["daedal", *map(str, args)])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0

    run("embed", "a cat", "the mat", "-m", folder)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    want = daedal.load(folder).embed(["a cat", "the mat"])
    assert [line["text"] for line in lines] == ["a cat", "the mat"]
    np.testing.assert_allclose([line["embedding"] for line in lines], want, rtol=1e-5)
    run("embed", "a cat", "the mat", "-m", folder, "-o", tmp_path / "a.npz")
    assert capsys.readouterr().out.strip() == str(tmp_path / "a.npz")
    read = np.load(tmp_path / "a.npz")
    assert read["texts"].tolist() == ["a cat", "the mat"]
    np.testing.assert_allclose(read["embeddings"], want, rtol=1e-5)
