"""GGUF files of every family, type and tokenizer, written by the gguf package (gguf_files), against
transformers' models and its own reader of GGUF; and what is wrong with a file, said in a sentence."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers

import daedal
from daedal import checkpoints
from daedal.checkpoints import gguf_file, gguf_write
from daedal.data import gguf_tokenizer
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.nn.quantized import QuantLinear, dequantize_, quantize_
from daedal.pipelines.digest import digest

HERE = Path(__file__).parent


def sibling(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    sys.modules[path.stem] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


gguf_files = sibling(HERE / "gguf_files.py")
CASES = sibling(HERE.parent / "networks" / "test_families.py").CASES
# What a GGUF file cannot say, or llama.cpp does not know.
UNSAID = ("llama-dynamic", "qwen2-window", "qwen3_moe-mixed", "mistral", "starcoder2")
WINDOWLESS = {"mistral": "mistral", "starcoder2": "starcoder2"}
FAMILIES = {name: case for name, case in CASES.items() if name not in UNSAID} | {
    name: (family, {k: v for k, v in CASES[name][1].items() if k != "sliding_window"} | {"sliding_window": None})
    for name, family in WINDOWLESS.items()
}  # fmt: skip
LLAMA31 = dict(
    rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192,
)  # fmt: skip
FAMILIES["llama3.1"] = ("llama", CASES["llama"][1] | dict(rope_parameters=LLAMA31, head_dim=16))
KINDS = [kind.upper() for kind, _, _ in gguf_file.TYPES.values()]
THEIRS = ("llama", "qwen2")  # that transformers reads at other sizes than the published ones


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    from daedal.checkpoints import gguf_folder

    monkeypatch.setenv("DAEDAL_CACHE", str(tmp_path / "cache"))
    gguf_folder.writable.cache_clear()
    yield
    gguf_folder.writable.cache_clear()


def model(case: str, folder: Path, cases=FAMILIES):
    """A random model of transformers, saved."""
    family, options = cases[case]
    torch.manual_seed(0)
    theirs = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(family, **options)
    ).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3 if parameter.dim() > 1 else 0.1)
    theirs.save_pretrained(folder)
    return theirs


def close(a, b, tolerance=1e-4):
    assert (a - b).abs().max() < tolerance * max(1, b.abs().max().item()), (a - b).abs().max()


def tokens(length: int = 40):
    return torch.randint(3, 96, (2, length), generator=torch.Generator().manual_seed(length))


@pytest.mark.parametrize("case", FAMILIES)
@torch.inference_mode()
def test_families(case, tmp_path):
    theirs = model(case, tmp_path / "hf")
    path = gguf_files.write(tmp_path / "hf", tmp_path / "m.gguf", theirs.config)
    ours = checkpoints.load(checkpoints.resolve(path))
    for length in (5, 40):
        close(ours(tokens(length)), theirs(tokens(length)).logits)


@pytest.mark.parametrize("case", THEIRS)
@torch.inference_mode()
def test_as_transformers_reads_it(case, tmp_path):
    theirs = model(case, tmp_path / "hf")
    path = gguf_files.write(tmp_path / "hf", tmp_path / "m.gguf", theirs.config, "Q8_0", vocabulary)
    again = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=path.name, dtype=torch.float32
    )
    close(dequantize_(checkpoints.load(path))(tokens()), again.eval()(tokens()).logits)


def vocabulary(writer, size: int = 96) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"t{i}" for i in range(size)])
    writer.add_token_types([1] * size)
    writer.add_token_merges([])


def test_llama_31_is_known_by_its_factors(tmp_path):
    theirs = model("llama3.1", tmp_path / "hf")
    path = gguf_files.write(tmp_path / "hf", tmp_path / "m.gguf", theirs.config)
    scaling = dict(checkpoints.load(path).config.rope_scaling)
    assert scaling["rope_type"] == "llama3" and scaling["factor"] == 8.0


# Types.

WIDE = dict(
    vocab_size=96, hidden_size=256, intermediate_size=256, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, head_dim=64,
    max_position_embeddings=64, bos_token_id=1, eos_token_id=2,
)  # fmt: skip


def wide(folder: Path, **options):
    torch.manual_seed(0)
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**WIDE | options))
    theirs.save_pretrained(folder)
    return theirs


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_types(kind, tmp_path):
    """Every tensor is what the gguf package says its blocks stand for."""
    theirs = wide(tmp_path / "hf")
    path = gguf_files.write(tmp_path / "hf", tmp_path / "m.gguf", theirs.config, kind)
    reader = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    ours = checkpoints.load(path)
    packed = kind not in ("F32", "F16", "BF16")
    assert any(isinstance(module, QuantLinear) for module in ours.modules()) == packed
    logits = ours(tokens())
    dequantize_(ours)
    close(logits, ours(tokens()), 0.03 if packed else 1e-6)  # kernels round activations
    for name, disk, heads in (("down", "ffn_down", 0), ("q", "attn_q", 4), ("k", "attn_k", 2)):
        tensor = reader[f"blk.0.{disk}.weight"]
        expected = torch.tensor(gguf.quants.dequantize(tensor.data, tensor.tensor_type)).float()
        if heads:
            expected = expected.view(heads, -1, 2, 256).transpose(1, 2).reshape(-1, 256)
        part = ours.layers[0].mlp if name == "down" else ours.layers[0].self_attn
        close(getattr(part, f"{name}_proj").weight.float(), expected, 1e-6)


@pytest.mark.parametrize(
    "case", ["mixtral", "qwen3_moe", "phi3", "gpt2", "gpt_neox", "gemma3", "llama-tied"]
)
@torch.inference_mode()
def test_packed_families(case, tmp_path):
    """Experts, matrices that are several of ours, tied heads: what stays in blocks, and is cut from
    rows of blocks, stands for what the same file in fp32 holds."""
    theirs = model(case, tmp_path / "hf")
    path = gguf_files.write(tmp_path / "hf", tmp_path / "m.gguf", theirs.config, "Q8_0")
    ours, whole = checkpoints.load(path), checkpoints.load(tmp_path / "hf")
    assert any(isinstance(module, QuantLinear) for module in ours.modules())
    for name, tensor in dequantize_(ours).state_dict().items():
        close(tensor, whole.state_dict()[name], 0.01)


def test_our_reader_is_the_package_s(tmp_path):
    """Metadata of every type of value."""
    values = dict(
        u8=(1, "uint8"),
        i64=(-5, "int64"),
        f=(1e-6, "float32"),
        b=(True, "bool"),
        s=("été", "string"),
    )
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    for key, (value, kind) in values.items():
        getattr(writer, f"add_{kind}")(key, value)
    writer.add_array("numbers", [1, 2, 3])
    writer.add_array("words", ["a", "", "日"])
    writer.add_tensor("x", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = gguf_file.read(tmp_path / "m.gguf")
    assert {key: found.metadata[key] for key in values} == {k: v for k, (v, _) in values.items()}
    assert found.metadata["numbers"] == [1, 2, 3] and found.metadata["words"] == ["a", "", "日"]
    assert found.raw("x").view(torch.float32).tolist() == [[0, 1, 2], [3, 4, 5]]


# Files.


def parts(folder: Path, **options) -> list[Path]:
    theirs = wide(folder / "hf")
    path = gguf_files.write(
        folder / "hf", folder / "m.gguf", theirs.config, split_max_tensors=4, **options
    )
    return sorted(path.parent.glob("m-*.gguf"))


def test_any_part_opens_all(tmp_path):
    files = parts(tmp_path)
    assert len(files) > 2
    first, last = (checkpoints.load(file).state_dict() for file in (files[0], files[-1]))
    assert first.keys() == last.keys()
    assert all(torch.equal(first[name], last[name]) for name in first)


def test_a_missing_part_is_named(tmp_path):
    files = parts(tmp_path)
    files[1].unlink()
    with pytest.raises(DaedalError, match=f"{files[1].name} is not beside it"):
        checkpoints.load(files[0])


def test_a_folder_of_one_file_is_that_file(tmp_path):
    theirs = wide(tmp_path / "hf")
    (tmp_path / "models").mkdir()
    path = gguf_files.write(tmp_path / "hf", tmp_path / "models" / "m.gguf", theirs.config)
    assert checkpoints.resolve(path.parent) == checkpoints.resolve(path)
    shutil.copy(path, path.with_name("other.gguf"))
    with pytest.raises(DaedalError, match=r"holds 2 GGUF models \(m.gguf, other.gguf\)"):
        checkpoints.resolve(path.parent)


def test_digest_is_of_the_contents(tmp_path):
    theirs = wide(tmp_path / "hf")
    path = gguf_files.write(tmp_path / "hf", tmp_path / "m.gguf", theirs.config)
    before = digest(checkpoints.resolve(path))
    with path.open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\0\0\1\0")
    assert digest(checkpoints.resolve(path)) != before


@pytest.mark.parametrize("kind", ["F32", "Q4_K"])
def test_weights_are_maps_of_the_file(kind, tmp_path):
    """Nothing that is not converted is copied: the memory is the file's."""
    theirs = wide(tmp_path / "hf")
    path = gguf_files.write(tmp_path / "hf", tmp_path / "m.gguf", theirs.config, kind)
    weight = checkpoints.load(path).layers[0].mlp.down_proj.weight
    start = gguf_file.mapped(path.resolve()).ctypes.data
    assert start < weight.data_ptr() < start + path.stat().st_size


# Tokenizers.

TEXTS = [
    "Hello world", "  two  spaces\n\n\n\ttabs ", "x = 12345 + 3.14  # it's WE'LL", "été naïve 日本語 😀", "a\r\nb", "", " ", "<|end|>",
]  # fmt: skip
CORPUS = [
    "the keeper climbed 12345 stairs, it's dark. été naïve 日本語\n\tx = f(1)",
    "WE'LL see  the sea",
] * 20


SPLITS = {
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "gpt-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
}  # fmt: skip


SPLITS = {
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "gpt-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
}  # fmt: skip


@pytest.mark.parametrize("pre", SPLITS)
def test_byte_level_bpe(pre, tmp_path):
    """A BPE trained with the published expressions comes back from the file's tokens and merges."""
    original = trained(SPLITS[pre], pre == "llama-bpe")
    state = json.loads(original.to_str())["model"]
    words = sorted(state["vocab"], key=state["vocab"].get)

    def metadata(writer):
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(words)
        writer.add_token_types([3 if word == "<|end|>" else 1 for word in words])
        writer.add_token_merges([" ".join(pair) for pair in state["merges"]])
        writer.add_eos_token_id(words.index("<|end|>"))
        writer.add_bos_token_id(words.index("<|end|>"))
        writer.add_add_bos_token(False)
        writer.add_chat_template("{{ messages[0]['content'] }}")

    theirs = wide(tmp_path / "hf")
    path = gguf_files.write(tmp_path / "hf", tmp_path / "m.gguf", theirs.config, metadata=metadata)
    for _ in range(2):  # made, then as it was kept
        tokenizer = Tokenizer.load(checkpoints.resolve(path))
        for text in TEXTS:
            plain = original.encode(text, add_special_tokens=False).ids
            assert tokenizer.encode(text, special=True) == plain, text
            assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.chat_template == "{{ messages[0]['content'] }}"
        assert tokenizer.eos_ids == (words.index("<|end|>"),)
        assert words.index("<|end|>") not in tokenizer.encode("<|end|>")


def trained(split: str, ignore_merges: bool = False, corpus=None, size: int = 400):
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    backend = tokenizers.Tokenizer(models.BPE(ignore_merges=ignore_merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(tokenizers.Regex(split), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend.train_from_iterator(corpus or CORPUS, trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False,
    ))  # fmt: skip
    return backend


def scored(folder: Path, prefix: bool):
    """A SentencePiece BPE, trained into t.model."""
    oracle = pytest.importorskip("sentencepiece")
    (folder / "c.txt").write_text("\n".join(CORPUS))
    oracle.SentencePieceTrainer.train(
        input=str(folder / "c.txt"), model_prefix=str(folder / "t"), vocab_size=330, model_type="bpe", byte_fallback=True, minloglevel=2,
        normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=prefix,
    )  # fmt: skip
    return oracle.SentencePieceProcessor(model_file=str(folder / "t.model"))


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece(prefix, tmp_path):
    theirs = scored(tmp_path, prefix)
    pieces = range(theirs.vocab_size())

    def metadata(writer):
        writer.add_tokenizer_model("llama")
        writer.add_token_list([theirs.id_to_piece(i) for i in pieces])
        writer.add_token_scores([theirs.get_score(i) for i in pieces])
        writer.add_token_types([
            2 if theirs.is_unknown(i) else 3 if theirs.is_control(i) else 6 if theirs.is_byte(i) else 1 for i in pieces
        ])  # fmt: skip
        writer.add_bos_token_id(theirs.bos_id())
        writer.add_eos_token_id(theirs.eos_id())
        writer.add_add_space_prefix(prefix)

    config = wide(tmp_path / "hf").config
    path = gguf_files.write(tmp_path / "hf", tmp_path / "m.gguf", config, metadata=metadata)
    tokenizer = Tokenizer.load(path)
    for text in TEXTS[:-1]:
        assert tokenizer.encode(text, add_bos=False) == theirs.encode(text), text
    assert tokenizer.encode("sea")[0] == theirs.bos_id()  # unless the file says otherwise
    assert tokenizer.eos_ids == (theirs.eos_id(),)


# What is wrong.


def refused(path: Path, match: str, open_it=checkpoints.load) -> None:
    with pytest.raises(DaedalError, match=match) as caught:
        open_it(path)
    assert str(caught.value).count(". ") == 0 and str(caught.value).endswith(".")


def test_not_a_gguf_file(tmp_path):
    (tmp_path / "m.gguf").write_text("version https://git-lfs.github.com/spec/v1\n")
    refused(tmp_path / "m.gguf", "is not a GGUF file")
    (tmp_path / "empty.gguf").touch()
    refused(tmp_path / "empty.gguf", "is not a GGUF file")
    refused(tmp_path / "none.gguf", "is not there", checkpoints.resolve)


@pytest.mark.parametrize("share", [0.001, 0.3, 0.999])
def test_truncated(share, tmp_path):
    config = wide(tmp_path / "hf").config
    path = gguf_files.write(tmp_path / "hf", tmp_path / "m.gguf", config)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refused(path, "is truncated or damaged")


def test_version_and_byte_order(tmp_path):
    config = wide(tmp_path / "hf").config
    path = gguf_files.write(tmp_path / "hf", tmp_path / "m.gguf", config)
    data = path.read_bytes()
    path.write_bytes(data[:4] + b"\1\0\0\0" + data[8:])
    refused(path, "is GGUF version 1")


@pytest.mark.parametrize("architecture, kind, match", [
    ("mamba", "model", "is a GGUF file of architecture 'mamba', which Daedal does not know"),
    ("clip", "mmproj", "is the vision part of a model"),
    ("llama", "adapter", "is a LoRA adapter"),
    ("llama", "imatrix", "is of type 'imatrix', not a model"),
])  # fmt: skip
def test_other_files(architecture, kind, match, tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", architecture)
    writer.add_type(kind)
    writer.add_tensor("x", np.zeros(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    refused(tmp_path / "m.gguf", match)


def test_a_type_that_is_not_read(tmp_path):
    config = wide(tmp_path / "hf").config
    path = gguf_files.write(tmp_path / "hf", tmp_path / "m.gguf", config, "TQ2_0")
    refused(path, "in type TQ2_0, which Daedal does not read")


def unknown_pre(writer):
    vocabulary(writer)
    writer.kv_data[0]["tokenizer.ggml.pre"].value = "lama-bpe"


def unknown_kind(writer):
    vocabulary(writer)
    writer.kv_data[0]["tokenizer.ggml.model"].value = "rwkv"


@pytest.mark.parametrize("metadata, match", [
    (None, "holds no tokenizer"),
    (unknown_pre, "wants the pre-tokenizer 'lama-bpe', which Daedal does not know; did you mean|lama-bpe"),
    (unknown_kind, "has a tokenizer of kind 'rwkv'"),
])  # fmt: skip
def test_tokenizers_that_are_not_read(metadata, match, tmp_path):
    config = wide(tmp_path / "hf").config
    path = gguf_files.write(tmp_path / "hf", tmp_path / "m.gguf", config, metadata=metadata)
    refused(path, match, Tokenizer.load)


def test_a_tensor_too_many(tmp_path):
    config = wide(tmp_path / "hf").config

    def extra(writer):
        writer.add_tensor("blk.0.ffn_gate_shexp.weight", np.zeros((4, 4), np.float32))

    path = gguf_files.write(tmp_path / "hf", tmp_path / "m.gguf", config, metadata=extra)
    refused(path, "1 unmatched tensors: layers.0.ffn_gate_shexp.weight")


# As a model.


def test_a_text_from_a_file_by_its_name(tmp_path):
    def metadata(writer):
        letters = [chr(c) for c in range(33, 127)]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list([*letters, "Ġ", "<|endoftext|>"])
        writer.add_token_types([1] * 95 + [3])
        writer.add_token_merges([])
        writer.add_eos_token_id(95)

    config = wide(tmp_path / "hf").config
    path = gguf_files.write(tmp_path / "hf", tmp_path / "m.gguf", config, metadata=metadata)
    pipeline = daedal.load(path)
    text = pipeline("Once upon a time", max_tokens=8, seed=1)
    assert pipeline.reproduce(json.loads(json.dumps(text.recipe))).text == text.text
    assert text.recipe["model"] == str(path) and text.recipe["digest"]


# Written.

UNSAYABLE = {
    "llama-dynamic": "rope_scaling", "qwen2-window": "the sliding window", "qwen3_moe-mixed": "mlp_only_layers",
}  # fmt: skip
SAYABLE = FAMILIES | {name: case for name, case in CASES.items() if name not in UNSAYABLE}


@pytest.mark.parametrize("case", SAYABLE)
def test_written_as_others_write_it(case, tmp_path):
    """Tensor for tensor what the package's writer, its names and the converter's rules make of the
    folder; and read, the same network."""
    theirs = model(case, tmp_path / "hf", SAYABLE)
    gguf_files.write(tmp_path / "hf", tmp_path / "theirs.gguf", theirs.config)
    network = checkpoints.load(tmp_path / "hf")
    gguf_write.write(network, tmp_path / "ours.gguf", "f32", {})
    ours, expected = (
        {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / name).tensors}
        for name in ("ours.gguf", "theirs.gguf")
    )
    assert ours.keys() == expected.keys()
    for name, data in expected.items():
        np.testing.assert_allclose(ours[name], data, rtol=1e-5, atol=1e-6, err_msg=name)
    again = checkpoints.load(tmp_path / "ours.gguf")
    close(again(tokens()), network(tokens()), 1e-5)
    assert sorted(path.name for path in tmp_path.glob("*.gguf")) == ["ours.gguf", "theirs.gguf"]


@pytest.mark.parametrize("case", UNSAYABLE)
def test_what_a_file_cannot_say(case, tmp_path):
    model(case, tmp_path / "hf", CASES)
    network = checkpoints.load(tmp_path / "hf")
    with pytest.raises(DaedalError, match=f"cannot say {UNSAYABLE[case]}"):
        gguf_write.write(network, tmp_path / "out.gguf", "f32", {})
    assert not list(tmp_path.glob("*out.gguf*"))


@pytest.mark.parametrize("kind", gguf_write.ASKED)
def test_types_written(kind, tmp_path):
    wide(tmp_path / "hf")
    network = checkpoints.load(tmp_path / "hf")
    gguf_write.write(network, tmp_path / "m.gguf", kind, {})
    again = dequantize_(checkpoints.load(tmp_path / "m.gguf"))
    tolerance = {"f32": 0, "f16": 5e-4, "auto": 5e-4, "bf16": 4e-3, "q8_0": 4e-3, "q4_k_m": 0.07}
    for (name, ours), theirs in zip(
        again.state_dict().items(), network.state_dict().values(), strict=True
    ):
        assert (ours.float() - theirs).abs().max() <= tolerance[kind] * theirs.abs().max(), name


@pytest.mark.parametrize("kind", ["auto", "q4_k_m"])
@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_packed_weights_stay_as_they_are(kind, family, tmp_path):
    """What Daedal packed to 4 bits, calibrated perhaps, is in the file to the byte; and out of that
    in another file."""
    theirs = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(
            family, **WIDE | dict(num_hidden_layers=2, pad_token_id=0)
        )
    )
    theirs.save_pretrained(tmp_path / "hf")
    network = quantize_(checkpoints.load(tmp_path / "hf"), 4)
    gguf_write.write(network, tmp_path / "one.gguf", kind, {})
    one = checkpoints.load(tmp_path / "one.gguf")
    gguf_write.write(one, tmp_path / "two.gguf", kind, {})
    two = checkpoints.load(tmp_path / "two.gguf")
    for again in (one, two) if family == "llama" else (two,):  # Phi-3 fuses kinds into the larger
        for (name, ours), kept in zip(
            again.state_dict().items(),
            (network if family == "llama" else one).state_dict().values(),
            strict=True,
        ):
            assert torch.equal(ours, kept.to(ours.dtype)) or name == "embed_tokens.weight", name


def test_numbers_beyond_16_bits(tmp_path):
    wide(tmp_path / "hf")
    network = checkpoints.load(tmp_path / "hf")
    network.layers[0].mlp.up_proj.weight.data[0, 0] = 1e6
    with pytest.raises(
        DaedalError, match=r"layers.0.mlp.up_proj.weight has values that f16 cannot hold"
    ):
        gguf_write.write(network, tmp_path / "m.gguf", "f16", {})


def test_a_type_that_is_not_written(tmp_path):
    wide(tmp_path / "hf")
    with pytest.raises(DaedalError, match=r"type 'q8' is not one of .*did you mean 'q8_0'"):
        gguf_write.write(checkpoints.load(tmp_path / "hf"), tmp_path / "m.gguf", "q8", {})


def converted(*arguments) -> str:
    from typer.testing import CliRunner

    from daedal.cli import app

    result = CliRunner().invoke(app, ["convert", *map(str, arguments)])
    assert not result.exit_code, result.output
    return result.output


@pytest.mark.parametrize("pre", ["llama-bpe", "house"])
def test_there_and_back_by_the_command_line(pre, tmp_path, tiny_folder):
    """Folder, file, folder: the same weights, tokens and frames, in Daedal and in transformers. The
    house's own tokenizer, for which llama.cpp has no name, is in the file whole, with a remark."""
    folder = tiny_folder
    if pre != "house":
        folder = tmp_path / "llama"
        wide(folder, vocab_size=400)
        tokenizer = Tokenizer(trained(SPLITS[pre], pre == "llama-bpe"), roles={"bos_token": "<|end|>", "eos_token": "<|end|>"}, chat_template="{{ messages }}")  # fmt: skip
        tokenizer._frame(True, False)
        tokenizer.save(folder)
    said = converted(folder, tmp_path / "m.gguf", "--type", "f32")
    assert ("llama.cpp has no name" in said) == (pre == "house")
    converted(tmp_path / "m.gguf", tmp_path / "back", "--dtype", "fp32")
    before, after = (
        checkpoints.load(place, torch.float32) for place in (folder, tmp_path / "back")
    )
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back")
    close(after(tokens(12)), before(tokens(12)), 1e-5)
    close(after(tokens(12)), theirs(tokens(12)).logits, 1e-4)
    words = [Tokenizer.load(place) for place in (folder, tmp_path / "m.gguf", tmp_path / "back")]
    other = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    for text in TEXTS:
        rows = [tokenizer.encode(text) for tokenizer in words]
        assert rows[0] == rows[1] == rows[2] == other.encode(text, split_special_tokens=True), text
    assert {tokenizer.chat_template for tokenizer in words} == {words[0].chat_template}
    assert {tokenizer.eos_ids for tokenizer in words} == {words[0].eos_ids}


def test_sentencepiece_written(tmp_path):
    """Scores made from merges cut text as the original does."""
    oracle = pytest.importorskip("sentencepiece")
    folder = tmp_path / "hf"
    wide(folder, vocab_size=330)
    scored(tmp_path, True)
    shutil.copy(tmp_path / "t.model", folder / "tokenizer.model")
    theirs = oracle.SentencePieceProcessor(model_file=str(tmp_path / "t.model"))
    converted(folder, tmp_path / "m.gguf")
    tokenizer = Tokenizer.load(tmp_path / "m.gguf")
    for text in TEXTS[:-1]:
        assert tokenizer.encode(text, add_bos=False) == theirs.encode(text), text


@pytest.mark.parametrize("case", ["llama", "llama3.1", "mixtral", "qwen2", "qwen3", "qwen3_moe", "gemma2", "gemma3", "phi3", "smollm3",
                                  "olmo2", "starcoder2", "gpt2", "gpt_neox"])  # fmt: skip
def test_llama_cpp_opens_it(case, tmp_path):
    """llama.cpp, with keys and values in fp32, says the same logits from a file of ours. (It leaves
    Phi-3's window out.)"""
    llama_cpp = pytest.importorskip("llama_cpp")
    wider = {"vocab_size": 400, "bos_token_id": 1, "eos_token_id": 2}
    family, options = FAMILIES[case]
    wider |= {"sliding_window": None} if case == "phi3" else {}
    theirs = model(case, tmp_path / "hf", {case: (family, options | wider)})
    Tokenizer(trained(SPLITS["gpt-2"], False), roles={"eos_token": "<|end|>"}).save(tmp_path / "hf")
    converted(tmp_path / "hf", tmp_path / "m.gguf", "--type", "f32")
    ids = tokens(24)[0].tolist()
    exact = dict(type_k=0, type_v=0, n_threads=1, verbose=False)
    llama = llama_cpp.Llama(str(tmp_path / "m.gguf"), n_ctx=64, logits_all=True, **exact)
    llama.eval(ids)
    with torch.inference_mode():
        expected = theirs(torch.tensor([ids])).logits[0]
    close(torch.tensor(llama.scores[: len(ids)]), expected, 1e-3)


MIXED = [
    *TEXTS, "don't I'LL we've 'tis O'Neil's", "1234567 12,345.67 ３４５ ½ x1y2z3", "HelloWorld camelCase ÉTÉ ñandú ΑΒΓαβγ", "日本語テキスト中文字符한국어",
    "a  b   c\t\td\n\n\ne \r\n f \n", "$x^2_{i}$ <div class=\"a\">&amp;</div> a/b\\c #!/bin/sh", "Привет, мир! مرحبا नमस्ते ไทย", "🙂🙃 👩‍👩‍👧 ☃", "“quotes” — dash… ¿qué?",
    "   ", "\n", "trailing ", " lead", "x=-1+2*(3-4)/5**6", "if (a<b&&c>d||!e) {\n    return;\n}\n",
]  # fmt: skip


@pytest.mark.parametrize("pre", [names.split()[0] for names in gguf_tokenizer.PRE.values()])
def test_llama_cpp_cuts_as_we_do(pre, tmp_path):
    """Each named pre-tokenizer, with a vocabulary whose merges would join whatever is not cut. (Of
    GPT-4o's and Tekken's llama.cpp leaves combining marks out, which their originals have.)"""
    llama_cpp = pytest.importorskip("llama_cpp")
    state = json.loads(trained(r"[\s\S]+", corpus=MIXED * 4, size=1200).to_str())["model"]
    words = sorted(state["vocab"], key=state["vocab"].get)

    def metadata(writer):
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(words)
        writer.add_token_types([3 if word == "<|end|>" else 1 for word in words])
        writer.add_token_merges([" ".join(pair) for pair in state["merges"]])
        writer.add_eos_token_id(words.index("<|end|>"))

    config = wide(tmp_path / "hf", vocab_size=len(words)).config
    path = gguf_files.write(tmp_path / "hf", tmp_path / "m.gguf", config, metadata=metadata)
    llama = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    tokenizer = Tokenizer.load(path)
    marks = "नमस्ते" if pre in ("tekken", "gpt-4o") else "no such text"
    for text in (text for text in MIXED if marks not in text):
        theirs = llama.tokenize(text.encode(), add_bos=False, special=False)
        ours = tokenizer.encode(text, add_bos=False)
        assert [words[i] for i in ours] == [words[i] for i in theirs], text
