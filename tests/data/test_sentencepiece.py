"""SentencePiece files: ids equal to the sentencepiece package's own, for both algorithms and every
normalisation switch."""

import random
from pathlib import Path

import pytest

from daedal.data import sentencepiece as ours
from daedal.data.detokenizer import Detokenizer
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError

oracle = pytest.importorskip("sentencepiece")
TEXT = "the lamp keeper climbed stair and lit while sea was dark wind sang over rocks of bay été naïve 日本 ababa aaaa"
WORDS = TEXT.split()
TEXTS = [
    "the lamp keeper climbed the stair",
    "  two spaces,  and   three ",
    "unknown ☃ and 😀 signs, été",
    "line\nbreak and tab\t too",
    "ababababa aaaaaaaaa abababa",
    "ﬁne ｆｕｌｌ width ①",
    "",
    " ",
]


def corpus(path: Path) -> Path:
    draw = random.Random(0)
    path.write_text("\n".join(" ".join(draw.choice(WORDS) for _ in range(12)) for _ in range(600)))
    return path


def train(folder: Path, **options) -> tuple[Path, "oracle.SentencePieceProcessor"]:
    defaults = {
        "input": str(corpus(folder / "c.txt")),
        "model_prefix": str(folder / "tokenizer"),
        "vocab_size": 360,
        "minloglevel": 2,
    }
    oracle.SentencePieceTrainer.train(**defaults | options)
    return folder / "tokenizer.model", oracle.SentencePieceProcessor(
        model_file=str(folder / "tokenizer.model")
    )


LLAMA = {
    "model_type": "bpe",
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
}
GEMMA = LLAMA | {"add_dummy_prefix": False, "user_defined_symbols": ["\n", "<table>", "▁▁"]}
KINDS = {
    "llama": LLAMA,
    "gemma": GEMMA,
    "bpe": {"model_type": "bpe"} | {"vocab_size": 150},
    "unigram": {"model_type": "unigram", "vocab_size": 80, "hard_vocab_limit": False},
    "unigram-bytes": {"model_type": "unigram", "byte_fallback": True, "hard_vocab_limit": False},
    "unigram-identity": {
        "model_type": "unigram",
        "vocab_size": 80,
        "hard_vocab_limit": False,
        "normalization_rule_name": "identity",
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_same_ids_and_text(tmp_path, kind: str) -> None:
    path, theirs = train(tmp_path, **KINDS[kind])
    tokenizer = Tokenizer.load(path)
    draw = random.Random(1)
    noise = ["".join(draw.choice("ab the é日 ") for _ in range(40)) for _ in range(60)]
    for text in TEXTS + noise + (["<table>a  b\n\nc", "a<table> b"] if kind == "gemma" else []):
        ids = tokenizer.encode(text, add_bos=False)
        assert ids == theirs.encode(text), text
        if theirs.unk_id() not in ids:
            assert tokenizer.decode(ids) == theirs.decode(ids)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.vocab_size) == (
        theirs.bos_id(),
        theirs.eos_id(),
        theirs.vocab_size(),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_text_never_becomes_control(tmp_path, kind: str) -> None:
    path, theirs = train(tmp_path, **KINDS[kind])
    tokenizer = Tokenizer.load(path)
    # a unigram model with byte pieces still reads `<0x41>` as its byte: the `tokenizers` model
    # finds that word in its own list
    text = "the </s> lamp <s> and " + ("" if kind == "unigram-bytes" else "<0x41>")
    assert tokenizer.encode(text) == theirs.encode(text)
    assert tokenizer.eos_id in tokenizer.encode(text, special=True)


def test_saved_folder_opens_in_transformers(tmp_path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = Tokenizer.load(train(tmp_path, **LLAMA)[0])
    tokenizer._frame(True, False)
    tokenizer.save(tmp_path / "out")
    theirs, again = (
        transformers.AutoTokenizer.from_pretrained(tmp_path / "out"),
        Tokenizer.load(tmp_path / "out"),
    )
    for text in TEXTS:
        assert theirs(text)["input_ids"] == tokenizer.encode(text) == again.encode(text)


def test_stream_keeps_leading_space(tmp_path) -> None:
    tokenizer = Tokenizer.load(train(tmp_path, **LLAMA)[0])
    ids = tokenizer.encode("the lamp 😀 keeper")
    fresh, later = Detokenizer(tokenizer), Detokenizer(tokenizer, prompt=tokenizer.encode("and"))
    assert "".join(map(fresh.push, ids)) + fresh.flush() == "the lamp 😀 keeper"
    assert "".join(map(later.push, ids)) + later.flush() == " the lamp 😀 keeper"


@pytest.mark.parametrize("content", [b"", b"\xff" * 30, b"plain text, no protobuf at all"])
def test_broken_file(tmp_path, content: bytes) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(DaedalError, match=r"tokenizer\.model"):
        ours.read(tmp_path / "tokenizer.model")


def test_truncated_file(tmp_path) -> None:
    path, _ = train(tmp_path, **LLAMA)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DaedalError, match=r"tokenizer\.model"):
        Tokenizer.load(path)
