"""Whether a model calls tools rightly: questions made by program over the built-in tools, whose
answers are known.

    daedal eval coder --tasks tools --limit 100

Valid is every call that its tool could be given; right is a last answer that has the value that was
asked for."""

import json
import random
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from daedal.assist.tools.builtin import Toolbox
from daedal.assist.tools.loop import Call, Loop, Talk
from daedal.assist.tools.tool import fits
from daedal.errors import DaedalError
from daedal.evals.measured import Measured, Report, lines_of, plain, share
from daedal.pipelines.text import TextPipeline
from daedal.pipelines.text_params import TextMeasuring

NAMES = ("Pim", "Zoe", "Ravi", "Ines", "Bruno", "Mei", "Kofi", "Freya")
TOPICS = ("harvest", "boat", "library", "concert", "bakery", "garden", "school", "bridge")
SYSTEM = "Use the tools where they help, then answer in one short sentence."


@dataclass(frozen=True)
class Task:
    """A question, what its answer must have (any of these), and the files that are there."""

    kind: str
    question: str
    right: tuple[str, ...]
    files: dict[str, str]


def files_of(rng: random.Random) -> dict[str, str]:
    """A small folder of notes."""
    topics = rng.sample(TOPICS, 4)
    return {
        f"{topic}.txt": f"Notes on the {topic}.\n{rng.choice(NAMES)} looks after the {topic}.\n"
        f"It costs {rng.randint(100, 9999)} euros.\n"
        for topic in topics
    }


def sum_task(rng: random.Random, files: dict[str, str]) -> Task:
    a, b, c = rng.randint(100, 9999), rng.randint(12, 99), rng.randint(100, 9999)
    value = a * b + c
    question = f"What is {a} times {b}, plus {c}?"
    return Task("calculator", question, (str(value), f"{value:,}"), files)


def weekday_task(rng: random.Random, files: dict[str, str]) -> Task:
    days = rng.randint(3, 60)
    found = (date.today() + timedelta(days=days)).strftime("%A")
    return Task("time", f"Which weekday is it in {days} days?", (found,), files)


def program_task(rng: random.Random, files: dict[str, str]) -> Task:
    n, k = rng.randint(200, 900), rng.randint(3, 9)
    value = sum(i * i for i in range(1, n + 1) if i % k == 0)
    question = f"Use Python: what is the sum of the squares of all multiples of {k} from 1 to {n}?"
    return Task("python", question, (str(value), f"{value:,}"), files)


def file_task(rng: random.Random, files: dict[str, str]) -> Task:
    name = rng.choice(sorted(files))
    cost = re.findall(r"\d+", files[name])[0]
    question = f"What does it cost, according to the file {name}?"
    return Task("files", question, (cost, f"{int(cost):,}"), files)


def two_files_task(rng: random.Random, files: dict[str, str]) -> Task:
    first, second = rng.sample(sorted(files), 2)
    value = sum(int(re.findall(r"\d+", files[name])[0]) for name in (first, second))
    question = f"Add the costs in {first} and in {second}. What is the total?"
    return Task("several", question, (str(value), f"{value:,}"), files)


KINDS: tuple[Callable[[random.Random, dict[str, str]], Task], ...] = (sum_task, weekday_task, program_task, file_task, two_files_task)  # fmt: skip


def task(number: int) -> Task:
    rng = random.Random(f"tools/{number}")
    return KINDS[number % len(KINDS)](rng, files_of(rng))


def evaluate(pipeline: TextPipeline, asked: TextMeasuring) -> Report:
    """What `daedal eval MODEL --tasks tools` says."""
    right: dict[str, list[bool]] = {}
    valid: list[bool] = []
    for number in range(asked.limit or 100):
        one = task(number)
        found, calls = answered(pipeline, one)
        right.setdefault(one.kind, []).append(found)
        right.setdefault("all", []).append(found)
        valid += calls
    groups: dict[str, dict[str, Measured]] = {
        "right": {kind: share(sum(hits), len(hits)) for kind, hits in right.items()}
    }
    if valid:
        groups["calls"] = {"valid": share(sum(valid), len(valid))}
    return Report(plain(groups), lines_of(groups))


def answered(pipeline: TextPipeline, one: Task) -> tuple[bool, list[bool]]:
    """Whether a task was answered rightly, and of each call whether it was valid."""
    calls: list[bool] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, content in one.files.items():
            (Path(folder) / name).write_text(content, "utf-8")
        with Toolbox(f"calculator,time,python,files:{folder}") as box:
            loop = Loop(pipeline, box.tools, temperature=0.0, seed=0, max_tokens=200)
            loop.on_result = lambda call, result: calls.append(is_valid(call, loop))
            talk = loop.run(Talk.of(one.question, SYSTEM))
    return has(talk.text, one.right), calls


def is_valid(call: Call, loop: Loop) -> bool:
    """Whether a call is of a tool that is there, with arguments of its schema."""
    try:
        fits(json.loads(json.dumps(call.arguments)), loop.tools[call.name].parameters, call.name)
    except (DaedalError, KeyError):
        return False
    return True


def has(text: str, values: tuple[str, ...]) -> bool:
    """Whether one of the values stands in a text whole."""
    return any(re.search(rf"(?<![\w.,]){re.escape(v)}(?![\w]|[.,]\d)", text, re.I) for v in values)
