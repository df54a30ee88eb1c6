"""`/v1/audio/transcriptions` and `/v1/audio/translations`: a file of sound becomes text, whole in any
of OpenAI's formats, or as events while it is heard."""

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.responses import Response

from daedal.pipelines.medium import Handle
from daedal.pipelines.transcription_params import TRANSCRIPTION
from daedal.server.errors import ApiError
from daedal.server.fields import Body
from daedal.server.sse import STREAMS, stream_of
from daedal.server.state import client_of, server_of, while_connected

routes = APIRouter()

FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "model": {"type": "string"},
                    },
                }
            }
        },
    }
}
PLAIN = {"text": "text/plain", "srt": "application/x-subrip", "vtt": "text/vtt"}
LISTS = ("timestamp_granularities", "include", "known_speaker_names")


class Fields(Body):
    """OpenAI's fields beside the file, and `beams` and `seed` of `daedal hear`."""

    model: str | None = None
    language: str | None = None
    prompt: str = ""
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] = "json"
    temperature: Annotated[float | None, Field(ge=0, le=1)] = None
    timestamp_granularities: list[Literal["word", "segment"]] = ["segment"]
    stream: bool = False
    beams: Annotated[int, Field(ge=1, le=16)] = 5
    seed: Annotated[int, Field(ge=0, le=2**31)] = 0

    @property
    def words(self) -> bool:
        return "word" in self.timestamp_granularities

    def settings(self, translate: bool) -> dict[str, Any]:
        # 0 is what clients send for "the default": a search, with other tries where it fails
        temperature = self.temperature or None
        return {
            "language": self.language or None,
            "translate": translate,
            "words": self.words,
            "format": self.response_format,
            "hint": self.prompt,
            "temperature": temperature,
            "beams": self.beams,
            "seed": self.seed,
        }


@routes.post("/v1/audio/transcriptions", openapi_extra=FORM, responses=STREAMS)
async def transcriptions(request: Request) -> Response:
    """Write down what is said in `file`, in its own language."""
    return await written(request, translate=False)


@routes.post("/v1/audio/translations", openapi_extra=FORM, responses=STREAMS)
async def translations(request: Request) -> Response:
    """Write down in English what is said in `file`."""
    return await written(request, translate=True)


async def written(request: Request, translate: bool) -> Response:
    server, client = server_of(request), client_of(request)
    fields, data = await from_form(request)
    name = server.models.resolved(fields.model, TRANSCRIPTION.name)
    server.models.expect(name, TRANSCRIPTION.name)

    def begin(pipeline: Any) -> Handle:
        return pipeline.start(data, client=client, **fields.settings(translate))

    context = server.started_on(name, begin)
    if fields.stream:

        def events(opened: Any) -> AsyncIterator[str]:
            return deltas(request, opened[1])

        return await stream_of(request, context, events, framed=True, end="")

    async def whole() -> Any:
        async with context as (_, handle):
            await server.driver.ended(handle)
            return (await server.run(handle.results))[0]

    result = await while_connected(request, whole())
    server.log([result])
    kind = fields.response_format
    if kind in PLAIN:
        return PlainTextResponse(result.formatted(kind) + "\n", media_type=PLAIN[kind])
    if kind == "json":
        return JSONResponse(result.plain() | {"usage": usage(result)})
    segments = "segment" in fields.timestamp_granularities
    return JSONResponse(result.verbose(fields.words, segments) | {"usage": usage(result)})


async def deltas(request: Request, handle: Handle) -> AsyncIterator[str]:
    """OpenAI's events: the text of each segment as it is heard, then all of it."""
    server, said = server_of(request), ""
    async for pieces in server.driver.follow(handle):
        for piece in pieces:
            if piece.segment is not None:
                text = piece.segment.text if said else piece.segment.text.lstrip()
                said += text
                yield event("transcript.text.delta", {"delta": text})
    result = (await server.run(handle.results))[0]
    server.log([result])
    yield event("transcript.text.done", {"text": result.text, "usage": usage(result)})


def event(kind: str, value: dict[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps({'type': kind} | value)}\n\n"


def usage(result: Any) -> dict[str, Any]:
    return {"type": "duration", "seconds": round(result.seconds)}


async def from_form(request: Request) -> tuple[Fields, bytes]:
    """The fields of a form, and the bytes of its file."""
    kind = request.headers.get("content-type", "")
    if not kind.startswith("multipart/form-data"):
        raise ApiError(400, "send a form (multipart/form-data) with the sound as `file`.")
    given: dict[str, Any] = {}
    data = None
    limit = request.app.state.server.options.max_body
    async with request.form(max_files=1, max_part_size=limit) as form:
        for key, value in form.multi_items():
            name = key.removesuffix("[]")
            if isinstance(value, UploadFile):
                if name != "file":
                    raise ApiError(400, f"{key} is a file, and a value was expected.", param=key)
                data = await value.read()
            elif name in LISTS:
                given.setdefault(name, []).append(value)
            elif value != "":
                given[name] = value
    if not data:
        raise ApiError(400, "there is no sound; send it as `file`.", param="file")
    try:
        return Fields.model_validate(given), data
    except ValidationError as error:
        first = error.errors()[0]
        param = ".".join(map(str, first["loc"])) or None
        raise ApiError(400, f"{param or 'the form'}: {first['msg']}.", param=param) from None
