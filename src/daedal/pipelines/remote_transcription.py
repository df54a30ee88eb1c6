"""Transcriptions by a Daedal server, behind the same call as those made here."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx

from daedal.errors import DaedalError
from daedal.pipelines.medium import AwaitedHandle, Pipeline
from daedal.pipelines.remote import connected, refusal
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
        self.http = connected(self.server)

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


class RemoteHearing(AwaitedHandle):
    """A transcription that a server makes, waited for by a thread; it comes whole."""

    def __init__(self, pipeline: RemoteEar, path: str, params: TranscriptionParams) -> None:
        self.pipeline, self.path, self.params = pipeline, path, params
        self.shown = False
        super().__init__(self._answer)

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

    def events(self) -> Iterator[Piece]:
        if self.done and not self.shown and not self.future.exception():
            self.shown, made = True, self.future.result()
            yield Piece(None, made.whole, round(made.seconds), max(1, round(made.seconds)))
