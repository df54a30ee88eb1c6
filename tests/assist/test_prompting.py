"""Ways to ask, on models whose answers are known."""

import math
from dataclasses import dataclass
from typing import Any

import pytest

import daedal
from daedal.assist.prompting import (
    best_of_n,
    budget_forced,
    chain_of_thought,
    few_shot,
    final_number,
    self_consistency,
)
from daedal.errors import DaedalError


def test_prompts_end_where_the_answer_begins() -> None:
    assert (
        few_shot([("2 + 3", "5")], "1 + 6", "Add.")
        == "Add.\n\nQuestion: 2 + 3\nAnswer: 5\n\nQuestion: 1 + 6\nAnswer:"
    )
    assert few_shot([], "1 + 6", ask="Q: ", answer="A:") == "Q: 1 + 6\nA:"
    assert chain_of_thought([("2 + 3", "2 and 3 are 5.", "5")], "1 + 6").startswith(
        "Question: 2 + 3\nAnswer: 2 and 3 are 5. The answer is 5.\n\n"
    )
    assert chain_of_thought([], "1 + 6").endswith("Answer: Let's think step by step.")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3 + 4 = 7. The answer is 7.", "7"),
        ("The answer is $1,200", "1200"),
        ("so -3.5", "-3.5"),
        ("the answer is 4, not 5", "4"),
        ("none", None),
    ],
)
def test_final_numbers(text: str, number: str | None) -> None:
    assert final_number(text) == number


def test_most_votes_win() -> None:
    said = iter(["the answer is 7", "the answer is 6", "7", "no idea", "so 7"])
    model = lambda prompt, n, **settings: [next(said) for _ in range(n)]  # noqa: E731
    votes = self_consistency(model, "?", n=5)
    assert votes.answer == "7" and votes.share == 0.6 and votes.votes == {"7": 3, "6": 1}
    assert self_consistency(lambda prompt, n, **settings: ["?"] * n, "?", n=2).answer is None
    with pytest.raises(DaedalError, match="several different samples"):
        self_consistency(model, "?", n=5, temperature=0)
    assert (
        len(self_consistency(daedal.load("house/text"), "One day", n=3, max_tokens=8, seed=1).texts)
        == 3
    )


def test_the_best_of_n_by_its_worst_step_or_by_all() -> None:
    chances = {"a": [0.9, 0.5], "b": [0.6, 0.6, 0.6], "c": [1.0, 0.1]}
    model = lambda prompt, n, **settings: ["c", "a", "b"][:n]  # noqa: E731
    steps_of = lambda prompt, text: chances[text]  # noqa: E731
    worst, whole = (
        best_of_n(model, "?", steps_of, n=3),
        best_of_n(model, "?", steps_of, n=3, over=math.prod),
    )
    assert (worst.text, worst.score) == ("b", 0.6) and (whole.text, whole.score) == ("a", 0.45)
    assert worst.texts == ["c", "a", "b"] and worst.steps[0] == [1.0, 0.1]
    with pytest.raises(DaedalError, match="several different samples"):
        best_of_n(model, "?", steps_of, n=1)


@dataclass
class Said:
    text: str
    amount: int
    finish_reason: str

    def __str__(self) -> str:
        return self.text


class Thinker:
    """Says `words` words and stops, or is cut."""

    def __init__(self, words: int) -> None:
        self.words, self.asked = words, list[tuple[str, int]]()

    def __call__(self, prompt: str, max_tokens: int, **settings: Any) -> Any:
        self.asked.append((prompt, max_tokens))
        count = min(self.words, max_tokens)
        return Said(" hm" * count, count, "length" if count == max_tokens else "stop")


def test_thinking_is_made_longer_and_cut_short() -> None:
    short = Thinker(3)
    said = budget_forced(short, "Q", least=5, most=50)
    assert said == " hm hm hm Wait, hm hm hm" and [tokens for _, tokens in short.asked] == [50, 47]
    long = Thinker(100)
    said = budget_forced(long, "Q", most=4)
    assert said.startswith(" hm hm hm hm The answer is") and long.asked[1] == (
        "Q hm hm hm hm The answer is",
        16,
    )
    with pytest.raises(DaedalError, match="do not make a span"):
        budget_forced(long, "Q", least=5, most=4)
