"""What completions earn: any Python callable `(prompt, completion) -> float`, asked in threads
while the engine still runs, or a reward model.

A callable that raises, or whose answer is no finite number, drops its sample, which is counted.
When too many are dropped the run stops."""

import importlib
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from daedal import checkpoints
from daedal.data import chat
from daedal.data.rows import Messages, messages_of
from daedal.data.steps import parts, stepped
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.networks.scalar import ScalarModel

Reward = Callable[[str, str], float]


def named(name: str) -> Reward:
    """The callable `package.module:name`, or the reward model of a folder."""
    module, colon, attribute = name.partition(":")
    if not colon or "/" in module:
        return RewardModel(name)
    if os.getcwd() not in sys.path and "" not in sys.path:
        # where `python -m` looks, and the installed command does not
        sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise DaedalError(
            f"reward = {name!r} is not importable ({error}); write package.module:function, or a reward model's folder."
        ) from None


class RewardModel:
    """A folder of a scalar model as a reward: its value after the last token of the conversation,
    read by its own tokenizer."""

    def __init__(self, folder: str) -> None:
        path = checkpoints.resolve(folder)
        self.network = checkpoints.load(path, kind=ScalarModel).eval()
        self.tokenizer = chat.prepared(Tokenizer.load(path))

    def __call__(self, prompt: str, completion: str) -> float:
        return self.many([(prompt, completion)])[0]

    @torch.inference_mode()
    def many(self, pairs: Sequence[tuple[str, str]], rows: int = 64) -> list[float]:
        """The values of many (prompt, completion) pairs, `rows` at a time."""
        found = []
        for start in range(0, len(pairs), rows):
            talks = [
                [{"role": "user", "content": p}, {"role": "assistant", "content": c}]
                for p, c in pairs[start : start + rows]
            ]
            ids = [chat.encode(self.tokenizer, talk, add_generation_prompt=False) for talk in talks]
            tokens = torch.zeros(len(ids), max(map(len, ids)), dtype=torch.int64)
            for row, some in enumerate(ids):
                tokens[row, : len(some)] = torch.tensor(some)
            found += self.network(tokens)[range(len(ids)), [len(some) - 1 for some in ids]].tolist()
        return found

    @torch.inference_mode()
    def steps(self, prompt: str | Messages, completion: str) -> list[float]:
        """Of a process reward model: the chance that each step of a solution is right, as
        daedal.data.steps.parts finds them. Nothing that can be read as steps is [0.0]."""
        steps, between = parts(completion)
        context, right = self.network.config.max_position_embeddings, [True] * len(steps)
        asked = messages_of(prompt)
        made = stepped(self.tokenizer, asked, steps, right, between, context, Counter())
        if made is None:
            return [0.0]
        [talk] = made.talks
        values = self.network(torch.from_numpy(talk.ids).long()[None])[0]
        return values[torch.from_numpy(talk.mask)].sigmoid().tolist()


class Scoring:
    """The rewards of one rollout: `ask` as completions come in, `rewards` when all are there. A
    reward model waits for the engine, whose cores it wants, and reads many at once."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.pool, self.asked = pool, dict[int, Future[float]]()
        self.waiting: dict[int, tuple[RewardModel, tuple[str, str]]] = {}
        self.why = ""  # the first sample was dropped

    def ask(self, row: int, reward: Reward, prompt: str, completion: str) -> None:
        if isinstance(reward, RewardModel):
            self.waiting[row] = (reward, (prompt, completion))
        else:
            self.asked[row] = self.pool.submit(number, reward, prompt, completion)

    def rewards(self) -> Tensor:
        """(B,) in the order of rows, NaN where a sample is dropped."""
        found = {row: self.answer(future) for row, future in self.asked.items()}
        if self.waiting:
            rows = sorted(self.waiting)
            model = self.waiting[rows[0]][0]
            values = model.many([self.waiting[row][1] for row in rows])
            finite = [value if math.isfinite(value) else math.nan for value in values]
            found |= dict(zip(rows, finite, strict=True))
        return torch.tensor([found[row] for row in sorted(found)])

    def answer(self, future: "Future[float]") -> float:
        try:
            return future.result()
        except Exception as error:  # any: the callable is the user's
            self.why = self.why or f"{type(error).__name__}: {error}"
            return math.nan


def number(reward: Reward, prompt: str, completion: str) -> float:
    value: Any = float(reward(prompt, completion))
    if not math.isfinite(value):
        raise ValueError(f"the reward is {value}")
    return value


def check_dropped(rewards: Tensor, most: float, why: str) -> None:
    """Raises where more than a share `most` of (B,) rewards is dropped."""
    dropped = int(rewards.isnan().sum())
    if dropped > most * len(rewards):
        raise DaedalError(
            f"the reward failed for {dropped} of {len(rewards)} completions, more than dropped_most = {most} allows ({why}); mend it."
        )
