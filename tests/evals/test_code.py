"""pass@k, published files of tasks, and verdicts by execution."""

import gzip
import itertools
import json

import pytest

from daedal.errors import DaedalError
from daedal.evals import code
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
    (task,) = code.tasks_in(plain)
    assert task.shown == ("assert double(2) == 4",) and len(task.tests) == 2
    (other,) = code.tasks_in(packed)
    assert other.prefix == HUMAN["prompt"] and other.check.endswith("check(double)\n")
    (tmp_path / "no.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(DaedalError, match="has the columns a"):
        code.tasks_in(tmp_path / "no.jsonl")


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
        assert code.verdict_of(sandbox, code.task_of(row), answer) == verdict


def test_an_answer_may_go_on_from_the_prompt(sandbox):
    task = code.task_of(HUMAN)
    assert code.verdict_of(sandbox, task, "    return 2 * x\n") == "solved"
    assert code.verdict_of(sandbox, task, "```python\nreturn_value = 2\n```") == "wrong"
