"""How well a model codes, by execution: pass@k of tasks with tests (Chen et al. 2021), and how a
search over samples (daedal.assist.code.solve) does on the same tasks.

    daedal eval coder --tasks code --data mbpp.parquet --limit 100 --n 1
    daedal eval coder --tasks code --data HumanEval.jsonl.gz --n 20 --temperature 0.2

Files are read as they are published: MBPP (parquet or jsonl), HumanEval and EvalPlus (jsonl, .gz).
Tests run in the sandbox: those that are plain calls are compared from outside; the others run as a
program whose verdict only says that no assert failed."""

import gzip
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from daedal.assist.code.coder import Coder
from daedal.assist.code.examples import asserts_in, cases_in
from daedal.assist.code.snippets import code_in, tree_of
from daedal.errors import DaedalError
from daedal.evals.measured import Measured, Report, bootstrap
from daedal.sandbox.results import Case
from daedal.sandbox.sandbox import Sandbox

KINDS = ("solved", "wrong", "error", "timeout", "no code")


@dataclass(frozen=True)
class Task:
    """A task: its words, the tests that the asker may see, all of its tests, code before them."""

    name: str
    words: str
    shown: tuple[str, ...]
    tests: tuple[str, ...]
    setup: str = ""
    prefix: str = ""  # code that an answer goes on from, as in HumanEval
    check: str = ""  # a program that runs after the answer, where tests are no plain asserts


# ---- files ---------------------------------------------------------------------------------------


def tasks_in(path: Path, limit: int | None = None, split: str | None = None) -> list[Task]:
    """The tasks of a published file."""
    rows = [row for row in rows_of(path) if split in (None, row.get("split"))]
    if not rows:
        raise DaedalError(f"{path} holds no tasks{f' of split {split!r}' if split else ''}.")
    return [task_of(row) for row in rows[:limit]]


def rows_of(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return [json.loads(line) for line in data.decode("utf-8-sig").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DaedalError(f"{path} cannot be read as tasks ({error}); give .parquet, .jsonl or .jsonl.gz.") from None


def task_of(row: dict[str, Any]) -> Task:
    """MBPP's columns, or HumanEval's."""
    name = str(row.get("task_id"))
    if "entry_point" in row:
        check = f"{row['test']}\ncheck({row['entry_point']})\n"
        words = f"Complete this function.\n```python\n{row['prompt']}\n```"
        return Task(name, words, (), (), "", row["prompt"], check)
    tests = row.get("tests", row.get("test_list"))
    words = row.get("text", row.get("prompt"))
    if tests is None or words is None:
        raise DaedalError(f"a task has the columns {', '.join(row)}; MBPP's text and tests, or HumanEval's prompt and entry_point, are read.")
    tests = tests if isinstance(tests, list) else json.loads(tests)
    setup = row.get("setup") or row.get("test_setup_code") or ""
    return Task(name, words, tuple(tests[:1]), tuple(tests), setup)


# ---- verdicts ------------------------------------------------------------------------------------


def program_of(task: Task, answer: str) -> str:
    """An answer as a module; one that goes on from a beginning stands behind it."""
    code = code_in(answer)
    if task.prefix and f"def {task.prefix.rpartition('def ')[2].partition('(')[0]}" not in code:
        code = task.prefix + code
    return f"{task.setup}\n{code}" if task.setup else code


def cases_of(task: Task) -> list[Case] | None:
    """The tests as plain cases; None where one is not."""
    found = [cases_in(test) for test in task.tests]
    whole = all(len(cases) == 1 and len(asserts_in(test)) == 1 for cases, test in zip(found, task.tests, strict=True))
    return [cases[0] for cases in found] if found and whole else None


def verdict_of(sandbox: Sandbox, task: Task, answer: str) -> str:
    """One of KINDS."""
    code = program_of(task, answer)
    if tree_of(code) is None or not answer.strip():
        return "no code"
    if (cases := cases_of(task)) is not None:
        verdicts = sandbox.grade(code, cases).verdicts
        bad = next((verdict for verdict in verdicts if verdict != "ok"), "ok")
    else:
        tests = task.check or "\n".join(task.tests)
        result = sandbox.run(f"{code}\n{tests}\nprint({END!r})\n")
        done = result.stdout.rstrip().endswith(END)
        bad = "ok" if result.status == "ok" and done else "wrong" if "AssertionError" in result.error + result.stderr else result.status
    return {"ok": "solved", "wrong": "wrong", "timeout": "timeout"}.get(bad, "error")


END = "all tests ran"


def pass_at_k(n: int, solved: int, k: int) -> float:
    """The chance that one of k samples solves it, unbiased from n (Chen et al. 2021, eq. 1)."""
    if n - solved < k:
        return 1.0
    return 1.0 - math.prod(1 - k / i for i in range(n - solved + 1, n + 1))


# ---- the measurement -----------------------------------------------------------------------------


@dataclass
class Coding(Report):
    """What came of each task."""

    values: dict[str, Measured] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)


def prompt_of(task: Task) -> str:
    shown = "".join(f"\n{test}" for test in task.shown)
    return f"{task.words}{shown}\nAnswer with one Python code block."


def measure(
    coder: Coder,
    tasks: Sequence[Task],
    n: int = 1,
    temperature: float = 0.0,
    ks: Sequence[int] = (1, 10, 100),
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """pass@k with its interval over tasks, and how samples failed."""
    solved, kinds, rows = [], Counter[str](), []
    for i, task in enumerate(tasks):
        answers = coder.ask(prompt_of(task), n=n, temperature=temperature)
        verdicts = [verdict_of(coder.sandbox, task, answer) for answer, _ in answers]
        kinds.update(verdicts)
        solved.append(verdicts.count("solved"))
        rows.append({"task": task.name, "verdicts": verdicts})
        on_progress(i + 1, len(tasks))
    found: dict[str, Any] = {}
    for k in (k for k in ks if k <= n):
        found[f"pass@{k}"] = interval([pass_at_k(n, s, k) for s in solved])
    return found | {"kinds": dict(kinds), "tasks": rows}


def measure_search(
    coder: Coder,
    tasks: Sequence[Task],
    n: int = 16,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """The share of tasks that the search solves, of which it sees the shown tests only."""
    solved, abstained, samples = [], 0, 0
    for i, task in enumerate(tasks):
        shown = [case for test in task.shown for case in cases_in(test)]
        found = coder.solve(task.words, shown, n=n)
        answer = f"```python\n{found.code}```" if found.code else ""
        solved.append(float(verdict_of(coder.sandbox, task, answer) == "solved"))
        abstained += found.code is None
        samples += found.samples
        on_progress(i + 1, len(tasks))
    return {"solved": interval(solved), "abstained": abstained, "samples": samples}


def interval(values: list[float]) -> list[float]:
    """[mean, low, high], 95 % by bootstrap over tasks."""
    draw = np.random.default_rng(0)
    means = [float(np.mean(draw.choice(values, len(values)))) for _ in range(1000)]
    low, high = np.percentile(means, [2.5, 97.5])
    return [float(np.mean(values)), float(low), float(high)]
