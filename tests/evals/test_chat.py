"""Measures of a chat model: one that answers right has them all, one that always refuses has the
refusals alone."""

from typing import Any

import pytest

from daedal.evals import chat


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`said(rule)`: replies are made of tasks by a rule."""

    def put(rule: Any) -> None:
        monkeypatch.setattr(chat, "replies", lambda pipeline, tasks: [rule(t) for t in tasks])

    return put


def test_right_answers(said: Any) -> None:
    said(lambda task: task.answer or "A fine day.")
    assert chat.measure(None, "problems", 40)["right"].value == 1  # type: ignore[arg-type]
    found = chat.measure(None, "refusals", 80)  # type: ignore[arg-type]
    assert found["unanswerable refused"].value == 1 and found["answerable refused"].value == 0
    found = chat.measure(None, "instructions", 60)  # type: ignore[arg-type]
    assert all(found[kind].value == 1 for kind in chat.EXERCISES)


def test_one_that_never_answers(said: Any) -> None:
    said(lambda task: "I don't know.")
    assert chat.measure(None, "problems", 40)["right"].value == 0  # type: ignore[arg-type]
    found = chat.measure(None, "refusals", 80)  # type: ignore[arg-type]
    assert found["unanswerable refused"].value == found["answerable refused"].value == 1
    assert chat.measure(None, "instructions", 60)["all met"].value == 0  # type: ignore[arg-type]


def test_the_same_examples_each_time(said: Any) -> None:
    seen: list[list[str]] = []
    said(lambda task: seen[-1].append(task.prompt) or "")
    for _ in range(2):
        seen.append([])
        chat.measure(None, "refusals", 20)  # type: ignore[arg-type]
    assert seen[0] == seen[1] and len(set(seen[0])) > 15
