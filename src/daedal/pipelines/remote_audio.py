"""Music and sounds from a Daedal server, behind the same call as those made here."""

from typing import Any, ClassVar

import httpx

from daedal.errors import DaedalError
from daedal.media.audio import open_audio, recipe_of
from daedal.pipelines.medium import AwaitedHandle, Pipeline
from daedal.pipelines.music_params import MUSIC
from daedal.pipelines.music_result import Music
from daedal.pipelines.remote import connected, refusal
from daedal.pipelines.sound_params import SOUND
from daedal.pipelines.sound_result import Sound
from daedal.settings import read, settings_of


class RemoteAudio(Pipeline):
    """A model of a server, which sends the sound; notes stay there."""

    route: ClassVar[str]
    result: ClassVar[type[Any]]
    folder = None

    def __init__(self, server: str, model: str) -> None:
        self.server, self.name, self.loading = server.rstrip("/"), model, {}
        self.http = connected(self.server)

    def start(
        self, prompt: str, *, client: str = "", priority: int = 0, **settings: Any
    ) -> AwaitedHandle:
        asked = {key: value for key, value in settings.items() if value is not None}
        known = settings_of(self.medium.settings)
        params: Any = read(self.medium.settings, asked, self.medium.plural)
        if there := [key for key in asked if known[key][1].place]:
            raise DaedalError(
                f"{there[0]}={asked[there[0]]!r} names a file of this machine, which {self.server} has not; leave it out."
            )
        if params.n != 1:
            raise DaedalError(
                f"n={params.n} {self.medium.plural} are not sent at once; ask the server {params.n} times."
            )
        body = {"model": self.name, "prompt": prompt, "response_format": "flac", **asked}
        return AwaitedHandle(lambda: self.asked(body))

    def runtime(self) -> dict[str, Any]:
        return {"device": self.server, "loading": {}}

    def asked(self, body: dict[str, Any]) -> Any:
        try:
            reply = self.http.post(f"{self.server}{self.route}", json=body)
        except httpx.HTTPError as error:
            raise DaedalError(
                f"{self.server} does not answer ({error or type(error).__name__}); check the address, and that it runs."
            ) from None
        if reply.status_code != 200:
            raise DaedalError(f"{self.server} refused: {refusal(reply)}")
        samples, rate = open_audio(reply.content)
        recipe = recipe_of(reply.content) or {}
        return self.result(recipe, "stop", samples, rate, int(reply.headers.get("x-tokens", 0)))


class RemoteMusic(RemoteAudio):
    medium, route, result = MUSIC, "/v1/audio/generations", Music


class RemoteSound(RemoteAudio):
    medium, route, result = SOUND, "/v1/audio/sounds", Sound
