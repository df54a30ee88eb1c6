"""Two models on the same prompts: how often one answers better, by a program, a reward model or a
language model as the judge.

A language model is asked twice, with the answers in either order, and only a judgement that
survives the swap counts (judges prefer a place: Zheng et al. 2023, section 3.4)."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from daedal.data.rows import Messages, first_prompt, messages_of
from daedal.errors import DaedalError
from daedal.evals.measured import Measured, bootstrap, share

# (number of the prompt, answer of A, answer of B) -> 1 A is better, 0 B is, 0.5 neither
Judge = Callable[[int, str, str], float]
QUESTION = """Here is a request and two answers to it.

Request: {prompt}

Answer 1: {first}

Answer 2: {second}

Which answer is better? Reply with 1 or 2."""


@dataclass(frozen=True)
class Comparison:
    """`win_rate` of A, a tie counting half; shares of prompts that A wins, ties and loses; and each
    prompt with its answers and judgement."""

    win_rate: Measured
    wins: Measured
    ties: Measured
    losses: Measured
    rows: list[dict[str, Any]]

    def save(self, path: Path) -> None:
        """One line of JSON a prompt."""
        path.write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows),
            encoding="utf-8",
        )

    def report(self) -> dict[str, Any]:
        return {
            name: asdict(getattr(self, name)) for name in ("win_rate", "wins", "ties", "losses")
        }


def compare(
    a: Any,
    b: Any,
    prompts: Sequence[str | Messages],
    judge: Judge,
    *,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> Comparison:
    """Pipelines `a` and `b` answer every prompt with the same seed and settings; `judge` says which
    answer is better."""
    if not prompts:
        raise DaedalError("there are no prompts to compare on; give at least one.")
    rows = []
    for i, prompt in enumerate(prompts):
        answers = [answer(pipeline, prompt, seed=seed + i, **settings) for pipeline in (a, b)]
        rows.append(
            {"prompt": prompt, "a": answers[0], "b": answers[1], "a_wins": judge(i, *answers)}
        )
        if on_progress:
            on_progress(i + 1, len(prompts))
    scores, n = torch.tensor([row["a_wins"] for row in rows]), len(rows)
    shares = [share(int(found.sum()), n) for found in (scores > 0.5, scores == 0.5, scores < 0.5)]
    return Comparison(bootstrap(lambda x: float(x.mean()), scores), *shares, rows)


def answer(pipeline: Any, prompt: str | Messages, **settings: Any) -> str:
    """What a model says to a prompt or to a conversation: as a chat where it has a template, else
    as a continuation of what was said last."""
    asked = messages_of(prompt) if pipeline.chats else last_said(prompt)
    return str(pipeline(asked, **settings)).strip()


def last_said(prompt: str | Messages) -> str:
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])


# ---- judges --------------------------------------------------------------------------------------


def by_score(score: Callable[[int, str], float]) -> Judge:
    """The answer with the higher score (number of the prompt, answer) -> float."""

    def judge(i: int, a: str, b: str) -> float:
        ours, theirs = score(i, a), score(i, b)
        return 0.5 if ours == theirs else float(ours > theirs)

    return judge


def by_model(pipeline: Any, prompts: Sequence[str | Messages]) -> Judge:
    """The answer that a language model names in both orders."""

    def first_is_better(prompt: str, first: str, second: str) -> bool:
        question = QUESTION.format(prompt=prompt, first=first, second=second)
        return answer(pipeline, question, regex="[12]", max_tokens=1, temperature=0) == "1"

    def judge(i: int, a: str, b: str) -> float:
        if a == b:
            return 0.5
        prompt = last_said(prompts[i])
        return (first_is_better(prompt, a, b) + (not first_is_better(prompt, b, a))) / 2

    return judge


def read_prompts(path: str | Path, n: int) -> list[str]:
    """The first `n` prompts of a file: lines of text, or .jsonl with `prompt`, or with `messages`
    that begin with the user's."""
    file = Path(path)
    if not file.is_file():
        raise DaedalError(
            f"{path} is not a file; give prompts as lines of text, or as .jsonl with a `prompt` or `messages` a line."
        )
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()][:n]
    return (
        [prompt_of(json.loads(line), f"{path}, line {i + 1}") for i, line in enumerate(lines)]
        if file.suffix == ".jsonl"
        else lines
    )


def prompt_of(row: dict[str, Any], where: str) -> str:
    if not (prompt := first_prompt(row)):
        raise DaedalError(
            f"{where} has neither a `prompt` nor `messages` with a user's; its keys are {', '.join(row)}."
        )
    return prompt
