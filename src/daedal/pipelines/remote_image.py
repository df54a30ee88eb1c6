"""Pictures from a Daedal server, behind the same call as those painted here.

daedal image "a red circle" --server http://127.0.0.1:8765
"""

import base64
import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from daedal.errors import DaedalError
from daedal.media import images
from daedal.pipelines import given
from daedal.pipelines.image_params import IMAGE, ImageParams
from daedal.pipelines.image_result import Picture, Progress
from daedal.pipelines.medium import Handle, Pipeline
from daedal.pipelines.remote import connected, refusal
from daedal.settings import read, settings_of

SENT = ("init", "mask", "reference")  # pictures that go along
PREVIEWS = 3


class RemoteImagePipeline(Pipeline):
    """A model of a server. Settings are those of ImageParams, less what names weights or models of
    the server's machine."""

    medium = IMAGE
    folder = None

    def __init__(self, server: str, model: str) -> None:
        self.server, self.name, self.loading = server.rstrip("/"), model, {}
        self.http = connected(self.server, 600)

    def start(
        self, prompt: str, *, client: str = "", priority: int = 0, **settings: Any
    ) -> "RemotePainting":
        asked = {key: value for key, value in settings.items() if value not in (None, ())}
        plain = {key: value for key, value in asked.items() if key not in SENT}
        read(ImageParams, plain, "pictures")
        known = settings_of(ImageParams)
        if there := [key for key in plain if known[key][1].place]:
            raise DaedalError(
                f"{there[0]}={plain[there[0]]!r} names a file of this machine, which {self.server} has not; leave it out."
            )
        pictures = [asked[key] for key in ("init", "reference") if asked.get(key) is not None]
        if not pictures and asked.get("mask") is not None:
            raise DaedalError("a mask needs the picture it belongs to; give --init as well.")
        body = {"model": self.name, "prompt": prompt, "stream": True, **plain}
        return RemotePainting(
            self, prompt, body | {"partial_images": PREVIEWS}, pictures, asked.get("mask")
        )

    def runtime(self) -> dict[str, Any]:
        return {"device": self.server, "loading": {}}

    @contextlib.contextmanager
    def answer(
        self, body: dict[str, Any], pictures: list[Any], mask: Any
    ) -> Iterator[httpx.Response]:
        route = f"{self.server}/v1/images/{'edits' if pictures else 'generations'}"
        sent: dict[str, Any] = {"json": body}
        if pictures:
            files = [("image[]", ("image.png", png(picture))) for picture in pictures]
            files += [("mask", ("mask.png", png(mask)))] if mask is not None else []
            fields = {k: str(v).lower() if isinstance(v, bool) else str(v) for k, v in body.items()}
            sent = {"data": fields, "files": files}
        try:
            with self.http.stream("POST", route, **sent) as reply:
                if reply.status_code != 200:
                    reply.read()
                    raise DaedalError(f"{self.server} refused: {refusal(reply)}")
                yield reply
        except httpx.HTTPError as error:
            raise DaedalError(
                f"{self.server} does not answer ({error or type(error).__name__}); check the address, and that it runs."
            ) from None


def png(picture: given.Given) -> bytes:
    """The bytes of a picture; a file is sent as it is."""
    if isinstance(picture, str | Path):
        return given.content(Path(picture))
    if picture.ndim == 2:  # a mask
        picture = np.repeat(picture[..., None].astype(np.uint8) * 255, 3, 2)
    return images.encode(picture)


class RemotePainting(Handle):
    """Pictures under way, read by a thread."""

    def __init__(
        self,
        pipeline: RemoteImagePipeline,
        prompt: str,
        body: dict[str, Any],
        pictures: list[Any],
        mask: Any,
    ) -> None:
        self.pipeline, self.prompt, self.body = pipeline, prompt, body
        self.seen: list[Progress] = []
        self.shown = 0
        self.pictures: list[Picture] = []
        self.error: Exception | None = None
        self.cancelled = self._ended = False
        self._changed = threading.Condition()
        work = (body, pictures, mask)
        threading.Thread(target=self._read, args=work, daemon=True).start()

    def _read(self, body: dict[str, Any], pictures: list[Any], mask: Any) -> None:
        try:
            with self.pipeline.answer(body, pictures, mask) as reply:
                for line in reply.iter_lines():
                    if line.startswith("data: {"):
                        self._took(json.loads(line[6:]))
                    if self.cancelled:
                        raise DaedalError("it was cancelled before it was done; ask again.")
        except Exception as error:
            self.error = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _took(self, event: dict[str, Any]) -> None:
        if "error" in event:
            raise DaedalError(f"{self.pipeline.server} broke off: {event['error']['message']}")
        pixels = images.open_image(base64.b64decode(event["b64_json"]))
        with self._changed:
            if "partial_image_index" in event:
                done = event["partial_image_index"] + 1
                self.seen.append(Progress(done, PREVIEWS + 1, lambda: pixels[None]))
            else:
                recipe = event["daedal"]["recipes"][0]
                self.pictures.append(Picture(recipe, "stop", pixels, recipe["settings"]["steps"]))
                self.remarks = tuple(event["daedal"]["remarks"])
            self._changed.notify_all()

    @property
    def done(self) -> bool:
        return self._ended

    @property
    def made(self) -> int:
        return len(self.seen)

    def wait_for(self, ready: Callable[[], bool]) -> None:
        with self._changed:
            self._changed.wait_for(ready)

    def abandon(self) -> None:
        self.cancelled = True

    def events(self) -> Iterator[Progress]:
        while self.shown < len(self.seen):
            self.shown += 1
            yield self.seen[self.shown - 1]

    def results(self) -> list[Picture]:
        self.wait()
        if self.error:
            raise self.error
        return self.pictures
