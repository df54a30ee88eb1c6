"""`/v1/responses`: answers that are kept, go on from one another, and stream as typed events."""

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import Response

from daedal.assist.tools.calls import text_of
from daedal.server.errors import ApiError, api_error, not_found
from daedal.server.fields import Body
from daedal.server.routes.chat import choice_of, reply_of, scored
from daedal.server.sse import STREAMS, stream_of
from daedal.server.state import Server, client_of, server_of, while_connected
from daedal.server.text import Answers, Asked, Piece, answering, recipe_of

routes = APIRouter()


class TextFormat(Body):
    format: dict[str, Any] | None = None
    verbosity: str | None = None


class ResponseBody(Body):
    model: str | None = None
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    previous_response_id: str | None = None
    stream: bool | None = None
    store: bool | None = None
    background: bool | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    max_output_tokens: Annotated[int | None, Field(ge=1)] = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    include: list[str] | None = None
    text: TextFormat | None = None
    truncation: str | None = None
    metadata: dict[str, str] | None = None
    reasoning: dict[str, Any] | None = None
    user: str | None = None
    seed: int | None = None  # an extension, as in chat


# ---- what is asked -------------------------------------------------------------------------------


def messages_of(given: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Input items as chat messages."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    found: list[dict[str, Any]] = []
    for item in given:
        kind = item.get("type", "message")
        if kind == "message":
            if item.get("role") not in ("user", "assistant", "system", "developer"):
                raise ApiError(
                    400,
                    f"role {item.get('role')!r} is not one of user, assistant, system, developer.",
                    param="input",
                )
            found.append({"role": item["role"], "content": text_of(item.get("content"))})
        elif kind == "function_call":
            if not (found and found[-1].get("tool_calls")):
                found.append({"role": "assistant", "content": None, "tool_calls": []})
            function = {"name": item.get("name"), "arguments": item.get("arguments", "{}")}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            found[-1]["tool_calls"].append(call)
        elif kind == "function_call_output":
            output = item.get("output")
            content = output if isinstance(output, str) else text_of(output)
            found.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": content})
        elif kind != "reasoning":
            raise ApiError(
                400,
                f"an input item of type {kind!r} is not read here; leave it out.",
                param="input",
            )
    return found


def asked_of(body: ResponseBody, messages: list[dict[str, Any]]) -> Asked:
    front = [{"role": "system", "content": body.instructions}] if body.instructions else []
    settings = {
        "temperature": body.temperature,
        "top_p": body.top_p,
        "max_tokens": body.max_output_tokens,
        "seed": body.seed,
    }
    if wants_logprobs(body):
        settings["logprobs"] = body.top_logprobs or 0
    form = (body.text.format if body.text else None) or {"type": "text"}
    if form.get("type") == "json_schema":
        settings["schema"] = form.get("schema") or {"type": "object"}
    elif form.get("type") == "json_object":
        settings["schema"] = {"type": "object"}
    functions = [tool for tool in body.tools or [] if tool.get("type") == "function"]
    if others := [tool for tool in body.tools or [] if tool not in functions]:
        raise ApiError(
            400,
            f"a tool of type {others[0].get('type')!r} does not run here; give functions.",
            param="tools",
        )
    if bad := [tool for tool in functions if not isinstance(tool.get("name"), str)]:
        raise ApiError(400, f"the function {json.dumps(bad[0])[:80]} has no name.", param="tools")
    keys = ("name", "description", "parameters")
    tools = tuple(
        {key: tool[key] for key in keys if tool.get(key) is not None} for tool in functions
    )
    choice = choice_of(body.tool_choice)
    return Asked(front + messages, settings, tools, choice, body.parallel_tool_calls is not False)


def wants_logprobs(body: ResponseBody) -> bool:
    return body.top_logprobs is not None or "message.output_text.logprobs" in (body.include or [])


# ---- what is answered ----------------------------------------------------------------------------


class Writer:
    """The items of an answer, and the events that tell of them."""

    def __init__(self, body: ResponseBody, name: str) -> None:
        self.body, self.name = body, name
        self.id, self.created = f"resp_{secrets.token_hex(16)}", int(time.time())
        self.items: list[dict[str, Any]] = []
        self.status, self.error = "in_progress", None
        self.usage: dict[str, Any] | None = None
        self.recipe: dict[str, Any] | None = None
        self.number = 0

    def object(self) -> dict[str, Any]:
        body = self.body
        incomplete = {"reason": "max_output_tokens"} if self.status == "incomplete" else None
        form = (body.text.format if body.text else None) or {"type": "text"}
        own: dict[str, Any] = {"user": body.user} if body.user else {}
        own |= {"usage": self.usage} if self.usage else {}
        return own | {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": self.status,
            "background": bool(body.background),
            "error": self.error,
            "incomplete_details": incomplete,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "model": self.name,
            "output": self.items,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id,
            "reasoning": {"effort": None, "summary": None},
            "store": body.store is not False,
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "text": {"format": form},
            "tool_choice": body.tool_choice or "auto",
            "tools": body.tools or [],
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "top_logprobs": body.top_logprobs or 0,
            "truncation": "disabled",
            "metadata": body.metadata or {},
            "daedal": {"recipe": self.recipe},
        }

    def event(self, kind: str, **fields: Any) -> str:
        """One event, numbered."""
        data = {"type": f"response.{kind}", "sequence_number": self.number} | fields
        self.number += 1
        return f"event: response.{kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"

    async def events(self, answers: Answers) -> AsyncIterator[str]:
        """The whole life of an answer."""
        yield self.event("created", response=self.object())
        yield self.event("in_progress", response=self.object())
        finish = "stop"
        async for piece in answers:
            if piece.finish:
                finish = piece.finish
                for event in self.closed():
                    yield event
            else:
                for event in self.added(piece, answers):
                    yield event
        self.status = "incomplete" if finish == "length" else "completed"
        self.usage, self.recipe = usage_of(answers), recipe_of(answers)
        yield self.event(self.status, response=self.object())

    # -- items --

    def added(self, piece: Piece, answers: Answers) -> list[str]:
        """What a piece adds to the items."""
        if piece.call:
            return self._call(piece.call)
        if not piece.text:
            return []
        kind = "message" if piece.kind == "content" else "reasoning"
        events = [] if self._open(kind) else [*self.closed(), *self._begun(kind)]
        item = self.items[-1]
        part = item["content"][0]
        part["text"] += piece.text
        place = self._place(item) | {"content_index": 0, "delta": piece.text}
        if kind == "reasoning":
            return [*events, self.event("reasoning_text.delta", **place)]
        scores = []
        if wants_logprobs(self.body):
            scores = [scored(token, answers.pipeline.tokenizer) for token in piece.tokens]
            part["logprobs"] += scores
        return [*events, self.event("output_text.delta", **place, logprobs=scores)]

    def _open(self, kind: str) -> bool:
        last = self.items[-1] if self.items else None
        return bool(last and last["type"] == kind and last["status"] == "in_progress")

    def _place(self, item: dict[str, Any]) -> dict[str, Any]:
        return {"item_id": item["id"], "output_index": len(self.items) - 1}

    def _begun(self, kind: str) -> list[str]:
        if kind == "message":
            id, own = "msg", {"role": "assistant"}
            part: dict[str, Any] = {
                "type": "output_text",
                "text": "",
                "annotations": [],
                "logprobs": [],
            }
        else:
            id, own, part = "rs", {"summary": []}, {"type": "reasoning_text", "text": ""}
        item = {"type": kind, "id": f"{id}_{secrets.token_hex(16)}", "status": "in_progress", **own}
        item["content"] = []
        self.items.append(item)
        index = len(self.items) - 1
        events = [self.event("output_item.added", output_index=index, item=item)]
        events.append(
            self.event("content_part.added", **self._place(item), content_index=0, part=part)
        )
        item["content"] = [part]
        return events

    def _call(self, call: dict[str, Any]) -> list[str]:
        if "name" in call:
            events = self.closed()
            item = {
                "type": "function_call",
                "id": f"fc_{secrets.token_hex(16)}",
                "call_id": call["id"],
                "name": call["name"],
                "arguments": "",
                "status": "in_progress",
            }
            self.items.append(item)
            index = len(self.items) - 1
            return [*events, self.event("output_item.added", output_index=index, item=item)]
        item = self.items[-1]
        item["arguments"] += call["arguments"]
        place = self._place(item) | {"delta": call["arguments"]}
        return [self.event("function_call_arguments.delta", **place)]

    def closed(self) -> list[str]:
        """The end of the item that is open."""
        if not self.items or self.items[-1]["status"] != "in_progress":
            return []
        item = self.items[-1]
        item["status"] = "completed"
        place, events = self._place(item), []
        if item["type"] == "function_call":
            done = {"arguments": item["arguments"], "name": item["name"]}
            events.append(self.event("function_call_arguments.done", **place, **done))
        else:
            part = item["content"][0]
            kind = "output_text" if item["type"] == "message" else "reasoning_text"
            more = {"logprobs": part["logprobs"]} if "logprobs" in part else {}
            done = {"content_index": 0, "text": part["text"]}
            events.append(self.event(f"{kind}.done", **place, **done, **more))
            events.append(self.event("content_part.done", **place, content_index=0, part=part))
        index = place["output_index"]
        return [*events, self.event("output_item.done", output_index=index, item=item)]


def usage_of(answers: Answers) -> dict[str, Any]:
    usage = answers.usage
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt + usage.completion,
    } | usage.energy


def said(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Items of an answer as messages of the conversation that goes on from it."""
    given: list[dict[str, Any]] = [item for item in items if item["type"] != "reasoning"]
    return messages_of(given)


# ---- routes --------------------------------------------------------------------------------------


@routes.post("/v1/responses", responses=STREAMS)
async def create(request: Request, body: ResponseBody) -> Response:
    """Answer, and keep the answer for the next to go on from."""
    server, owner = server_of(request), client_of(request)
    name = server.models.resolved(body.model, "chat")
    server.models.expect(name, "chat")
    before = earlier(server, body.previous_response_id, owner)
    messages = before + messages_of(body.input)
    if not messages:
        raise ApiError(400, "input is empty; give a text or messages.", param="input")
    writer = Writer(body, name)
    asked = asked_of(body, messages)
    answers = answering(server, name, asked, owner, bool(body.stream))

    async def events(opened: Answers) -> AsyncIterator[str]:
        async for event in writer.events(opened):
            yield event
        kept(server, writer, messages, owner)

    if body.stream:
        return await stream_of(request, answers, events, end="", framed=True)

    async def whole() -> dict[str, Any]:
        async with answers as opened:
            async for _ in events(opened):
                pass
        return writer.object()

    if body.background:
        return reply_of(begun(server, writer, messages, owner, whole()))
    return reply_of(await while_connected(request, whole()))


def earlier(server: Server, id: str | None, owner: str) -> list[dict[str, Any]]:
    """The messages that an answer goes on from, its own words at their end."""
    if id is None:
        return []
    row = stored(server, id, owner)
    return row["messages"] + said(row["body"]["output"])


def stored(server: Server, id: str, owner: str) -> dict[str, Any]:
    row = server.database.row("SELECT * FROM responses WHERE id = ? AND owner = ?", id, owner)
    if row is None:
        raise not_found("response", id)
    return row


def kept(server: Server, writer: Writer, messages: list[dict[str, Any]], owner: str) -> None:
    """Store an answer, or what it has become."""
    if writer.body.store is False and not writer.body.background:
        return
    server.database.run("DELETE FROM responses WHERE id = ?", writer.id)
    row = {"id": writer.id, "created": writer.created, "owner": owner, "body": writer.object()}
    server.database.add("responses", row | {"messages": messages})


def begun(
    server: Server, writer: Writer, messages: list[dict[str, Any]], owner: str, work: Any
) -> dict[str, Any]:
    """Answer in the background; the reply comes at once."""
    kept(server, writer, messages, owner)

    async def run() -> None:
        try:
            await work
        except asyncio.CancelledError:
            writer.status = "cancelled"
        except Exception as error:
            found = api_error(error)
            writer.status = "failed"
            writer.error = {"code": found.code or "server_error", "message": found.message}  # type: ignore[assignment]
        finally:
            server.answering.pop(writer.id, None)
            kept(server, writer, messages, owner)

    server.answering[writer.id] = server.background(run())
    return writer.object()


@routes.get("/v1/responses/{id}")
async def get_response(request: Request, id: str) -> Response:
    """A kept answer."""
    return reply_of(stored(server_of(request), id, client_of(request))["body"])


@routes.delete("/v1/responses/{id}")
async def delete_response(request: Request, id: str) -> dict[str, Any]:
    """Forget an answer."""
    server = server_of(request)
    stored(server, id, client_of(request))
    server.database.run("DELETE FROM responses WHERE id = ?", id)
    return {"id": id, "object": "response", "deleted": True}


@routes.post("/v1/responses/{id}/cancel")
async def cancel_response(request: Request, id: str) -> Response:
    """Stop an answer that is written in the background."""
    server, owner = server_of(request), client_of(request)
    row = stored(server, id, owner)
    if not row["body"]["background"]:
        raise ApiError(
            400, f"{id} was not asked for with background=true, and cannot be cancelled."
        )
    if task := server.answering.get(id):
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    return reply_of(stored(server, id, owner)["body"])


@routes.get("/v1/responses/{id}/input_items")
async def input_items(
    request: Request,
    id: str,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> dict[str, Any]:
    """What an answer was asked with."""
    messages = stored(server_of(request), id, client_of(request))["messages"]
    items = [
        {
            "type": "message",
            "id": f"msg_{id.removeprefix('resp_')}_{i}",
            "status": "completed",
            "role": message["role"] if message["role"] != "tool" else "user",
            "content": [{"type": "input_text", "text": message.get("content") or ""}],
        }
        for i, message in enumerate(messages)
    ]
    items = items if order == "asc" else items[::-1]
    shown = items[:limit]
    ends = {"first_id": shown[0]["id"], "last_id": shown[-1]["id"]}
    return {"object": "list", "data": shown, **ends, "has_more": len(items) > limit}


def recover(server: Server) -> None:
    """After a start: what the last process was writing in the background is failed."""
    message = "the server stopped while this was written; ask again."
    error = {"code": "server_error", "message": message}
    query = "SELECT id, body FROM responses WHERE json_extract(body, '$.status') = 'in_progress'"
    for row in server.database.rows(query):
        body = row["body"] | {"status": "failed", "error": error}
        server.database.change("responses", row["id"], body=body)
