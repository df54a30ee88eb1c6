"""Music from a Daedal server, behind the same call as that made here."""

from typing import Any

import httpx

from daedal.errors import DaedalError
from daedal.media.audio import open_audio, recipe_of
from daedal.pipelines.medium import AwaitedHandle, Pipeline
from daedal.pipelines.music_params import MUSIC, MusicParams
from daedal.pipelines.music_result import Music
from daedal.pipelines.remote import key_of, refusal
from daedal.settings import read, settings_of


class RemoteMusic(Pipeline):
    """A model of a server, which sends the sound; notes stay there."""

    medium = MUSIC
    folder = None

    def __init__(self, server: str, model: str) -> None:
        self.server, self.name, self.loading = server.rstrip("/"), model, {}
        key = key_of("openai", self.server)
        own = {"authorization": f"Bearer {key}"} if key else {}
        self.http = httpx.Client(headers=own, timeout=httpx.Timeout(None, connect=10))

    def start(
        self, prompt: str, *, client: str = "", priority: int = 0, **settings: Any
    ) -> AwaitedHandle:
        asked = {key: value for key, value in settings.items() if value is not None}
        params, known = read(MusicParams, asked, "pieces of music"), settings_of(MusicParams)
        if there := [key for key in asked if known[key][1].place]:
            raise DaedalError(
                f"{there[0]}={asked[there[0]]!r} names a file of this machine, which {self.server} has not; leave it out."
            )
        if params.n != 1:
            raise DaedalError(
                f"n={params.n} pieces are not sent at once; ask the server {params.n} times."
            )
        body = {"model": self.name, "prompt": prompt, "response_format": "flac", **asked}
        return AwaitedHandle(lambda: self.asked(body))

    def runtime(self) -> dict[str, Any]:
        return {"device": self.server, "loading": {}}

    def asked(self, body: dict[str, Any]) -> Music:
        try:
            reply = self.http.post(f"{self.server}/v1/audio/generations", json=body)
        except httpx.HTTPError as error:
            raise DaedalError(
                f"{self.server} does not answer ({error or type(error).__name__}); check the address, and that it runs."
            ) from None
        if reply.status_code != 200:
            raise DaedalError(f"{self.server} refused: {refusal(reply)}")
        samples, rate = open_audio(reply.content)
        recipe = recipe_of(reply.content) or {}
        return Music(recipe, "stop", samples, rate, int(reply.headers.get("x-tokens", 0)))
