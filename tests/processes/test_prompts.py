import pytest
import tokenizers
import torch
from hypothesis import given
from hypothesis import strategies as st

from daedal.data.tokenizer import Tokenizer
from daedal.processes.prompts import apply_weights, chunked, literal, remark, weighted


@pytest.mark.parametrize(
    ("prompt", "runs"),
    [
        ("a cat", [("a cat", 1.0)]),
        ("a (red) cat", [("a ", 1.0), ("red", 1.1), (" cat", 1.0)]),
        ("a (red:1.5) cat", [("a ", 1.0), ("red", 1.5), (" cat", 1.0)]),
        ("((x))[y]", [("x", 1.1 * 1.1), ("y", 1 / 1.1)]),
        ("(a (b:2) c:0.5)", [("a ", 0.5), ("b", 1.0), (" c", 0.5)]),
        (r"a \(cat\)", [("a (cat)", 1.0)]),
        ("(open", [("open", 1.1)]),
        ("at 10:30)", [("at 10:30)", 1.0)]),
        ("", []),
    ],
)
def test_weights_are_read_as_people_write_them(prompt: str, runs: list[tuple[str, float]]) -> None:
    assert [(text, pytest.approx(weight)) for text, weight in weighted(prompt)] == runs


@given(st.text(alphabet="ab ()[]:\\.1", max_size=30))
def test_no_prompt_breaks_the_reader(prompt: str) -> None:
    assert all(weight > 0 or "0" in prompt for _, weight in weighted(prompt.replace("\\", "")))
    plain = "".join(c for c in prompt if c in "ab ")
    assert [c for text, _ in weighted(prompt) for c in text if c in "ab "] == list(plain)


def test_long_prompts_become_chunks() -> None:
    tokenizer = Tokenizer.train(
        ["a b c d"] * 5, 262, ["<s>", "</s>", "<pad>"], bos="<s>", eos="</s>", pad="<pad>"
    )
    made = chunked(tokenizer, ["abcdefg", "(a:2)"], length=5)
    bos, eos, pad = (tokenizer.token_id(text) for text in ("<s>", "</s>", "<pad>"))
    assert made.ids.shape == (2, 3, 5) and (made.ids[:, :, 0] == bos).all()
    read = [i for i in made.ids[0].flatten().tolist() if i not in (bos, eos, pad)]
    assert tokenizer.decode(read) == "abcdefg"
    assert made.ids[1, 0].tolist()[2:] == [eos, pad, pad] and made.weights[1, 0].tolist() == [
        1,
        2,
        1,
        1,
        1,
    ]


def test_weighted_states_keep_their_mean() -> None:
    states, weights = torch.rand(2, 4, 8) + 1, torch.tensor([[1.0, 2, 1, 1], [1, 1, 1, 1]])
    out = apply_weights(states, weights)
    assert torch.allclose(out.mean((1, 2)), states.mean((1, 2))) and torch.allclose(
        out[1], states[1]
    )
    assert (out[0, 1] / states[0, 1]).mean() > 1.4 * (out[0, 0] / states[0, 0]).mean()


@given(st.text(alphabet="ab ()[]:\\.1", max_size=30))
def test_a_caption_is_read_as_it_is_written(caption: str) -> None:
    assert weighted(literal(caption)) == ([(caption, 1.0)] if caption else [])


def test_signs_that_no_text_had_and_words_that_are_cut_get_a_sentence() -> None:
    english = Tokenizer.train(["a red circle in the café"] * 5, 300)
    russian = Tokenizer.train(["красный круг"] * 5, 300)
    assert remark("A red circle (in the café:1.2), 60 °", [english]) == ""
    assert remark("a красный круг", [english]).startswith(
        "'красный' is in signs that this model never learnt"
    )
    assert remark("a \U0001f355", [english]).startswith("'\U0001f355' is in signs")
    assert remark("a красный круг", [english, russian]) == "" == remark("красный", [])
    assert (
        remark("a red circle", [english], most=2)
        == "the prompt has 3 tokens and this model reads 2; it does not see 'circle'."
    )
    assert remark("a red circle", [english], most=3) == ""
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"[UNK]": 0, "красный": 1}, unk_token="[UNK]")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    known = Tokenizer(words, roles={"unk_token": "[UNK]"})
    assert remark("красный", [known]) == "" and remark("круг", [known]).startswith(
        "'круг' is in signs"
    )
