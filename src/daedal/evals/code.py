"""How well a model codes, by execution: pass@k of tasks with tests (Chen et al. 2021), how a search
over samples (daedal.assist.code.solve) does on the same tasks, and holes filled.

    daedal eval coder --tasks code --data mbpp.parquet --limit 100 --search 16
    daedal eval coder --tasks code --data HumanEval.jsonl.gz --samples 20 --temperature 0.2
    daedal eval coder --tasks code --data humaneval-js.jsonl         # MultiPL-E
    daedal eval coder --tasks code --data HumanEval-SingleLineInfilling.jsonl.gz
    daedal eval house/code --tasks code --data programs       # generated, held out; and holes in them

Files are read as they are published (daedal.evals.code_tasks). Tests run in the sandbox: those that
are plain calls are compared from outside; the others run as a program whose verdict only says that
no assert failed."""

import difflib
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from daedal.assist.code.coder import Coder
from daedal.assist.code.complete import Gap, infilled
from daedal.errors import DaedalError
from daedal.evals.code_tasks import Hole, Task, hole_of, holes, made, rows_of, task_of
from daedal.evals.measured import Measured, Report, bootstrap, lines_of, plain, share
from daedal.pipelines.text import TextPipeline
from daedal.pipelines.text_params import TextMeasuring
from daedal.sandbox.examples import asking, asserts_in, cases_in
from daedal.sandbox.results import Case
from daedal.sandbox.sandbox import Sandbox
from daedal.sandbox.snippets import code_in, tree_of

KINDS = ("solved", "wrong", "error", "timeout", "no code")
KS = (1, 5, 10, 100)
END = "all tests ran"
SIGNATURE = re.compile(r"\s*(?:def |function |(?:async )?function\*? |const |let |\w+\s*\(\)\s*\{)")
SAYING = {
    "python": f"print({END!r})",
    "javascript": f"console.log({END!r})",
    "bash": f"echo '{END}'",
}


# ---- verdicts ------------------------------------------------------------------------------------


def program_of(task: Task, answer: str) -> str:
    """An answer as a module; one that goes on from a beginning stands behind it."""
    code = code_in(answer, task.language)
    if task.prefix and signature(task.prefix) not in code:
        code = task.prefix + code
    return f"{task.setup}\n{code}" if task.setup else code


def signature(prefix: str) -> str:
    """How the function that a prefix begins is named in it: up to its bracket."""
    lines = [line for line in prefix.splitlines() if SIGNATURE.match(line)]
    return lines[-1].partition("(")[0].rstrip() if lines else prefix


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
    if not answer.strip() or (task.language == "python" and tree_of(code) is None):
        return "no code"
    if (cases := cases_of(task)) is not None:
        verdicts = sandbox.grade(code, cases).verdicts
        bad = next((verdict for verdict in verdicts if verdict != "ok"), "ok")
    else:
        tests = task.check or "\n".join(task.tests)
        ending = SAYING[task.language]
        result = sandbox.run(f"{code}\n{tests}\n{ending}\n", language=task.language)
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
    tasks: list[Task] = []
    gaps: list[Hole] = []
    if asked.data == "programs":
        tasks = made(asked.limit or 200)
        gaps = holes(tasks)
    else:
        rows = rows_of(Path(asked.data), asked.split)[: asked.limit]
        gaps = [hole_of(row) for row in rows if "suffix" in row]
        tasks = [task_of(row) for row in rows if "suffix" not in row]
    groups: dict[str, dict[str, Measured]] = {}
    kinds = Counter[str]()
    with Coder(pipeline, Sandbox()) as coder:
        if tasks:
            groups["samples"], kinds = sampled(coder, tasks, asked.samples, asked.temperature)
        if tasks and asked.search:
            groups["search"] = searched(coder, tasks, asked.search)
        for kind in dict.fromkeys(gap.kind for gap in gaps):
            groups[f"holes ({kind})"] = filled(coder, [gap for gap in gaps if gap.kind == kind])
    failed = ", ".join(f"{kind} {kinds[kind]}" for kind in KINDS if kinds[kind])
    lines = lines_of(groups) + ([f"samples    of {sum(kinds.values())}: {failed}"] if tasks else [])
    return Report(plain(groups) | {"kinds": dict(kinds)}, lines)


def sampled(
    coder: Coder, tasks: Sequence[Task], n: int, temperature: float
) -> tuple[dict[str, Measured], Counter[str]]:
    """pass@k with its interval over tasks, and how many samples failed how."""
    solved, kinds = [], Counter[str]()
    for task in tasks:
        verdicts = [
            verdict_of(coder.sandbox, task, answer)
            for answer in answers(coder, task, n, temperature)
        ]
        kinds.update(verdicts)
        solved.append(verdicts.count("solved"))
    values = {k: torch.tensor([pass_at_k(n, s, k) for s in solved]) for k in KS if k <= n}
    return {f"pass@{k}": bootstrap(mean, value, 1000) for k, value in values.items()}, kinds


def answers(coder: Coder, task: Task, n: int, temperature: float) -> list[str]:
    """Answers to a task: of a chat model asked, of another what goes on from the task's code."""
    if not task.prefix or coder.pipeline.chats:
        return [text for text, _ in coder.ask(prompt_of(task), n=n, temperature=temperature)]
    settings = {"max_tokens": 512, "temperature": temperature, "seed": coder.seed, "raw": True}
    handle = coder.pipeline.start(task.prefix, n=n, stop=task.stops, **settings)
    return [task.prefix + result.text for result in handle.results()]


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


def filled(coder: Coder, gaps: Sequence[Hole]) -> dict[str, Measured]:
    """Holes filled by the model's own words for it, to its own end: the share of them after which
    the tests pass, the share with the very text that was there, and how alike the texts are."""
    passed, exact, alike = 0, 0, []
    for gap in gaps:
        text = infilled(coder.pipeline, Gap(gap.before, gap.after), max_tokens=256).text
        exact += text.strip() == gap.middle.strip()
        alike.append(difflib.SequenceMatcher(None, text, gap.middle, autojunk=False).ratio())
        whole = gap.before + text + gap.after
        passed += verdict_of(coder.sandbox, gap.task, whole) == "solved"
    return {
        "by execution": share(passed, len(gaps)),
        "exact": share(exact, len(gaps)),
        "edit similarity": bootstrap(mean, torch.tensor(alike), 1000),
    }


def mean(values: Tensor) -> float:
    return float(values.mean())
