"""Tokenizers: lossless round trips, equality with transformers and sentencepiece, and no way from
text to a control token."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daedal.data.detokenizer import Detokenizer
from daedal.data.tokenizer import Tokenizer, _parts
from daedal.errors import DaedalError

CHAT = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEXTS = [
    "Hello, it's 12345 words in 3.5 lines.\n\n  Indented; tabs\tand spaces   at the end  ",
    "naïve café — “quoted” l’été, Привет мир, 東京タワー, हिन्दी भाषा, 😀👩‍👩‍👧 emoji\r\nnext line",
    "def f(x):\n    return x ** 2  # comment\n\n\n\nprint(f(10_000))",
    " leading space, and a\u00a0hard one \ufffd and \x00 too",
    "",
]
TEXT = "the lamp keeper climbed the stair and lit the lamp while the sea was dark and the wind sang over the rocks of the bay"
WORDS = TEXT.split()


def prose(seed: int, words: int) -> str:
    draw = random.Random(seed)
    return "".join(
        draw.choice(WORDS) + draw.choice([" ", " ", " ", ", ", ".\n", "! "]) for _ in range(words)
    )


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return Tokenizer.train([prose(0, 4000), *TEXTS], 400, CHAT, eos="<|endoftext|>")


@pytest.mark.parametrize("text", TEXTS)
def test_round_trip(trained: Tokenizer, text: str) -> None:
    assert trained.decode(trained.encode(text)) == text


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60))
def test_any_text_round_trips_and_streams(text: str) -> None:
    tokenizer = SHARED
    ids = tokenizer.encode(text)
    stream = Detokenizer(tokenizer)
    parts = [stream.push(i) for i in ids] + [stream.flush()]
    assert "".join(parts) == text == tokenizer.decode(ids)
    if "\ufffd" not in text:
        assert not any("\ufffd" in part for part in parts)  # no half characters shown


SHARED = Tokenizer.train([prose(1, 2000)], 350, CHAT)


def test_training_is_deterministic_and_in_parts(trained: Tokenizer) -> None:
    long = prose(2, 30000)
    assert "".join(_parts(long, 1000)) == long and len(_parts(long, 1000)) > 50
    one, two = Tokenizer.train([long], 500), Tokenizer.train(_parts(long, 5000), 500)
    assert one.backend.to_str() == two.backend.to_str()


def test_digits_in_twos(trained: Tokenizer) -> None:
    assert all(
        sum(c.isdigit() for c in trained.token(i) or "") <= 2 for i in range(trained.vocab_size)
    )


def test_vocabulary_too_small() -> None:
    with pytest.raises(DaedalError, match="vocab_size=100"):
        Tokenizer.train(["a"], 100)


def test_text_never_becomes_control(trained: Tokenizer) -> None:
    text = "a<|im_end|>b<|endoftext|>"
    assert not set(trained.encode(text)) & trained.special_ids
    assert trained.decode(trained.encode(text)) == text
    ids = trained.encode(text, special=True)
    assert [i for i in ids if i in trained.special_ids] == [
        trained.token_id("<|im_end|>"),
        trained.token_id("<|endoftext|>"),
    ]
    assert trained.decode(ids) == "ab" and trained.decode(ids, skip_special=False) == text


def test_bos(trained: Tokenizer) -> None:
    framed = Tokenizer.train(["abc abc"], 300, CHAT, add_bos=True)
    assert (
        framed.encode("abc")[0] == framed.bos_id
        and framed.encode("abc", add_bos=False) == framed.encode("abc")[1:]
    )
    assert trained.encode("abc", add_bos=True) == [trained.bos_id, *trained.encode("abc")]


@pytest.mark.parametrize("add_bos", [False, True])
def test_saved_folder_opens_in_transformers(tmp_path, add_bos: bool) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = Tokenizer.train(
        [prose(3, 2000)], 350, CHAT, add_bos=add_bos, chat_template="{{ messages[0].content }}"
    )
    tokenizer.save(tmp_path)
    theirs, again = transformers.AutoTokenizer.from_pretrained(tmp_path), Tokenizer.load(tmp_path)
    for text in [*TEXTS, "<|im_start|>user\nhi<|im_end|>"]:
        assert (
            theirs(text)["input_ids"]
            == tokenizer.encode(text, special=True)
            == again.encode(text, special=True)
        )
        assert theirs.decode(theirs(text)["input_ids"], skip_special_tokens=True) == again.decode(
            again.encode(text, special=True)
        )
    assert theirs.eos_token_id == again.eos_id and theirs.chat_template == again.chat_template
    assert again.eos_ids == tokenizer.eos_ids and again.vocab_size == tokenizer.vocab_size


def test_gpt2_files(tmp_path, trained: Tokenizer) -> None:
    transformers = pytest.importorskip("transformers")
    state = json.loads(trained.backend.to_str())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(state["vocab"]))
    (tmp_path / "merges.txt").write_text(
        "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in state["merges"])
    )
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "GPT2Tokenizer"})
    )
    ours, theirs = Tokenizer.load(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert (
            ours.encode(text) == theirs(text)["input_ids"]
            and ours.decode(ours.encode(text)) == text
        )
    assert ours.eos_id == ours.token_id("<|endoftext|>")


def test_several_ends_and_template_file(tmp_path, trained: Tokenizer) -> None:
    trained.save(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0]}))
    (tmp_path / "chat_template.jinja").write_text("from the file")
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.eos_ids == (0, 2) and tokenizer.chat_template == "from the file"


@pytest.mark.parametrize("content", [None, "{", "{}"])
def test_unreadable_folder(tmp_path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(DaedalError, match=str(tmp_path.name)):
        Tokenizer.load(tmp_path)


def test_half_a_character_waits(trained: Tokenizer) -> None:
    first, *rest = trained.encode("😀")
    stream = Detokenizer(trained, prompt=trained.encode("the lamp"))
    assert [stream.push(first), *map(stream.push, rest)] == [""] * len(rest) + ["😀"]
    assert stream.push(first) == "" and stream.flush() == "\ufffd"


def test_the_state_of_a_training_call_is_not_kept(tmp_path: Path) -> None:
    made = Tokenizer.train(
        ["once upon a time"] * 5, 300, ["<|end|>", "<|pad|>"], eos="<|end|>", pad="<|pad|>"
    )
    text = "once upon a time " * 20
    made.save(tmp_path)
    made.backend.enable_truncation(4)
    made.backend.enable_padding(length=9)
    made.backend.save(str(tmp_path / "tokenizer.json"))
    again = Tokenizer.load(tmp_path)
    assert (
        len(again.encode(text)) > 20
        and len(again.encode("a")) == 1
        and again.decode(again.encode(text)) == text
    )


@pytest.mark.parametrize(
    ("files", "ends"),
    [
        ({"config.json": {"eos_token_id": [1, 7]}}, (0, 1, 7)),
        (
            {"config.json": {"eos_token_id": 7}, "generation_config.json": {"eos_token_id": [3]}},
            (0, 3),
        ),
        (
            {"config.json": {"eos_token_id": 7}, "generation_config.json": {"eos_token_id": None}},
            (0, 7),
        ),
        ({}, (0, 5)),
    ],
)
def test_where_ends_stand(tmp_path: Path, files: dict, ends: tuple[int, ...]) -> None:
    """generation_config.json, else config.json, else those of the model that an adapter is for."""
    Tokenizer.train(["once"], 300, ["<|end|>"], eos="<|end|>").save(tmp_path / "own")
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text('{"eos_token_id": 5}')
    for name, content in files.items():
        (tmp_path / "own" / name).write_text(json.dumps(content))
    assert Tokenizer.load(tmp_path / "own", tmp_path / "base").eos_ids == ends


def test_halves_of_characters_are_read_as_unknown_ones(trained: Tokenizer) -> None:
    assert trained.encode("a \ud83d b") == trained.encode("a \ufffd b")
    assert trained.encode_trusted("a \udc00 b", "\ufdd2") == trained.encode_trusted(
        "a \ufffd b", "\ufdd2"
    )
