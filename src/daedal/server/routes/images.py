"""`/v1/images/generations` and `/v1/images/edits`, whole or with pictures as they become."""

import base64
import json
import re
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.responses import Response

from daedal.energy import METER
from daedal.errors import DaedalError
from daedal.media import images
from daedal.pipelines.image_params import IMAGE
from daedal.pipelines.medium import Handle
from daedal.server.errors import ApiError
from daedal.server.fields import Body, settings_body, settings_in
from daedal.server.routes.chat import reply_of
from daedal.server.sse import STREAMS, stream_of
from daedal.server.state import Server, client_of, server_of, while_connected
from daedal.trust import manifest

routes = APIRouter()

FAR_LARGER = 4  # times the pixels of a model's own size, from which it paints at its own size
DATA = re.compile(r"data:image/[\w.+-]+;base64,", re.ASCII)


class ImageFields(Body):
    """OpenAI's fields. Those of `daedal image` are added to them."""

    model: str | None = None
    prompt: Annotated[str, Field(min_length=1, max_length=32_000)]
    n: Annotated[int | None, Field(ge=1, le=10)] = None
    size: str | None = None
    quality: str | None = None
    response_format: Literal["url", "b64_json"] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    output_compression: Annotated[int | None, Field(ge=0, le=100)] = None
    background: str | None = None
    moderation: str | None = None
    style: str | None = None
    stream: bool | None = None
    partial_images: Annotated[int | None, Field(ge=0, le=3)] = None
    user: str | None = None
    negative_prompt: str | None = None  # other tools' names of settings
    num_inference_steps: Annotated[int | None, Field(ge=1, le=1000)] = None
    strength: Annotated[float | None, Field(gt=0, le=1)] = None


class EditFields(ImageFields):
    images: list[dict[str, Any]] | None = None  # of JSON: {"image_url": data URL} or {"file_id"}
    mask: Annotated[
        dict[str, Any] | None, Field(description="A picture that is transparent where to paint.")
    ] = None


ImageBody: Any = settings_body("ImageRequest", IMAGE, ImageFields, set())
EditBody: Any = settings_body("ImageEditRequest", IMAGE, EditFields, set())


def settings_of_body(body: Any) -> dict[str, Any]:
    settings = settings_in(body, IMAGE)
    for name, own in (("negative_prompt", "negative"), ("num_inference_steps", "steps")):
        if getattr(body, name) is not None:
            settings.setdefault(own, getattr(body, name))
    settings.pop("mask", None)
    if settings.get("size") in ("auto", ""):
        del settings["size"]
    return settings


class Painting:
    """A request for pictures: its settings, its handle, its answer."""

    def __init__(self, server: Server, body: Any, name: str, event: str, base: str) -> None:
        self.server, self.body, self.name, self.event = server, body, name, event
        self.base = base.rstrip("/")  # the address that the client reached the server at
        self.settings = settings_of_body(body)
        self.format = (body.output_format or "png").upper()
        self.created = int(time.time())
        self.remarks: list[str] = []
        self.client = ""

    def begin(self, client: str, pictures: dict[str, Any]) -> Any:
        self.client = client

        def start(pipeline: Any) -> Handle:
            settings = self.settings | pictures
            self._fit(pipeline, settings)
            handle = pipeline.start(self.body.prompt, client=client, **settings)
            self.remarks += handle.remarks
            return handle

        return start

    def _fit(self, pipeline: Any, settings: dict[str, Any]) -> None:
        """A size far above the model's own is painted at its own, in the shape asked for."""
        own = pipeline.painter.defaults
        if "size" in settings:
            width, height, _ = images.parse_size(settings["size"], 1)
        else:
            width = settings.get("width") or own["width"]
            height = settings.get("height") or own["height"]
        if width * height > self.server.options.max_pixels:
            raise ApiError(
                400,
                f"{width}x{height} is more than the {self.server.options.max_pixels:,} pixels that this server paints; ask for less.",
                param="size",
            )
        share = own["width"] * own["height"] / (width * height)
        if share < 1 / FAR_LARGER and not settings.get("extend"):
            for key in ("size", "width", "height"):
                settings.pop(key, None)
            settings["width"] = max(8, round(width * share**0.5))
            settings["height"] = max(8, round(height * share**0.5))
            self.remarks.append(
                f"{self.name} paints at about {own['width']}x{own['height']}, not {width}x{height}."
            )

    async def whole(self, handle: Handle) -> dict[str, Any]:
        await self.server.driver.ended(handle)
        pictures = await self.server.run(handle.results)
        self.server.log(pictures)
        data = [await self.server.run(self._datum, picture) for picture in pictures]
        self.server.metrics.painted(self.name, pictures)
        done = {"created": self.created, "data": data, "usage": usage_of(handle, pictures)}
        return done | self._frame() | {"daedal": self._own(pictures)}

    def encoded(self, picture: Any) -> bytes:
        quality = self.body.output_compression
        quality = 95 if quality is None else max(1, quality)
        data = images.encode(picture.pixels, self.format, picture.recipe, quality)
        if not (manifest.wanted() and manifest.installed()):
            return data
        kind = self.format.lower()
        try:
            return manifest.signed(data, f"image/{kind}", f"picture.{kind}", picture.recipe)
        except DaedalError as error:  # the picture is worth more than its manifest
            self.remarks.append(str(error))
            return data

    def _datum(self, picture: Any) -> dict[str, Any]:
        data = self.encoded(picture)
        if self.body.response_format != "url":
            return {"b64_json": base64.b64encode(data).decode()}
        kind = self.format.lower()
        row = self.server.files.add(data, f"picture.{kind}", "vision", self.client, keep=False)
        return {"url": f"{self.base}/v1/files/{row['id']}/content"}

    def _frame(self) -> dict[str, Any]:
        return {"background": "opaque", "output_format": self.format.lower()}

    def _own(self, pictures: list[Any]) -> dict[str, Any]:
        """What OpenAI's replies have no fields for; theirs for the size knows three sizes only."""
        height, width = pictures[0].pixels.shape[:2]
        recipes = [picture.recipe for picture in pictures]
        size = f"{width}x{height}"
        return {"model": self.name, "size": size, "recipes": recipes, "remarks": self.remarks}

    async def events(self, handle: Handle) -> AsyncIterator[str]:
        """Partial pictures, and the finished ones, as whole events."""
        wanted, shown, last = self.body.partial_images or 0, 0, None
        async for found in self.server.driver.follow(handle):
            last = found[-1]
            due = (shown + 1) * last.total / (wanted + 1)
            if shown < wanted and last.done >= due and last.done < last.total:
                preview = (await self.server.run(last.preview))[0]
                data = base64.b64encode(await self.server.run(images.encode, preview)).decode()
                more = {"partial_image_index": shown, "output_format": "png"}
                yield self._event("partial_image", data, more)
                shown += 1
        pictures = await self.server.run(handle.results)
        self.server.log(pictures)
        self.server.metrics.painted(self.name, pictures)
        for picture in pictures:
            data = base64.b64encode(await self.server.run(self.encoded, picture)).decode()
            usage, own = usage_of(handle, pictures), self._own([picture])
            yield self._event("completed", data, {"usage": usage, "daedal": own})

    def _event(self, kind: str, data: str, more: dict[str, Any]) -> str:
        name = f"{self.event}.{kind}"
        frame = {"type": name, "b64_json": data, "created_at": self.created}
        frame |= {"size": "auto", "quality": "auto"}
        return f"event: {name}\ndata: {json.dumps(frame | self._frame() | more)}\n\n"


def usage_of(handle: Any, pictures: list[Any]) -> dict[str, Any]:
    """OpenAI counts tokens; here the steps of painting stand for them."""
    steps = handle.job.steps * len(pictures)
    return {
        "input_tokens": 0,
        "output_tokens": steps,
        "total_tokens": steps,
        "input_tokens_details": {"text_tokens": 0, "image_tokens": 0},
    } | METER.fields(sum(picture.joules for picture in pictures))


@routes.post("/v1/images/generations", responses=STREAMS)
async def generations(request: Request, body: ImageBody) -> Response:
    """Paint a prompt. Beside OpenAI's fields it takes those of `daedal image`."""
    return await painted(request, body, {}, "image_generation")


async def painted(request: Request, body: Any, pictures: dict[str, Any], event: str) -> Response:
    server = server_of(request)
    name = server.models.resolved(body.model, "image")
    server.models.expect(name, "image")
    painting = Painting(server, body, name, event, str(request.base_url))
    context = server.started_on(name, painting.begin(client_of(request), pictures))
    if body.stream:

        def events(opened: Any) -> AsyncIterator[str]:
            return painting.events(opened[1])

        return await stream_of(request, context, events, end="", framed=True)

    async def whole() -> dict[str, Any]:
        async with context as (_, handle):
            return await painting.whole(handle)

    return reply_of(await while_connected(request, whole()))


# ---- edits ---------------------------------------------------------------------------------------


EDIT_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": {"type": "object", "required": ["image", "prompt"]}},
            "application/json": {"schema": {"$ref": "#/components/schemas/ImageEditRequest"}},
        },
    }
}


@routes.post("/v1/images/edits", openapi_extra=EDIT_BODY, responses=STREAMS)
async def edits(request: Request) -> Response:
    """Paint a picture anew, or where its mask has a hole. `image` (or several as `image[]`), `mask`
    and the fields of generations, as a form; or JSON with `images` and `mask` as data URLs or
    uploaded files."""
    server = server_of(request)
    if request.headers.get("content-type", "").startswith("application/json"):
        body, given, mask = await from_json(server, request)
    else:
        body, given, mask = await from_form(request)
    if not given:
        raise ApiError(400, "there is no image to edit; send one as `image`.", param="image")
    return await painted(request, body, await server.run(canvas, given, mask), "image_edit")


def canvas(given: list[bytes], mask: bytes | None) -> dict[str, Any]:
    """Settings of a painting: the picture, its mask, a second picture to refer to."""
    first = images.open_image(given[0])
    settings: dict[str, Any] = {"init": images.over(first)}
    if mask is not None:
        drawn = images.open_image(mask)
        whole = drawn.shape[2] == 4 and (drawn[..., 3] < 255).any()
        settings["mask"] = drawn[..., 3] < 128 if whole else images.open_mask(mask)[0] >= 0.5
    elif first.shape[2] == 4 and (first[..., 3] < 128).any():
        settings["mask"] = first[..., 3] < 128  # a picture with a hole is its own mask
    if len(given) > 1:
        settings["reference"] = images.over(images.open_image(given[1]))
    if len(given) > 2:
        raise ApiError(
            400, f"{len(given)} pictures were sent; one, or one and a reference.", param="image"
        )
    return settings


async def from_form(request: Request) -> tuple[Any, list[bytes], bytes | None]:
    fields: dict[str, Any] = {}
    given: list[bytes] = []
    mask = None
    async with request.form(
        max_files=17, max_part_size=request.app.state.server.options.max_body
    ) as form:
        for key, value in form.multi_items():
            if key in ("image", "image[]"):
                given.append(await bytes_of(value, key))
            elif key == "mask":
                mask = await bytes_of(value, key)
            elif isinstance(value, UploadFile):
                raise ApiError(400, f"{key} is a file, and a value was expected.", param=key)
            elif value != "":
                fields[key.removesuffix("[]")] = value
    return read(fields), given, mask


async def bytes_of(value: Any, key: str) -> bytes:
    if not isinstance(value, UploadFile):
        raise ApiError(400, f"{key} is not a file; send it as one.", param=key)
    return await value.read()


async def from_json(server: Server, request: Request) -> tuple[Any, list[bytes], bytes | None]:
    try:
        body = read(await request.json())
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON ({error}).") from None
    owner = client_of(request)
    given = [picture_of(server, each, owner) for each in body.images or []]
    mask = None if body.mask is None else picture_of(server, body.mask, owner)
    body.mask = None
    return body, given, mask


def read(fields: Any) -> Any:
    try:
        return EditBody.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        param = ".".join(map(str, first["loc"])) or None
        raise ApiError(400, f"{param or 'the body'}: {first['msg']}.", param=param) from None


def picture_of(server: Server, given: dict[str, Any], owner: str) -> bytes:
    """The bytes of a picture that JSON names. Addresses are not fetched: a server that does so can
    be made to call what only it can reach."""
    if isinstance(id := given.get("file_id"), str):
        server.files.get(id, owner)
        return server.files.path(id).read_bytes()
    url = given.get("image_url")
    if isinstance(url, dict):
        url = url.get("url")
    if not isinstance(url, str) or not DATA.match(url):
        raise ApiError(
            400,
            "a picture is given as a data URL (data:image/png;base64,...) or a file_id.",
            param="images",
        )
    try:
        return base64.b64decode(url.partition(",")[2], validate=True)
    except ValueError:
        raise DaedalError("the data URL of a picture is not base64.") from None
