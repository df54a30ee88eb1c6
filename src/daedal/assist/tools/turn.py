"""One turn of a model that may call tools: free text until a call begins, from there on a grammar
holds it to the schema of one of the tools, and whether another call follows.

A model whose chat template knows of tools is asked in its own words; any other is told of them in a
plain text, and calls in an envelope that is ours."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from daedal.assist.tools.calls import (
    PROBE,
    Envelope,
    as_message,
    envelope_of,
    new_id,
    schema_of,
)
from daedal.assist.tools.tool import Tool
from daedal.data import chat
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError

MOST = 8  # calls in one turn
OURS = (
    "You can use these tools:\n{tools}\n\nTo use one, write only\n<tool_call>\n"
    '{{"name": "NAME", "arguments": {{...}}}}\n</tool_call>\nand wait for its result. Then answer.'
)


@dataclass
class Turn:
    """What a model said: its text, its calls ({"id", "name", "arguments"}), the tokens it took, and
    why it ended ("stop", "length", "tool_calls")."""

    text: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    tokens: int = 0
    finish: str = "stop"

    @property
    def message(self) -> dict[str, Any]:
        said: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.calls:
            said["tool_calls"] = [
                {
                    "id": call["id"],
                    "type": "function",
                    "function": {"name": call["name"], "arguments": call["arguments"]},
                }
                for call in self.calls
            ]
        return said


def take_turn(
    pipeline: Any,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Tool],
    on_text: Callable[[str], None] = lambda text: None,
    **settings: Any,
) -> Turn:
    """The next turn of a conversation. `settings` are those of TextParams; `max_tokens` are of the
    whole turn. DaedalError where the model is on a server, whose words cannot be constrained here."""
    if not hasattr(pipeline, "tokenizer"):
        raise DaedalError(
            f"{pipeline.name} is on a server, and tools are called by a model that runs here; give one of its folder or name."
        )
    return Writer(pipeline, tools, settings).turn(messages, on_text)


class Writer:
    """A turn under way: the ids so far, and the tokens that are left."""

    def __init__(self, pipeline: Any, tools: Sequence[Tool], settings: dict[str, Any]) -> None:
        self.pipeline, self.words = pipeline, pipeline.tokenizer
        self.offered = [tool.offered for tool in tools]
        self.names = [tool.name for tool in tools]
        self.settings = {"max_tokens": 512, **settings}
        self.left = int(self.settings["max_tokens"])
        self.envelope = envelope_of(self.words) if knows_tools(self.words) else Envelope()
        self.ids: list[int] = []

    def turn(self, messages: Sequence[Mapping[str, Any]], on_text: Callable[[str], None]) -> Turn:
        self.ids = prompt_of(self.pipeline, messages, self.offered)
        made = Turn()
        calling = self._free(made, on_text)
        while calling and len(made.calls) < MOST:
            if not self._call(made):
                break
            calling = self._goes_on(made)
        if made.calls:
            made.finish = "tool_calls"
        return made

    def _free(self, made: Turn, on_text: Callable[[str], None]) -> bool:
        """Text until it ends or a call begins; whether one does."""
        marks = self.envelope.marks(self.names) if self.names else ()
        handle = self._start(stop=marks)
        for piece in handle:
            on_text(piece.text)
        result = handle.result()
        said = self._took(made, result)
        before = self.envelope.before(said, self.names) if self.names else None
        made.finish = result.finish_reason
        if before is None or result.finish_reason != "stop":
            made.text = result.text
            return False
        made.text = before.strip()
        self._add(made.text)
        return self.left > 0

    def _call(self, made: Turn) -> bool:
        """A call that began; whether it came whole and is not one that was made just now."""
        self._add(self.envelope.prefix)
        handle = self._start(schema=schema_of(self.offered, self.envelope))
        result = handle.result()
        self._took(made, result)
        self.ids += result.tokens
        try:
            call = json.loads(result.text)
        except ValueError:  # the tokens ran out
            made.finish = "length"
            return False
        new = {"name": call["name"], "arguments": call[self.envelope.arguments]}
        if any({k: old[k] for k in new} == new for old in made.calls):
            return False
        made.calls.append({"id": new_id(), **new})
        return True

    def _goes_on(self, made: Turn) -> bool:
        """Whether another call follows: the model goes on, and a call is what it begins with."""
        if self.left <= 0:
            return False
        self._add(self.envelope.suffix)
        marks = self.envelope.marks(self.names)
        result = self._start(max_tokens=min(self.left, 16), stop=marks).result()
        said = self._took(made, result)
        before = self.envelope.before(said, self.names)
        return before is not None and not before.strip()

    def _start(self, **more: Any) -> Any:
        settings = self.settings | {"max_tokens": max(self.left, 1), "raw": True} | more
        return self.pipeline.start(self.ids, **settings)

    def _took(self, made: Turn, result: Any) -> str:
        """Count the tokens of a result; its text with the control tokens, as a call may begin by
        one."""
        made.tokens += len(result.tokens)
        self.left -= len(result.tokens)
        return self.words.decode(list(result.tokens), skip_special=False)

    def _add(self, text: str) -> None:
        if text:
            self.ids += self.words.encode(text, special=True, add_bos=False)


# ---- prompts -------------------------------------------------------------------------------------


def knows_tools(tokenizer: Tokenizer) -> bool:
    """Whether a chat template tells of tools, and of their results."""
    if "knows_tools" not in tokenizer.derived:
        tokenizer.derived["knows_tools"] = bool(tokenizer.chat_template) and _probed(tokenizer)
    return tokenizer.derived["knows_tools"]


def _probed(tokenizer: Tokenizer) -> bool:
    tool = {"name": PROBE, "description": "x", "parameters": {"type": "object", "properties": {}}}
    call = {"id": "call_1", "type": "function", "function": {"name": PROBE, "arguments": {}}}
    talk: list[dict[str, Any]] = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "name": PROBE, "tool_call_id": "call_1", "content": "its_result"},
    ]
    try:
        told = chat.render(tokenizer, talk[:1], tools=[{"type": "function", "function": tool}]).text
        return PROBE in told and "its_result" in chat.render(tokenizer, talk).text
    except DaedalError:
        return False


def prompt_of(
    pipeline: Any, messages: Sequence[Mapping[str, Any]], offered: Sequence[dict[str, Any]]
) -> list[int]:
    """Ids of a conversation, with the tools that are offered."""
    words = pipeline.tokenizer
    plain = [as_message({k: v for k, v in m.items() if k != "origin"}) for m in messages]
    if knows_tools(words):
        tools = [{"type": "function", "function": tool} for tool in offered]
        return chat.encode(words, plain, tools=tools or None)
    plain = spelled(plain, offered)
    if words.chat_template:
        return chat.encode(words, plain)
    lines = [f"{m['role'].capitalize()}: {m['content']}" for m in plain]
    return pipeline.encode("\n\n".join([*lines, "Assistant:"]))


def spelled(
    messages: Sequence[Mapping[str, Any]], offered: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Messages of users and assistants only, with tools, calls and results as text."""
    own, found = Envelope(), list[dict[str, Any]]()
    for message in messages:
        role, content = message["role"], message.get("content") or ""
        for call in message.get("tool_calls") or ():
            said = {"name": call["function"]["name"], "arguments": call["function"]["arguments"]}
            content += own.prefix + json.dumps(said, ensure_ascii=False) + own.suffix
        if role == "tool":
            role, content = "user", f"Result of {message.get('name', 'the tool')}:\n{content}"
        if found and found[-1]["role"] == role:
            found[-1]["content"] += f"\n\n{content}"
        else:
            found.append({"role": role, "content": content})
    first = next((m for m in found if m["role"] == "user"), None)
    if offered and first is not None:
        listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in offered)
        first["content"] = f"{OURS.format(tools=listed)}\n\n{first['content']}"
    return found
