"""How well a model codes, by execution: pass@k of tasks with tests (Chen et al. 2021), and how a
search over samples (daedal.assist.code.solve) does on the same tasks.

    daedal eval coder --tasks code --data mbpp.parquet --limit 100 --search 16
    daedal eval coder --tasks code --data HumanEval.jsonl.gz --samples 20 --temperature 0.2
    daedal eval house/code --tasks code --data programs       # generated, held out; and holes in them

Files are read as they are published: MBPP (parquet or jsonl), HumanEval and EvalPlus (jsonl, .gz).
Tests run in the sandbox: those that are plain calls are compared from outside; the others run as a
program whose verdict only says that no assert failed."""

import gzip
import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from torch import Tensor

from daedal.assist.code.coder import Coder
from daedal.assist.code.complete import Gap
from daedal.errors import DaedalError
from daedal.evals.measured import Measured, Report, bootstrap, lines_of, plain, share
from daedal.pipelines.text import TextPipeline
from daedal.pipelines.text_params import TextMeasuring
from daedal.sandbox.examples import asking, asserts_in, cases_in
from daedal.sandbox.results import Case
from daedal.sandbox.sandbox import Sandbox
from daedal.sandbox.snippets import code_in, tree_of
from daedal.worlds.programs import program

KINDS = ("solved", "wrong", "error", "timeout", "no code")
KS = (1, 5, 10, 100)
END = "all tests ran"


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
    whole: str = ""  # a solution, to make holes in


# ---- files ---------------------------------------------------------------------------------------


def made(count: int) -> list[Task]:
    """Tasks of daedal.worlds.programs, of combinations that no training text has."""
    draw = random.Random("tasks of code")
    found = [program(draw, held_out=True) for _ in range(count)]
    rows = [(p, p.asserts(draw, 5)) for p in found]
    return [Task(p.name, p.task, tuple(t[:1]), tuple(t), whole=p.code) for p, t in rows]


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
        raise DaedalError(
            f"{path} cannot be read as tasks ({error}); give .parquet, .jsonl or .jsonl.gz."
        ) from None


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
        raise DaedalError(
            f"a task has the columns {', '.join(row)}; MBPP's text and tests, or HumanEval's prompt and entry_point, are read."
        )
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
    whole = all(
        len(cases) == 1 and len(asserts_in(test)) == 1
        for cases, test in zip(found, task.tests, strict=True)
    )
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
        failed = "wrong" if "AssertionError" in result.error + result.stderr else result.status
        bad = "ok" if done and result.status == "ok" else "error" if failed == "ok" else failed
    return {"ok": "solved", "wrong": "wrong", "timeout": "timeout"}.get(bad, "error")


def pass_at_k(n: int, solved: int, k: int) -> float:
    """The chance that one of k samples solves it, unbiased from n (Chen et al. 2021, eq. 1)."""
    if n - solved < k:
        return 1.0
    return 1.0 - math.prod(1 - k / i for i in range(n - solved + 1, n + 1))


# ---- the measurement -----------------------------------------------------------------------------


def prompt_of(task: Task) -> str:
    cases = [case for test in task.shown for case in cases_in(test)]
    function = cases[0].call.function if cases and cases[0].call else None
    return asking(task.words, function, task.shown)


def evaluate(pipeline: TextPipeline, asked: TextMeasuring) -> Report:
    """What `daedal eval MODEL --tasks code --data FILE` says."""
    if not asked.data:
        raise DaedalError(
            "tasks of code come from a file; give --data mbpp.parquet or HumanEval.jsonl.gz."
        )
    if asked.data == "programs":
        tasks = made(asked.limit or 200)
    else:
        tasks = tasks_in(Path(asked.data), asked.limit, asked.split)
    groups: dict[str, dict[str, Measured]] = {}
    with Coder(pipeline, Sandbox()) as coder:
        found, kinds = sampled(coder, tasks, asked.samples, asked.temperature)
        groups["samples"] = found
        if asked.search:
            groups["search"] = searched(coder, tasks, asked.search)
        if asked.data == "programs":
            groups["holes"] = filled(coder, tasks)
    failed = ", ".join(f"{kind} {kinds[kind]}" for kind in KINDS if kinds[kind])
    lines = [*lines_of(groups), f"samples    of {sum(kinds.values())}: {failed}"]
    return Report(plain(groups) | {"kinds": dict(kinds)}, lines)


def sampled(
    coder: Coder, tasks: Sequence[Task], n: int, temperature: float
) -> tuple[dict[str, Measured], Counter[str]]:
    """pass@k with its interval over tasks, and how many samples failed how."""
    solved, kinds = [], Counter[str]()
    for task in tasks:
        answers = coder.ask(prompt_of(task), n=n, temperature=temperature)
        verdicts = [verdict_of(coder.sandbox, task, answer) for answer, _ in answers]
        kinds.update(verdicts)
        solved.append(verdicts.count("solved"))
    values = {k: torch.tensor([pass_at_k(n, s, k) for s in solved]) for k in KS if k <= n}
    return {f"pass@{k}": bootstrap(mean, value, 1000) for k, value in values.items()}, kinds


def searched(coder: Coder, tasks: Sequence[Task], n: int) -> dict[str, Measured]:
    """The share of tasks that a search over n samples solves, which sees the shown tests only, and
    of how many it claims nothing."""
    solved, abstained = 0, 0
    for task in tasks:
        shown = [case for test in task.shown for case in cases_in(test)]
        found = coder.solve(task.words, shown, n=n)
        answer = f"```python\n{found.code}```" if found.code else ""
        solved += verdict_of(coder.sandbox, task, answer) == "solved"
        abstained += found.code is None
    return {"solved": share(solved, len(tasks)), "abstained": share(abstained, len(tasks))}


def filled(coder: Coder, tasks: Sequence[Task]) -> dict[str, Measured]:
    """Holes in solutions, from one character to another of a body: the share filled so that the
    tests pass, and filled with the very text that was there."""
    passed, exact = 0, 0
    for number, task in enumerate(tasks):
        draw = random.Random(f"hole {number}")
        body = task.whole.index('"""\n') + 4
        first, second = sorted(draw.sample(range(body + 4, len(task.whole)), 2))
        gap = Gap(task.whole[:first], task.whole[second:])
        text = coder.complete(gap).text
        exact += text == task.whole[first:second]
        passed += verdict_of(coder.sandbox, task, gap.before + text + gap.after) == "solved"
    return {"by execution": share(passed, len(tasks)), "exact": share(exact, len(tasks))}


def mean(values: Tensor) -> float:
    return float(values.mean())
