"""`/v1/audio/speech`, streamed as it is spoken, and `/v1/audio/voices`."""

import base64
import json
from collections.abc import AsyncIterator
from importlib.util import find_spec
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response, StreamingResponse

from daedal.errors import nearest
from daedal.media import audio
from daedal.pipelines.medium import Handle
from daedal.pipelines.remote_speech import RATE_HEADER, RECIPE_HEADER
from daedal.pipelines.speech_params import SPEECH
from daedal.server.errors import ApiError
from daedal.server.fields import Body, settings_body, settings_in
from daedal.server.models import capabilities
from daedal.server.sse import stream_of
from daedal.server.state import Server, client_of, server_of

routes = APIRouter()

# OpenAI's names, which stand for the voice that is here
OPENAI = frozenset(
    [
        "alloy",
        "ash",
        "ballad",
        "cedar",
        "coral",
        "echo",
        "fable",
        "marin",
        "nova",
        "onyx",
        "sage",
        "shimmer",
        "verse",
    ]
)
TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
HEARD = {200: {"content": {**{kind: {} for kind in TYPES.values()}, "text/event-stream": {}}}}


class SpeechFields(Body):
    """OpenAI's fields. Those of `daedal say` are added to them."""

    input: Annotated[str, Field(min_length=1, max_length=400_000)]
    model: str | None = None
    voice: str | dict[str, Any] | None = None
    instructions: str | None = None
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] = "mp3"
    speed: Annotated[float, Field(ge=0.25, le=4)] = 1.0
    stream_format: Literal["sse", "audio"] = "audio"


SpeechBody: Any = settings_body("SpeechRequest", SPEECH, SpeechFields, {"n"})


class Reading:
    """A request for speech: its voice, its settings, its bytes."""

    def __init__(self, server: Server, body: Any, client: str) -> None:
        self.server, self.body, self.client = server, body, client
        self.settings = settings_in(body, SPEECH)
        self.name = self._voice()
        if body.response_format == "aac" and find_spec("av") is None:
            raise ApiError(
                400,
                "aac needs PyAV, which this server has not; ask for mp3, opus, flac, wav or pcm.",
                param="response_format",
            )

    def _voice(self) -> str:
        """The model that speaks: `voice` may name one, or a speaker of `model`'s."""
        models, asked = self.server.models, self.body.voice
        asked = asked.get("id") if isinstance(asked, dict) else asked
        if asked in voices(self.server):
            return asked
        name = models.resolved(self.body.model, "speech")
        models.expect(name, "speech")
        if asked and asked not in OPENAI:
            self.settings["speaker"] = asked
        return name

    def begin(self, pipeline: Any) -> Handle:
        speaker = self.settings.get("speaker")
        known = [*voices(self.server), *pipeline.voice.speakers]
        if speaker is not None and speaker not in pipeline.voice.speakers:
            raise ApiError(
                400,
                f"there is no voice {speaker!r} here{nearest(speaker, known)}; /v1/audio/voices lists those that are.",
                param="voice",
            )
        return pipeline.start(self.body.input, client=self.client, **self.settings)

    async def bytes_of(self, handle: Any) -> AsyncIterator[bytes]:
        """The file as it becomes. What is made is logged at its end."""
        writer = writer_of(self.body.response_format, handle.rate)
        async for pieces in self.server.driver.follow(handle):
            samples = np.concatenate([piece.samples for piece in pieces])
            if data := await self.server.run(writer.push, samples):
                yield data
        if data := await self.server.run(writer.finish):
            yield data
        self.server.log(await self.server.run(handle.results))

    async def events(self, handle: Any) -> AsyncIterator[str]:
        """OpenAI's events: pieces of the file, and the end."""
        async for data in self.bytes_of(handle):
            sent = base64.b64encode(data).decode()
            yield json.dumps({"type": "speech.audio.delta", "audio": sent})
        words = sum(len(sentence.words) for sentence in handle.sentences)
        usage = {"input_tokens": words, "output_tokens": len(handle.sentences)}
        usage["total_tokens"] = sum(usage.values())
        own = {"recipe": handle.recipe | {"sample": 0}}
        yield json.dumps({"type": "speech.audio.done", "usage": usage, "daedal": own})


class Pcm:
    """16-bit samples, little-endian, without a header."""

    def push(self, samples: np.ndarray) -> bytes:
        return (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()

    def finish(self) -> bytes:
        return b""


def writer_of(kind: str, rate: int) -> Any:
    if kind == "pcm":
        return Pcm()
    return audio.AacEncoder(rate) if kind == "aac" else audio.Encoder(rate, f".{kind}")


def voices(server: Server) -> list[str]:
    """Every voice that is here."""
    models = server.models
    return [name for name in models.names() if "speech" in capabilities(models.source(name))]


@routes.post("/v1/audio/speech", responses=HEARD, response_model=None)
async def speech(request: Request, body: SpeechBody) -> Response:
    """Read a text aloud. Beside OpenAI's fields it takes those of `daedal say`. The sound comes as
    it is made; its rate and its recipe stand in the headers."""
    server = server_of(request)
    reading = Reading(server, body, client_of(request))
    context = server.started_on(reading.name, reading.begin)
    if body.stream_format == "sse":

        def events(opened: Any) -> AsyncIterator[str]:
            return reading.events(opened[1])

        return await stream_of(request, context, events, end="")
    _, handle = await context.__aenter__()

    async def sound() -> AsyncIterator[bytes]:
        try:
            async for data in reading.bytes_of(handle):
                yield data
        finally:
            await context.__aexit__(None, None, None)

    recipe = json.dumps(handle.recipe | {"prompt": None})
    headers = {RATE_HEADER: str(handle.rate), RECIPE_HEADER: recipe}
    return StreamingResponse(sound(), media_type=TYPES[body.response_format], headers=headers)


@routes.get("/v1/audio/voices")
async def listed(request: Request) -> dict[str, Any]:
    """The voices that can be asked for, by `voice`."""
    server = server_of(request)
    names = await server.run(voices, server)
    rows = [{"id": name, "object": "voice", "name": name, "languages": ["en"]} for name in names]
    return {"object": "list", "data": rows}
