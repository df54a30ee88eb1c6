"""Calling functions: how a model writes a call, what its arguments may be, and the text of a call
as the pieces that clients are sent.

How a model writes a call is read off its chat template: a conversation with a call of known name
is rendered, and what stands around it is the envelope. So there is no table of models here."""

import json
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from daedal.data import chat
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError

PROBE, VALUE = "probe_name", "probe_value"
WRAPPING = re.compile(r"(?:```\w*|<\w+>)\s*$")  # what a call that forgets the envelope stands in


@dataclass(frozen=True)
class Envelope:
    """What a model writes around the JSON object of a call, and the key of its arguments."""

    prefix: str = "<tool_call>\n"
    suffix: str = "\n</tool_call>"
    arguments: str = "arguments"

    @property
    def mark(self) -> str:
        """The text by which a call is known to begin."""
        return self.prefix.strip() or '{"name":'

    def marks(self, names: Iterable[str]) -> tuple[str, ...]:
        """The mark, and how models begin a call of a known function that forget the envelope."""
        bare = ('{{"name": "{}"', '{{"name":"{}"', '{{\n  "name": "{}"', '{{\n    "name": "{}"')
        return (self.mark, *(form.format(name) for name in names for form in bare))

    def before(self, said: str, names: Iterable[str]) -> str | None:
        """What was said before the first call; None where there is no call."""
        starts = [found for mark in self.marks(names) if (found := said.find(mark)) >= 0]
        if not starts:
            return None
        return WRAPPING.sub("", said[: min(starts)])


def envelope_of(tokenizer: Tokenizer) -> Envelope:
    """The envelope of a tokenizer's chat template; a common one where it has none."""
    if "envelope" not in tokenizer.derived:
        tokenizer.derived["envelope"] = probed(tokenizer)
    return tokenizer.derived["envelope"]


def probed(tokenizer: Tokenizer) -> Envelope:
    call = {"type": "function", "function": {"name": PROBE, "arguments": {VALUE: VALUE}}}
    asked = {"role": "user", "content": "x"}
    said = {"role": "assistant", "content": "", "tool_calls": [call]}
    try:
        before = chat.render(tokenizer, [asked]).text
        whole = chat.render(tokenizer, [asked, said], add_generation_prompt=False).text
    except DaedalError:
        return Envelope()
    written = whole.removeprefix(before)
    name = rf'"name"\s*:\s*"{PROBE}"'
    found = re.search(rf'\{{\s*{name}\s*,\s*"(\w+)"\s*:\s*\{{[^{{}}]*\}}\s*\}}', written)
    if not found or whole == written:
        return Envelope()
    end = next((t for t in sorted(tokenizer.special_tokens) if t in written[found.end() :]), "")
    suffix = written[found.end() :].partition(end)[0] if end else written[found.end() :]
    return Envelope(written[: found.start()].lstrip(), suffix.rstrip(), found[1])


def schema_of(tools: Sequence[dict[str, Any]], envelope: Envelope) -> dict[str, Any]:
    """What the JSON of a call to one of these functions may be."""
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool["name"]},
                envelope.arguments: tool.get("parameters") or {"type": "object"},
            },
            "required": ["name", envelope.arguments],
            "additionalProperties": False,
        }
        for tool in tools
    ]
    return calls[0] if len(calls) == 1 else {"anyOf": calls}


def new_id() -> str:
    return f"call_{secrets.token_hex(12)}"


class CallText:
    """The text of one call as it is written: first its name, then pieces of its arguments. The last
    brace closes the object around them and is held back."""

    def __init__(self, envelope: Envelope) -> None:
        name = r'"name"\s*:\s*"((?:[^"\\]|\\.)*)"'
        self.start = re.compile(rf'\{{\s*{name}\s*,\s*"{envelope.arguments}"\s*:\s*')
        self.id = new_id()
        self.name: str | None = None
        self.arguments = ""
        self._text, self._sent = "", 0

    def push(self, text: str) -> Iterator[dict[str, Any]]:
        """What became final: {"name": ...} once, then {"arguments": ...}."""
        self._text += text
        if self.name is None:
            if (found := self.start.match(self._text)) is None:
                return
            self.name = json.loads(f'"{found[1]}"')
            self._text = self._text[found.end() :]
            yield {"name": self.name}
        if not self._sent:
            self._text = self._text.lstrip()
        closing = len(self._text.rstrip().removesuffix("}"))
        if closing > self._sent:
            piece = self._text[self._sent : closing]
            self._sent, self.arguments = closing, self.arguments + piece
            yield {"arguments": piece}


def as_messages(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages as chat templates expect them: contents that are texts, arguments of calls that are
    objects."""
    return [as_message(message) for message in messages]


def as_message(message: dict[str, Any]) -> dict[str, Any]:
    out = {key: value for key, value in message.items() if value is not None}
    role = {"developer": "system", "function": "tool"}.get(out["role"], out["role"])
    out |= {"role": role, "content": text_of(message.get("content"))}
    if calls := message.get("tool_calls"):
        out["tool_calls"] = [
            {
                **call,
                "function": {
                    **call["function"],
                    "arguments": parsed(call["function"].get("arguments") or "{}"),
                },
            }
            for call in calls
        ]
    return out


def parsed(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return arguments
    try:
        return json.loads(arguments)
    except ValueError:
        raise DaedalError(f"the arguments {arguments[:60]!r} of a call are not JSON.") from None


def text_of(content: Any) -> str:
    """A content, which may come in parts, as one text."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    texts = []
    for part in content:
        kind = part.get("type", "text")
        if kind not in ("text", "input_text", "output_text", "refusal"):
            raise DaedalError(
                f"a message has a part of type {kind!r}, and this model reads text only; leave it out."
            )
        texts.append(part.get("text") or part.get("refusal") or "")
    return "".join(texts)
