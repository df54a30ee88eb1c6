"""Constitutional AI: critics whose verdicts are known, and a whole run on a tiny model."""

import json
from pathlib import Path
from typing import Any

import pytest

import daedal
from daedal.data import chat
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.processes.sampling import SamplingParams
from daedal.train import assistant
from daedal.train.constitution import Model, Principle, Program, read_principles
from daedal.train.tasks import load_recipe, run

ROOT = Path(__file__).parents[2]
KIND = Principle(
    name="kind",
    principle="Be kind.",
    critique="What is unkind?",
    revision="Write it again.",
    breaks=["stupid", "/b[ao]d/"],
)


def test_words_break_a_principle_and_the_house_constitution_reads() -> None:
    assert KIND.broken("A Stupid, bad cat. Stupidity is another word.") == ["Stupid", "bad"]
    assert [p.name for p in read_principles()] == ["kind", "gentle", "honest", "light"]


def test_a_program_leaves_out_what_breaks_and_prefers_what_breaks_less() -> None:
    program = Program([KIND])
    assert program.revised(["?"], ["The cat was stupid. It sat. It was bad!"], [KIND]) == [
        "It sat."
    ]
    assert program.preferred(
        ["?"] * 3, [("bad", "good"), ("good", "bad"), ("so", "so")], [KIND] * 3
    ) == [0, 1, 0.5]


def test_a_model_is_asked_for_a_critique_and_then_for_the_answer_again(
    monkeypatch: pytest.MonkeyPatch, chat_base: Path
) -> None:
    asked: list[Any] = []

    def answers(network: Any, tokenizer: Any, talks: Any, params: Any) -> list[list[str]]:
        asked.append(talks)
        return [[f"answer {len(asked)}"] for _ in talks]

    monkeypatch.setattr(assistant, "answers", answers)
    model = Model(
        assistant.network_of(chat_base),
        chat.prepared(Tokenizer.load(chat_base)),
        SamplingParams(max_tokens=4, seed=0),
    )
    assert model.revised(["Tell a story."], ["Once."], [KIND]) == ["answer 2"]
    assert [m["content"] for m in asked[1][0]] == [
        "Tell a story.",
        "Once.",
        "What is unkind? (Be kind.)",
        "answer 1",
        "Write it again.",
    ]
    one, other = model.preferred(["Tell a story."] * 2, [("x", "y"), ("y", "x")], [KIND] * 2)
    assert 0 < one < 1 and one + other == pytest.approx(1, abs=1e-5)  # a place has no say


def test_a_run_makes_what_it_learns_and_goes_on_where_it_stopped(
    chat_base: Path, tmp_path: Path
) -> None:
    quick = [f"start={chat_base}", f"out={tmp_path / 'out'}", "questions=6", "rounds=1", "sft_steps=2", "steps=2", "rows=2", "micro_rows=2", "answer_tokens=12",
             "evaluate_tasks=3", "context=128", f"principles={tmp_path / 'p.yaml'}", "device=cpu"]  # fmt: skip
    letters = {
        "name": "short",
        "principle": "No such letters.",
        "critique": "Where?",
        "revision": "Again.",
        "breaks": ["/[xqz]/"],
    }
    (tmp_path / "p.yaml").write_text(json.dumps([letters]))
    folder = run(load_recipe(ROOT / "recipes/chat/constitution.yaml", quick))
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (
        0 <= report["start"]["breaks"] <= 1
        and report["revised"] > 0
        and daedal.load(str(folder)).tokenizer.chat_template
    )
    (file,) = (tmp_path / "out").glob("revisions-*.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert all(not any(c in row["completion"].lower() for c in "xqz") for row in rows)
    before = file.stat().st_mtime_ns
    run(load_recipe(ROOT / "recipes/chat/constitution.yaml", quick))
    assert file.stat().st_mtime_ns == before


def test_bad_principles_get_a_sentence(tmp_path: Path) -> None:
    for text, words in (
        ("- {name: x}", "is not a list of principles"),
        ("[]", "holds no principles"),
        ("{", "is not a list of principles"),
    ):
        (tmp_path / "p.yaml").write_text(text)
        with pytest.raises(DaedalError, match=words):
            read_principles(tmp_path / "p.yaml")
    with pytest.raises(DaedalError, match="cannot be read"):
        read_principles(tmp_path / "nowhere.yaml")
