"""`/v1/audio/generations`: music from a prompt, in the way of OpenAI's other routes. Longer work is a
job (`/v1/jobs` with the medium music)."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from daedal.media.audio import encode
from daedal.pipelines.medium import Handle
from daedal.pipelines.music_params import MUSIC
from daedal.pipelines.music_result import SCORES, score
from daedal.server.errors import ApiError
from daedal.server.fields import Body, settings_body, settings_in
from daedal.server.state import client_of, server_of, while_connected

routes = APIRouter()

TYPES = {
    "wav": "audio/wav", "flac": "audio/flac", "mp3": "audio/mpeg", "opus": "audio/ogg", "mid": "audio/midi", "abc": "text/vnd.abc",
    "svg": "image/svg+xml",
}  # fmt: skip
SOUND: dict[int | str, dict[str, Any]] = {200: {"content": {kind: {} for kind in TYPES.values()}}}


class MusicFields(Body):
    """The settings of `daedal music` are added."""

    model: str | None = None
    prompt: Annotated[str, Field(min_length=1, max_length=4096)]
    response_format: Literal["wav", "flac", "mp3", "opus", "mid", "abc", "svg"] = "wav"


MusicBody: Any = settings_body("MusicRequest", MUSIC, MusicFields, {"n"})


@routes.post("/v1/audio/generations", responses=SOUND, response_class=Response)
async def generations(request: Request, body: MusicBody) -> Response:
    """Play a prompt. Beside model, prompt and response_format it takes the settings of `daedal
    music`; mid, abc and svg are the notes of a model of tunes."""
    server, client = server_of(request), client_of(request)
    name = server.models.resolved(body.model, MUSIC.name)
    server.models.expect(name, MUSIC.name)
    settings = settings_in(body, MUSIC)

    def begin(pipeline: Any) -> Handle:
        return pipeline.start(body.prompt, client=client, **settings)

    async def whole() -> Any:
        async with server.started_on(name, begin) as (_, handle):
            await server.driver.ended(handle)
            return (await server.run(handle.results))[0]

    piece = await while_connected(request, whole())
    server.log([piece])
    suffix = f".{body.response_format}"
    if suffix in SCORES and piece.tune is None:
        raise ApiError(
            400,
            f"{name} makes sound and no notes; ask for wav, flac, mp3 or opus.",
            param="response_format",
        )
    if suffix in SCORES:
        data = score(piece.tune, suffix, piece.instrument)
    else:
        data = await server.run(encode, piece.samples, piece.rate, suffix, piece.recipe)
    about = {"x-tokens": str(piece.amount), "x-seed": str(piece.recipe["settings"].get("seed"))}
    return Response(data, media_type=TYPES[body.response_format], headers=about)
