"""`/v1/audio/generations` and `/v1/audio/sounds`: music and sounds from a prompt, in the way of
OpenAI's other routes. Longer work is a job (`/v1/jobs` with the medium music or sound)."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from daedal.media.audio import encode
from daedal.pipelines.medium import Handle, Medium
from daedal.pipelines.music_params import MUSIC
from daedal.pipelines.music_result import SCORES, score
from daedal.pipelines.sound_params import SOUND
from daedal.server.errors import ApiError
from daedal.server.fields import Body, settings_body, settings_in
from daedal.server.state import client_of, server_of, while_connected

routes = APIRouter()

TYPES = {
    "wav": "audio/wav", "flac": "audio/flac", "mp3": "audio/mpeg", "opus": "audio/ogg", "mid": "audio/midi", "abc": "text/vnd.abc",
    "svg": "image/svg+xml",
}  # fmt: skip
PLAYED: dict[int | str, dict[str, Any]] = {200: {"content": {kind: {} for kind in TYPES.values()}}}
HEARD: dict[int | str, dict[str, Any]] = {
    200: {"content": {kind: {} for kind in TYPES.values() if kind.startswith("audio")}}
}


class MusicFields(Body):
    """The settings of `daedal music` are added."""

    model: str | None = None
    prompt: Annotated[str, Field(min_length=1, max_length=4096)]
    response_format: Literal["wav", "flac", "mp3", "opus", "mid", "abc", "svg"] = "wav"


class SoundFields(Body):
    """The settings of `daedal sound` are added."""

    model: str | None = None
    prompt: Annotated[str, Field(min_length=1, max_length=4096)]
    response_format: Literal["wav", "flac", "mp3", "opus"] = "wav"


MusicBody: Any = settings_body("MusicRequest", MUSIC, MusicFields, {"n"})
SoundBody: Any = settings_body("SoundRequest", SOUND, SoundFields, {"n", "strength"})


async def made(request: Request, body: Any, medium: Medium) -> Any:
    """The result of a request."""
    server, client = server_of(request), client_of(request)
    name = server.models.resolved(body.model, medium.name)
    server.models.expect(name, medium.name)
    settings = settings_in(body, medium)

    def begin(pipeline: Any) -> Handle:
        return pipeline.start(body.prompt, client=client, **settings)

    async def whole() -> Any:
        async with server.started_on(name, begin) as (_, handle):
            await server.driver.ended(handle)
            return (await server.run(handle.results))[0]

    result = await while_connected(request, whole())
    server.log([result])
    return result


async def sent(request: Request, body: Any, result: Any, data: bytes | None = None) -> Response:
    """Its sound, or other `data`, with what it took in the headers."""
    suffix = f".{body.response_format}"
    if data is None:
        encoding = (encode, result.samples, result.rate, suffix, result.recipe)
        data = await server_of(request).run(*encoding)
    seed = str(result.recipe["settings"].get("seed"))
    about = {"x-tokens": str(result.amount), "x-seed": seed}
    return Response(data, media_type=TYPES[body.response_format], headers=about)


@routes.post("/v1/audio/generations", responses=PLAYED, response_class=Response)
async def generations(request: Request, body: MusicBody) -> Response:
    """Play a prompt. Beside model, prompt and response_format it takes the settings of `daedal
    music`; mid, abc and svg are the notes of a model of tunes."""
    piece = await made(request, body, MUSIC)
    suffix = f".{body.response_format}"
    if suffix not in SCORES:
        return await sent(request, body, piece)
    if piece.tune is None:
        raise ApiError(
            400,
            f"{body.model or 'the model'} makes sound and no notes; ask for wav, flac, mp3 or opus.",
            param="response_format",
        )
    return await sent(request, body, piece, score(piece.tune, suffix, piece.instrument))


@routes.post("/v1/audio/sounds", responses=HEARD, response_class=Response)
async def sounds(request: Request, body: SoundBody) -> Response:
    """Make the sound of a prompt. Beside model, prompt and response_format it takes the settings of
    `daedal sound`."""
    return await sent(request, body, await made(request, body, SOUND))
