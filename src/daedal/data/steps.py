"""Solutions step by step, each step right or wrong: what process reward models learn from (Lightman
et al. 2023).

Rows are {"prompt", "completions": [step, ...], "labels": [true, ...]}, TRL's shape, or made of
arithmetic tasks: a worked answer, or one with a slip, and then every step from there on is wrong,
however well it goes on from the slip. A `Comparison` holds one talk, its mask true at the last
token of each step, and the steps' ranks, 1 right and 2 wrong."""

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from daedal.data import chat
from daedal.data.comparisons import Comparison
from daedal.data.conversations import Talk, reasons
from daedal.data.rows import ChatSource, Messages, messages_of, opened, rows, truth
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.worlds import arithmetic, instructions

STEP = re.compile(r"(\d+) ([-+x]) (\d+) = (\d+)\.")


def load(
    source: ChatSource,
    tokenizer: Tokenizer,
    length: int,
    seed: Any,
    left_out: Counter[str],
    tasks: int,
    held_out: bool = False,
) -> list[Comparison]:
    """All solutions of a source; `tasks` are those made where it is one of tasks without a limit."""
    if source.kinds:
        made = []
        for i in range(source.limit or tasks):
            prompt, *solution = worked(random.Random(f"{seed}/{i}"), held_out)
            asked = opened(messages_of(prompt), source)
            made.append(stepped(tokenizer, asked, *solution, " ", length, left_out))
    else:
        made = [of_row(row, source, tokenizer, length, left_out) for row in rows(source)]
    found = [each for each in made if each]
    if not found:
        raise DaedalError(
            f"{source.path} gave no solution to learn from ({reasons(left_out) or 'it is empty, or where matches no row'})."
        )
    return found


def of_row(
    row: dict[str, Any],
    source: ChatSource,
    tokenizer: Tokenizer,
    length: int,
    left_out: Counter[str],
) -> Comparison | None:
    steps, labels = row.get("completions"), row.get("labels")
    if row.get("prompt") is None or steps is None or labels is None or len(steps) != len(labels):
        raise DaedalError(
            f"a row of {source.path} has {', '.join(row)}, and a process reward needs prompt, completions and as many labels."
        )
    labels = [truth(label, "labels", source) for label in labels]
    prompt = opened(messages_of(row["prompt"]), source)
    return stepped(tokenizer, prompt, steps, labels, "\n", length, left_out)


def stepped(
    tokenizer: Tokenizer,
    prompt: Messages,
    steps: Sequence[str],
    labels: Sequence[bool],
    between: str,
    length: int,
    left_out: Counter[str],
) -> Comparison | None:
    """Steps as tokens. None (counted) where there is none, one is empty, or the whole is too long."""
    if not steps or not all(step.strip() for step in steps):
        left_out["an empty step"] += 1
        return None
    text = between.join(steps)
    shown = chat.said(tokenizer, [*prompt, {"role": "assistant", "content": text}])
    start = shown.spans[-1][0]
    if not shown.text.startswith(text, start):
        raise DaedalError(
            "the chat template changes the words of an answer, so the ends of its steps cannot be found; give another template."
        )
    ends = np.cumsum([len(step) for step in steps]) + len(between) * np.arange(len(steps)) + start
    ids, _ = chat.encode_rendered(tokenizer, shown)
    marks = np.zeros(len(ids), bool)
    for end in ends:
        upto = replace(shown, spans=((0, int(end)),))
        marks[sum(chat.encode_rendered(tokenizer, upto)[1]) - 1] = True
    if len(ids) > length or marks.sum() != len(steps):
        long = len(ids) > length
        left_out[f"more than {length} tokens" if long else "two steps in one token"] += 1
        return None
    talk = Talk(np.array(ids, np.int32), marks)
    return Comparison((talk,), tuple(1 if right else 2 for right in labels))


def parts(text: str) -> tuple[list[str], str]:
    """The steps of a solution and what stands between them: its lines, or its sentences where there
    is one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines, "\n") if len(lines) > 1 else (re.split(r"(?<=[.!?])\s+", text.strip()), " ")


def worked(rng: random.Random, held_out: bool) -> tuple[str, list[str], list[bool]]:
    """(prompt, steps, labels) of an arithmetic task; half of them with a slip."""
    task = instructions.task(rng, ["arithmetic"], held_out)
    steps, _ = parts(task.answer)
    first = rng.randrange(len(steps)) if rng.random() < 0.5 else len(steps)
    labels = [i < first for i in range(len(steps))]
    return task.prompt, steps[:first] + slipped(rng, steps[first:]), labels


def slipped(rng: random.Random, steps: Sequence[str]) -> list[str]:
    """Steps of which the first has a wrong result, or takes a wrong number; the others go on from
    what came out."""
    made, value = list[str](), None
    for step in steps:
        found = STEP.fullmatch(step)
        if found is None:  # the answer
            head, said = re.fullmatch(r"(.*?)(\d+)\.", step).groups()  # type: ignore[union-attr]
            made.append(
                f"{head}{int(said) + rng.choice((1, 2, 3, 10)) if value is None else value}."
            )
            continue
        left, sign, right = int(found[1]) if value is None else value, found[2], int(found[3])
        right += rng.choice((1, 2, 3)) if (misread := value is None and rng.random() < 0.5) else 0
        value = max(0, arithmetic.WAYS[sign][1](left, right)) + (
            rng.choice((1, 2, 3, 10)) if value is None and not misread else 0
        )
        made.append(f"{left} {sign} {right} = {value}.")
    return made
