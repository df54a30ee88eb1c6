"""Word problems of one to three steps with +, - and x over small numbers, answered with a
scratchpad.

    Mia has 5 apples. Tom gives Mia 4 more. Mia loses 2. How many apples does Mia have now?
    5 + 4 = 9. 9 - 2 = 7. The answer is 7.

Problems that begin with a number of HELD_OUT are for evaluation only: no training problem begins
with one, though such numbers turn up later in its steps."""

import random
import re
from collections.abc import Callable
from decimal import Decimal
from functools import partial

from daedal.worlds.tales import HEROES
from daedal.worlds.tasks import Task, phrases

THINGS = phrases(
    "apples | balls | shells | books | kites | cookies | buttons | flowers | stones | cards | "
    "stars | beads"
)
HELD_OUT = (7, 11, 16)
STARTS = tuple(n for n in range(2, 21) if n not in HELD_OUT)
MOST = 60  # no step goes beyond
STEPS = (1, 2, 3)

MORE = ("{friend} gives {hero} {n} more.", "{hero} finds {n} more.", "{hero} buys {n} more.")
LESS = ("{hero} gives {n} to {friend}.", "{hero} loses {n}.", "{hero} sells {n} of them.")
TIMES = (
    "Magic makes them {n} times as many.",
    "{friend} has a trick that makes them {n} times as many.",
)
WAYS: dict[str, tuple[tuple[str, ...], Callable[[int, int], int]]] = {
    "+": (MORE, int.__add__),
    "-": (LESS, int.__sub__),
    "x": (TIMES, int.__mul__),
}


def task(rng: random.Random, held_out: bool = False) -> Task:
    """One problem, a function of `rng` alone."""
    hero, friend = rng.sample(HEROES, 2)
    thing, value = rng.choice(THINGS), rng.choice(HELD_OUT if held_out else STARTS)
    lines, worked = [f"{hero} has {value} {thing}."], []
    for _ in range(rng.choice(STEPS)):
        sign, n = move(rng, value)
        ways, apply = WAYS[sign]
        result = apply(value, n)
        lines.append(rng.choice(ways).format(hero=hero, friend=friend, n=n))
        worked.append(f"{value} {sign} {n} = {result}.")
        value = result
    lines.append(f"How many {thing} does {hero} have now?")
    return Task(
        "arithmetic",
        " ".join(lines),
        f"{' '.join(worked)} The answer is {value}.",
        partial(check, value),
    )


def sum_task(rng: random.Random, held_out: bool = False) -> Task:
    """One step of such a problem, asked for in signs or words; a function of `rng` alone."""
    value = rng.choice(HELD_OUT if held_out else [n for n in range(1, MOST) if n not in HELD_OUT])
    sign, n = move(rng, value)
    spoken = {"+": "plus", "-": "minus", "x": "times"}[sign]
    result, how = WAYS[sign][1](value, n), rng.choice((sign, sign, spoken))
    prompt = rng.choice(
        ("What is {}?", "How much is {}?", "{} = ?", "{}", "Can you work out {}?")
    ).format(f"{value} {how} {n}")
    return Task(
        "sum",
        prompt,
        f"{value} {sign} {n} = {result}. The answer is {result}.",
        partial(check, result),
    )


def move(rng: random.Random, value: int) -> tuple[str, int]:
    """A sign and a number that leave the result between 1 and MOST."""
    signs = ["+"] * 2 * (value + 9 <= MOST) + ["-"] * 2 * (value > 2) + ["x"] * (2 * value <= MOST)
    sign = rng.choice(signs)
    most = {"+": 9, "-": min(9, value - 1), "x": min(4, MOST // value)}[sign]
    return sign, rng.randint(2 if sign == "x" else 1, most)


def check(right: int, completion: str) -> float:
    """1 for the right result, else 0."""
    return float(result_of(completion) == right)


def result_of(text: str) -> int | Decimal | None:
    """The number, whole or decimal, that a text gives as its result: after the last "answer is",
    else after the last "=", else the last one there is."""
    text = re.sub(r"(?<=\d),(?=\d{3})", "", text)
    for before in (r"answer\s*(?:is|:|=)[^\d\n.-]*", r"=\s*", ""):
        if found := re.findall(
            before + r"((?:(?<!\d)-)?(?:\d+(?:\.\d+)?|(?<![\w.])\.\d+))", text, re.IGNORECASE
        ):
            return Decimal(found[-1][:18]) if "." in found[-1][:18] else int(found[-1][:18])
    return None
