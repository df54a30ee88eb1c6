"""Models by name, lent to requests within the model store's budget.

    async with models.lent("house/chat") as pipeline:
        ...                                # never unloaded within

Only models that the machine has, or that the operator named, can be asked for: a name is never a
path. Who finds no room waits until a model in use is given back; waiting is in order of arrival, so
that a model in constant demand starves none."""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from daedal.checkpoints import catalogue
from daedal.checkpoints.adapter import parted
from daedal.checkpoints.hub import pulled
from daedal.checkpoints.resolve import house_models
from daedal.engine.store import STORE
from daedal.errors import DaedalError, NoRoom, nearest
from daedal.pipelines import registry
from daedal.pipelines.embedding import DecoderEmbedder, Embedder
from daedal.pipelines.medium import Loading
from daedal.pipelines.place import located, part_of
from daedal.pipelines.video_params import VIDEO
from daedal.server.errors import ApiError
from daedal.settings import settings_of

# What the names in other people's examples stand for: the best of the kind that is here.
STAND_INS = [
    (re.compile(r"^(dall-e|gpt-image|chatgpt-image)"), "image"),
    (re.compile(r"^(tts-|gpt-4o-mini-tts|gpt-audio)"), "speech"),
    (re.compile(r"^(whisper-|gpt-4o(-mini)?-transcribe)"), "transcription"),
    (re.compile(r"^text-embedding"), "embeddings"),
    (re.compile(r"^(gpt-3\.5-turbo-instruct|davinci|babbage)"), "text"),
    (re.compile(r"^(gpt|chatgpt|o\d|claude)"), "chat"),
]
DEFAULTS = {  # the first that is here
    "chat": ["house/chat"],
    "text": ["house/text"],
    "image": ["house/image"],
    "speech": ["house/voice"],
    "transcription": ["whisper-base"],
    "music": ["house/tunes"],
    "embeddings": ["minilm", "house/text"],
}

FRESH = 3.0  # seconds that a look at the disk holds


@dataclass
class Use:
    """How a model is used."""

    busy: int = 0
    used: float = field(default_factory=time.monotonic)
    keep_alive: float | None = None  # seconds; None is the server's own
    loading: bool = False
    error: str = ""  # of the last load


class Models:
    """What can be asked for, what is loaded, who waits. For one event loop."""

    def __init__(
        self,
        named: dict[str, str],
        aliases: dict[str, str],
        pinned: list[str],
        keep_alive: float,
        loading: dict[str, Any],
        made: Callable[[], dict[str, str]] = dict,
    ) -> None:
        self.named, self.aliases, self.pinned = named, aliases, pinned
        self.made = made  # what this server has trained and packed, and where it lies
        self._made: dict[str, str] = {}
        self.keep_alive, self.loading = keep_alive, loading
        self.uses: dict[str, Use] = {}
        self.measured: dict[str, int] = {}  # bytes that a model took when it was loaded
        self._names: list[str] = []
        self._looked = -FRESH
        self._turn = asyncio.Lock()  # of those who load, or wait for room
        self._returned = asyncio.Event()
        self._threads = ThreadPoolExecutor(1, "daedal-loader")  # one load at a time

    # ---- names -----------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Every model that can be asked for. The disk is looked at every few seconds at most."""
        if time.monotonic() > self._looked + FRESH:
            here = [name for name in catalogue.entries() if catalogue.place(name)]
            hub = [name for name, _ in pulled()]
            self._made = self.made()
            found = dict.fromkeys([*self.named, *house_models(), *here, *hub, *self._made])
            self._names = [name for name in found if capabilities(self.source(name))]
            self._looked = time.monotonic()
        return self._names

    def resolved(self, name: str | None, kind: str) -> str:
        """The model that a request means; without a name the default of its kind."""
        if not name:
            return self.default(kind)
        name = self.aliases.get(name, name).removesuffix(":latest")
        if name in self.names():
            return name
        if any(pattern.match(name) for pattern, _ in STAND_INS):
            return self.default(kind)
        message = f"the model {name!r} does not exist here{nearest(name, self.names())}; /v1/models lists those that do."
        raise ApiError(404, message, "model_not_found", "model")

    def default(self, kind: str) -> str:
        names = self.names()
        own = [name for name in self.named if kind in capabilities(self.named[name])]
        found = [*own, *(name for name in DEFAULTS.get(kind, []) if name in names)]
        if not found:
            raise ApiError(
                404, f"no model here can do {kind}; name one.", "model_not_found", "model"
            )
        return found[0]

    def source(self, name: str) -> str:
        return self.named.get(name) or self._made.get(name, name)

    def forget(self, name: str) -> bool:
        """Unload a model whose weights have changed or go; False where it is in use."""
        self._looked = -FRESH
        return self.unload(name)

    def expect(self, name: str, kind: str) -> None:
        """Raise unless a model can do a kind of work."""
        can = capabilities(self.source(name))
        if kind not in can:
            message = f"{name} cannot do {kind}; it can do {', '.join(can)}."
            raise ApiError(400, message, "model_not_capable", "model")

    # ---- lending ---------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def lent(self, name: str) -> AsyncIterator[Any]:
        """A model, loaded if need be."""
        lease = await self.borrow(name)
        try:
            yield lease.model
        finally:
            lease.give_back()

    async def borrow(self, name: str) -> "Lease":
        """The same, given back by hand."""
        use = self.uses.setdefault(name, Use())
        use.busy += 1
        lease = Lease(self, name)
        try:
            if self._turn.locked() or not lease.enter(None):  # nobody overtakes those who wait
                async with self._turn:
                    await self._load(lease, use)
        except BaseException as error:
            lease.give_back()
            use.error = str(error)
            raise
        use.error = ""
        return lease

    async def _load(self, lease: "Lease", use: Use) -> None:
        loop = asyncio.get_running_loop()
        use.loading = True
        try:
            while True:
                self._returned.clear()
                try:
                    work = loop.run_in_executor(self._threads, lease.enter, self.source(lease.name))
                    await asyncio.shield(work)
                    return
                except asyncio.CancelledError:  # the thread goes on; what it takes is given back
                    work.add_done_callback(lambda done: done.exception() or lease.close())
                    raise
                except NoRoom as error:
                    others = [n for n, u in self.uses.items() if u.busy and n != lease.name]
                    going = [name for name in others if name not in self.pinned]
                    if not going:
                        raise NoRoom(self.short(lease.name, str(error))) from None
                    await self._returned.wait()
        finally:
            use.loading = False

    def short(self, name: str, reason: str) -> str:
        held = ", ".join(f"{key} ({size / 1e9:.2f} GB)" for key, size, _ in self.loaded())
        return f"{name} cannot be loaded: {reason} Loaded: {held or 'nothing'}."

    def returned(self, name: str) -> None:
        """Somebody gave a model back."""
        use = self.uses[name]
        use.busy -= 1
        use.used = time.monotonic()
        if not use.busy and self._kept(name) == 0:
            STORE.drop(key_of(name))
        self._returned.set()

    # ---- what is loaded --------------------------------------------------------------------------

    def loaded(self) -> list[tuple[str, int, int]]:
        """(name, bytes, uses) of the models in memory."""
        rows = [(key, size) for key, size, _ in STORE.models() if isinstance(key, tuple)]
        names = [(key[1], size) for key, size in rows if key[0] == "served"]
        return [(name, size, self.uses[name].busy) for name, size in names if name in self.uses]

    def _kept(self, name: str) -> float:
        own = self.uses[name].keep_alive
        seconds = self.keep_alive if own is None else own
        return float("inf") if seconds < 0 or name in self.pinned else seconds

    def expires(self, name: str) -> float:
        """Seconds until an idle model is unloaded."""
        return self._kept(name) - (time.monotonic() - self.uses[name].used)

    def unload(self, name: str) -> bool:
        """Unload a model unless it is in use; whether it is gone."""
        return STORE.drop(key_of(name))

    def sweep(self) -> None:
        """Unload what has been idle for longer than it is kept."""
        for name, _, busy in self.loaded():
            if not busy and self.expires(name) < 0:
                self.unload(name)


def key_of(name: str) -> tuple[str, str]:
    return ("served", name)


class Lease:
    """A model in use."""

    def __init__(self, models: Models, name: str) -> None:
        self.models, self.name = models, name
        self.model: Any = None
        self._held = contextlib.ExitStack()
        self._ended = False

    def enter(self, source: str | None) -> bool:
        """Take the model; from `source` if it is not loaded, else False."""
        load = None if source is None else lambda: opened(source, self.models.loading)
        known = self.models.measured
        expected = 0 if source is None else known.get(self.name) or first_bytes(source)
        try:
            lease = STORE.lease(key_of(self.name), load, expected)
            self.model = self._held.enter_context(lease)
        except KeyError:
            return False
        if source is not None:
            sizes = {key: size for key, size, _ in STORE.models()}
            known[self.name] = sizes[key_of(self.name)]
        return True

    def close(self) -> None:
        self._held.close()

    def give_back(self) -> None:
        if not self._ended:
            self._ended = True
            self.close()
            self.models.returned(self.name)


def opened(source: str, loading: dict[str, Any]) -> Any:
    """A model, with those of the server's settings of loading that apply to it."""
    medium = registry.medium_of(source)
    known = settings_of(medium.loading if medium else Loading)
    return registry.opened(source, **{k: v for k, v in loading.items() if k in known})


def embedder_of(pipeline: Any) -> Embedder:
    """What makes vectors of texts with a model."""
    if isinstance(pipeline, Embedder):
        return pipeline
    return DecoderEmbedder(pipeline.network, pipeline.tokenizer, pipeline.name)


def weight_bytes(source: str) -> int:
    """Bytes of a model's weights on disk, as a guess at what it takes."""
    place = located(parted(source)[0])
    if place.is_file():
        return place.stat().st_size
    kinds = ("*.safetensors", "*.gguf", "model.bin")
    return sum(file.stat().st_size for kind in kinds for file in place.rglob(kind))


def first_bytes(source: str) -> int:
    """Bytes that opening a model takes: none where its networks are loaded as they are used."""
    place = located(parted(source)[0])
    if registry.medium_of(source) is VIDEO and (place / "model_index.json").exists():
        return 0
    return weight_bytes(source)


@lru_cache(maxsize=256)
def capabilities(source: str) -> tuple[str, ...]:
    """What a model can do: embeddings, text, chat, or its medium."""
    medium = registry.medium_of(source)
    if part_of(source):
        return ()
    if medium is None:
        return ("embeddings",)
    if not medium.readable or medium.file:
        return (medium.name,)
    return ("chat", "text", "embeddings") if has_template(source) else ("text", "embeddings")


def has_template(source: str) -> bool:
    from daedal.data.tokenizer import Tokenizer

    try:
        return bool(Tokenizer.load(located(source)).chat_template)
    except (DaedalError, OSError):
        return False
