"""`/v1/chat/completions`."""

import json
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from daedal.assist.memory.store import told
from daedal.engine.request import Token
from daedal.pipelines.text_params import TEXT
from daedal.server import documents, run_tools
from daedal.server.errors import ApiError
from daedal.server.fields import Body, settings_body, settings_in
from daedal.server.moderation import FILTERED
from daedal.server.sse import STREAMS, stream_of
from daedal.server.state import Server, client_of, server_of, while_connected
from daedal.server.text import Answers, Asked, Piece, answering, recipe_of

routes = APIRouter()

Bounded = Annotated[int, Field(ge=1, le=128)]


class Function(Body):
    name: Annotated[str, Field(pattern=r"^[\w.-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Body):
    type: Literal["function"]
    function: Function


class JsonSchema(Body):
    name: str = "answer"
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(Body):
    include_usage: bool = False


class CalledFunction(Body):
    name: str
    arguments: str | dict[str, Any] = "{}"


class ToolCall(Body):
    id: str | None = None
    type: str = "function"
    function: CalledFunction


class Message(Body):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class Sampling(Body):
    """Fields that both routes have. Those of TextParams are added to them."""

    model: str | None = None
    n: Bounded | None = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(ge=0, le=1)] = None
    presence_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    frequency_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    stop: str | list[str] | None = None
    seed: int | None = None
    logit_bias: dict[int, float] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None


class ChatFields(Sampling):
    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: str | None = None
    run_tools: list[str] | None = None  # that the server calls itself
    documents: Annotated[
        bool | None, Field(description="Answer from the server's documents, with sources.")
    ] = None
    memory: bool = False  # keep what the user says last, and use what was said before


# `schema` and `regex` have fields of their own: response_format, and regex
OWN = {"schema", "raw", "adapter", "grammar"}
ChatBody: Any = settings_body("ChatRequest", TEXT, ChatFields, OWN)


def settings_of_body(body: Any) -> dict[str, Any]:
    """Settings of TextParams, from OpenAI's fields."""
    settings = settings_in(body, TEXT)
    settings.pop("logprobs", None)
    if isinstance(settings.get("stop"), list):
        settings["stop"] = tuple(stop for stop in settings["stop"] if stop)
    if settings.get("stop") in ("", ()):
        del settings["stop"]
    if "seed" in settings:
        settings["seed"] &= (1 << 62) - 1  # any integer is a seed
    if settings.get("top_p") == 0:
        settings |= {"top_p": 1.0, "temperature": 0.0}  # only the likeliest is left
    return settings


def asked_of_chat(body: Any) -> Asked:
    settings = settings_of_body(body)
    if longest := body.max_completion_tokens or body.max_tokens:
        settings["max_tokens"] = longest
    if body.logprobs:
        settings["logprobs"] = body.top_logprobs or 0
    if (form := body.response_format) is not None and form.type != "text":
        schema = form.json_schema.schema_ if form.json_schema else None
        settings["schema"] = schema or {"type": "object"}
    tools = tuple(tool.function.model_dump(exclude_none=True) for tool in body.tools or ())
    messages = [message.model_dump(exclude_none=True) for message in body.messages]
    return Asked(
        messages,
        settings,
        tools,
        choice_of(body.tool_choice),
        body.parallel_tool_calls is not False,
    )


def choice_of(given: Any) -> str:
    """ "auto", "none", "required" or a function's name."""
    if isinstance(given, dict):
        name = (given.get("function") or given).get("name")
        if given.get("type") == "allowed_tools":
            return (given.get("allowed_tools") or given).get("mode", "auto")
        if not isinstance(name, str):
            raise ApiError(400, "tool_choice names no function.", param="tool_choice")
        return name
    return given or "auto"


@routes.post("/v1/chat/completions", responses=STREAMS)
async def chat_completions(request: Request, body: ChatBody) -> Response:
    """Answer a conversation. Beside OpenAI's fields it takes those of `daedal text`."""
    server = server_of(request)
    name = server.models.resolved(body.model, "chat")
    server.models.expect(name, "chat")
    reply = ChatReply(name, "chatcmpl-" + secrets.token_hex(12), body)
    asked = asked_of_chat(body)
    if body.memory:
        asked = await remembering(server, asked, client_of(request))
    if body.documents:
        question = documents.expect(server, asked)
        if body.stream:
            under_way = documents.running(server, name, asked, question)
            return await stream_of(
                request, under_way, lambda task: documents.chunks(task, reply.head, reply.counts)
            )
        made = await while_connected(request, documents.answered(server, name, asked, question))
        return reply_of(documents.body_of(made, reply.head))
    if body.run_tools:
        tools = run_tools.expect(server, body.run_tools, asked, bool(body.stream))
        made = run_tools.answered(server, name, asked, tools)
        return reply_of(await while_connected(request, made))
    answers = answering(server, name, asked, client_of(request), bool(body.stream))
    if body.stream:
        return await stream_of(request, answers, reply.chunks)

    async def whole() -> dict[str, Any]:
        async with answers as running:
            return await reply.whole(running)

    return reply_of(await while_connected(request, whole()))


async def remembering(server: Server, asked: Asked, owner: str) -> Asked:
    """The same with what is remembered of the user in front; what they say last is kept."""
    spoken = [m["content"] for m in asked.prompt if m["role"] == "user"]
    said = spoken[-1] if spoken and isinstance(spoken[-1], str) else ""
    if said:
        await server.run(server.memory.note, said, owner)
    recalled = await server.run(server.memory.recall, said, owner)
    return replace(asked, prompt=told(asked.prompt, recalled))


def reply_of(value: Any) -> Response:
    return Response(json.dumps(value, ensure_ascii=False), media_type="application/json")


def usage_of(answers: Answers) -> dict[str, Any]:
    usage = answers.usage
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
    } | usage.energy


class ChatReply:
    """A chat answer in OpenAI's words, whole or in chunks."""

    def __init__(self, name: str, id: str, body: Any) -> None:
        self.name, self.id, self.body = name, id, body
        self.created = int(time.time())
        options = body.stream_options
        self.counts = bool(options and options.include_usage)

    @property
    def head(self) -> dict[str, Any]:
        """What every reply begins with."""
        return {"id": self.id, "created": self.created, "model": self.name}

    def chunk(self, choices: list[Any], **more: Any) -> str:
        counts = {"usage": None} if self.counts else {}
        return json.dumps(
            {
                "id": self.id,
                "object": "chat.completion.chunk",
                "created": self.created,
                "model": self.name,
                "choices": choices,
                **counts,
                **more,
            },
            ensure_ascii=False,
        )

    def choice(
        self, index: int, delta: dict[str, Any], logprobs: Any = None, finish: str | None = None
    ) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}

    async def chunks(self, answers: Answers) -> AsyncIterator[str]:
        for index in range(len(answers.handle.samples)):  # in order, before anything else
            yield self.chunk([self.choice(index, {"role": "assistant", "content": ""})])
        async for piece in answers:
            if piece.finish:
                last = self.choice(piece.index, {}, finish=finish_of(piece.finish))
                yield self.chunk([last], **self.extension(answers, piece.index))
            elif delta := delta_of(piece):
                scores = self.scores(answers, piece)
                yield self.chunk([self.choice(piece.index, delta, scores)])
        if self.counts:
            yield self.chunk([], usage=usage_of(answers))

    def extension(self, answers: Answers, index: int) -> dict[str, Any]:
        return {"daedal": {"recipes": [recipe_of(answers, index)]}}

    def scores(self, answers: Answers, piece: Piece) -> Any:
        if not self.body.logprobs or not piece.tokens:
            return None
        words = answers.pipeline.tokenizer
        return {"content": [scored(token, words) for token in piece.tokens], "refusal": None}

    async def whole(self, answers: Answers) -> dict[str, Any]:
        said = [Said() for _ in answers.handle.samples]
        async for piece in answers:
            said[piece.index].add(piece, self.scores(answers, piece))
        choices = [
            {
                "index": i,
                "message": each.message(),
                "logprobs": {"content": each.logprobs, "refusal": None}
                if self.body.logprobs
                else None,
                "finish_reason": finish_of(each.finish),
            }
            for i, each in enumerate(said)
        ]
        return {
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.name,
            "choices": choices,
            "usage": usage_of(answers),
            "daedal": {"recipes": [recipe_of(answers, i) for i in range(len(said))]},
        }


class Said:
    """The pieces of one answer, put together."""

    def __init__(self) -> None:
        self.texts = {"content": "", "reasoning": ""}
        self.calls: list[dict[str, Any]] = []
        self.logprobs: list[Any] = []
        self.finish = "stop"

    def add(self, piece: Piece, scores: Any = None) -> None:
        if piece.finish:
            self.finish = piece.finish
        elif piece.call:
            if "name" in piece.call:
                self.calls.append(
                    {"id": piece.call["id"], "name": piece.call["name"], "arguments": ""}
                )
            self.calls[-1]["arguments"] += piece.call.get("arguments", "")
        else:
            self.texts[piece.kind] += piece.text
        if scores:
            self.logprobs += scores["content"]

    def message(self) -> dict[str, Any]:
        content, reasoning = self.texts["content"], self.texts["reasoning"]
        out: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if reasoning:
            out |= {"reasoning_content": reasoning, "reasoning": reasoning}
        if self.calls:
            out["content"] = content.strip() or None
            out["tool_calls"] = [
                {
                    "id": call["id"],
                    "type": "function",
                    "function": {"name": call["name"], "arguments": call["arguments"]},
                }
                for call in self.calls
            ]
        return out


def delta_of(piece: Piece) -> dict[str, Any]:
    """What a chunk adds. Two names of a thought are in use among clients."""
    if piece.call:
        call, function = piece.call, {}
        if "name" in call:
            function = {"name": call["name"], "arguments": ""}
            first = {"id": call["id"], "type": "function"}
        else:
            function, first = {"arguments": call["arguments"]}, {}
        return {"tool_calls": [{"index": call["number"], **first, "function": function}]}
    if piece.kind == "reasoning":
        return {"reasoning_content": piece.text, "reasoning": piece.text} if piece.text else {}
    return {"content": piece.text} if piece.text or piece.tokens else {}


def finish_of(reason: str | None) -> str:
    return reason if reason in ("length", "tool_calls", FILTERED) else "stop"


def scored(token: Token, words: Any) -> dict[str, Any]:
    """A token with its log-probability, and the likeliest beside it."""

    def named(index: int, logprob: float | None) -> dict[str, Any]:
        text = words.decode([index], skip_special=False)
        return {
            "token": text,
            "logprob": max(logprob or 0.0, -9999.0),
            "bytes": list(text.encode()),
        }

    best = [named(index, logprob) for index, logprob in token.likeliest]
    return named(token.id, token.logprob) | {"top_logprobs": best}
