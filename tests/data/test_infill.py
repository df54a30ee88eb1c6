"""Prompts of gaps in the words of each family."""

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from daedal.data import infill
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
    ],
)
def test_each_family_has_its_words(names, rendered):
    words = tokenizer_with(*names)
    prompt = infill.prompt_of(words, BEFORE, AFTER)
    assert words.decode(prompt.ids, skip_special=False) == rendered
    assert set(names) <= set(prompt.stops)


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
