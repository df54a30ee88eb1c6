"""Answers of language models as streams of pieces, which the routes of every dialect (chat,
completions, responses, Anthropic's, Ollama's) put into their own words.

    async with answering(server, name, asked, client) as answer:
        async for piece in answer: ...

Function calls: until the model begins one, it writes freely; from there on a grammar holds it to
the function's schema, in a second generation that continues the first (its beginning is in the
cache). A call that must be made begins with the grammar."""

import contextlib
import dataclasses
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from daedal.assist.tools.calls import CallText, Envelope, as_messages, envelope_of, schema_of
from daedal.data import chat, infill
from daedal.energy import METER
from daedal.engine.request import Request as Sample
from daedal.engine.request import Token
from daedal.errors import DaedalError
from daedal.pipelines.text import MADE, Stream, TextPipeline
from daedal.server.moderation import check_asked, screened
from daedal.server.state import Server

OPEN, CLOSE = "<think>", "</think>"


@dataclass(frozen=True)
class Asked:
    """What a language model is asked: a prompt (messages, text or token ids), settings of TextParams,
    functions that it may call ({"name", "description", "parameters"}), and whether it must: "auto",
    "none", "required", or a function's name."""

    prompt: Any
    settings: dict[str, Any]
    tools: tuple[dict[str, Any], ...] = ()
    choice: str = "auto"
    parallel: bool = True  # several calls in one answer
    suffix: str = ""  # of a text: what stands behind the gap to fill

    @property
    def calls(self) -> bool:
        return bool(self.tools) and self.choice != "none"

    @property
    def names(self) -> list[str]:
        return [tool["name"] for tool in self.callable_tools]

    @property
    def callable_tools(self) -> list[dict[str, Any]]:
        named = [tool for tool in self.tools if tool["name"] == self.choice]
        if self.choice in ("auto", "required"):
            return list(self.tools)
        if not named:
            raise DaedalError(f"tool_choice names {self.choice!r}, which is not among the tools.")
        return named


@dataclass(frozen=True)
class Piece:
    """Something that became final in answer `index`: text of a `kind` (content, reasoning), or a
    part of a `call`. `tokens` are those that it came with."""

    index: int
    kind: str
    text: str = ""
    tokens: tuple[Token, ...] = ()
    call: dict[str, Any] | None = None  # {"number", "id", "name"} or {"number", "arguments"}
    finish: str | None = None  # on the last piece of an answer


@dataclass
class Usage:
    """Tokens of a request, and joules."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    joules: float = 0.0

    def add(self, sample: Sample) -> None:
        self.completion += len(sample.output)
        self.joules += sample.joules

    @property
    def energy(self) -> dict[str, Any]:
        """What it took, as fields of a reply's usage."""
        return METER.fields(self.joules)


@dataclass
class Answers:
    """n answers under way."""

    server: Server
    pipeline: TextPipeline
    handle: Stream
    asked: Asked
    name: str
    streams: bool  # whether the pieces are wanted as they come
    began: float = field(default_factory=time.perf_counter)
    usage: Usage = field(default_factory=Usage)

    async def __aiter__(self) -> AsyncIterator[Piece]:
        self.usage.prompt = len(self.handle.samples[0].prompt)
        produced = self._with_calls() if self.asked.calls else self._plain()
        if self.server.options.moderate:
            produced = screened(produced)
        first = True
        async for piece in produced:
            if first:
                wait = time.perf_counter() - self.began
                self.server.metrics.first.labels(self.name).observe(wait)
                first = False
            yield piece
        self._measured()

    def _measured(self) -> None:
        if not self.asked.calls:  # their calls are generations of their own
            self.server.log(self.handle.results())
        metrics, usage = self.server.metrics, self.usage
        metrics.tokens.labels(self.name, "prompt").inc(usage.prompt)
        metrics.tokens.labels(self.name, "completion").inc(usage.completion)
        metrics.energy.labels(self.name).inc(usage.joules)
        if usage.completion:
            mean = (time.perf_counter() - self.began) / usage.completion
            metrics.between.labels(self.name).observe(mean)

    async def _plain(self) -> AsyncIterator[Piece]:
        splitters = [Splitter(i) for i in range(len(self.handle.samples))]
        async for sample, tokens in self.tokens(self.handle):
            for piece in splitters[sample].push(tokens):
                yield piece
            if reason := self.handle.samples[sample].finished:
                for piece in splitters[sample].end(reason):
                    yield piece
        for sample in self.handle.samples:
            self.usage.add(sample)
        self.usage.cached = self.handle.samples[0].reused

    async def tokens(self, handle: Stream) -> AsyncIterator[tuple[int, tuple[Token, ...]]]:
        """(sample, its new tokens) as they come; an ended sample comes at least once after its end."""
        seen, ended = [0] * len(handle.samples), [False] * len(handle.samples)
        async for _ in self.server.driver.follow(handle, ends=not self.streams):
            for i, sample in enumerate(handle.samples):
                finished = sample.finished  # before the tokens are counted: then these are all
                new = tuple(sample.stream[seen[i] :])
                if new or (finished and not ended[i]):
                    seen[i] += len(new)
                    ended[i] = bool(finished)
                    yield i, new
        for i, sample in enumerate(handle.samples):
            if not ended[i]:
                yield i, tuple(sample.stream[seen[i] :])

    # ---- function calls --------------------------------------------------------------------------

    async def _with_calls(self) -> AsyncIterator[Piece]:
        for index in range(len(self.handle.samples)):
            async for piece in self._one_with_calls(index):
                yield piece

    async def _one_with_calls(self, index: int) -> AsyncIterator[Piece]:
        """Free text until a call begins, then calls."""
        turn = Turn(self, index)
        async for piece in turn.free() if self.asked.choice == "auto" else turn.first():
            yield piece
        while turn.calling:
            async for piece in turn.next():
                yield piece
        yield Piece(index, "end", finish=turn.finish)


class Turn:
    """One answer that may hold calls, as one generation after another."""

    def __init__(self, answers: Answers, index: int) -> None:
        self.answers, self.index = answers, index
        self.handle = answers.handle
        self.envelope = envelope_of(answers.pipeline.tokenizer)
        self.ids = list(self.handle.samples[index].prompt)
        self.params = self.handle.params.sample_of(index)
        self.left = self.params.max_tokens
        self.number = 0
        self.calling = False
        self.finish = "stop"

    async def free(self) -> AsyncIterator[Piece]:
        """Text until the first call; the generation was started with the envelope as a stop."""
        splitter = Splitter(self.index)
        sample = self.handle.samples[self.index]
        async for i, tokens in self.answers.tokens(self.handle):
            if i == self.index:
                for piece in splitter.push(tokens):
                    yield piece
        reason = sample.finished or "stop"
        for piece in splitter.end(reason):
            if piece.text:
                yield dataclasses.replace(piece, finish=None)
        self._took(sample)
        self.finish = reason

    def _took(self, sample: Sample) -> None:
        """Count what came, and see whether it ends where a call begins."""
        self.answers.usage.add(sample)
        self.left -= len(sample.output)
        words = self.answers.pipeline.tokenizer
        said = words.decode(sample.output, skip_special=False)
        before = self.envelope.before(said, self.answers.asked.names)
        self.calling = sample.finished == "stop" and before is not None and self.left > 0
        said = said if before is None else before
        self.ids += words.encode(said, special=True, add_bos=False) if said else []

    async def first(self) -> AsyncIterator[Piece]:
        """The call that must be made, which the generation was started with."""
        async for piece in self._call(self.handle, self.index):
            yield piece

    async def next(self) -> AsyncIterator[Piece]:
        """A call that the model began, and whether another follows."""
        words, prefix = self.answers.pipeline.tokenizer, self.envelope.prefix
        self.ids += words.encode(prefix, special=True, add_bos=False)
        schema = schema_of(self.answers.asked.callable_tools, self.envelope)
        async with self._more(schema=schema, stop=()) as handle:
            async for piece in self._call(handle, 0):
                yield piece
        self.ids += handle.samples[0].output
        await self._look_on()

    async def _call(self, handle: Stream, index: int) -> AsyncIterator[Piece]:
        text, number = CallText(self.envelope), self.number
        async for i, tokens in self.answers.tokens(handle):
            if i != index:
                continue
            for part in text.push("".join(token.text for token in tokens)):
                own = {"id": text.id} if "name" in part else {}
                call = {"number": number, **own, **part}
                yield Piece(self.index, "call", tokens=tokens, call=call)
        sample = handle.samples[index]
        self.answers.usage.add(sample)
        self.left -= len(sample.output)
        self.number += 1
        self.finish = "length" if sample.finished == "length" else "tool_calls"
        self.calling = False

    async def _look_on(self) -> None:
        """Whether another call follows: the model goes on, and a call is what it begins with."""
        if self.finish != "tool_calls" or not self.answers.asked.parallel or self.left <= 0:
            return
        marks = self.envelope.marks(self.answers.asked.names)
        words = self.answers.pipeline.tokenizer
        self.ids += words.encode(self.envelope.suffix, special=True, add_bos=False)
        async with self._more(max_tokens=min(self.left, 16), stop=marks) as handle:
            await self.answers.server.driver.ended(handle)
            sample = handle.samples[0]
            if not sample.text.strip():
                self._took(sample)

    def _more(self, **changed: Any) -> Any:
        """A generation that goes on from here."""
        settings = {k: v for k, v in vars(self.params).items() if k not in (*MADE, "schema", "n")}
        settings |= {"max_tokens": self.left, "raw": True, "logprobs": None} | changed
        pipeline = self.answers.pipeline
        return self._following(lambda: pipeline.start(self.ids, **settings))

    @contextlib.asynccontextmanager
    async def _following(self, begin: Callable[[], Stream]) -> AsyncIterator[Stream]:
        handle = await self.answers.server.run(begin)
        try:
            yield handle
        finally:
            if not handle.done:
                handle.abandon()


class Splitter:
    """Text of one answer, its thoughts (<think>...</think> at its beginning) apart from its content."""

    def __init__(self, index: int) -> None:
        self.index, self.kind = index, ""
        self._held = ""
        self._tokens: tuple[Token, ...] = ()

    def push(self, tokens: tuple[Token, ...]) -> list[Piece]:
        self._held += "".join(token.text for token in tokens)
        self._tokens += tokens
        if not self.kind:
            start = self._held.lstrip()
            if OPEN.startswith(start[: len(OPEN)]) and len(start) < len(OPEN) and start:
                return []  # it may become a thought
            self.kind = "reasoning" if start.startswith(OPEN) else "content"
            if self.kind == "reasoning":
                self._held = start.removeprefix(OPEN).lstrip("\n")
        if self.kind == "reasoning":
            return self._thought()
        return self._out(self._held)

    def _thought(self) -> list[Piece]:
        thought, mark, rest = self._held.partition(CLOSE)
        if mark:
            pieces = self._out(thought.rstrip("\n"))
            self.kind, self._held = "content", rest.lstrip("\n")
            return [*pieces, *self._out(self._held)]
        keep = next((n for n in range(len(CLOSE) - 1, 0, -1) if self._held.endswith(CLOSE[:n])), 0)
        held = self._held[len(self._held) - keep :]
        pieces = self._out(self._held[: len(self._held) - keep])
        self._held = held
        return pieces

    def _out(self, text: str) -> list[Piece]:
        tokens, self._tokens, self._held = self._tokens, (), ""
        return [Piece(self.index, self.kind, text, tokens)] if text or tokens else []

    def end(self, reason: str) -> list[Piece]:
        """What was held back, and the end."""
        self.kind = self.kind or "content"
        return [*self._out(self._held), Piece(self.index, "end", finish=reason)]


def begun(asked: Asked) -> Callable[[TextPipeline], Stream]:
    """What starts an answer on a model."""

    def begin(pipeline: TextPipeline) -> Stream:
        settings, prompt = dict(asked.settings), asked.prompt
        if isinstance(prompt, list) and prompt and isinstance(prompt[0], dict):
            prompt = as_messages(prompt)
        if asked.suffix:
            filled = infill.prompt_of(pipeline.tokenizer, prompt, asked.suffix)
            prompt, stops = filled.ids, settings.get("stop") or ()
            stops = (stops,) if isinstance(stops, str) else tuple(stops)
            settings["stop"] = (*stops, *filled.stops)
        if asked.calls:
            envelope = envelope_of(pipeline.tokenizer)
            offered = [{"type": "function", "function": tool} for tool in asked.tools]
            prompt = chat.encode(pipeline.tokenizer, prompt, tools=offered)
            if asked.choice == "auto":
                settings |= until_a_call(asked, envelope)
            else:
                prompt += pipeline.tokenizer.encode(envelope.prefix, special=True, add_bos=False)
                settings |= {"schema": schema_of(asked.callable_tools, envelope), "raw": True}
        return pipeline.start(prompt, **settings)

    return begin


def until_a_call(asked: Asked, envelope: Envelope) -> dict[str, Any]:
    """Settings under which free text ends where a call begins."""
    stop = asked.settings.get("stop") or ()
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    return {"stop": (*stops, *envelope.marks(asked.names)), "raw": True}


@contextlib.asynccontextmanager
async def answering(
    server: Server, name: str, asked: Asked, client: str, streams: bool = False
) -> AsyncIterator[Answers]:
    """The answers of a model, which stop when this is left."""
    server.models.expect(name, "text")
    if server.options.moderate:
        check_asked(asked.prompt)
    begin = begun(dataclasses.replace(asked, settings={**asked.settings, "client": client}))
    async with server.started_on(name, begin) as (pipeline, handle):
        yield Answers(server, pipeline, handle, asked, name, streams)


def recipe_of(answers: Answers, index: int = 0) -> dict[str, Any]:
    """What `daedal again` makes the answer from."""
    return answers.handle.recipe(index)


def dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
