"""`/v1/preferences`: what people find better, kept for training."""

import json
import shutil
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import FileResponse

from daedal.server import preferences
from daedal.server.errors import ApiError
from daedal.server.fields import Body
from daedal.server.pages import BYTES
from daedal.server.preferences import Pairs
from daedal.server.routes.images import picture_of
from daedal.server.state import client_of, server_of

routes = APIRouter()

Picture = dict[str, Any]  # as in edits: {"image_url": a data URL} or {"file_id"}


class PairBody(Body):
    """A pair: two answers to a prompt, as texts, or two pictures of it."""

    file: str
    prompt: Annotated[str | list[dict[str, Any]], Field(min_length=1)]
    chosen: str | Picture
    rejected: str | Picture


def described(pairs: Pairs) -> dict[str, Any]:
    return {
        "id": pairs.name,
        "object": "preferences",
        "kind": pairs.kind or None,
        "pairs": len(pairs.rows()),
        "bytes": pairs.path.stat().st_size,
    }


def written(body: PairBody) -> None:
    """Raise where a text holds half a character, which no file can keep."""
    try:
        json.dumps(body.model_dump(), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise ApiError(400, f"the pair holds {half!r}, which is half a character.") from None


@routes.post("/v1/preferences")
async def add(request: Request, body: PairBody) -> dict[str, Any]:
    """Add a pair to a file, which is made if it is not there."""
    server, owner = server_of(request), client_of(request)
    pairs = preferences.at(server.folder, body.file)
    await server.run(written, body)
    chosen, rejected = body.chosen, body.rejected
    if isinstance(chosen, str) and isinstance(rejected, str):
        if chosen == rejected:
            raise ApiError(400, "the two answers are the same, which says nothing.", param="chosen")
        await server.run(pairs.add, body.prompt, chosen, rejected)
    elif isinstance(chosen, dict) and isinstance(rejected, dict):
        if not isinstance(body.prompt, str):
            raise ApiError(400, "the prompt of pictures is a text.", param="prompt")
        pictures = [picture_of(server, each, owner) for each in (chosen, rejected)]
        await server.run(pairs.add_pictures, body.prompt, *pictures)
    else:
        raise ApiError(400, "a pair is two texts or two pictures.", param="chosen")
    return await server.run(described, pairs)


@routes.get("/v1/preferences")
async def list_files(request: Request) -> dict[str, Any]:
    """The files of pairs."""
    server = server_of(request)
    rows = [await server.run(described, each) for each in preferences.every(server.folder)]
    return {"object": "list", "data": rows}


@routes.get("/v1/preferences/{name}")
async def get_file(request: Request, name: str) -> dict[str, Any]:
    """A file of pairs, with the prompts that it has."""
    server = server_of(request)
    pairs = preferences.named(server.folder, name)
    rows = await server.run(pairs.rows)
    prompts = [row["caption"] if "caption" in row else row["prompt"] for row in rows]
    return await server.run(described, pairs) | {"prompts": prompts}


@routes.get("/v1/preferences/{name}/content", responses=BYTES)
async def content(request: Request, name: str) -> FileResponse:
    """A file of pairs, as JSON lines."""
    path = preferences.named(server_of(request).folder, name).path
    return FileResponse(path, filename=path.name, media_type="application/jsonl")


@routes.post("/v1/preferences/{name}/undo")
async def undo(request: Request, name: str) -> dict[str, Any]:
    """Take the last pair back."""
    server = server_of(request)
    pairs = preferences.named(server.folder, name)
    await server.run(pairs.take_back)
    return await server.run(described, pairs)


@routes.delete("/v1/preferences/{name}")
async def delete(request: Request, name: str) -> dict[str, Any]:
    """Delete a file of pairs, and its pictures."""
    server = server_of(request)
    path = preferences.named(server.folder, name).path
    path.unlink()
    await server.run(lambda: shutil.rmtree(path.with_suffix(""), ignore_errors=True))
    return {"id": name, "object": "preferences", "deleted": True}
