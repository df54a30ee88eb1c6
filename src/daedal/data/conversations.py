"""Conversations as tokens, with what the assistant wrote marked, packed whole into rows: what
supervised fine-tuning learns from.

They come from files (daedal.data.rows) or are made of tasks. What cannot be learned from is left
out and counted, by reason. Legend: B rows, T tokens."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from daedal.data import chat
from daedal.data.rows import ChatSource, Messages, conversation, of_task, opened, rows
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.worlds import instructions

MISFITS = 16  # conversations that may wait for the next batch while this one is packed
STRANGERS = 10_000  # conversations in a row that may be left out


# ---- tokens --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Talk:
    """A conversation as ids (T,) and which of them the assistant wrote."""

    ids: np.ndarray
    mask: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


def tokens_of(
    tokenizer: Tokenizer, messages: Messages, length: int, left_out: Counter[str], tools: Any = None
) -> Talk | None:
    """Ids and mask, cut behind the last answer that ends within `length` tokens; None (counted)
    where that leaves no answer."""
    while messages and messages[-1]["role"] != "assistant":
        messages = messages[:-1]
    said = [m for m in messages if m["role"] == "assistant"]
    if not said or not all(
        (isinstance(m["content"], str) and m["content"].strip()) or m.get("tool_calls")
        for m in said
    ):
        left_out["an empty answer" if said else "no answer"] += 1
        return None
    ids, mask = chat.encode_with_mask(tokenizer, messages, tools=tools)
    ends = [
        i
        for i in range(min(len(ids), length), 0, -1)
        if mask[i - 1] and (i == len(ids) or not mask[i])
    ]
    if not ends:
        left_out[f"no answer within {length} tokens"] += 1
        return None
    return Talk(np.array(ids[: ends[0]], np.int32), np.array(mask[: ends[0]]))


class TaskTalks:
    """Generated conversations, endless: number k of a seed is always the same."""

    def __init__(
        self,
        source: ChatSource,
        tokenizer: Tokenizer,
        length: int,
        seed: int,
        left_out: Counter[str],
    ) -> None:
        self.source = source
        self.tokenizer = tokenizer
        self.length = length
        self.seed = seed
        self.left_out = left_out

    def __getitem__(self, k: int) -> Talk | None:
        rng = random.Random(f"{self.seed}/{k % self.source.limit if self.source.limit else k}")
        made = [
            instructions.task(rng, self.source.kinds)
            for _ in range(rng.randint(1, self.source.exchanges))
        ]
        messages = [message for task in made for message in of_task(task)]
        return tokens_of(self.tokenizer, opened(messages, self.source), self.length, self.left_out)


class FileTalks:
    """The conversations of files, each once an epoch, in an order of (seed, epoch)."""

    def __init__(
        self,
        source: ChatSource,
        tokenizer: Tokenizer,
        length: int,
        seed: int,
        left_out: Counter[str],
    ) -> None:
        self.chats = [(conversation(row, source), row.get("tools")) for row in rows(source)]
        self.tokenizer, self.length, self.seed, self.left_out = tokenizer, length, seed, left_out
        self.epoch, self.order = -1, np.empty(0, int)
        if all(self.talk(i) is None for i in range(len(self.chats))):
            raise DaedalError(
                f"{source.path} gave no conversation to learn from ({reasons(left_out) or 'it is empty, or where matches no row'})."
            )
        left_out.clear()

    def talk(self, i: int) -> Talk | None:
        messages, tools = self.chats[i]
        return tokens_of(self.tokenizer, messages, self.length, self.left_out, tools)

    def __getitem__(self, k: int) -> Talk | None:
        epoch, place = divmod(k, len(self.chats))
        if epoch != self.epoch:
            self.epoch = epoch
            self.order = np.random.default_rng([self.seed, epoch]).permutation(len(self.chats))
        return self.talk(int(self.order[place]))


def reasons(left_out: Counter[str]) -> str:
    return ", ".join(f"{count} with {reason}" for reason, count in left_out.items())


class PackedTalks:
    """Endless batches {"tokens", "mask", "segments"} of (rows, length + 1): whole conversations,
    each a segment of its own, as many as fit the rows. `mask` says what the assistant wrote; what
    is left of a row is one more segment that has none."""

    def __init__(
        self,
        sources: Sequence[ChatSource],
        tokenizer: Tokenizer,
        rows: int,
        length: int,
        seed: int = 0,
        state: dict[str, Any] | None = None,
    ) -> None:
        self.left_out: Counter[str] = Counter()
        self.rows = rows
        self.length = length + 1
        self.pad = tokenizer.special_tokens.get(tokenizer.roles.get("pad_token", ""), 0)
        self.weights = [source.weight for source in sources]
        self.pools: list[Any] = [
            (TaskTalks if source.kinds else FileTalks)(
                source, tokenizer, length + 1, seed + i, self.left_out
            )
            for i, source in enumerate(sources)
        ]
        self.taken: list[int] = list(state["taken"]) if state else [0] * len(sources)
        self.waiting: list[tuple[int, int]] = (
            [tuple(item) for item in state["waiting"]] if state else []
        )  # type: ignore[misc]

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        while True:
            yield self.batch()

    def draw(self) -> tuple[int, int]:
        """(source, number in it): the source that is furthest behind its share."""
        source = min(range(len(self.pools)), key=lambda i: self.taken[i] / self.weights[i])
        self.taken[source] += 1
        return source, self.taken[source] - 1

    def batch(self) -> dict[str, Tensor]:
        """Each conversation goes to the fullest row that has room for it; those that found none
        wait, and are first in the next batch."""
        packed: list[list[Talk]] = [[] for _ in range(self.rows)]
        space = [self.length] * self.rows
        queue = list(self.waiting)
        waiting = list[tuple[int, int]]()
        without = 0
        while len(waiting) < MISFITS and max(space) > self.length // 16:
            at = queue.pop(0) if queue else self.draw()
            talk = self.pools[at[0]][at[1]]
            without = 0 if talk else without + 1
            if without > STRANGERS:
                raise DaedalError(
                    f"{without} conversations in a row cannot be learned from ({reasons(self.left_out)}); give a longer context."
                )
            if talk is None:
                continue
            fitting = [i for i in range(self.rows) if len(talk) <= space[i]]
            if not fitting:
                waiting.append(at)
                continue
            row = min(fitting, key=lambda i: space[i])
            packed[row].append(talk)
            space[row] -= len(talk)
        self.waiting = waiting + queue
        return self.tensors(packed)

    def tensors(self, packed: list[list[Talk]]) -> dict[str, Tensor]:
        shape = (self.rows, self.length)
        tokens = torch.full(shape, self.pad)
        mask = torch.zeros(shape, dtype=torch.bool)
        segments = torch.zeros(shape, dtype=torch.int32)
        for i, talks in enumerate(packed):
            at = 0
            for number, talk in enumerate(talks, 1):
                end = at + len(talk)
                tokens[i, at:end] = torch.from_numpy(talk.ids)
                mask[i, at:end] = torch.from_numpy(talk.mask)
                segments[i, at:end] = number
                at = end
        return {"tokens": tokens, "mask": mask, "segments": segments}

    def state(self) -> dict[str, Any]:
        return {"taken": list(self.taken), "waiting": [list(item) for item in self.waiting]}
