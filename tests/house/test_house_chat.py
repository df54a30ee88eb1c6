"""The bundled chat model: present, small, licensed, and as good on tasks that nobody has seen as
its card says."""

import random

import pytest

import daedal
from daedal.checkpoints.resolve import HOUSE
from daedal.evals import chat as measures
from daedal.processes.sampling import SamplingParams
from daedal.train import assistant
from daedal.worlds import instructions
from daedal.worlds.stories import says

FOLDER = HOUSE / "chat"


@pytest.fixture(scope="module")
def chat():
    return daedal.load("house/chat")


def test_files():
    weights = list(FOLDER.glob("*.safetensors"))
    assert weights and all(file.stat().st_size <= 15e6 for file in weights)
    card = (FOLDER / "README.md").read_text()
    assert all(
        word in card for word in ("Licence", "CC BY 4.0", "CDLA-Sharing-1.0", "FLOPs", "Limits")
    )


@pytest.mark.dtype
def test_a_conversation(chat):
    messages = []
    for asked, wanted in (
        ("Hello!", "Hello"), ("My name is Tom.", "Tom"), ("What is my name?", "Tom"), ("Tell me a story about Mia in the garden.", "Mia"),
        ("What is 12 + 7?", "19"), ("What is the capital of France?", "I don't know"), ("Bye!", "Goodbye"),
    ):  # fmt: skip
        messages.append({"role": "user", "content": asked})
        answer = str(chat(messages, temperature=0, max_tokens=120))
        messages.append({"role": "assistant", "content": answer})
        assert says(answer, wanted), (asked, answer)


def test_tasks_that_nobody_has_seen(chat):
    tasks = [
        instructions.task(random.Random(f"house/{i}"), [kind], held_out=True)
        for i, kind in enumerate(instructions.KINDS * 8)
    ]
    answers = assistant.answers(
        chat.network,
        chat.tokenizer,
        [task.messages for task in tasks],
        SamplingParams(temperature=0, max_tokens=110),
    )
    assert (
        sum(task.check(texts[0]) for task, texts in zip(tasks, answers, strict=True)) / len(tasks)
        > 0.8
    )


def test_phrasings_and_words_that_nobody_has_seen(chat):
    """Below its card's figures (0.67, 0.54, 0.81 and 0.29), far above the first generation's (0.40,
    0.12, 0.74 and 0.54)."""
    found = {name: measures.measure(chat, name, 60) for name in measures.TASKS}
    assert found["instructions"]["constraints met"].value > 0.55
    assert found["problems"]["right"].value > 0.35
    assert found["refusals"]["unanswerable refused"].value > 0.65
    assert found["refusals"]["answerable refused"].value < 0.45
