"""Models that a server runs, behind the same call as models here.

    daedal chat --model openai:gpt-4o                                # key: OPENAI_API_KEY
    daedal "Hello" --model openai:house/chat@http://127.0.0.1:8765/v1
    daedal compare house/chat anthropic:claude-sonnet-4 --judge openai:gpt-4o

Whatever speaks OpenAI's `/v1/chat/completions` or Anthropic's `/v1/messages` will do. Settings that
are not given are left to the server. A result is made again only as far as the server honours a
seed, and its recipe names no weights, since nobody here knows them."""

import contextlib
import importlib.util
import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from daedal.errors import DaedalError
from daedal.pipelines.medium import Handle, Pipeline
from daedal.pipelines.text_params import TEXT, TextParams
from daedal.pipelines.text_result import Piece, Text
from daedal.settings import read

NAME = re.compile(r"(openai|anthropic):([^@\s]+)(?:@(https?://\S+))?")
BASES = {"openai": "https://api.openai.com/v1", "anthropic": "https://api.anthropic.com"}
TRIES = 5  # of a request that is refused for now
BUSY = (408, 429, 500, 502, 503, 529)
VERSION = "2023-06-01"  # of Anthropic's interface
LONGEST = 256  # tokens of an answer, where Anthropic's interface wants a number
# settings by the names that each dialect has for them; what it has none for is an error
FIELDS = {
    "openai": {
        "top_k": "top_k", "min_p": "min_p", "typical_p": "typical_p", "regex": "regex",
        "repetition_penalty": "repetition_penalty", "ignore_eos": "ignore_eos",
        "temperature": "temperature", "top_p": "top_p", "max_tokens": "max_tokens", "stop": "stop",
        "seed": "seed", "presence_penalty": "presence_penalty", "frequency_penalty": "frequency_penalty",
        "logit_bias": "logit_bias", "watermark": "watermark", "watermark_strength": "watermark_strength",
    },
    "anthropic": {
        "temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "max_tokens": "max_tokens",
        "stop": "stop_sequences",
    },
}  # fmt: skip


def is_remote(name: str | Path) -> bool:
    return str(name).startswith(("openai:", "anthropic:"))


def load(name: str) -> "RemotePipeline":
    """The pipeline of DIALECT:NAME[@ADDRESS]."""
    if not (found := NAME.fullmatch(name)):
        raise DaedalError(
            f"{name!r} is not openai:NAME or anthropic:NAME, with @ADDRESS for another server; write for example openai:gpt-4o."
        )
    kind, model, base = found.groups()
    return RemotePipeline(name, kind, model, (base or BASES[kind]).rstrip("/"))


def key_of(kind: str, base: str) -> str:
    """The key of a server: from the environment, else the system's keyring (service "daedal", its
    address as the user), else none."""
    if key := os.environ.get(f"{kind.upper()}_API_KEY"):
        return key
    if importlib.util.find_spec("keyring"):
        import keyring

        return keyring.get_password("daedal", base) or ""
    return ""


def connected(server: str, seconds: float | None = None) -> httpx.Client:
    """A client with the key of a Daedal server, which may take so many seconds to answer."""
    key = key_of("openai", server)
    own = {"authorization": f"Bearer {key}"} if key else {}
    return httpx.Client(headers=own, timeout=httpx.Timeout(seconds, connect=10))


class RemotePipeline(Pipeline):
    """A model of a server. Settings are those of TextParams that its dialect has names for."""

    medium = TEXT
    folder = None
    chats = True

    def __init__(self, name: str, kind: str, model: str, base: str) -> None:
        self.name, self.kind, self.model, self.base = name, kind, model, base
        self.loading: dict[str, Any] = {}
        key = key_of(kind, base)
        own = {"authorization": f"Bearer {key}"} if key else {}
        if kind == "anthropic":
            own = {"x-api-key": key, "anthropic-version": VERSION}
        timeout = httpx.Timeout(600, connect=10)
        self.http = httpx.Client(headers=own, timeout=timeout)

    def params(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The settings that were given, checked."""
        given = {key: value for key, value in settings.items() if value is not None}
        read(TextParams, given, "text generation")
        known = {*FIELDS[self.kind], "n", "raw", "schema"}
        for name, value in given.items():
            if name not in known or (name == "raw" and value):
                raise DaedalError(
                    f"{name}={value!r} cannot be asked of {self.name}; it takes {', '.join(sorted(known - {'raw'}))}."
                )
        if given.get("schema") is not None and self.kind == "anthropic":
            raise DaedalError(f"a schema cannot be asked of {self.name}; leave it out.")
        return given

    def start(
        self, prompt: Any, *, client: str = "", priority: int = 0, **settings: Any
    ) -> "RemoteStream":
        given = self.params(settings)
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        if not messages or not all(isinstance(message, dict) for message in messages):
            raise DaedalError(f"{self.name} takes a text or messages, and no token ids.")
        bodies = [self.body(list(messages), given, i) for i in range(given.get("n", 1))]
        return RemoteStream(self, prompt, given, bodies)

    def body(self, messages: list[Any], given: dict[str, Any], sample: int) -> dict[str, Any]:
        """The request for one of n answers."""
        own = {FIELDS[self.kind][k]: v for k, v in given.items() if k in FIELDS[self.kind]}
        if isinstance(given.get("stop"), tuple):
            own[FIELDS[self.kind]["stop"]] = list(given["stop"])
        if "seed" in own:
            own["seed"] += sample
        body = {"model": self.model, "stream": True, **own}
        if self.kind == "anthropic":
            system = [m["content"] for m in messages if m["role"] == "system"]
            rest = [m for m in messages if m["role"] != "system"]
            front = {"system": "\n".join(system)} if system else {}
            return {"max_tokens": LONGEST, **body, **front, "messages": rest}
        if given.get("schema") is not None:
            schema = {"name": "answer", "schema": given["schema"]}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body | {"messages": messages}

    def runtime(self) -> dict[str, Any]:
        return {"device": self.base, "loading": {}}

    def pieces(self, body: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """(text, finish reason or nothing) as the server sends them."""
        path = "/v1/messages" if self.kind == "anthropic" else "/chat/completions"
        with self.answer(self.base + path, body) as reply:
            for line in reply.iter_lines():
                data = line.removeprefix("data:").strip()
                if not line.startswith("data:") or data == "[DONE]":
                    continue
                yield from self.read(json.loads(data))

    def read(self, event: dict[str, Any]) -> Iterator[tuple[str, str]]:
        if event.get("type") == "error" or isinstance(event.get("error"), dict):
            raise DaedalError(f"{self.name} broke off: {event['error'].get('message')}")
        if self.kind == "anthropic":
            delta = event.get("delta") or {}
            ended = delta.get("stop_reason") or ""
            yield delta.get("text", ""), "length" if ended == "max_tokens" else ended and "stop"
        for choice in event.get("choices") or []:
            yield choice["delta"].get("content") or "", choice.get("finish_reason") or ""

    @contextlib.contextmanager
    def answer(self, url: str, body: dict[str, Any]) -> Iterator[httpx.Response]:
        """The answer to a request; one that is refused for now is made again, when the server says."""
        for attempt in range(TRIES):
            try:
                with self.http.stream("POST", url, json=body) as reply:
                    if reply.status_code == 200:
                        yield reply
                        return
                    reply.read()
            except httpx.HTTPError as error:
                raise DaedalError(
                    f"{self.name} does not answer at {url} ({error or type(error).__name__}); check the address, and that its server runs."
                ) from None
            if reply.status_code not in BUSY or attempt == TRIES - 1:
                raise DaedalError(f"{self.name} refused: {refusal(reply)}")
            time.sleep(delay(reply, attempt))
        raise AssertionError("the last try returns or raises")


def refusal(reply: httpx.Response) -> str:
    """The sentence of an error."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return f"{reply.json()['error']['message']} (status {reply.status_code})"
    return f"status {reply.status_code}: {reply.text[:200]!r}."


def delay(reply: httpx.Response, attempt: int) -> float:
    """Seconds until the next try: what the server says, up to a minute, else twice as long each."""
    with contextlib.suppress(ValueError):
        return min(float(reply.headers.get("retry-after", "")), 60.0)
    return 0.5 * 2**attempt * random.uniform(0.75, 1)


@dataclass
class RemoteSample:
    """One answer as it comes."""

    texts: list[str] = field(default_factory=list)
    finished: str | None = None
    error: Exception | None = None


class RemoteStream(Handle):
    """Answers under way, each read by a thread of its own."""

    def __init__(
        self, pipeline: RemotePipeline, prompt: Any, settings: dict[str, Any], bodies: list[Any]
    ) -> None:
        self.pipeline, self.prompt, self.settings = pipeline, prompt, settings
        self.samples = [RemoteSample() for _ in bodies]
        self.shown = [0] * len(bodies)
        self.cancelled = False
        self._changed = threading.Condition()
        for sample, body in zip(self.samples, bodies, strict=True):
            threading.Thread(target=self._read, args=(sample, body), daemon=True).start()

    def _read(self, sample: RemoteSample, body: dict[str, Any]) -> None:
        reason = "stop"
        try:
            for text, finish in self.pipeline.pieces(body):
                reason = finish or reason
                with self._changed:
                    sample.texts += [text] if text else []
                    self._changed.notify_all()
                if self.cancelled:
                    reason = "cancelled"
                    break
        except Exception as error:
            sample.error, reason = error, "error"
        with self._changed:
            sample.finished = "length" if reason == "length" else reason
            self._changed.notify_all()

    @property
    def done(self) -> bool:
        return all(sample.finished for sample in self.samples)

    @property
    def made(self) -> int:
        return sum(len(sample.texts) for sample in self.samples)

    def wait_for(self, ready: Callable[[], bool]) -> None:
        with self._changed:
            self._changed.wait_for(ready)

    def abandon(self) -> None:
        self.cancelled = True

    def events(self) -> Iterator[Piece]:
        total = self.settings.get("max_tokens", LONGEST) * len(self.samples)
        for index, sample in enumerate(self.samples):
            while self.shown[index] < len(sample.texts):
                text = sample.texts[self.shown[index]]
                self.shown[index] += 1
                yield Piece(-1, text, 0.0, index, sum(self.shown), total)
            if sample.error:
                raise sample.error

    def results(self) -> list[Text]:
        return [self.result(index) for index in range(len(self.samples))]

    def result(self, index: int = 0) -> Text:
        self.wait()
        sample = self.samples[index]
        if sample.error:
            raise sample.error
        reason = "stop" if sample.finished in ("tool_calls", None) else sample.finished
        return Text(self.recipe(index), reason, "".join(sample.texts), (), ())

    def recipe(self, index: int = 0) -> dict[str, Any]:
        """What makes a sample again."""
        prompt = self.prompt if isinstance(self.prompt, str) else list(self.prompt)
        settings = {"raw": False, **self.settings}
        return self.pipeline.recipe(prompt, settings) | {"sample": index}
