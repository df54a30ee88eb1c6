"""`/v1/files`."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, File, Form, Query, Request, UploadFile
from starlette.responses import FileResponse

from daedal.server.pages import BYTES, page
from daedal.server.state import client_of, server_of

routes = APIRouter()

Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]


def as_object(row: dict[str, Any]) -> dict[str, Any]:
    """A file in OpenAI's words."""
    ends = {"expires_at": int(row["expires"])} if row["expires"] else {}
    return ends | {
        "id": row["id"],
        "object": "file",
        "bytes": row["bytes"],
        "created_at": int(row["created"]),
        "filename": row["name"],
        "purpose": row["purpose"],
        "status": "processed",
    }


@routes.post("/v1/files")
async def upload(
    request: Request,
    file: Annotated[UploadFile, File()],
    purpose: Annotated[Purpose, Form()] = "user_data",
) -> dict[str, Any]:
    """Upload a file."""
    server, data = server_of(request), await file.read()
    row = await server.run(
        server.files.add, data, file.filename or "file", purpose, client_of(request)
    )
    return as_object(row)


@routes.get("/v1/files")
async def list_files(
    request: Request,
    purpose: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    after: str | None = None,
    order: Literal["asc", "desc"] = "desc",
) -> dict[str, Any]:
    """The files of this client."""
    wanted = {"owner": client_of(request), "purpose": purpose}
    rows = server_of(request).database.listed("files", limit + 1, after, order, **wanted)
    return page([as_object(row) for row in rows], limit)


@routes.get("/v1/files/{id}")
async def get_file(request: Request, id: str) -> dict[str, Any]:
    """What is known of a file."""
    return as_object(server_of(request).files.get(id, client_of(request)))


@routes.get("/v1/files/{id}/content", responses=BYTES)
async def content(request: Request, id: str) -> FileResponse:
    """A file's bytes; ranges are answered."""
    files = server_of(request).files
    row = files.get(id, client_of(request))
    return FileResponse(files.path(id), filename=row["name"])


@routes.delete("/v1/files/{id}")
async def delete_file(request: Request, id: str) -> dict[str, Any]:
    """Delete a file."""
    server_of(request).files.delete(id, client_of(request))
    return {"id": id, "object": "file", "deleted": True}
