"""pass@k, published files of tasks, and verdicts by execution."""

import gzip
import itertools
import json
import shutil

import pytest

from daedal.assist.code.complete import Completion
from daedal.errors import DaedalError
from daedal.evals import code, code_tasks
from daedal.sandbox.sandbox import Sandbox

MBPP = {
    "task_id": 1,
    "text": "Double a number.",
    "test_list": ["assert double(2) == 4", "assert double(0) == 0"],
}
HUMAN = {
    "task_id": "HumanEval/0",
    "prompt": 'def double(x):\n    """Twice x."""\n',
    "entry_point": "double",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(3) == 6\n",
}
JAVASCRIPT = {
    "name": "HumanEval_0_double",
    "language": "js",
    "prompt": "//Twice x.\nfunction double(x){\n",
    "tests": "const assert = require('node:assert');\nassert.deepEqual(double(2), 4);\n",
    "stop_tokens": ["\nfunction "],
}
INFILLING = {
    "task_id": "SingleLineInfilling/HumanEval/0/L0",
    "entry_point": "double",
    "prompt": "def double(x):\n",
    "suffix": "    return y\n",
    "canonical_solution": "    y = 2 * x\n",
    "test": HUMAN["test"],
}


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(workers=1) as found:
        yield found


@pytest.mark.parametrize("n, solved, k", [(5, 2, 1), (5, 2, 3), (6, 0, 2), (6, 6, 2), (7, 5, 3)])
def test_pass_at_k_is_the_share_of_all_draws(n, solved, k):
    draws = list(itertools.combinations(range(n), k))
    share = sum(any(i < solved for i in draw) for draw in draws) / len(draws)
    assert code.pass_at_k(n, solved, k) == pytest.approx(share)


def test_files_as_they_are_published(tmp_path):
    plain, packed = tmp_path / "mbpp.jsonl", tmp_path / "human.jsonl.gz"
    plain.write_text(json.dumps(MBPP) + "\n")
    packed.write_bytes(gzip.compress((json.dumps(HUMAN) + "\n").encode()))
    (task,) = map(code_tasks.task_of, code_tasks.rows_of(plain))
    assert task.shown == ("assert double(2) == 4",) and len(task.tests) == 2
    (other,) = map(code_tasks.task_of, code_tasks.rows_of(packed))
    assert other.prefix == HUMAN["prompt"] and other.check.endswith("check(double)\n")
    (tmp_path / "no.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(DaedalError, match="has the columns a"):
        code_tasks.task_of(code_tasks.rows_of(tmp_path / "no.jsonl")[0])


@pytest.mark.parametrize(
    "answer, verdict",
    [
        ("```python\ndef double(x):\n    return 2 * x\n```", "solved"),
        ("def double(x):\n    return x ** 2 + 1\n", "wrong"),
        ("def double(x):\n    return y\n", "error"),
        ("def double(x):\n    while True: pass\n", "timeout"),
        ("I cannot do that.", "no code"),
        ("import os\nos._exit(0)\n", "error"),
    ],
)
def test_verdicts(sandbox, answer, verdict):
    for row in (MBPP, HUMAN):
        assert code.verdict_of(sandbox, code_tasks.task_of(row), answer) == verdict


def test_an_answer_may_go_on_from_the_prompt(sandbox):
    task = code_tasks.task_of(HUMAN)
    assert code.verdict_of(sandbox, task, "    return 2 * x\n") == "solved"
    assert code.verdict_of(sandbox, task, "```python\nreturn_value = 2\n```") == "wrong"


@pytest.mark.skipif(not shutil.which("node"), reason="there is no node here")
@pytest.mark.parametrize(
    "answer, verdict",
    [
        ("  return 2 * x;\n}\n", "solved"),
        ("```js\nfunction double(x) {\n  return x + x;\n}\n```", "solved"),
        ("  return 2 * x + 1;\n}\n", "wrong"),
        ("  return y;\n}\n", "error"),
    ],
)
def test_tasks_in_another_language(sandbox, answer, verdict):
    task = code_tasks.task_of(JAVASCRIPT)
    assert task.stops == ("\nfunction ",)
    assert code.verdict_of(sandbox, task, answer) == verdict
    with pytest.raises(DaedalError, match="is a task in 'rs'; those of py, js, sh"):
        code_tasks.task_of(JAVASCRIPT | {"language": "rs"})


class Filler:
    """A coder whose model puts the same text into every gap."""

    def __init__(self, sandbox, text):
        self.sandbox, self.pipeline, self.text = sandbox, self, text


def test_published_infilling_by_execution(sandbox, monkeypatch):
    monkeypatch.setattr(code, "infilled", lambda coder, *_, **__: Completion(coder.text, "stop"))
    gap = code_tasks.hole_of(INFILLING)
    assert gap.kind == "SingleLineInfilling"
    for text, passed, exact in [("y = 2 * x", 1, 1), ("y = x + x", 1, 0), ("y = x", 0, 0)]:
        found = code.filled(Filler(sandbox, f"    {text}\n"), [gap])
        assert found["by execution"].value == passed and found["exact"].value == exact
        assert (found["edit similarity"].value == 1) == bool(exact)


def test_holes_are_cut_from_bodies():
    for gap in code_tasks.holes(code_tasks.made(20)):
        assert gap.before + gap.middle + gap.after == gap.task.whole and gap.middle
        assert gap.before.count('"""') == 2
        assert gap.kind == "span" or ("\n" not in gap.middle and gap.after.startswith("\n"))
