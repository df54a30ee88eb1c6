"""A teacher's exchanges: each is written as it comes, a run that goes on asks what is not answered,
and what is kept passed its checks."""

import json
from pathlib import Path

import pytest

from daedal.train import teacher
from daedal.train.tasks import load_recipe, run
from daedal.worlds.tasks import asked

RECIPE = Path(__file__).parents[2] / "recipes/chat/teacher.yaml"
QUICK = ["steps=2", "rows=6", "micro_rows=4", "answer_tokens=8", "device=cpu", "examples=[]", "system=''"]  # fmt: skip


def written(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / teacher.FILE).read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(chat_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("teacher")
    run(load_recipe(RECIPE, [*QUICK, f"teacher={chat_base}", f"out={out}"]))
    return out


def test_every_request_is_answered_once(whole: Path) -> None:
    rows = written(whole)
    assert len({row["prompt"] for row in rows}) == len({row["number"] for row in rows}) == len(rows)
    assert {row["number"] for row in rows} <= set(range(12)) and len(rows) >= 10


def test_a_run_that_was_killed_goes_on(whole: Path, chat_base: Path, tmp_path: Path) -> None:
    lines = (whole / teacher.FILE).read_text().splitlines(keepends=True)
    (tmp_path / teacher.FILE).write_text("".join(lines[:5]) + lines[5][:20])  # cut in a line
    run(load_recipe(RECIPE, [*QUICK, f"teacher={chat_base}", f"out={tmp_path}"]))
    key = lambda row: row["number"]  # noqa: E731
    assert sorted(written(tmp_path), key=key) == sorted(written(whole), key=key)


def test_what_is_kept(tmp_path: Path) -> None:
    task = asked("explain", "What is a hen?", "", lambda text: {"about it": "hen" in text})
    file = tmp_path / teacher.FILE
    done = teacher.Exchanges(file)
    good = "A hen is a bird that lays eggs."
    with open(file, "a") as out:
        for number, (text, ended) in enumerate(
            [
                (good, True),
                (good, True),
                ("A cow is an animal that gives milk.", True),
                (good + " It", False),
            ]
        ):
            done.add(out, number, task, text, ended)
    assert [row["kept"] for row in written(tmp_path)] == [True, False, False, False]
    again = teacher.Exchanges(file)
    assert again.numbers == {0, 1, 2, 3} and again.said == {good}
