"""Ollama's dialect: `/api/*`, lines of JSON."""

import json
import re
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from daedal import __version__
from daedal.assist.tools.calls import parsed
from daedal.checkpoints import catalogue
from daedal.server.errors import ApiError, not_found
from daedal.server.fields import Body
from daedal.server.models import capabilities, embedder_of, weight_bytes
from daedal.server.routes.chat import Message, Said, reply_of
from daedal.server.sse import LINES, STREAMS, stream_of
from daedal.server.state import Server, client_of, server_of, while_connected
from daedal.server.text import Answers, Asked, Piece, answering

routes = APIRouter()

OPTIONS = {  # Ollama's names of settings
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "typical_p": "typical_p",
    "seed": "seed",
    "num_predict": "max_tokens",
    "stop": "stop",
    "repeat_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}
SPAN = re.compile(r"(-?\d+(?:\.\d+)?)(ms|s|m|h)?")
SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, None: 1}


class OllamaBody(Body):
    model: str
    stream: bool = True
    format: str | dict[str, Any] | None = None
    options: dict[str, Any] | None = None
    keep_alive: str | float | None = None


class ChatBody(OllamaBody):
    messages: list[Message] = []
    tools: list[dict[str, Any]] | None = None


class GenerateBody(OllamaBody):
    prompt: str = ""
    system: str | None = None
    suffix: str | None = None
    raw: bool = False


class EmbedBody(Body):
    model: str
    input: str | list[str] = []
    prompt: str | None = None  # of the older route
    keep_alive: str | float | None = None


class NameBody(Body):
    model: str | None = None
    name: str | None = None
    stream: bool = True


def settings_of(body: OllamaBody) -> dict[str, Any]:
    given = body.options or {}
    settings = {own: given[key] for key, own in OPTIONS.items() if given.get(key) is not None}
    if settings.get("max_tokens", 1) < 1:  # without end
        del settings["max_tokens"]
    if isinstance(settings.get("stop"), list):
        settings["stop"] = tuple(settings["stop"])
    if isinstance(settings.get("seed"), int):
        settings["seed"] &= (1 << 62) - 1
    if body.format == "json":
        settings["schema"] = {"type": "object"}
    elif isinstance(body.format, dict):
        settings["schema"] = body.format
    return settings


def seconds_of(span: str | float | None) -> float | None:
    """Of "5m", "30s", -1; None where nothing was said."""
    if span is None or isinstance(span, int | float):
        return span
    if not (found := SPAN.fullmatch(span.strip())):
        raise ApiError(
            400, f"keep_alive={span!r} is no time; write for example 5m.", param="keep_alive"
        )
    return float(found[1]) * SECONDS[found[2]]


def keep(server: Server, name: str, span: str | float | None) -> None:
    if (seconds := seconds_of(span)) is not None and name in server.models.uses:
        server.models.uses[name].keep_alive = seconds


def stamp() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


class Lines:
    """An answer as lines: of a chat with `message`, else with `response`."""

    def __init__(self, name: str, body: OllamaBody, chats: bool) -> None:
        self.name, self.body, self.chats = name, body, chats
        self.began = time.perf_counter_ns()
        self.said = Said()

    def content(self, text: str, thinking: str = "", calls: Any = None) -> dict[str, Any]:
        if not self.chats:
            return {"response": text} | ({"thinking": thinking} if thinking else {})
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if thinking:
            message["thinking"] = thinking
        if calls:
            message["tool_calls"] = calls
        return {"message": message}

    def line(self, fields: dict[str, Any], done: bool = False) -> str:
        row = {"model": self.name, "created_at": stamp()} | fields | {"done": done}
        return json.dumps(row, ensure_ascii=False) + "\n"

    async def lines(self, answers: Answers) -> AsyncIterator[str]:
        async for piece in answers:
            self.said.add(piece)
            if text := self.shown(piece):
                yield self.line(text)
        if self.said.calls:
            yield self.line(self.content("", calls=self.calls()))
        yield self.line(self.content("") | self.end(answers), done=True)
        keep(answers.server, self.name, self.body.keep_alive)

    def shown(self, piece: Piece) -> dict[str, Any] | None:
        if not piece.text:
            return None
        return (
            self.content("", piece.text) if piece.kind == "reasoning" else self.content(piece.text)
        )

    def calls(self) -> list[dict[str, Any]]:
        return [
            {"function": {"name": call["name"], "arguments": arguments_of(call["arguments"])}}
            for call in self.said.calls
        ]

    def end(self, answers: Answers) -> dict[str, Any]:
        usage, spent = answers.usage, time.perf_counter_ns() - self.began
        return {
            "done_reason": "length" if self.said.finish == "length" else "stop",
            "total_duration": spent,
            "load_duration": 0,
            "prompt_eval_count": usage.prompt,
            "prompt_eval_duration": 0,
            "eval_count": usage.completion,
            "eval_duration": spent,
        }

    async def whole(self, answers: Answers) -> dict[str, Any]:
        async for _ in self.lines(answers):
            pass
        texts = self.said.texts
        content = self.content(texts["content"], texts["reasoning"], self.calls())
        row = {"model": self.name, "created_at": stamp()} | content
        return row | {"done": True} | self.end(answers)


def arguments_of(text: str) -> Any:
    try:
        return parsed(text)
    except ValueError:  # cut off by num_predict
        return {}


async def answered(request: Request, body: OllamaBody, asked: Asked, kind: str) -> Response:
    server = server_of(request)
    name = server.models.resolved(body.model, kind)
    lines = Lines(name, body, kind == "chat")
    answers = answering(server, name, asked, client_of(request), body.stream)
    if body.stream:
        return await stream_of(request, answers, lines.lines, "", framed=True, media_type=LINES)

    async def whole() -> dict[str, Any]:
        async with answers as opened:
            return await lines.whole(opened)

    return reply_of(await while_connected(request, whole()))


def only_loads(server: Server, body: OllamaBody, name: str) -> dict[str, Any]:
    keep(server, name, body.keep_alive)
    unloads = seconds_of(body.keep_alive) == 0
    if unloads:
        server.models.unload(name)
    reason = "unload" if unloads else "load"
    return {"model": name, "created_at": stamp(), "done": True, "done_reason": reason}


@routes.post("/api/chat", responses=STREAMS)
async def chat(request: Request, body: ChatBody) -> Response:
    """Answer a conversation; without messages load the model, or unload it."""
    server = server_of(request)
    name = server.models.resolved(body.model, "chat")
    server.models.expect(name, "chat")
    if not body.messages:
        async with server.models.lent(name):
            pass
        empty = {"message": {"role": "assistant", "content": ""}}
        return reply_of(only_loads(server, body, name) | empty)
    messages = [message.model_dump(exclude_none=True) for message in body.messages]
    tools = tuple(tool.get("function", {}) for tool in body.tools or ())
    if any(not isinstance(tool.get("name"), str) for tool in tools):
        raise ApiError(400, "a tool has no function name.", param="tools")
    asked = Asked(messages, settings_of(body), tools)
    return await answered(request, body, asked, "chat")


@routes.post("/api/generate", responses=STREAMS)
async def generate(request: Request, body: GenerateBody) -> Response:
    """Answer or continue a prompt; without one load the model, or unload it."""
    server = server_of(request)
    name = server.models.resolved(body.model, "text")
    server.models.expect(name, "text")
    if not body.prompt:
        async with server.models.lent(name):
            pass
        return reply_of(only_loads(server, body, name) | {"response": ""})
    settings = settings_of(body)
    chats = "chat" in capabilities(server.models.source(name)) and not (body.raw or body.suffix)
    prompt: Any = body.prompt
    if chats:
        front = [{"role": "system", "content": body.system}] if body.system else []
        prompt = [*front, {"role": "user", "content": body.prompt}]
    else:
        settings["raw"] = True
    return await answered(request, body, Asked(prompt, settings, suffix=body.suffix or ""), "text")


@routes.post("/api/embed")
async def embed(request: Request, body: EmbedBody) -> dict[str, Any]:
    """Vectors of texts."""
    server = server_of(request)
    name = server.models.resolved(body.model, "embeddings")
    server.models.expect(name, "embeddings")
    texts = [body.input] if isinstance(body.input, str) else body.input
    began = time.perf_counter_ns()
    if not all(texts):
        raise ApiError(400, "input holds an empty text; leave it out.", param="input")

    def begin(pipeline: Any) -> Any:
        return embedder_of(pipeline).start(texts, client=client_of(request))

    async with server.started_on(name, begin) as (_, handle):
        await server.driver.ended(handle)
        vectors = handle.results()[0].tolist()
    keep(server, name, body.keep_alive)
    spent = {"total_duration": time.perf_counter_ns() - began, "load_duration": 0}
    return {"model": name, "embeddings": vectors, **spent, "prompt_eval_count": handle.tokens}


@routes.post("/api/embeddings")
async def embeddings(request: Request, body: EmbedBody) -> dict[str, Any]:
    """The vector of one text, as older clients ask."""
    found = await embed(request, EmbedBody(model=body.model, input=[body.prompt or " "]))
    return {"embedding": found["embeddings"][0]}


def details(server: Server, name: str) -> dict[str, Any]:
    source = server.models.source(name)
    return {
        "parent_model": "",
        "format": "gguf" if source.endswith(".gguf") else "safetensors",
        "family": "daedal" if name.startswith("house/") else name.partition("/")[0],
        "families": None,
        "parameter_size": "",
        "quantization_level": "",
    }


@routes.get("/api/tags")
async def tags(request: Request) -> dict[str, Any]:
    """The models that are here."""
    server = server_of(request)
    rows = [
        {
            "name": name,
            "model": name,
            "modified_at": datetime.fromtimestamp(server.started, UTC).isoformat(),
            "size": weight_bytes(server.models.source(name)),
            "digest": "",
            "details": details(server, name),
        }
        for name in server.models.names()
    ]
    return {"models": rows}


@routes.get("/api/ps")
async def ps(request: Request) -> dict[str, Any]:
    """The models that are loaded."""
    server = server_of(request)
    rows = []
    for name, size, _ in server.models.loaded():
        left = server.models.expires(name)
        ends = datetime.now(UTC) + timedelta(seconds=min(left, 10**9))
        own = {"name": name, "model": name, "size": size, "size_vram": 0, "digest": ""}
        rows.append(own | {"expires_at": ends.isoformat(), "details": details(server, name)})
    return {"models": rows}


@routes.post("/api/show")
async def show(request: Request, body: NameBody) -> dict[str, Any]:
    """What is known of a model."""
    server = server_of(request)
    name = server.models.resolved(body.model or body.name, "text")
    can = {"text": "completion", "chat": "completion", "embeddings": "embedding"}
    kinds = capabilities(server.models.source(name))
    return {
        "modelfile": "",
        "parameters": "",
        "template": "",
        "details": details(server, name),
        "model_info": {"general.basename": name},
        "capabilities": list(dict.fromkeys(can.get(kind, kind) for kind in kinds)),
    }


@routes.post("/api/pull", responses=STREAMS)
async def pull(request: Request, body: NameBody) -> Response:
    """Bring a model of the catalogue here, with lines of progress."""
    server, name = server_of(request), body.model or body.name or ""
    if name not in catalogue.entries():
        raise not_found("model in the catalogue", name)
    row = server.jobs.submit("pull", {"model": name}, client_of(request))

    async def lines() -> AsyncIterator[str]:
        yield json.dumps({"status": "pulling manifest"}) + "\n"
        async for job in server.jobs.followed(row["id"], client_of(request)):
            seen = job["detail"]
            if job["status"] == "failed":
                yield json.dumps({"error": job["error"]["message"]}) + "\n"
            elif job["status"] == "completed":
                yield json.dumps({"status": "success"}) + "\n"
            elif seen.get("total"):
                size = {"total": seen["total"], "completed": seen["bytes"]}
                yield json.dumps({"status": f"pulling {name}", "digest": name} | size) + "\n"

    if body.stream:
        return StreamingResponse(lines(), media_type=LINES)
    last = [json.loads(line) async for line in lines()][-1]
    return reply_of(last)


@routes.get("/api/version")
async def version(request: Request) -> dict[str, str]:
    """The server's version."""
    return {"version": __version__}
