"""`/v1/memories`: what a client's user said, theirs to read, change and forget. Written by hand here,
and by chat completions that ask for it (`"memory": true`)."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import Field

from daedal.assist.memory.store import Known, Memory
from daedal.errors import DaedalError
from daedal.server.errors import ApiError
from daedal.server.fields import Body
from daedal.server.state import Server, client_of, server_of

routes = APIRouter()
Words = Annotated[str, Field(min_length=1, max_length=4000)]


class MemoryBody(Body):
    """A fact entered by hand."""

    key: Words
    value: Words


class EditBody(Body):
    value: Words


def as_object(fact: Known) -> dict[str, Any]:
    return {
        "id": fact.id,
        "object": "memory",
        "created_at": int(fact.at),
        "key": fact.key,
        "value": fact.value,
        "quote": fact.quote if fact.turn is not None else None,
        "confidence": fact.confidence,
        "replaced_at": int(fact.replaced) if fact.replaced else None,
    }


async def known(server: Server, id: int, owner: str) -> Memory:
    """The memory, if it holds this fact."""
    try:
        await server.run(server.memory.get, id, owner)
    except (DaedalError, OverflowError) as error:
        raise ApiError(404, str(error), "not_found") from None
    return server.memory


@routes.get("/v1/memories")
async def list_memories(
    request: Request, replaced: bool = False, query: Annotated[str, Query(max_length=1000)] = ""
) -> dict[str, Any]:
    """What is known of this client's user, oldest first; with `query` also the turns like it."""
    server, owner = server_of(request), client_of(request)
    facts = await server.run(server.memory.facts, owner, replaced)
    turns = await server.run(server.memory.turns, query, owner) if query else []
    said = [{"id": id, "created_at": int(at), "text": text} for id, at, text in turns]
    return {"object": "list", "data": [as_object(fact) for fact in facts], "turns": said}


@routes.post("/v1/memories")
async def enter(request: Request, body: MemoryBody) -> dict[str, Any]:
    """Enter a fact; one of the same key is replaced."""
    server = server_of(request)
    return as_object(
        await server.run(server.memory.enter, body.key, body.value, client_of(request))
    )


@routes.post("/v1/memories/{id}")
async def edit(request: Request, id: int, body: EditBody) -> dict[str, Any]:
    """Another value for a fact; the turn that said the old one is forgotten."""
    server, owner = server_of(request), client_of(request)
    memory = await known(server, id, owner)
    return as_object(await server.run(memory.edit, id, body.value, owner))


@routes.delete("/v1/memories/{id}")
async def forget(request: Request, id: int) -> dict[str, Any]:
    """Forget a fact, what it replaced, and the turns that said so."""
    server, owner = server_of(request), client_of(request)
    memory = await known(server, id, owner)
    await server.run(memory.forget, id, owner)
    return {"id": id, "object": "memory", "deleted": True}


@routes.delete("/v1/memories")
async def clear(request: Request) -> dict[str, Any]:
    """Forget everything of this client's user."""
    server = server_of(request)
    count = await server.run(server.memory.clear, client_of(request))
    return {"object": "list", "deleted": count}
