"""Several completions of one prompt and which is better, as tokens: for reward models and
preference training.

A `Comparison` has K completions with ranks, 1 the best: a pair has ranks (1, 2), a completion that
was only called good or bad has rank 1 or 2 alone. They come from rows (shapes: daedal.data.rows) or
from tasks, a right answer against one with a constraint broken.

Legend: B rows, K completions, T tokens."""

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from daedal.data import chat
from daedal.data.conversations import Talk, reasons
from daedal.data.rows import (
    ChatSource,
    Messages,
    alike,
    answer,
    margin,
    messages_of,
    opened,
    parted,
    rank,
    rows,
    truth,
)
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.worlds import instructions


@dataclass(frozen=True)
class Comparison:
    """`talks`: prompt and completion each, the mask true on the completion alone. `margin`: by how
    much the first of a pair should win."""

    talks: tuple[Talk, ...]
    ranks: tuple[int, ...]
    margin: float = 0.0


def comparison_of(
    row: Mapping[str, Any], source: ChatSource
) -> tuple[Messages, list[Messages], tuple[int, ...], float]:
    """(prompt, completions, ranks, margin) of a row."""
    if row.get("chosen") is not None and row.get("rejected") is not None:
        chosen, rejected = answer(row["chosen"]), answer(row["rejected"])
        prompt = messages_of(row["prompt"]) if row.get("prompt") else shared(chosen, rejected)
        prompt, turns = after(prompt, [chosen, rejected])
        return opened(prompt, source), turns, (1, 2), margin(row.get("margin"), source)
    if row.get("completions") is not None and row.get("ranks") is not None:
        answers = [answer(each) for each in row["completions"]]
        prompt, turns = after(messages_of(row["prompt"]), answers)
        return (
            opened(prompt, source),
            turns,
            tuple(rank(each, source) for each in row["ranks"]),
            0.0,
        )
    if row.get("completion") is not None and row.get("label") is not None:
        prompt, turns = after(messages_of(row["prompt"]), [answer(row["completion"])])
        good = truth(row["label"], "label", source)
        return opened(prompt, source), turns, (1 if good else 2,), 0.0
    raise DaedalError(
        f"a row of {source.path} has {', '.join(row)}, and a comparison needs prompt, chosen and rejected, or prompt, completions and ranks, or "
        "prompt, completion and label; say which columns they are: columns: {chosen: better, rejected: worse}."
    )


def after(prompt: Messages, completions: list[Messages]) -> tuple[Messages, list[Messages]]:
    """A prompt, and completions without it where they say it again."""
    pairs = [parted(prompt, turns) for turns in completions]
    return (pairs[0][0] if pairs else prompt), [rest for _, rest in pairs]


def shared(a: Messages, b: Messages) -> Messages:
    """The turns that two conversations begin with."""
    same = 0
    while same < min(len(a), len(b)) - 1 and alike(a[same : same + 1], b[same : same + 1]):
        same += 1
    return a[:same]


def encoded(
    tokenizer: Tokenizer,
    prompt: Messages,
    completions: Sequence[Messages],
    ranks: tuple[int, ...],
    margin: float,
    length: int,
    left_out: Counter[str],
) -> Comparison | None:
    """Tokens of a comparison; a prompt too long loses its oldest turns. None (counted) where
    nothing is compared."""
    said = [m.get("content") or m.get("tool_calls") for turns in completions for m in turns]
    if not all(completions) or not all(str(words or "").strip() for words in said):
        left_out["an empty answer"] += 1
        return None
    same = len(set(ranks)) == 1 or all(turns == completions[0] for turns in completions)
    if len(completions) > 1 and same:
        left_out["equal answers"] += 1
        return None
    while True:
        made = tuple(talk_of(tokenizer, prompt, turns) for turns in completions)
        if max(map(len, made)) <= length:
            return Comparison(made, ranks, margin)
        first = 1 if prompt[0]["role"] == "system" else 0
        later = [i for i in range(first + 1, len(prompt)) if prompt[i]["role"] == "user"]
        if not later:
            left_out[f"more than {length} tokens"] += 1
            return None
        prompt = [*prompt[:first], *prompt[later[0] :]]


def talk_of(tokenizer: Tokenizer, prompt: Messages, completion: Messages) -> Talk:
    ids, mask = chat.encode_with_mask(tokenizer, [*prompt, *completion])
    said = np.array(mask)
    said[: len(chat.encode(tokenizer, prompt))] = False  # earlier answers are part of the prompt
    return Talk(np.array(ids, np.int32), said)


def of_tasks(
    source: ChatSource,
    tokenizer: Tokenizer,
    count: int,
    length: int,
    seed: Any,
    held_out: bool = False,
) -> list[Comparison]:
    """`count` pairs of a task's right answer and one with a constraint broken; the margin is what
    they earn apart."""
    found, left_out = list[Comparison](), Counter[str]()
    for number in range(20 * count):
        rng = random.Random(f"{seed}/{number}")
        task = instructions.task(rng, source.kinds, held_out)
        worse = instructions.corrupted(task, rng, held_out)
        prompt, answers = opened(task.messages, source), [answer(task.answer), answer(worse)]
        apart = 1 - task.check(worse)
        made = encoded(tokenizer, prompt, answers, (1, 2), apart, length, left_out)
        if made:
            found.append(made)
        if len(found) == count:
            return found
    raise DaedalError(
        f"tasks of {source.path} do not fit {length} tokens ({reasons(left_out)}); give a longer context."
    )


def load(
    source: ChatSource,
    tokenizer: Tokenizer,
    length: int,
    seed: Any,
    left_out: Counter[str],
    tasks: int,
    held_out: bool = False,
) -> list[Comparison]:
    """All comparisons of a source; `tasks` are those made where it is one of tasks without a limit."""
    if source.kinds:
        return of_tasks(source, tokenizer, source.limit or tasks, length, seed, held_out)
    made = (
        encoded(tokenizer, *comparison_of(row, source), length, left_out) for row in rows(source)
    )
    found = [each for each in made if each]
    if not found:
        raise DaedalError(
            f"{source.path} gave nothing to compare ({reasons(left_out) or 'it is empty, or where matches no row'})."
        )
    return found


class Comparisons:
    """Endless batches of (rows, K, T): tokens, `said` (of the completion), `lengths` and `ranks`
    (rows, K; 0: no completion), `margin` (rows,) and `number` (rows,), by which a comparison is
    known. Sources share the rows by weight; each is shuffled anew every epoch."""

    def __init__(
        self,
        pools: Sequence[Sequence[Comparison]],
        weights: Sequence[float],
        rows: int,
        seed: int = 0,
        state: dict[str, Any] | None = None,
    ):
        self.pools, self.weights, self.rows, self.seed = pools, list(weights), rows, seed
        self.firsts = np.cumsum([0, *map(len, pools)]).tolist()
        self.taken: list[int] = list(state["taken"]) if state else [0] * len(pools)
        # source -> its epoch, and the order of that
        self.orders: dict[int, tuple[int, np.ndarray]] = {}

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        while True:
            yield self.batch([self.draw() for _ in range(self.rows)])

    def draw(self) -> int:
        source = min(range(len(self.pools)), key=lambda i: self.taken[i] / self.weights[i])
        epoch, place = divmod(self.taken[source], len(self.pools[source]))
        self.taken[source] += 1
        if self.orders.get(source, (-1,))[0] != epoch:
            rng = np.random.default_rng([self.seed, source, epoch])
            self.orders[source] = epoch, rng.permutation(len(self.pools[source]))
        return self.firsts[source] + int(self.orders[source][1][place])

    def __getitem__(self, number: int) -> Comparison:
        source = int(np.searchsorted(self.firsts, number, side="right")) - 1
        return self.pools[source][number - self.firsts[source]]

    def batch(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        return stacked([self[number] for number in numbers]) | {"number": torch.tensor(numbers)}

    def state(self) -> dict[str, Any]:
        return {"taken": list(self.taken)}


def stacked(some: Sequence[Comparison]) -> dict[str, Tensor]:
    """Comparisons as tensors (B, K, T), padded on the right."""
    K, T = max(len(c.talks) for c in some), max(len(talk) for c in some for talk in c.talks)
    tokens = torch.zeros(len(some), K, T, dtype=torch.int64)
    said = torch.zeros(len(some), K, T, dtype=torch.bool)
    lengths = torch.zeros(len(some), K, dtype=torch.int64)
    ranks = torch.zeros(len(some), max(len(c.ranks) for c in some), dtype=torch.int64)
    for b, c in enumerate(some):
        ranks[b, : len(c.ranks)] = torch.tensor(c.ranks)
        for k, talk in enumerate(c.talks):
            tokens[b, k, : len(talk)] = torch.from_numpy(talk.ids)
            said[b, k, : len(talk)] = torch.from_numpy(talk.mask)
            lengths[b, k] = len(talk)
    margin = torch.tensor([c.margin for c in some])
    return dict(tokens=tokens, said=said, lengths=lengths, ranks=ranks, margin=margin)
