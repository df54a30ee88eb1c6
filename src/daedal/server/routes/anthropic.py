"""Anthropic's dialect: `/v1/messages`."""

import json
import secrets
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from daedal.assist.tools.calls import as_messages
from daedal.data import chat
from daedal.errors import DaedalError
from daedal.server.errors import ApiError
from daedal.server.fields import Body
from daedal.server.routes.chat import reply_of
from daedal.server.sse import STREAMS, stream_of
from daedal.server.state import client_of, server_of, while_connected
from daedal.server.text import Answers, Asked, Piece, answering, recipe_of

routes = APIRouter()


class Turn(Body):
    role: Literal["user", "assistant", "system"]
    content: str | list[dict[str, Any]]


class ToolChoice(Body):
    type: Literal["auto", "any", "tool", "none"] = "auto"
    name: str | None = None
    disable_parallel_tool_use: bool = False


class AnthropicTool(Body):
    name: Annotated[str, Field(pattern=r"^[\w.-]{1,64}$")]
    description: str | None = None
    input_schema: dict[str, Any] | None = None


class CountBody(Body):
    model: str | None = None
    messages: Annotated[list[Turn], Field(min_length=1)]
    system: str | list[dict[str, Any]] | None = None
    tools: list[AnthropicTool] | None = None


class MessagesBody(CountBody):
    max_tokens: Annotated[int, Field(ge=1)]
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: Annotated[float | None, Field(ge=0, le=1)] = None
    top_k: Annotated[int | None, Field(ge=0)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    tool_choice: ToolChoice | None = None
    seed: int | None = None  # an extension


def messages_of(body: CountBody) -> list[dict[str, Any]]:
    """Turns of blocks as chat messages."""
    found: list[dict[str, Any]] = []
    if body.system:
        found.append({"role": "system", "content": texts_in(body.system)})
    for turn in body.messages:
        blocks = (
            [{"type": "text", "text": turn.content}]
            if isinstance(turn.content, str)
            else turn.content
        )
        found += of_blocks(turn.role, blocks)
    return found


def of_blocks(role: str, blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    results = [block for block in blocks if block.get("type") == "tool_result"]
    calls = [
        {
            "id": block.get("id"),
            "type": "function",
            "function": {"name": block.get("name"), "arguments": block.get("input") or {}},
        }
        for block in blocks
        if block.get("type") == "tool_use"
    ]
    found = [
        {
            "role": "tool",
            "tool_call_id": block.get("tool_use_id"),
            "content": texts_in(block.get("content") or ""),
        }
        for block in results
    ]
    rest = [
        b
        for b in blocks
        if b.get("type") not in ("tool_result", "tool_use", "thinking", "redacted_thinking")
    ]
    if rest or calls or not results:
        message: dict[str, Any] = {"role": role, "content": texts_in(rest)}
        found.append(message | ({"tool_calls": calls} if calls else {}))
    return found


def texts_in(content: str | list[dict[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    for block in content:
        if block.get("type", "text") != "text":
            raise DaedalError(
                f"a block of type {block.get('type')!r} is not read by this model, which reads text; leave it out."
            )
    return "".join(block.get("text") or "" for block in content)


def asked_of(body: MessagesBody) -> Asked:
    settings = {
        "max_tokens": body.max_tokens,
        "temperature": body.temperature,
        "top_k": body.top_k,
        "top_p": body.top_p,
        "seed": body.seed,
        "stop": tuple(stop for stop in body.stop_sequences or () if stop),
    }
    choice = body.tool_choice or ToolChoice()
    named = {"any": "required", "tool": choice.name or ""}.get(choice.type, choice.type)
    if choice.type == "tool" and not choice.name:
        raise ApiError(400, "tool_choice names no tool.", param="tool_choice")
    tools = tools_of(body)
    return Asked(messages_of(body), settings, tools, named, not choice.disable_parallel_tool_use)


def tools_of(body: CountBody) -> tuple[dict[str, Any], ...]:
    return tuple(
        {
            "name": tool.name,
            "description": tool.description or "",
            "parameters": tool.input_schema or {"type": "object"},
        }
        for tool in body.tools or ()
    )


class Message:
    """An answer as blocks, and the events that tell of them."""

    def __init__(self, name: str) -> None:
        self.name, self.id = name, f"msg_{secrets.token_hex(12)}"
        self.blocks: list[dict[str, Any]] = []
        self.open = False
        self.stop: str | None = None
        self.stop_sequence: str | None = None

    def object(self, usage: dict[str, int]) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.name,
            "content": [finished(block) for block in self.blocks],
            "stop_reason": self.stop,
            "stop_sequence": self.stop_sequence,
            "usage": usage,
        }

    async def events(self, answers: Answers) -> AsyncIterator[str]:
        started = len(answers.handle.samples[0].prompt)
        yield event(
            "message_start", message=self.object({"input_tokens": started, "output_tokens": 0})
        )
        async for piece in answers:
            for each in self.ended(piece, answers) if piece.finish else self.added(piece):
                yield each
        delta = {"stop_reason": self.stop, "stop_sequence": self.stop_sequence}
        yield event("message_delta", delta=delta, usage=usage_of(answers))
        yield event("message_stop")

    def added(self, piece: Piece) -> list[str]:
        if piece.call:
            if "name" in piece.call:
                block = {"type": "tool_use", "id": piece.call["id"], "name": piece.call["name"]}
                return self.begun(block | {"input": ""})
            self.blocks[-1]["input"] += piece.call["arguments"]
            return [
                self.delta({"type": "input_json_delta", "partial_json": piece.call["arguments"]})
            ]
        if not piece.text:
            return []
        key = "text" if piece.kind == "content" else "thinking"
        events = []
        if not (self.open and self.blocks[-1]["type"] == key):
            extra = {"signature": ""} if key == "thinking" else {}
            events = self.begun({"type": key, key: "", **extra})
        self.blocks[-1][key] += piece.text
        return [*events, self.delta({"type": f"{key}_delta", key: piece.text})]

    def begun(self, block: dict[str, Any]) -> list[str]:
        events = self.closed()
        self.blocks.append(block)
        self.open = True
        shown = block | ({"input": {}} if block["type"] == "tool_use" else {})
        index = len(self.blocks) - 1
        return [*events, event("content_block_start", index=index, content_block=shown)]

    def delta(self, delta: dict[str, Any]) -> str:
        return event("content_block_delta", index=len(self.blocks) - 1, delta=delta)

    def closed(self) -> list[str]:
        if not self.open:
            return []
        self.open = False
        return [event("content_block_stop", index=len(self.blocks) - 1)]

    def ended(self, piece: Piece, answers: Answers) -> list[str]:
        reasons = {"length": "max_tokens", "tool_calls": "tool_use"}
        self.stop = reasons.get(piece.finish or "", "end_turn")
        sample = answers.handle.samples[0]
        if sample.held is not None and sample.held.stopped and self.stop == "end_turn":
            said = answers.pipeline.tokenizer.decode(sample.output)
            found = [stop for stop in answers.handle.params.stop if stop in said]
            self.stop, self.stop_sequence = "stop_sequence", (found or [None])[0]
        return self.closed()


def finished(block: dict[str, Any]) -> dict[str, Any]:
    """A block; the input of a call as an object."""
    if block["type"] != "tool_use":
        return block
    try:
        return block | {"input": json.loads(block["input"] or "{}")}
    except ValueError:  # cut off by max_tokens
        return block | {"input": {}}


def usage_of(answers: Answers) -> dict[str, int]:
    return {"input_tokens": answers.usage.prompt, "output_tokens": answers.usage.completion}


def event(kind: str, **fields: Any) -> str:
    data = json.dumps({"type": kind} | fields, ensure_ascii=False)
    return f"event: {kind}\ndata: {data}\n\n"


@routes.post("/v1/messages", responses=STREAMS)
async def messages(request: Request, body: MessagesBody) -> Response:
    """Answer a conversation, as Anthropic's clients ask."""
    server = server_of(request)
    name = server.models.resolved(body.model, "chat")
    server.models.expect(name, "chat")
    message = Message(name)
    asked = asked_of(body)
    answers = answering(server, name, asked, client_of(request), bool(body.stream))
    if body.stream:
        return await stream_of(request, answers, message.events, end="", framed=True)

    async def whole() -> dict[str, Any]:
        async with answers as opened:
            async for _ in message.events(opened):
                pass
            own = {"daedal": {"recipes": [recipe_of(opened)]}}
            return message.object(usage_of(opened)) | own

    return reply_of(await while_connected(request, whole()))


@routes.post("/v1/messages/count_tokens")
async def count_tokens(request: Request, body: CountBody) -> dict[str, int]:
    """How many tokens a conversation is."""
    server = server_of(request)
    name = server.models.resolved(body.model, "chat")
    server.models.expect(name, "chat")
    async with server.models.lent(name) as pipeline:
        tools = [{"type": "function", "function": tool} for tool in tools_of(body)] or None
        turns = as_messages(messages_of(body))
        ids = await server.run(lambda: chat.encode(pipeline.tokenizer, turns, tools=tools))
        return {"input_tokens": len(ids)}
