"""Comparisons by judges whose verdict is known, and labels of a person."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from daedal.errors import DaedalError
from daedal.evals.compare import by_model, by_score, compare, read_prompts


class Says:
    """A model that answers by a rule."""

    def __init__(self, rule: Any, template: str | None = None) -> None:
        self.rule, self.chats = rule, bool(template)

    def __call__(self, asked: Any, **settings: Any) -> str:
        return self.rule(asked if isinstance(asked, str) else asked[0]["content"], settings)


def test_win_rates_by_hand() -> None:
    """A's answer is longer on 6 of 10 prompts, equal on 2."""
    lengths = [2] * 6 + [1] * 2 + [0] * 2
    a = Says(lambda prompt, settings: "x" * lengths[int(prompt)], "chat")
    b = Says(lambda prompt, settings: "x")
    found = compare(a, b, [str(i) for i in range(10)], by_score(lambda i, text: len(text)))
    assert (
        found.win_rate.value == pytest.approx(0.7)
        and found.win_rate.low < 0.7 < found.win_rate.high
    )
    assert [found.wins.value, found.ties.value, found.losses.value] == pytest.approx(
        [0.6, 0.2, 0.2]
    )


def test_a_judge_that_likes_a_place_finds_nothing_and_one_that_reads_finds_the_better() -> None:
    place = Says(lambda question, settings: "1")
    reads = Says(lambda question, settings: "1" if "Answer 1: good" in question else "2")
    assert (
        by_model(place, ["?"])(0, "good", "bad") == 0.5
        and by_model(place, ["?"])(0, "bad", "good") == 0.5
    )
    assert (
        by_model(reads, ["?"])(0, "good", "bad") == 1
        and by_model(reads, ["?"])(0, "bad", "good") == 0
    )
    assert by_model(reads, ["?"])(0, "same", "same") == 0.5


def test_prompts_of_every_shape(tmp_path: Path) -> None:
    rows = [
        {"prompt": "one"},
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "two"}]},
        {"prompt": [{"role": "user", "content": "three"}]},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    assert read_prompts(tmp_path / "a.jsonl", 9) == ["one", "two", "three"] and read_prompts(
        tmp_path / "a.txt", 1
    ) == ["one"]
    (tmp_path / "b.jsonl").write_text('{"text": "x"}\n')
    with pytest.raises(DaedalError, match="line 1 has neither a `prompt`"):
        read_prompts(tmp_path / "b.jsonl", 1)
    with pytest.raises(DaedalError, match="is not a file"):
        read_prompts(tmp_path / "nowhere", 1)


def test_the_command_line_compares_and_labels(tiny_folder: Path, tmp_path: Path) -> None:
    from daedal.cli import app

    command = [
        "compare",
        str(tiny_folder),
        str(tiny_folder),
        "-n",
        "3",
        "--max-tokens",
        "4",
        "--prompts",
        str(tmp_path / "p.txt"),
    ]
    (tmp_path / "p.txt").write_text("Once\nOne day\nThe cat\n")
    run = CliRunner().invoke(
        app, [*command, "--judge", str(tiny_folder), "--json", "-o", str(tmp_path / "rows.jsonl")]
    )
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)["ties"]["value"] == 1.0  # the same model with the same seeds
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 3
    # no program knows what these prompts want
    assert isinstance(CliRunner().invoke(app, command).exception, DaedalError)

    out = tmp_path / "pairs.jsonl"
    command = [
        "label",
        str(tiny_folder),
        "--prompts",
        str(tmp_path / "p.txt"),
        "-o",
        str(out),
        "--max-tokens",
        "6",
    ]
    run = CliRunner().invoke(app, command, input="x\n1\nq\n")
    assert run.exit_code == 0, run.output
    (row,) = map(json.loads, out.read_text().splitlines())
    assert (
        row["prompt"] == "Once"
        and row["chosen"] != row["rejected"]
        and f"[1]\n{row['chosen']}" in run.stderr
    )
    run = CliRunner().invoke(app, command, input="2\ns\n")  # goes on with the second prompt
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["prompt"] for row in rows] == [
        "Once",
        "One day",
    ] and f"[2]\n{rows[1]['chosen']}" in run.stderr
