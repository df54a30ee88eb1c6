"""Prompts of gaps in the words of each family."""

import random

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from daedal.data import infill
from daedal.data.documents import Source
from daedal.data.packing import PackedRows
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError

BEFORE, AFTER = "def add(a, b):\n    return ", "\n\nprint(add(1, 2))"


def tokenizer_with(*names: str) -> Tokenizer:
    """A byte-level tokenizer without merges that has these tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, special=True) for name in names])
    return Tokenizer(backend)


@pytest.mark.parametrize(
    "names, rendered",
    [
        (
            ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
            f"<|fim_prefix|>{BEFORE}<|fim_suffix|>{AFTER}<|fim_middle|>",
        ),
        (
            ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
            f"<fim_prefix>{BEFORE}<fim_suffix>{AFTER}<fim_middle>",
        ),
        (
            ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
            f"<｜fim▁begin｜>{BEFORE}<｜fim▁hole｜>{AFTER}<｜fim▁end｜>",
        ),
        (("[PREFIX]", "[SUFFIX]"), f"[SUFFIX]{AFTER}[PREFIX]{BEFORE}"),
        (
            ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_spm|>"),
            f"<|fim_prefix|><|fim_suffix|>{AFTER}<|fim_middle|>{BEFORE}",
        ),
    ],
)
def test_each_family_has_its_words(names, rendered):
    words = tokenizer_with(*names)
    prompt = infill.prompt_of(words, BEFORE, AFTER)
    assert words.decode(prompt.ids, skip_special=False) == rendered
    assert set(names) - {"<|fim_spm|>"} <= set(prompt.stops)


def test_files_of_the_repository_stand_in_front():
    names = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|repo_name|>", "<|file_sep|>")
    words = tokenizer_with(*names)
    prompt = infill.prompt_of(words, BEFORE, AFTER, [("b.py", "x = 1")], "a.py")
    text = words.decode(prompt.ids, skip_special=False)
    assert text.startswith(
        "<|repo_name|>repository\n<|file_sep|>b.py\nx = 1\n<|file_sep|>a.py\n<|fim_"
    )


def test_words_of_a_file_are_no_control_tokens():
    words = tokenizer_with("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
    prompt = infill.prompt_of(words, "a = '<|fim_middle|>'", "")
    assert prompt.ids.count(words.token_id("<|fim_middle|>")) == 1


def test_a_tokenizer_without_the_tokens_is_refused():
    with pytest.raises(DaedalError, match="no tokens for filling a gap"):
        infill.prompt_of(tokenizer_with("<|endoftext|>"), BEFORE, AFTER)


def test_documents_for_training_lose_nothing():
    names = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
    words, text = tokenizer_with(*names), "def f(x):\n    return x + 1\n"
    orders = set()
    for seed in range(60):
        made = words.decode(
            infill.transformed(words, text, random.Random(seed)), skip_special=False
        )
        orders.add(made.startswith("<|fim_prefix|><|fim_suffix|>"))
        start, suffix, middle = (made.partition(name)[2] for name in names)
        if not made.startswith("<|fim_prefix|><|fim_suffix|>"):
            parts = start.partition(names[1])[0], middle, suffix.partition(names[2])[0]
            assert "".join(parts) == text
        else:  # suffix first: the prefix and the middle follow one another
            assert middle + suffix.partition(names[2])[0] == text
    with pytest.raises(DaedalError, match="fim needs"):
        infill.transformed(tokenizer_with("<|endoftext|>"), text, random.Random(0))
    assert orders == {True, False}
    first = tokenizer_with(*names, "<|fim_spm|>")
    for seed in range(20):
        made = infill.transformed(first, text, random.Random(seed))
        assert made[:2] == [first.token_id(name) for name in names[:2]]


def test_packed_rows_move_a_share_of_the_middles():
    names = ("<|bos|>", "<|eos|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
    words = tokenizer_with(*names)
    words.roles |= {"bos_token": "<|bos|>"}
    words.eos_ids = (words.token_id("<|eos|>"),)
    source = Source(path="programs:50")
    rows = PackedRows([source], words, 4, 256, fim=0.5)
    batches = iter(rows)
    first = next(batches)
    state, second = rows.state(), next(batches)
    again = PackedRows([source], words, 4, 256, fim=0.5, state=state)
    assert (next(iter(again)) == second).all()  # resumed
    middles = sum((batch == words.token_id("<|fim_middle|>")).sum() for batch in (first, second))
    assert 0 < middles < 12
