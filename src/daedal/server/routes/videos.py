"""`/v1/videos`: clips as jobs, in OpenAI's words. A client asks, looks until the job is completed, and
fetches the clip, a frame of it, or a sheet of its frames."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.responses import FileResponse

from daedal.media import images, video
from daedal.pipelines.video_params import VIDEO
from daedal.server.errors import ApiError, not_found
from daedal.server.fields import Body, settings_body, settings_in
from daedal.server.jobs import Running
from daedal.server.pages import BYTES, page
from daedal.server.routes.images import picture_of
from daedal.server.routes.jobs import settled
from daedal.server.state import Server, client_of, server_of

routes = APIRouter()

VARIANTS = ("video", "thumbnail", "spritesheet")  # in the order of a job's results
STATUS = {"cancelled": "failed"}  # clips have four
PICTURES = 16  # times the pixels that a picture may have, in all frames of a clip


class VideoFields(Body):
    """OpenAI's fields. Those of `daedal video` are added to them."""

    model: str | None = None
    prompt: Annotated[str, Field(min_length=1, max_length=32_000)]
    seconds: Annotated[
        float | None, Field(gt=0, le=60, description="How long, a number or its digits.")
    ] = None
    size: str | None = None
    n: Annotated[int | None, Field(ge=1, le=1, description="One clip a job.")] = None
    input_reference: dict[str, Any] | None = None  # of JSON: {"image_url": data URL} or {"file_id"}


VideoBody: Any = settings_body("VideoRequest", VIDEO, VideoFields, {"n"})
SCHEMA = {
    "requestBody": {
        "required": True,
        "content": {
            kind: {"schema": VideoBody.model_json_schema()}
            for kind in ("application/json", "multipart/form-data")
        },
    }
}


def as_object(row: dict[str, Any]) -> dict[str, Any]:
    """A job as a video."""
    asked, status = row["request"], STATUS.get(row["status"], row["status"])
    made = row["detail"]
    error = row["error"] or (
        {"code": "cancelled", "message": "it was cancelled."}
        if row["status"] == "cancelled"
        else None
    )
    return {
        "id": row["id"],
        "object": "video",
        "status": status,
        "progress": round(100 * row["progress"]),
        "model": made.get("model", asked["model"]),
        "prompt": asked["prompt"],
        "seconds": f"{made.get('seconds', asked['settings'].get('seconds') or 0):g}",
        "size": made.get("size", asked["settings"].get("size") or ""),
        "created_at": int(row["created"]),
        "completed_at": int(row["ended"]) if row["ended"] else None,
        "expires_at": int(row["expires"]) if row["expires"] else None,
        "remixed_from_video_id": asked.get("remixed"),
        "error": error,
        "daedal": {"recipe": made.get("recipe"), "remarks": made.get("remarks", [])},
    }


# ---- asking --------------------------------------------------------------------------------------


@routes.post("/v1/videos", openapi_extra=SCHEMA)
async def create(
    request: Request, idempotency_key: Annotated[str | None, Header(max_length=255)] = None
) -> dict[str, Any]:
    """Have a clip made: a form, with `input_reference` as the file of its first frame, or JSON."""
    server, owner = server_of(request), client_of(request)
    body, reference = await read(server, request)
    return submitted(server, body, reference, owner, idempotency_key)


def submitted(
    server: Server,
    body: Any,
    reference: str | None,
    owner: str,
    key: str | None = None,
    **more: Any,
) -> dict[str, Any]:
    name = server.models.resolved(body.model, VIDEO.name)
    server.models.expect(name, VIDEO.name)
    settings = settings_in(body, VIDEO)
    fits(server, settings)
    asked = {"model": name, "prompt": body.prompt, "settings": settings, "reference": reference}
    return as_object(server.jobs.submit("video", asked | more, owner, key))


def fits(server: Server, settings: dict[str, Any]) -> None:
    """An error for a clip larger than this server makes."""
    width, height, _ = images.parse_size(settings.get("size") or "64x64", 1)
    frames = (settings.get("seconds") or 2) * (settings.get("fps") or 8)
    if width * height * frames > PICTURES * server.options.max_pixels:
        raise ApiError(
            400,
            f"{frames:.0f} frames of {width}x{height} are more than this server makes; ask for fewer or smaller ones.",
            param="size",
        )


async def read(server: Server, request: Request) -> tuple[Any, str | None]:
    """The fields, and the id of the file of a first frame."""
    owner = client_of(request)
    if request.headers.get("content-type", "").startswith("application/json"):
        try:
            body = checked(await request.json())
        except ValueError as error:
            raise ApiError(400, f"the body is not JSON ({error}).") from None
        given = (
            None
            if body.input_reference is None
            else picture_of(server, body.input_reference, owner)
        )
    else:
        fields: dict[str, Any] = {}
        given = None
        async with request.form(max_files=1, max_part_size=server.options.max_body) as form:
            for key, value in form.multi_items():
                if key == "input_reference" and isinstance(value, UploadFile):
                    given = await value.read()
                elif isinstance(value, UploadFile):
                    raise ApiError(400, f"{key} is a file, and a value was expected.", param=key)
                elif value != "":
                    fields[key] = value
        body = checked(fields)
    if given is None:
        return body, None
    images.open_image(given)  # what is no picture is said now, not by a failed job
    return body, server.files.add(given, "first.png", "user_data", owner, keep=False)["id"]


def checked(fields: Any) -> Any:
    try:
        return VideoBody.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        param = ".".join(map(str, first["loc"])) or None
        raise ApiError(400, f"{param or 'the body'}: {first['msg']}.", param=param) from None


class RemixBody(Body):
    prompt: Annotated[str, Field(min_length=1, max_length=32_000)]


@routes.post("/v1/videos/{id}/remix")
async def remix(request: Request, id: str, body: RemixBody) -> dict[str, Any]:
    """A clip with the settings of another, its seed among them, and other words."""
    server, owner = server_of(request), client_of(request)
    row = job_of(server, id, owner)
    asked = row["request"]
    seed = (row["detail"].get("recipe") or {}).get("settings", {}).get("seed")
    settings = asked["settings"] | ({} if seed is None else {"seed": seed})
    fields = checked(settings | {"prompt": body.prompt, "model": asked["model"]})
    return submitted(server, fields, asked["reference"], owner, remixed=id)


# ---- looking -------------------------------------------------------------------------------------


def job_of(server: Server, id: str, owner: str) -> dict[str, Any]:
    row = server.jobs.get(id, owner)
    if row["kind"] != "video":
        raise not_found("video", id)
    return row


@routes.get("/v1/videos")
async def list_videos(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: str | None = None,
    order: Literal["asc", "desc"] = "desc",
) -> dict[str, Any]:
    """The clips of this client, newest first."""
    wanted = {"owner": client_of(request), "kind": "video"}
    rows = server_of(request).database.listed("jobs", limit + 1, after, order, **wanted)
    return page([as_object(row) for row in rows], limit)


@routes.get("/v1/videos/{id}")
async def get_video(request: Request, id: str, response: Response) -> dict[str, Any]:
    """How a clip stands."""
    response.headers["openai-poll-after-ms"] = "500"
    return as_object(job_of(server_of(request), id, client_of(request)))


@routes.get("/v1/videos/{id}/content", responses=BYTES)
async def content(
    request: Request, id: str, variant: Literal["video", "thumbnail", "spritesheet"] = "video"
) -> FileResponse:
    """The clip (mp4), a frame of it (webp) or a sheet of frames (jpg); ranges are answered."""
    server, owner = server_of(request), client_of(request)
    row = job_of(server, id, owner)
    if row["status"] != "completed":
        raise ApiError(404, f"{id} is {row['status']} and has no content.", "not_found")
    file = server.files.get(row["results"][VARIANTS.index(variant)], owner)
    return FileResponse(server.files.path(file["id"]), filename=file["name"])


@routes.delete("/v1/videos/{id}")
async def delete(request: Request, id: str) -> dict[str, Any]:
    """Forget a clip; one under way is stopped."""
    server, owner = server_of(request), client_of(request)
    job_of(server, id, owner)
    server.jobs.cancel(id, owner)
    await settled(server, id, owner)
    server.jobs.delete(id, owner)
    return {"id": id, "object": "video.deleted", "deleted": True}


# ---- the work ------------------------------------------------------------------------------------


async def film(server: Server, job: Running) -> None:
    """Make a clip; its variants become files."""
    asked = job.request
    settings = dict(asked["settings"])
    if asked["reference"]:
        data = server.files.path(asked["reference"]).read_bytes()
        settings["init"] = images.over(images.open_image(data))

    def begin(pipeline: Any) -> Any:
        return pipeline.start(asked["prompt"], client=job.owner, priority=-1, **settings)

    async with server.started_on(asked["model"], begin) as (_, handle):
        job.update(0.0, remarks=list(handle.remarks))
        async for events in server.driver.follow(handle):
            job.update(0.98 * events[-1].done / max(events[-1].total, 1))
        (clip,) = await server.run(handle.results)
    server.log([clip])
    path = server.folder / "results" / f"{job.id}.mp4"
    await server.run(clip.save, path)
    job.result(path.read_bytes(), path.name)
    path.unlink()
    middle = images.encode(clip.frames[len(clip.frames) // 2], "WEBP")
    job.result(middle, f"{job.id}.webp")
    job.result(images.encode(video.sheet(clip.frames), "JPEG"), f"{job.id}.jpg")
    height, width = clip.frames.shape[1:3]
    job.update(1.0, recipe=clip.recipe, seconds=round(clip.seconds, 3), size=f"{width}x{height}")
