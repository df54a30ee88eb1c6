"""Rows for alignment, from files in the ecosystem's shapes: conversations, preferences, rankings, prompts.

A source is a file, folder or Hub data set of jsonl or parquet, or `tasks:story,question` (daedal.worlds.instructions). Its rows are

    {"messages": [{"role", "content"}, ...]}                    also conversations (from, value), turns (role or speaker, text)
    {"prompt", "completion"}                                    one exchange; prompt is text or messages
    {"prompt", "chosen", "rejected"}                            a pair, with an optional "margin"; also two whole conversations
    {"prompt", "completion", "label"}                           label: true for a good completion
    {"prompt", "completions", "ranks"}                          rank 1 is the best, equal ranks are no preference
"""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from daedal.data import documents
from daedal.data.contents import DataPath
from daedal.errors import DaedalError
from daedal.worlds import instructions
from daedal.worlds.tasks import Task

Messages = list[dict[str, Any]]
SAME = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant", "1": "user", "2": "assistant"}


class ChatSource(BaseModel):
    """`where` keeps rows whose column is one of the values; `columns` says what a file calls a field ({prompt: question}); `weight` is the
    source's share of what is drawn; `limit` its rows at most; `exchanges` the most tasks in one conversation."""

    model_config = ConfigDict(extra="forbid")
    path: DataPath
    where: dict[str, Any] = {}
    columns: dict[str, str] = {}
    weight: float = 1.0
    limit: int | None = None
    system: str | None = None  # put in front of every conversation
    exchanges: int = 1

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of tasks, none for a file."""
        word, _, named = self.path.partition(":")
        if word != "tasks":
            return ()
        return tuple(part.strip() for part in named.split(",")) if named else instructions.KINDS


# ---- rows -----------------------------------------------------------------------------------------------------------------------------------


def rows(source: ChatSource) -> Iterator[dict[str, Any]]:
    """The rows of a file source, its fields called as Daedal calls them."""
    taken = 0
    for chunk in documents.chunks(documents.Source(path=source.path)):
        for row in read(chunk, source):
            if taken == source.limit:
                return
            if all(documents.accepts(row.get(column), wanted) for column, wanted in source.where.items()):
                taken += 1
                yield row | {ours: row.get(theirs) for ours, theirs in source.columns.items()}


def read(chunk: documents.Chunk, source: ChatSource) -> Iterator[dict[str, Any]]:
    kind = documents.kind(chunk.path)
    if kind == ".parquet":
        file = documents.parquet(chunk.path)
        for column in [*source.where, *source.columns.values()]:
            if column not in file.schema_arrow.names:
                raise DaedalError(f"{chunk.path} has no column {column!r}; it has {', '.join(file.schema_arrow.names)}.")
        yield from file.read_row_group(chunk.group).to_pylist()
        return
    if kind not in (".jsonl", ".json"):
        raise DaedalError(f"{chunk.path} is {kind} and conversations come as .jsonl or .parquet; convert it, or pre-train on it as text.")
    for number, line in enumerate(documents.text_lines(chunk.path), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DaedalError(f"{chunk.path} line {number} is not JSON ({error.msg}); write one object a line.") from None
            if not isinstance(row, dict):
                raise DaedalError(f"{chunk.path} line {number} is a {type(row).__name__}, not an object with messages or prompt.")
            yield row


def messages_of(value: Any) -> Messages:
    """Text (the user's), or turns in any of the known spellings, as messages with role and content."""
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    found = []
    for turn in value:
        role = str(turn.get("role") or turn.get("from") or turn.get("speaker") or "")
        content = next((turn[key] for key in ("content", "text", "value") if turn.get(key) is not None), "")
        extra = {key: turn[key] for key in ("tool_calls", "tool_call_id", "name") if turn.get(key)}
        found.append({"role": SAME.get(role, role), "content": content, **extra})
    return found


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
    raise DaedalError(f"{source.path} has {column} = {value!r}, which is neither yes nor no; write true or false.")


def rank(value: Any, source: ChatSource) -> int:
    """A place, 1 the best."""
    try:
        if float(value) == int(float(value)) >= 1:
            return int(float(value))
    except (TypeError, ValueError, OverflowError):
        pass
    raise DaedalError(f"{source.path} has ranks with {value!r}; write whole numbers, 1 for the best.")


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
    return next((turn["content"] for turn in messages_of(row.get("prompt") or told(row) or ()) if turn["role"] == "user" and turn["content"]), None)


def conversation(row: Mapping[str, Any], source: ChatSource) -> Messages:
    """A row as one conversation."""
    if turns := told(row):
        return opened(messages_of(turns), source)
    if row.get("prompt") is None or row.get("completion", row.get("chosen")) is None:
        raise DaedalError(
            f"a row of {source.path} has {', '.join(row)}, and a conversation needs messages, or prompt and completion; "
            "say which columns they are: columns: {prompt: question, completion: answer}."
        )
    return opened([*messages_of(row["prompt"]), *answer(row.get("completion", row.get("chosen")))], source)


def opened(messages: Messages, source: ChatSource) -> Messages:
    has = bool(messages) and messages[0]["role"] == "system"
    return messages if has or not source.system else [{"role": "system", "content": source.system}, *messages]


def answer(value: Any) -> Messages:
    """A completion as messages: text, or the turns of it."""
    return [{"role": "assistant", "content": value}] if isinstance(value, str) else messages_of(value)


def of_task(task: Task) -> Messages:
    return [*task.messages, {"role": "assistant", "content": task.answer}]
