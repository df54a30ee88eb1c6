"""Ways to ask a language model: with examples, with room to think, several times, or for longer.

    few_shot([("2 + 3", "5"), ("4 + 4", "8")], "1 + 6")            # a prompt that ends where the
    answer begins
    votes = self_consistency(pipeline, prompt, final_number, n=9)  # the answer that most ways of
    thinking come to
    best_of_n(pipeline, prompt, RewardModel("runs/process/model").steps)   # the answer whose worst
    step looks best
    budget_forced(pipeline, prompt, least=40, most=200)            # think no shorter, and no longer

They work on any pipeline of daedal.load, base models and chat models alike."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from daedal.errors import DaedalError

Example = tuple[str, str]  # a question and its answer
THINK = "Let's think step by step."  # Kojima et al. 2022


def few_shot(
    examples: Sequence[Example],
    question: str,
    instruction: str = "",
    ask: str = "Question: ",
    answer: str = "Answer:",
) -> str:
    """A prompt for a model that continues text: the examples, the question, and the word before its
    answer (Brown et al. 2020)."""
    shown = [f"{ask}{q}\n{answer} {a}" for q, a in examples]
    parts = [instruction] if instruction else []
    return "\n\n".join([*parts, *shown, f"{ask}{question}\n{answer}"])


def chain_of_thought(examples: Sequence[tuple[str, str, str]], question: str, **words: str) -> str:
    """A prompt whose examples (question, thoughts, answer) think before they answer (Wei et al.
    2022); without examples, one that asks for it."""
    shown = [(q, f"{thoughts} The answer is {a}.") for q, thoughts, a in examples]
    made = few_shot(shown, question, **words)
    return made if examples else f"{made} {THINK}"


def final_number(text: str) -> str | None:
    """The number behind the last "answer is", or the last one at all."""
    numbers = r"-?\d+(?:[.,]\d+)*"
    said = re.findall(rf"answer is:?\s*\$?({numbers})", text, re.IGNORECASE)
    said = said or re.findall(numbers, text)
    return said[-1].replace(",", "").rstrip(".") if said else None


# ---- asking several times ------------------------------------------------------------------------


@dataclass(frozen=True)
class Votes:
    """`answer` with most votes (None: no sample had one), its `share` of all samples, all votes,
    and the texts."""

    answer: str | None
    share: float
    votes: dict[str, int]
    texts: list[str]


def sampled(pipeline: Any, prompt: Any, n: int, settings: dict[str, Any]) -> list[str]:
    settings = {"temperature": 0.7, "raw": True, **settings}
    return [str(made) for made in pipeline(prompt, n=n, **settings)]


def self_consistency(
    pipeline: Any,
    prompt: Any,
    extract: Callable[[str], str | None] = final_number,
    n: int = 9,
    **settings: Any,
) -> Votes:
    """Sample n answers and take the one that `extract` finds most often (Wang et al. 2023); a small
    share says that the model does not know. Settings need a temperature above 0."""
    if n < 2 or settings.get("temperature", 1) == 0:
        raise DaedalError(
            f"votes need several different samples; give n of 2 or more (it is {n}) and a temperature above 0."
        )
    texts = sampled(pipeline, prompt, n, settings)
    counted = Counter(found for text in texts if (found := extract(text)) is not None)
    answer, most = counted.most_common(1)[0] if counted else (None, 0)
    return Votes(answer, most / n, dict(counted), texts)


@dataclass(frozen=True)
class Best:
    """The `text` with the highest `score`; each text with its steps' scores."""

    text: str
    score: float
    texts: list[str]
    steps: list[list[float]]


def best_of_n(
    pipeline: Any,
    prompt: Any,
    steps_of: Callable[[Any, str], Sequence[float]],
    n: int = 8,
    over: Callable[[Sequence[float]], float] = min,
    **settings: Any,
) -> Best:
    """Sample n answers and take the one whose steps a process reward model thinks best of (Lightman
    et al. 2023): `steps_of(prompt, text)` are the chances that its steps are right, and `over`
    makes one number of them, `min` (a chain is as good as its worst step) or `math.prod`."""
    if n < 2 or settings.get("temperature", 1) == 0:
        raise DaedalError(
            f"the best of several needs several different samples; give n of 2 or more (it is {n}) and a temperature above 0."
        )
    texts = sampled(pipeline, prompt, n, settings)
    steps = [list(steps_of(prompt, text)) for text in texts]
    scores = [over(some) for some in steps]
    best = scores.index(max(scores))
    return Best(texts[best], scores[best], texts, steps)


# ---- thinking longer or shorter ------------------------------------------------------------------


def budget_forced(
    pipeline: Any,
    prompt: str,
    *,
    least: int = 0,
    most: int = 256,
    go_on: str = " Wait,",
    conclude: str = " The answer is",
    rounds: int = 4,
    **settings: Any,
) -> str:
    """Thoughts of at least `least` and at most `most` tokens, then the answer (Muennighoff et al.
    2025): a model that stops early is told to `go_on`, one that goes on too long to `conclude`."""
    if not 0 <= least <= most:
        raise DaedalError(
            f"least={least} and most={most} do not make a span; give 0 <= least <= most."
        )

    def continued(text: str, max_tokens: int) -> Any:
        return pipeline(text, **{"raw": True, **settings, "max_tokens": max_tokens})

    said, used = "", 0
    for _ in range(rounds):
        made = continued(prompt + said, max(1, most - used))
        said, used = said + made.text, used + made.amount
        if made.finish_reason == "length" or used >= most:
            return said + conclude + str(continued(prompt + said + conclude, 16))
        if used >= least:
            break
        said += go_on
    return said
