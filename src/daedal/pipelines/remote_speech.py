"""Speech from a Daedal server, behind the same call as that made here.

daedal say "Good morning" --server http://127.0.0.1:8765
"""

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np

from daedal.errors import DaedalError
from daedal.pipelines.medium import Handle, Pipeline
from daedal.pipelines.remote import connected, refusal
from daedal.pipelines.speech_params import SPEECH, SpeechParams
from daedal.pipelines.speech_result import Piece, Speech
from daedal.settings import read

RATE_HEADER, RECIPE_HEADER = "x-daedal-rate", "x-daedal-recipe"


class RemoteSpeechPipeline(Pipeline):
    """A voice of a server. Subtitles are made where the voice is, so not here."""

    medium = SPEECH
    folder = None

    def __init__(self, server: str, model: str) -> None:
        self.server, self.name, self.loading = server.rstrip("/"), model, {}
        self.http = connected(self.server, 600)

    def start(
        self, prompt: str, *, client: str = "", priority: int = 0, **settings: Any
    ) -> "RemoteSpeaking":
        asked = {key: value for key, value in settings.items() if value is not None}
        read(SpeechParams, asked, "speech")
        if "subtitles" in asked or asked.get("n", 1) > 1:
            raise DaedalError("subtitles and n are not for a server's voice; leave them out.")
        body = {"model": self.name, "input": prompt, "response_format": "pcm", **asked}
        return RemoteSpeaking(self, prompt, body)

    def runtime(self) -> dict[str, Any]:
        return {"device": self.server, "loading": {}}


class RemoteSpeaking(Handle):
    """A reading that a server makes; a thread of our own listens."""

    def __init__(self, pipeline: RemoteSpeechPipeline, prompt: str, body: dict[str, Any]) -> None:
        self.pipeline, self.prompt, self.body = pipeline, prompt, body
        self.pieces: list[np.ndarray] = []
        self.shown, self.rate, self.recipe = 0, 0, dict[str, Any]()
        self.error: Exception | None = None
        self.cancelled = self.ended = False
        self.news = threading.Condition()
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self) -> None:
        try:
            for samples in self.received():
                with self.news:
                    self.pieces.append(samples)
                    self.news.notify_all()
        except (httpx.HTTPError, DaedalError) as error:
            self.error = error
        finally:
            with self.news:
                self.ended = True
                self.news.notify_all()

    def received(self) -> Iterator[np.ndarray]:
        route = f"{self.pipeline.server}/v1/audio/speech"
        with self.pipeline.http.stream("POST", route, json=self.body) as reply:
            if reply.status_code != 200:
                reply.read()
                raise DaedalError(f"{self.pipeline.server} refused: {refusal(reply)}")
            self.rate = int(reply.headers[RATE_HEADER])
            self.recipe = json.loads(reply.headers[RECIPE_HEADER])
            rest = b""
            for data in reply.iter_bytes():
                if self.cancelled:
                    return
                whole = rest + data
                used = len(whole) // 2 * 2
                rest = whole[used:]
                yield np.frombuffer(whole[:used], "<i2").astype(np.float32) / 32767

    @property
    def done(self) -> bool:
        return self.ended

    @property
    def made(self) -> int:
        return len(self.pieces)

    def wait_for(self, ready: Callable[[], bool]) -> None:
        with self.news:
            self.news.wait_for(ready)

    def abandon(self) -> None:
        self.cancelled = True

    def events(self) -> Iterator[Piece]:
        while self.shown < len(self.pieces):
            self.shown += 1
            yield Piece(self.shown, max(self.shown, len(self.pieces)), self.pieces[self.shown - 1])

    def results(self) -> list[Speech]:
        self.wait()
        if isinstance(self.error, DaedalError):
            raise self.error
        if self.error or self.cancelled:
            raise DaedalError(
                f"{self.pipeline.server} broke off ({self.error or 'cancelled'}); ask again."
            )
        recipe = {**self.recipe, "prompt": self.prompt, "sample": 0}
        return [Speech(recipe, "stop", np.concatenate(self.pieces)[None], self.rate, ())]
