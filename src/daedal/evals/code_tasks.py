"""Tasks of code with tests: made here, or read from the files that MBPP, HumanEval, EvalPlus,
MultiPL-E (Cassano et al. 2022) and the infilling of HumanEval (Bavarian et al. 2022) are published
as. None of these comes with Daedal."""

import gzip
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from daedal.errors import DaedalError
from daedal.worlds.programs import program

LANGUAGES = {
    "py": "python",
    "js": "javascript",
    "sh": "bash",
}  # MultiPL-E's names of those run here
STOPS = ("\ndef ", "\nclass ", "\nif __name__", "\nprint(", "\n#", "\n```")
KINDS_OF_HOLE = ("line", "span")


@dataclass(frozen=True)
class Task:
    """A task: its words, the tests that the asker may see, all of its tests, code before them."""

    name: str
    words: str
    shown: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    setup: str = ""
    prefix: str = ""  # code that an answer goes on from, as in HumanEval
    check: str = ""  # a program that runs after the answer, where tests are no plain asserts
    whole: str = ""  # a solution, to make holes in
    language: str = "python"
    stops: tuple[str, ...] = STOPS  # at which a text that goes on from `prefix` ends


@dataclass(frozen=True)
class Hole:
    """A gap in a solution of a task, and what stood there."""

    task: Task
    kind: str
    before: str
    middle: str
    after: str


def made(count: int) -> list[Task]:
    """Tasks of daedal.worlds.programs, of combinations that no training text has."""
    draw = random.Random("tasks of code")
    found = [program(draw, held_out=True) for _ in range(count)]
    rows = [(p, p.asserts(draw, 5)) for p in found]
    return [Task(p.name, p.task, tuple(t[:1]), tuple(t), whole=p.code) for p, t in rows]


def holes(tasks: Sequence[Task]) -> list[Hole]:
    """A hole of each kind in the body of each solution: a whole line, and what stands from one
    character to another."""
    found = []
    for number, task in enumerate(tasks):
        draw = random.Random(f"hole {number}")
        body = task.whole.index('"""\n') + 4
        places = sorted(draw.sample(range(body + 4, len(task.whole)), 2))
        lines = task.whole[body:].splitlines(keepends=True)
        chosen = draw.randrange(len(lines))
        start = body + sum(map(len, lines[:chosen]))
        indent = len(lines[chosen]) - len(lines[chosen].lstrip())
        line = (start + indent, start + len(lines[chosen].rstrip("\n")))
        for kind, (first, second) in zip(KINDS_OF_HOLE, (line, places), strict=True):
            cut = task.whole[:first], task.whole[first:second], task.whole[second:]
            found.append(Hole(task, kind, *cut))
    return found


# ---- files ---------------------------------------------------------------------------------------


def rows_of(path: Path, split: str | None = None) -> list[dict[str, Any]]:
    """The rows of a published file: parquet, or a JSON object a line, packed or not."""
    try:
        if path.suffix == ".parquet":
            rows = pq.read_table(path).to_pylist()
        else:
            data = path.read_bytes()
            text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DaedalError(
            f"{path} cannot be read as tasks ({error}); give .parquet, .jsonl or .jsonl.gz."
        ) from None
    rows = [row for row in rows if split in (None, row.get("split"))]
    if not rows:
        raise DaedalError(f"{path} holds no tasks{f' of split {split!r}' if split else ''}.")
    return rows


def task_of(row: dict[str, Any]) -> Task:
    """MBPP's columns, HumanEval's or MultiPL-E's."""
    name = str(row.get("task_id", row.get("name")))
    if "entry_point" in row:
        check = f"{row['test']}\ncheck({row['entry_point']})\n"
        words = f"Complete this function.\n```python\n{row['prompt']}\n```"
        return Task(name, words, prefix=row["prompt"], check=check)
    if "stop_tokens" in row:
        return translated_task(name, row)
    tests = row.get("tests", row.get("test_list"))
    words = row.get("text", row.get("prompt"))
    if tests is None or words is None:
        raise DaedalError(
            f"a task has the columns {', '.join(row)}; MBPP's text and tests, HumanEval's prompt and entry_point, or MultiPL-E's prompt and stop_tokens are read."
        )
    tests = tests if isinstance(tests, list) else json.loads(tests)
    setup = row.get("setup") or row.get("test_setup_code") or ""
    return Task(name, words, tuple(tests[:1]), tuple(tests), setup)


def translated_task(name: str, row: dict[str, Any]) -> Task:
    language = LANGUAGES.get(row["language"])
    if language is None:
        raise DaedalError(
            f"{name} is a task in {row['language']!r}; those of {', '.join(LANGUAGES)} are run here."
        )
    words = f"Complete this function.\n```{language}\n{row['prompt']}\n```"
    stops = tuple(row["stop_tokens"])
    return Task(
        name, words, prefix=row["prompt"], check=row["tests"], language=language, stops=stops
    )


def hole_of(row: dict[str, Any]) -> Hole:
    """A row of HumanEval's infilling: prompt, suffix and canonical_solution."""
    kind = str(row["task_id"]).partition("/")[0]
    check = f"{row['test']}\ncheck({row['entry_point']})\n"
    task = Task(str(row["task_id"]), "", check=check)
    return Hole(task, kind, row["prompt"], row["canonical_solution"], row["suffix"])
