"""`/v1/traces`: the training examples of a model that are nearest to a result."""

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Request, UploadFile

from daedal.checkpoints import resolve
from daedal.errors import DaedalError
from daedal.server.errors import ApiError
from daedal.server.files import as_file
from daedal.server.state import Server, server_of
from daedal.trust.memorised.trace import NAME, Index, Near, as_dicts, trace
from daedal.trust.verify import recipe_of

routes = APIRouter()
NONE = "the model has no index of what it was trained on; `daedal trace --build DATA` makes one."


@routes.post("/v1/traces")
async def find(
    request: Request,
    file: Annotated[UploadFile | None, File()] = None,
    text: Annotated[str | None, Form(max_length=1_000_000)] = None,
    model: Annotated[str | None, Form()] = None,
    most: Annotated[int, Form(ge=1, le=50)] = 5,
) -> dict[str, Any]:
    """What `daedal trace` finds for a file or a `text`, made by `model` or by the one that the file's
    metadata names: `nearest` with licences, and `sentences`; `indexed` says whether the model has an
    index of what it was trained on at all."""
    if (file is None) == (text is None):
        raise ApiError(400, "give a file or a text, one of the two.", param="file")
    name = "text.txt" if file is None else Path(file.filename or "file").name[:255]
    data = await file.read() if file is not None else (text or "").encode()
    server = server_of(request)
    made = await server.run(nearest, server, data, name, model, most)
    if made is None:
        return {"object": "trace", "indexed": False, "nearest": [], "sentences": [NONE]}
    kind, found = made
    unit = "notes" if kind == "tune" else "words"
    said = [near.sentence(unit) for near in found]
    return {
        "object": "trace",
        "indexed": True,
        "kind": kind,
        "nearest": as_dicts(found),
        "sentences": said,
    }


def nearest(
    server: Server, data: bytes, name: str, model: str | None, most: int
) -> tuple[str, list[Near]] | None:
    """What the bytes of a file are, and the nearest examples of the model's index, if it has one."""
    with as_file(data, name) as path:
        model = model or (recipe_of(path) or {}).get("model")
        if not model:
            raise ApiError(
                400, f"{name} does not say which model made it; give model.", param="model"
            )
        index = resolve(server.models.source(server.models.resolved(model, "text"))) / NAME
        if not index.is_file():
            return None
        try:
            return trace(path, Index.load(index), most)
        except DaedalError as error:
            raise ApiError(400, str(error), param="file") from None
