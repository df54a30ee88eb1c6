"""What a policy is asked while it learns: generated tasks, which bring their own check, or the
prompts of files, with an answer, with tests that code must pass, or with neither."""

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

from daedal.data import chat
from daedal.data.rows import ChatSource, Messages, messages_of, opened, rows
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.sandbox.examples import asking, cases_in
from daedal.sandbox.results import Case, Limits
from daedal.sandbox.sandbox import Sandbox
from daedal.sandbox.snippets import code_in
from daedal.train.rewards import Reward
from daedal.worlds import instructions
from daedal.worlds.arithmetic import result_of


@dataclass(frozen=True)
class Question:
    """`prompt` is what the user said last; `check` its own reward, None where nothing can be
    checked."""

    messages: Messages
    check: Reward | None

    @property
    def prompt(self) -> str:
        return str(self.messages[-1]["content"])


class Questions:
    """Endless: number k of a seed is always the same. Sources are drawn by weight, a file's prompts
    in an order of (seed, epoch)."""

    def __init__(
        self, sources: Sequence[ChatSource], tokenizer: Tokenizer, seed: int, longest: int
    ) -> None:
        self.sources, self.tokenizer, self.seed, self.longest = sources, tokenizer, seed, longest
        self.files: dict[int, list[Question]] = {}
        for i, source in enumerate(sources):
            found = [] if source.kinds else [asked(row, source) for row in rows(source)]
            if not found and not source.kinds:
                raise DaedalError(
                    f"{source.path} holds no prompts; its rows need a prompt (and an answer, if it is to be checked)."
                )
            self.files |= {i: found} if found else {}

    def question(self, k: int, held_out: bool = False) -> Question:
        rng = self.rng(k, held_out)
        i = rng.choices(range(len(self.sources)), [source.weight for source in self.sources])[0]
        if i in self.files:
            epoch, place = divmod(k, len(self.files[i]))
            return self.files[i][self.order(i, epoch)[place]]
        if limit := self.sources[i].limit:
            rng = self.rng(k % limit, held_out)
        task = instructions.task(rng, self.sources[i].kinds, held_out)
        messages = opened(task.messages, self.sources[i])
        return Question(messages, partial(checked, task.check))

    def rng(self, k: int, held_out: bool) -> random.Random:
        return random.Random(f"{self.seed}/{k}/{'held out' if held_out else 'asked'}")

    @lru_cache(maxsize=8)  # noqa: B019 - as long as the run
    def order(self, i: int, epoch: int) -> list[int]:
        """The prompts of a file in the order of an epoch."""
        size = len(self.files[i])
        return random.Random(f"{self.seed}/{epoch}").sample(range(size), size)

    def encoded(self, question: Question) -> list[int]:
        """Ids of the question up to where the assistant speaks."""
        ids = chat.encode(self.tokenizer, question.messages)
        if len(ids) > self.longest:
            raise DaedalError(
                f"the prompt {question.prompt[:40]!r} has {len(ids)} tokens, and {self.longest} are left beside an answer; lower answer_tokens, "
                "or leave it out."
            )
        return ids


def checked(check, prompt: str, completion: str) -> float:  # type: ignore[no-untyped-def]
    return check(completion)


def asked(row: dict, source: ChatSource) -> Question:
    if row.get("prompt") is None:
        raise DaedalError(
            f"a row of {source.path} has {', '.join(row)} and no prompt; name the column: columns: {{prompt: question}}."
        )
    if row.get("tests"):
        return programming(row, source)
    check = None if row.get("answer") is None else partial(answered, str(row["answer"]))
    return Question(opened(messages_of(row["prompt"]), source), check)


def programming(row: dict, source: ChatSource) -> Question:
    """A task of code: it is shown its first test, and earns the share of all that pass."""
    tests = row["tests"] if isinstance(row["tests"], list) else json.loads(row["tests"])
    cases = [case for test in tests for case in cases_in(test)]
    if not cases:
        raise DaedalError(
            f"a row of {source.path} has no test that is a plain call, like assert f(1) == 2; leave it out with `where`."
        )
    function = cases[0].call.function if cases[0].call else None
    prompt = asking(str(row["prompt"]), function, tests[:1])
    return Question(opened(messages_of(prompt), source), partial(executed, cases))


def executed(cases: list[Case], prompt: str, completion: str) -> float:
    """The share of cases that the code of a completion passes, run in the sandbox. What takes too
    long passes none."""
    return sandbox().grade(code_in(completion), cases).score


@lru_cache(maxsize=1)
def sandbox() -> Sandbox:
    """The one sandbox of this process."""
    return Sandbox(limits=Limits(wall_s=2.0, cpu_s=2))


# neither a part of 3/4 nor of A1
NUMBER = re.compile(r"(?<![\w/:^.-])-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?![\w/:^])")
STATED = re.compile(r"answer\s*(?:is|:|=)\s*(.+)", re.IGNORECASE)


def answered(answer: str, prompt: str, completion: str) -> float:
    """1 where a completion gives the answer of a file, else 0: the same number, where the answer
    holds one (or works one out, as in "9 * 2 = 18"), else the same words."""
    answer = answer.strip()
    if len(NUMBER.findall(answer)) == 1 or re.search(r"=|####|answer is", answer):
        return float(result_of(completion) == result_of(answer.rpartition("####")[2]))
    return float(says(answer, completion))


def says(answer: str, completion: str) -> bool:
    """Whether these words stand, as whole words, after the last "answer is", or anywhere if nothing
    is said to be the answer. A single letter stands first there; elsewhere "a" is not the choice A.
    """
    stated = STATED.findall(completion)
    words = rf"(?<!\w){re.escape(answer)}(?!\w)"
    if len(answer) > 1:
        return re.search(words, stated[-1] if stated else completion, re.IGNORECASE) is not None
    return bool(
        re.match(rf"\W*{words}", stated[-1], re.IGNORECASE)
        if stated
        else re.search(words, completion)
    )
