"""What an answer of a file earns, whose questions are held out, and rewards that fail."""

import json
import sys
from pathlib import Path

import pytest

from daedal.data.rows import ChatSource
from daedal.errors import DaedalError
from daedal.train.questions import answered, asked
from daedal.train.rewards import named
from daedal.train.rl import RL
from daedal.train.tasks import load_recipe

QUICK = [
    "start=house/chat", "steps=1", "rollout={questions: 2, group: 2}", "rows=4", "micro_rows=4", "answer_tokens=4", "kl=0",
    "shortest=0", "sample_every=100", "evaluate_every=1", "dtype=fp32", "device=cpu",
]  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "right", "wrong"),
    [
        (
            "18",
            ["9 * 2 = 18. The answer is 18.", "18.0", "It is $18"],
            ["The answer is 1.8.", "181", ""],
        ),
        ("1,234", ["1234"], ["234", "1"]),
        ("3.5", ["The answer is 3.5.", "3.50"], ["The answer is 3.", "The answer is 5.", "35"]),
        ("$2.50", ["2.5"], ["2", "50"]),
        (".25", ["The answer is 0.25"], ["It is 25."]),
        ("50%", ["The answer is 50 %."], ["5"]),
        ("9 * 2 = 18", ["18"], ["9", "2"]),
        ("Mia has 3 and 4, so 7.\n#### 7", ["7"], ["3"]),
        ("3/4", ["The answer is 3/4."], ["4", "The answer is 13/4", "3"]),
        (
            "A",
            ["The answer is A.", "(A)", "answer: **a**", "A"],
            ["The answer is B.", "It is a cat", "ABBA"],
        ),
        (
            "Paris",
            ["the city of paris", "The answer is Paris."],
            ["Parisian", "Paris? No. The answer is Rome."],
        ),
        ("A1", ["A1"], ["1", "A 1"]),
    ],
)
def test_an_answer_earns_one_and_another_nothing(
    answer: str, right: list[str], wrong: list[str]
) -> None:
    assert [answered(answer, "", text) for text in right] == [1.0] * len(right)
    assert [answered(answer, "", text) for text in wrong] == [0.0] * len(wrong)


def prompts(file: Path, kind: str, count: int) -> Path:
    file.write_text("".join(json.dumps({"prompt": f"{kind} {i}?"}) + "\n" for i in range(count)))
    return file


def held(prompt: str, completion: str) -> float:
    """Raises for every third prompt that is held out."""
    if prompt.startswith("Held 2"):
        raise ValueError("cannot parse")
    return float(prompt.startswith("Held"))


def train(out: Path, *overrides: str) -> list[dict]:
    recipe = load_recipe("recipes/chat/taste.yaml", [*QUICK, f"out={out}", *overrides])
    RL(recipe, held).run()
    file = out / "evaluations.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_validation_is_what_is_held_out(tmp_path: Path) -> None:
    """Each of its prompts once, those whose reward fails dropped and counted; of training files
    none."""
    learned, other = (
        prompts(tmp_path / "a.jsonl", "Train", 4),
        prompts(tmp_path / "b.jsonl", "Held", 3),
    )
    data = f"data.train=[{{path: '{learned}'}}]"
    [line] = train(
        tmp_path / "with", data, f"data.validation=[{{path: '{other}'}}]", "evaluate_tasks=50"
    )
    assert (line["held_out"], line["held_out_dropped"]) == (1.0, 1)
    assert not train(tmp_path / "without", data, "evaluate_tasks=2")
    with pytest.raises(DaedalError, match=r"held_out_drop = 0\.1 has nothing to look at"):
        train(tmp_path / "none", data, "held_out_drop=0.1")


def test_rewards_that_fail_too_often_stop_the_run(tmp_path: Path) -> None:
    learned, other = (
        prompts(tmp_path / "a.jsonl", "Train", 4),
        prompts(tmp_path / "b.jsonl", "Held 2", 3),
    )
    sources = [f"data.train=[{{path: '{learned}'}}]", f"data.validation=[{{path: '{other}'}}]"]
    with pytest.raises(DaedalError, match=r"failed for 3 of 3 completions.*cannot parse"):
        train(tmp_path / "run", *sources, "evaluate_tasks=3")


def test_a_reward_is_found_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "reward_of_this_folder.py").write_text(
        "def length(prompt, completion):\n    return float(len(completion))\n"
    )
    monkeypatch.chdir(tmp_path)
    # as the installed command has it
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    assert named("reward_of_this_folder:length")("", "four") == 4.0


def test_code_earns_the_share_of_hidden_tests_that_it_passes() -> None:
    tests = ["assert double(2) == 4", "assert double(0) == 0", "assert double(-1) == -2"]
    row = {"prompt": "Double a number.", "tests": tests}
    question = asked(row, ChatSource(path="mbpp"))
    assert tests[0] in question.prompt and tests[1] not in question.prompt
    assert "Name it double." in question.prompt and question.check is not None
    earned = {
        "```python\ndef double(x):\n    return 2 * x\n```": 1.0,
        "```python\ndef double(x):\n    return x ** 2\n```": 2 / 3,
        "```python\ndef double(x):\n    while True: pass\n```": 0.0,
        "I cannot.": 0.0,
        "```python\nclass A(int):\n    def __eq__(s, o): return True\ndef double(x):\n    return A(9)\n```": 0.0,
    }
    for completion, reward in earned.items():
        assert question.check(question.prompt, completion) == pytest.approx(reward)
    assert (
        asked(row | {"tests": json.dumps(tests)}, ChatSource(path="mbpp")).prompt == question.prompt
    )
    with pytest.raises(DaedalError, match="no test that is a plain call"):
        asked(row | {"tests": ["assert x > y"]}, ChatSource(path="mbpp"))
