"""Chats answered from the documents that the server was started with (`documents: true`): the last
question is looked up, answered from what is found, every sentence held against its sources, and
these given as OpenAI's `url_citation` annotations. What no source supports is left out; where the
documents do not answer, that is said.

Nothing can be checked before it is whole, so a stream has the answer in one piece."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from daedal.assist.documents.answer import Answer, checked, messages, worth_asking
from daedal.assist.documents.library import Library
from daedal.data.rows import text_of
from daedal.server.errors import ApiError
from daedal.server.moderation import check_asked
from daedal.server.state import Server
from daedal.server.text import Asked
from daedal.trust.moderation.classifier import classifier

COUNT = 4  # passages that an answer is made from


@dataclass(frozen=True)
class Sourced:
    """An answer, and the tokens that it took: of its request and its own."""

    answer: Answer
    prompt: int = 0
    completion: int = 0

    @property
    def usage(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
        }

    @property
    def message(self) -> dict[str, Any]:
        return {
            "role": "assistant",
            "content": self.answer.text,
            "refusal": None,
            "annotations": self.answer.annotations,
        }


def expect(server: Server, asked: Asked) -> str:
    """The question of a request; ApiError where it cannot be answered from documents."""
    if server.documents is None:
        message = "this server has no documents; start it with `daedal serve --documents FOLDER`."
        raise ApiError(400, message, param="documents")
    if asked.tools or asked.settings.get("n", 1) > 1 or "schema" in asked.settings:
        message = "documents give one answer in words; leave out tools, n and response_format."
        raise ApiError(400, message, param="documents")
    spoken = [turn.get("content") for turn in asked.prompt if turn["role"] == "user"]
    if not spoken or not (question := text_of(spoken[-1]).strip()):
        message = "there is no question; give a message of the user that has text."
        raise ApiError(400, message, param="messages")
    if server.options.moderate:
        check_asked(asked.prompt)
    return question


async def answered(server: Server, name: str, asked: Asked, question: str) -> Sourced:
    """An answer of a model from the server's documents."""
    library: Library = server.documents  # type: ignore[assignment]

    def work(pipeline: Any, unwanted: Any) -> Sourced:
        hits = library.search(question, COUNT)
        if not worth_asking(question, hits) or unwanted():
            return Sourced(Answer(question, False, (), tuple(hits)))
        settings = {"temperature": 0.0, "max_tokens": 200, **asked.settings}
        handle = pipeline.start(messages(question, hits), **settings)
        said = handle.result().text.strip()
        sample = handle.samples[0]
        answer = checked(question, said, hits, library.embedder)
        return Sourced(answer, len(sample.prompt), len(sample.output))

    made = await server.worked_on(name, work)
    server.metrics.tokens.labels(name, "prompt").inc(made.prompt)
    server.metrics.tokens.labels(name, "completion").inc(made.completion)
    if server.options.moderate and classifier().judge(made.answer.text).reasons:
        message = "the answer is one that this server's classifier keeps back; ask for another."
        raise ApiError(400, message, code="content_policy_violation")
    return made


def body_of(made: Sourced, head: dict[str, Any]) -> dict[str, Any]:
    """The chat completion; `daedal.documents` has the sources with their text, and every sentence
    with what it cites."""
    choice = {"index": 0, "message": made.message, "logprobs": None, "finish_reason": "stop"}
    own = {"documents": made.answer.as_dict()}
    return head | {"object": "chat.completion", "choices": [choice], "usage": made.usage, "daedal": own}  # fmt: skip


@asynccontextmanager
async def running(
    server: Server, name: str, asked: Asked, question: str
) -> AsyncIterator["asyncio.Task[Sourced]"]:
    """The same under way, for a stream; left, it is not waited for."""
    task = asyncio.ensure_future(answered(server, name, asked, question))
    try:
        yield task
    finally:
        task.cancel()


async def chunks(
    task: "asyncio.Task[Sourced]", head: dict[str, Any], counts: bool
) -> AsyncIterator[str]:
    """The chunks of a stream: the answer in one, its sources in the last."""
    made = await task
    head = head | {"object": "chat.completion.chunk"} | ({"usage": None} if counts else {})

    def chunk(delta: dict[str, Any], finish: str | None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return json.dumps(head | {"choices": [choice]} | more, ensure_ascii=False)

    message = {key: value for key, value in made.message.items() if key != "refusal"}
    yield chunk(message, None)
    yield chunk({}, "stop", daedal={"documents": made.answer.as_dict()})
    if counts:
        yield json.dumps(head | {"choices": [], "usage": made.usage}, ensure_ascii=False)
