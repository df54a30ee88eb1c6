"""`/v1/jobs`, and the work of a generation that is one."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import FileResponse, Response, StreamingResponse

from daedal.pipelines import registry
from daedal.pipelines.medium import Medium
from daedal.server.errors import ApiError
from daedal.server.fields import Body
from daedal.server.jobs import ENDED, Running
from daedal.server.pages import BYTES, page
from daedal.server.sse import STREAMS
from daedal.server.state import Server, client_of, server_of
from daedal.settings import read, settings_of

routes = APIRouter()


def as_object(row: dict[str, Any]) -> dict[str, Any]:
    """A job as clients see it. `progress` is in per cent."""

    def whole(key: str) -> int | None:
        return int(row[key]) if row[key] else None

    return {
        "id": row["id"],
        "object": "job",
        "kind": row["kind"],
        "status": row["status"],
        "progress": round(100 * row["progress"], 1),
        "detail": row["detail"],
        "error": row["error"],
        "results": row["results"],
        "request": row["request"],
        "created_at": whole("created"),
        "started_at": whole("started"),
        "completed_at": whole("ended"),
        "expires_at": whole("expires"),
    }


class JobBody(Body):
    """A generation of any medium: its prompt, and the medium's settings."""

    medium: str = "image"
    model: str | None = None
    prompt: Any
    settings: dict[str, Any] = {}


def checked(medium: Medium, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that a client may give: none that names something on this machine by its path."""
    known = settings_of(medium.settings)
    if there := [
        key for key in settings if key in known and (known[key][1].place or not known[key][1].typed)
    ]:
        raise ApiError(
            400,
            f"{there[0]} names something on the server's machine, which a job cannot.",
            param=there[0],
        )
    read(medium.settings, settings, medium.plural)
    return settings


async def generate(server: Server, job: Running) -> None:
    """The work of a generation: its results become files."""
    asked = job.request
    medium = registry.medium_named(asked["medium"])
    name = server.models.resolved(asked.get("model"), medium.name)
    server.models.expect(name, medium.name)

    def begin(pipeline: Any) -> Any:
        return pipeline.start(asked["prompt"], client=job.owner, priority=-1, **asked["settings"])

    async with server.started_on(name, begin) as (_, handle):
        async for events in server.driver.follow(handle):
            job.update(events[-1].done / max(events[-1].total, 1), model=name)
        results = await server.run(handle.results)
    for i, result in enumerate(results):
        path = server.folder / "results" / f"{job.id}-{i}{medium.suffix}"
        await server.run(result.save, path)
        job.result(path.read_bytes(), path.name)
        path.unlink()
    job.update(1.0, recipes=[result.recipe for result in results])


@routes.post("/v1/jobs")
async def create(
    request: Request,
    body: JobBody,
    idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
) -> dict[str, Any]:
    """Have something made that nobody waits for; the answer comes at once."""
    server = server_of(request)
    medium = registry.medium_named(body.medium)
    if medium.file:
        raise ApiError(
            400,
            f"a job of {medium.plural} would read a file of the server's; send the file to its own route.",
            param="medium",
        )
    server.models.resolved(body.model, medium.name)
    checked(medium, body.settings)
    row = server.jobs.submit("generate", body.model_dump(), client_of(request), idempotency_key)
    return as_object(row)


@routes.get("/v1/jobs")
async def list_jobs(
    request: Request,
    kind: str | None = None,
    status: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
    after: str | None = None,
    order: Literal["asc", "desc"] = "desc",
) -> dict[str, Any]:
    """The jobs of this client, newest first."""
    wanted = {"owner": client_of(request), "kind": kind, "status": status}
    rows = server_of(request).database.listed("jobs", limit + 1, after, order, **wanted)
    return page([as_object(row) for row in rows], limit)


@routes.get("/v1/jobs/{id}")
async def get_job(request: Request, id: str, response: Response) -> dict[str, Any]:
    """How a job stands."""
    response.headers["openai-poll-after-ms"] = "500"
    return as_object(server_of(request).jobs.get(id, client_of(request)))


@routes.get("/v1/jobs/{id}/content", responses=BYTES)
async def job_content(
    request: Request, id: str, index: Annotated[int, Query(ge=0)] = 0
) -> FileResponse:
    """A result's bytes; ranges are answered."""
    server, owner = server_of(request), client_of(request)
    row = server.jobs.get(id, owner)
    if index >= len(row["results"]):
        made = len(row["results"])
        raise ApiError(
            404, f"{id} is {row['status']} and has {made} results.", "not_found", "index"
        )
    file = server.files.get(row["results"][index], owner)
    return FileResponse(server.files.path(file["id"]), filename=file["name"])


@routes.post("/v1/jobs/{id}/cancel")
async def cancel_job(request: Request, id: str) -> dict[str, Any]:
    """Stop a job."""
    server, owner = server_of(request), client_of(request)
    server.jobs.cancel(id, owner)
    return as_object(await settled(server, id, owner))


@routes.delete("/v1/jobs/{id}")
async def delete_job(request: Request, id: str) -> dict[str, Any]:
    """Forget a job and its results."""
    server, owner = server_of(request), client_of(request)
    server.jobs.cancel(id, owner)
    await settled(server, id, owner)
    server.jobs.delete(id, owner)
    return {"id": id, "object": "job", "deleted": True}


async def settled(server: Server, id: str, owner: str) -> dict[str, Any]:
    """A job that is being stopped, once it has stopped or a while has passed."""
    for _ in range(100):
        row = server.jobs.get(id, owner)
        if row["status"] in ENDED:
            break
        await asyncio.sleep(0.02)
    return row


@routes.get("/v1/jobs/{id}/events", responses=STREAMS)
async def job_events(request: Request, id: str) -> Response:
    """How a job goes on, as events, until it ends."""
    server, owner = server_of(request), client_of(request)
    server.jobs.get(id, owner)

    async def events() -> AsyncIterator[str]:
        async for row in server.jobs.followed(id, owner):
            yield f"data: {json.dumps(as_object(row))}\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")
