"""Rows for alignment, from files in the ecosystem's shapes: conversations, preferences, rankings,
prompts.

A source is a file, folder or Hub data set of jsonl or parquet, `tasks:story,question`
(daedal.worlds.instructions), or `programs:COUNT` and a seed (daedal.worlds.programs, with tests).
Its rows are

    {"messages": [{"role", "content"}, ...]}                    also conversations (from, value),
    turns (role or speaker, text)
    {"prompt", "completion"}                                    one exchange; prompt is text or
    messages
    {"prompt", "chosen", "rejected"}                            a pair, with an optional "margin";
    also two whole conversations
    {"prompt", "completion", "label"}                           label: true for a good completion
    {"prompt", "completions", "ranks"}                          rank 1 is the best, equal ranks are
    no preference
"""

import json
import math
import random
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from daedal.data import documents
from daedal.data.backtold import backtold
from daedal.data.contents import DataPath
from daedal.errors import DaedalError
from daedal.worlds import instructions
from daedal.worlds.programs import program_tasks
from daedal.worlds.tasks import Task

Messages = list[dict[str, Any]]
ROLE, CONTENT = ("role", "from", "speaker"), ("content", "text", "value")
SAME = {
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "1": "user",
    "2": "assistant",
}


class ChatSource(BaseModel):
    """`where` keeps rows whose column is one of the values; `columns` says what a file calls a
    field ({prompt: question}); `weight` is the source's share of what is drawn; `limit` its rows at
    most; `exchanges` the most tasks in one conversation. With `backtold` the rows are stories (`text`),
    of at most so many words, and each gets the request that would have ordered it
    (daedal.data.backtold)."""

    model_config = ConfigDict(extra="forbid")
    path: DataPath
    where: dict[str, Any] = {}
    columns: dict[str, str] = {}
    weight: float = 1.0
    limit: int | None = None
    system: str | None = None  # put in front of every conversation
    exchanges: int = 1
    backtold: int | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of tasks, none for a file."""
        word, _, named = self.path.partition(":")
        if word != "tasks":
            return ()
        return tuple(part.strip() for part in named.split(",")) if named else instructions.KINDS


# ---- rows ----------------------------------------------------------------------------------------


def rows(source: ChatSource) -> Iterator[dict[str, Any]]:
    """The rows of a file source, its fields called as Daedal calls them."""
    taken = 0
    for chunk in chat_chunks(source):
        for row in ordered(read(chunk, source), source):
            if taken == source.limit:
                return
            if all(
                documents.accepts(row.get(column), wanted)
                for column, wanted in source.where.items()
            ):
                taken += 1
                yield row | {ours: row.get(theirs) for ours, theirs in source.columns.items()}


def ordered(found: Iterator[dict[str, Any]], source: ChatSource) -> Iterator[dict[str, Any]]:
    """The rows; of stories those that are short enough, behind a request each."""
    for row in found:
        if source.backtold is None:
            yield row
            continue
        short = len(row["text"].split()) <= source.backtold
        if short and (pair := backtold(row["text"], random.Random(row["text"]))):
            yield row | dict(zip(("prompt", "completion"), pair, strict=True))


def chat_chunks(source: ChatSource) -> list[documents.Chunk]:
    """Those of tables, where there are some: texts beside them are no conversations."""
    found = documents.chunks(documents.Source(path=source.path))
    return [chunk for chunk in found if documents.kind(chunk.path) in documents.TABLES] or found


def read(chunk: documents.Chunk, source: ChatSource) -> Iterator[dict[str, Any]]:
    kind = documents.kind(chunk.path)
    if source.path.startswith("programs:"):
        yield from program_tasks(*map(int, source.path.split(":")[1:]))
        return
    if kind == ".parquet":
        file = documents.parquet(chunk.path)
        for column in [*source.where, *source.columns.values()]:
            if column not in file.schema_arrow.names:
                raise DaedalError(
                    f"{chunk.path} has no column {column!r}; it has {', '.join(file.schema_arrow.names)}."
                )
        yield from map(without_nulls, file.read_row_group(chunk.group).to_pylist())
        return
    if kind not in (".jsonl", ".json"):
        raise DaedalError(
            f"{chunk.path} is {kind} and conversations come as .jsonl or .parquet; convert it, or pre-train on it as text."
        )
    for number, line in enumerate(documents.text_lines(chunk.path), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DaedalError(
                    f"{chunk.path} line {number} is not JSON ({error.msg}); write one object a line."
                ) from None
            if not isinstance(row, dict):
                raise DaedalError(
                    f"{chunk.path} line {number} is a {type(row).__name__}, not an object with messages or prompt."
                )
            yield row


def messages_of(value: Any) -> Messages:
    """Text (the user's), or turns in any of the known spellings, as messages with role and content."""
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    found = []
    for turn in value:
        role = str(next((turn[key] for key in ROLE if turn.get(key)), ""))
        content = next((turn[key] for key in CONTENT if turn.get(key) is not None), "")
        extra = {
            key: value for key, value in turn.items() if value and key not in (*ROLE, *CONTENT)
        }
        found.append({"role": SAME.get(role, role), "content": text_of(content), **extra})
    return found


def text_of(content: Any) -> Any:
    """A turn's content, which may come as parts ({"type": "text", "text": ...}), as one text."""
    if not isinstance(content, list):
        return content
    for part in content:
        if not isinstance(part, str) and (
            part.get("type", "text") != "text" or not isinstance(part.get("text"), str)
        ):
            raise DaedalError(
                f"a message has a part of type {part.get('type')!r}; a text model reads parts of type 'text' only."
            )
    return "".join(part if isinstance(part, str) else part["text"] for part in content)


def without_nulls(value: Any) -> Any:
    """A parquet row as JSON would have it: a struct has the keys of all rows, null where a row has
    none."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def told(row: Mapping[str, Any]) -> Any:
    """The turns of a row that is one conversation."""
    return next((row[key] for key in ("messages", "conversations", "turns") if row.get(key)), None)


def truth(value: Any, column: str, source: ChatSource) -> bool:
    """Yes or no as files say it; "false" and 0 are no, and anything else than these is refused."""
    said = value.strip().lower() if isinstance(value, str) else value
    if said in (True, "true", "1", "yes", "good"):
        return True
    if said in (False, "false", "0", "no", "bad"):
        return False
    raise DaedalError(
        f"{source.path} has {column} = {value!r}, which is neither yes nor no; write true or false."
    )


def rank(value: Any, source: ChatSource) -> int:
    """A place, 1 the best."""
    try:
        if float(value) == int(float(value)) >= 1:
            return int(float(value))
    except (TypeError, ValueError, OverflowError):
        pass
    raise DaedalError(
        f"{source.path} has ranks with {value!r}; write whole numbers, 1 for the best."
    )


def margin(value: Any, source: ChatSource) -> float:
    """By how much one wins, 0 where nothing is said."""
    try:
        if math.isfinite(found := float(value or 0.0)):
            return found
    except (TypeError, ValueError):
        pass
    raise DaedalError(f"{source.path} has margin = {value!r}; write a number, or leave it out.")


def first_prompt(row: Mapping[str, Any]) -> str | None:
    """What a user says first: the row's prompt, or the first such turn of its conversation."""
    return next(
        (
            turn["content"]
            for turn in messages_of(row.get("prompt") or told(row) or ())
            if turn["role"] == "user" and turn["content"]
        ),
        None,
    )


def conversation(row: Mapping[str, Any], source: ChatSource) -> Messages:
    """A row as one conversation."""
    if turns := told(row):
        return opened(messages_of(turns), source)
    if row.get("prompt") is None or row.get("completion", row.get("chosen")) is None:
        raise DaedalError(
            f"a row of {source.path} has {', '.join(row)}, and a conversation needs messages, or prompt and completion; "
            "say which columns they are: columns: {prompt: question, completion: answer}."
        )
    prompt, completion = parted(
        messages_of(row["prompt"]), answer(row.get("completion", row.get("chosen")))
    )
    return opened([*prompt, *completion], source)


def opened(messages: Messages, source: ChatSource) -> Messages:
    has = bool(messages) and messages[0]["role"] == "system"
    if has or not source.system:
        return messages
    return [{"role": "system", "content": source.system}, *messages]


def answer(value: Any) -> Messages:
    """A completion as messages: text, or the turns of it."""
    return (
        [{"role": "assistant", "content": value}] if isinstance(value, str) else messages_of(value)
    )


def parted(prompt: Messages, turns: Messages) -> tuple[Messages, Messages]:
    """The prompt and what follows it, where the turns of a completion may say the prompt again,
    with a system's turn before it that the prompt lacks, or without one that it has."""
    n = len(prompt)
    for end in range(n, len(turns)):
        before = turns[: end - n]
        if all(turn["role"] == "system" for turn in before) and alike(turns[end - n : end], prompt):
            return turns[:end], turns[end:]
    for k in range(n - 1, 0, -1):
        if (
            k < len(turns)
            and all(turn["role"] == "system" for turn in prompt[: n - k])
            and alike(turns[:k], prompt[n - k :])
        ):
            return prompt, turns[k:]
    return prompt, turns


def alike(some: Messages, others: Messages) -> bool:
    """Whether turns say the same, whatever else files keep beside them."""
    keys = ("role", "content", "tool_calls")
    return len(some) == len(others) and all(
        a.get(key) == b.get(key) for a, b in zip(some, others, strict=True) for key in keys
    )


def of_task(task: Task) -> Messages:
    return [*task.messages, {"role": "assistant", "content": task.answer}]
