"""`/v1/history`: what was generated on this machine, and the same again."""

import base64
import tempfile
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from daedal.pipelines import history
from daedal.pipelines.history import Entry
from daedal.pipelines.registry import medium_named
from daedal.server.errors import ApiError
from daedal.server.state import Server, client_of, server_of
from daedal.settings import settings_of

routes = APIRouter()


def as_object(entry: Entry) -> dict[str, Any]:
    """A generation as clients see it; `result` is the text, or a digest of the content."""
    return {
        "id": entry.id,
        "object": "generation",
        "created_at": int(entry.at),
        "medium": entry.medium,
        "model": entry.model,
        "digest": entry.digest,
        "prompt": entry.prompt,
        "settings": entry.settings,
        "sample": entry.sample,
        "result": entry.result,
        "finish_reason": entry.finish_reason,
    }


@routes.get("/v1/history")
async def list_history(
    request: Request,
    q: Annotated[str, Query(max_length=200)] = "",
    medium: str = "",
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    before: Annotated[int | None, Query(ge=0, le=2**62)] = None,
) -> dict[str, Any]:
    """Generations, newest first: those whose prompt, text or model holds the words `q`, and which
    came `before` one."""
    if history.location() is None:
        return {"object": "list", "data": [], "has_more": False}
    found = await server_of(request).run(history.entries, limit + 1, q, medium, before)
    rows = [as_object(entry) for entry in found[:limit]]
    return {"object": "list", "data": rows, "has_more": len(found) > limit}


@routes.get("/v1/history/{number}")
async def get_generation(request: Request, number: int) -> dict[str, Any]:
    """One generation."""
    return as_object(await server_of(request).run(found, number))


def found(number: int) -> Entry:
    if not 0 <= number < 2**62:
        raise ApiError(404, f"the history has no generation {number}.", "not_found")
    try:
        return history.get(number)
    except history.Missing as error:
        raise ApiError(404, str(error), "not_found") from None


@routes.post("/v1/history/{number}/again")
async def again(request: Request, number: int) -> dict[str, Any]:
    """Make a generation again: its content, and whether it is the same to the byte."""
    server = server_of(request)
    entry = await server.run(found, number)
    name = offered(server, entry)
    checked(entry)

    def begin(pipeline: Any) -> Any:
        return pipeline.start(entry.prompt, client=client_of(request), **entry.settings)

    async with server.started_on(name, begin) as (_, handle):
        await server.driver.ended(handle)
        result = (await server.run(handle.results))[entry.sample]
    same = result.logged == entry.result
    reply = {"object": "generation", "id": number, "model": name, "same": same}
    return reply | {"recipe": result.recipe} | await server.run(content_of, result)


def offered(server: Server, entry: Entry) -> str:
    """The name under which the server has a generation's model. The history's path is no name."""
    names = server.models.names()
    name = next((n for n in names if entry.model in (n, server.models.source(n))), None)
    if name is None:
        message = f"the model of generation {entry.id}, {entry.model!r}, is not here any more."
        raise ApiError(404, message, "model_not_found")
    return name


def checked(entry: Entry) -> None:
    """Refuse what cannot be made again from what the history keeps."""
    if entry.finish_reason == "cancelled":
        message = f"generation {entry.id} was stopped; `daedal again {entry.id}` makes its part."
        raise ApiError(409, message, "was_stopped")
    known = settings_of(medium_named(entry.medium).settings)
    if given := [
        k for k in entry.settings if k in known and known[k][1].place and entry.settings[k]
    ]:
        what = f"generation {entry.id} was made from a picture ({given[0]})"
        message = f"{what}, which the history does not keep."
        raise ApiError(409, message, "needs_input")


def content_of(result: Any) -> dict[str, Any]:
    """Text as it is, anything else as the bytes of its file."""
    if result.medium.readable:
        return {"text": result.logged}
    with tempfile.TemporaryDirectory() as folder:
        path = result.save(Path(folder) / f"result{result.medium.suffix}")
        data = base64.b64encode(path.read_bytes()).decode()
    return {"b64_json": data, "output_format": result.medium.suffix.lstrip(".")}
