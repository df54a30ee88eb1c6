"""Transcriptions by a Daedal server, behind the same call as those made here."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx

from daedal.errors import DaedalError
from daedal.pipelines.medium import Handle, Pipeline
from daedal.pipelines.remote import key_of, refusal
from daedal.pipelines.transcription_params import TRANSCRIPTION, TranscriptionParams
from daedal.pipelines.transcription_result import Piece, Transcription
from daedal.settings import read
from daedal.systems.transcribe import Segment, Word


class RemoteEar(Pipeline):
    """A model of a server, which is sent the file."""

    medium = TRANSCRIPTION
    folder = None

    def __init__(self, server: str, model: str) -> None:
        self.server, self.name, self.loading = server.rstrip("/"), model, {}
        key = key_of("openai", self.server)
        own = {"authorization": f"Bearer {key}"} if key else {}
        self.http = httpx.Client(headers=own, timeout=httpx.Timeout(None, connect=10))

    def start(
        self, prompt: str | Path, *, client: str = "", priority: int = 0, **settings: Any
    ) -> "RemoteHearing":
        params = read(TranscriptionParams, settings, "transcriptions")
        if not Path(prompt).is_file():
            raise DaedalError(f"there is no sound file {prompt}; check its name and folder.")
        return RemoteHearing(self, str(prompt), params)

    def runtime(self) -> dict[str, Any]:
        return {"device": self.server, "loading": {}}

    def asked(self, path: str, params: TranscriptionParams) -> dict[str, Any]:
        """The server's verbose_json."""
        route = "translations" if params.translate else "transcriptions"
        fields = {"model": self.name, "response_format": "verbose_json", "prompt": params.hint}
        own = {
            key: value
            for key, value in asdict(params).items()
            if key in ("language", "beams", "seed", "temperature")
        }
        fields |= {key: str(value) for key, value in own.items() if value is not None}
        kinds = ["segment", *["word"] * params.words]
        try:
            with open(path, "rb") as file:
                reply = self.http.post(
                    f"{self.server}/v1/audio/{route}",
                    data=fields | {"timestamp_granularities[]": kinds},
                    files={"file": (Path(path).name, file)},
                )
        except httpx.HTTPError as error:
            raise DaedalError(
                f"{self.server} does not answer ({error or type(error).__name__}); check the address, and that it runs."
            ) from None
        if reply.status_code != 200:
            raise DaedalError(f"{self.server} refused: {refusal(reply)}")
        return reply.json()


class RemoteHearing(Handle):
    """A transcription that a server makes, waited for by a thread; it comes whole."""

    def __init__(self, pipeline: RemoteEar, path: str, params: TranscriptionParams) -> None:
        self.pipeline, self.path, self.params = pipeline, path, params
        self.shown = False
        self.future: Future[Transcription] = Future()
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        try:
            self.future.set_result(self._answer())
        except Exception as error:
            self.future.set_exception(error)

    def _answer(self) -> Transcription:
        answer = self.pipeline.asked(self.path, self.params)
        words = [Word(**word) for word in answer.get("words") or ()]
        segments = []
        for row in answer["segments"]:
            inside = tuple(word for word in words if row["start"] <= word.start < row["end"])
            segments.append(
                Segment(**{**row, "tokens": tuple(row["tokens"])}, words=inside or None)
            )
        recipe = self.pipeline.recipe(self.path, asdict(self.params)) | {"sample": 0}
        return Transcription(
            recipe, "stop", tuple(segments), answer["language"], answer["duration"]
        )

    @property
    def done(self) -> bool:
        return self.future.done()

    @property
    def made(self) -> int:
        return int(self.done)

    def wait_for(self, ready: Callable[[], bool]) -> None:
        with suppress(Exception):  # `results` raises it
            self.future.result()

    def abandon(self) -> None:
        """The answer is not waited for."""

    def events(self) -> Iterator[Piece]:
        if self.done and not self.shown and not self.future.exception():
            self.shown, made = True, self.future.result()
            yield Piece(None, made.whole, round(made.seconds), max(1, round(made.seconds)))

    def results(self) -> list[Transcription]:
        return [self.future.result()]
