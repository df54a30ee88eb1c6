"""Measures of a small chat model by programs, in phrasings and with words that no training meets.

    daedal eval house/chat --tasks instructions,problems,refusals

`instructions`: everyday requests and exercises; the share of constraints met, over all and by kind,
and the share of requests with all of them met. `problems`: word problems of two steps, the right
result. `refusals`: questions that cannot be answered, of which "I don't know" is right, and ones that
can, of which it is wrong, as "I will not help" is."""

import random
from collections.abc import Callable, Sequence

import torch

from daedal.evals.measured import Measured, bootstrap, share
from daedal.pipelines.text import TextPipeline
from daedal.processes.sampling import SamplingParams
from daedal.train import assistant
from daedal.worlds import instructions, requests
from daedal.worlds.answers import declines, refuses
from daedal.worlds.tasks import Task

Found = dict[str, Measured]
EXERCISES = ("listed", "worded", "correct", "change", "small")  # beside the requests
COUNTS = {"instructions": 300, "problems": 200, "refusals": 400}


def replies(pipeline: TextPipeline, tasks: Sequence[Task]) -> list[str]:
    """What the model says, greedily."""
    params = SamplingParams(temperature=0, max_tokens=160)
    asked = [task.messages for task in tasks]
    given = assistant.answers(pipeline.network, pipeline.tokenizer, asked, params)
    return [texts[0] for texts in given]


def made(name: str, count: int, make: Callable[[int, random.Random], Task]) -> list[Task]:
    return [make(i, random.Random(f"{name}/{i}")) for i in range(count)]


def exercise(kind: str, rng: random.Random) -> Task:
    return instructions.task(rng, [kind], held_out=True)


def measure_instructions(pipeline: TextPipeline, count: int) -> Found:
    def make(i: int, rng: random.Random) -> Task:
        if i % 3:
            return requests.request(rng, held_out=True)
        return exercise(EXERCISES[i // 3 % len(EXERCISES)], rng)

    tasks = made("instructions", count, make)
    earned = [task.check(text) for task, text in zip(tasks, replies(pipeline, tasks), strict=True)]
    kinds: dict[str, list[float]] = {}
    for task, value in zip(tasks, earned, strict=True):
        kinds.setdefault(task.kind, []).append(value)
    return {
        "constraints met": mean(earned),
        "all met": share(sum(value == 1 for value in earned), count),
        **{kind: mean(values) for kind, values in sorted(kinds.items())},
    }


def mean(values: Sequence[float]) -> Measured:
    return bootstrap(lambda x: float(x.mean()), torch.tensor(values))


def measure_problems(pipeline: TextPipeline, count: int) -> Found:
    tasks = made("problems", count, lambda i, rng: exercise("problem", rng))
    texts = replies(pipeline, tasks)
    hits = sum(task.check(text) == 1 for task, text in zip(tasks, texts, strict=True))
    return {"right": share(hits, count)}


def measure_refusals(pipeline: TextPipeline, count: int) -> Found:
    """A quarter each: a text that does not say, no text and a far question, a text that says, an
    everyday request."""

    def make(i: int, rng: random.Random) -> Task:
        kind = ("unsaid", "unknowable", "reading", "")[i % 4]
        return exercise(kind, rng) if kind else requests.request(rng, held_out=True)

    tasks = made("refusals", count, make)
    texts = replies(pipeline, tasks)
    said = [(refuses if i % 4 < 2 else declines)(text) for i, text in enumerate(texts)]
    of = {
        name: said[i::4] for i, name in enumerate(("unsaid", "unknowable", "reading", "requests"))
    }
    shares = {f"of {name}": share(sum(some), len(some)) for name, some in of.items()}
    no, yes = of["unsaid"] + of["unknowable"], of["reading"] + of["requests"]
    return {
        "unanswerable refused": share(sum(no), len(no)),
        "answerable refused": share(sum(yes), len(yes)),
        **shares,
    }


TASKS: dict[str, Callable[[TextPipeline, int], Found]] = {
    "instructions": measure_instructions,
    "problems": measure_problems,
    "refusals": measure_refusals,
}


def measure(pipeline: TextPipeline, name: str, limit: int | None = None) -> Found:
    """One of TASKS, on its own number of examples or on `limit`."""
    return TASKS[name](pipeline, limit or COUNTS[name])
