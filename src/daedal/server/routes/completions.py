"""`/v1/completions`: texts that go on."""

import json
import secrets
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from daedal.engine.request import Token
from daedal.pipelines.text_params import TEXT
from daedal.server.errors import ApiError
from daedal.server.fields import settings_body
from daedal.server.routes.chat import (
    OWN,
    Said,
    Sampling,
    finish_of,
    reply_of,
    scored,
    settings_of_body,
    usage_of,
)
from daedal.server.sse import STREAMS, stream_of
from daedal.server.state import client_of, server_of, while_connected
from daedal.server.text import Answers, Asked, answering, recipe_of

routes = APIRouter()


class CompletionFields(Sampling):
    prompt: str | list[str] | list[int] | list[list[int]] = ""
    suffix: str | None = None
    logprobs: Annotated[int | None, Field(ge=0, le=5)] = None
    echo: bool | None = None
    best_of: Annotated[int | None, Field(ge=1, le=20)] = None


CompletionBody: Any = settings_body("CompletionRequest", TEXT, CompletionFields, OWN)


@routes.post("/v1/completions", responses=STREAMS)
async def completions(request: Request, body: CompletionBody) -> Response:
    """Continue a text, several, or token ids; with `suffix` fill in before it."""
    return await continued(request, body, None)


async def continued(request: Request, body: Any, default: str | None) -> Response:
    """The answer to a request for a continuation, by `default` where it names no model."""
    server = server_of(request)
    name = server.models.resolved(body.model or default, "text")
    prompts = prompts_of(body.prompt)
    if body.stream and len(prompts) > 1:
        raise ApiError(
            400, f"a stream has one prompt, and there are {len(prompts)}.", param="prompt"
        )
    settings = settings_of_body(body) | {"raw": True}
    if body.logprobs is not None:
        settings["logprobs"] = body.logprobs
    reply = CompletionReply(name, "cmpl-" + secrets.token_hex(12), body)
    if body.suffix and not all(isinstance(prompt, str) for prompt in prompts):
        raise ApiError(400, "a suffix goes with prompts that are texts.", param="suffix")
    asked = [Asked(prompt, settings, suffix=body.suffix or "") for prompt in prompts]
    client = client_of(request)
    if body.stream:
        return await stream_of(
            request, answering(server, name, asked[0], client, True), reply.chunks
        )

    async def whole() -> dict[str, Any]:
        found = []
        for each in asked:
            async with answering(server, name, each, client) as answers:
                found.append(await reply.one(answers, each))
        return reply.joined(found)

    return reply_of(await while_connected(request, whole()))


def prompts_of(given: Any) -> list[Any]:
    """Each prompt, text or ids."""
    if not isinstance(given, list) or (given and isinstance(given[0], int)):
        return [given]
    if not given:
        raise ApiError(400, "prompt is an empty list; give a text.", param="prompt")
    return given


class CompletionReply:
    """A continuation in OpenAI's words."""

    def __init__(self, name: str, id: str, body: Any) -> None:
        self.name, self.id, self.body = name, id, body
        self.created = int(time.time())
        options = body.stream_options
        self.counts = bool(options and options.include_usage)

    def frame(self, choices: list[Any], **more: Any) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.name,
            "choices": choices,
            **more,
        }

    def front(self, asked_prompt: Any, answers: Answers) -> str:
        if not self.body.echo:
            return ""
        if isinstance(asked_prompt, str):
            return asked_prompt
        return answers.pipeline.tokenizer.decode(asked_prompt)

    async def chunks(self, answers: Answers) -> AsyncIterator[str]:
        counts = {"usage": None} if self.counts else {}
        front = self.front(answers.asked.prompt, answers)
        started: set[int] = set()
        offsets: dict[int, int] = {}
        async for piece in answers:
            text = piece.text if piece.index in started else front + piece.text
            if piece.finish or text or piece.tokens:
                started.add(piece.index)
                choice = {
                    "index": piece.index,
                    "text": text,
                    "logprobs": self.scores(answers, piece.tokens, offsets.get(piece.index, 0)),
                    "finish_reason": finish_of(piece.finish) if piece.finish else None,
                }
                if piece.finish:
                    choice["daedal"] = {"recipe": recipe_of(answers, piece.index)}
                offsets[piece.index] = offsets.get(piece.index, 0) + len(text)
                yield json.dumps(self.frame([choice], **counts), ensure_ascii=False)
        if self.counts:
            yield json.dumps(self.frame([], usage=usage_of(answers)))

    def scores(self, answers: Answers, tokens: tuple[Token, ...], offset: int = 0) -> Any:
        if self.body.logprobs is None:
            return None
        words = answers.pipeline.tokenizer
        rows = [scored(token, words) for token in tokens]
        offsets = []
        for row in rows:
            offsets.append(offset)
            offset += len(row["token"])
        return {
            "tokens": [row["token"] for row in rows],
            "token_logprobs": [row["logprob"] for row in rows],
            "top_logprobs": [
                {best["token"]: best["logprob"] for best in row["top_logprobs"]} for row in rows
            ],
            "text_offset": offsets,
        }

    async def one(self, answers: Answers, asked: Asked) -> tuple[list[dict[str, Any]], Answers]:
        said = [Said() for _ in answers.handle.samples]
        tokens: list[list[Token]] = [[] for _ in said]
        async for piece in answers:
            said[piece.index].add(piece)
            tokens[piece.index] += piece.tokens
        front = self.front(asked.prompt, answers)
        choices = [
            {
                "index": i,
                "text": front + each.texts["reasoning"] + each.texts["content"],
                "logprobs": self.scores(answers, tuple(tokens[i]), len(front)),
                "finish_reason": finish_of(each.finish),
                "daedal": {"recipe": recipe_of(answers, i)},
            }
            for i, each in enumerate(said)
        ]
        return choices, answers

    def joined(self, found: list[tuple[list[dict[str, Any]], Answers]]) -> dict[str, Any]:
        choices = [choice for choices, _ in found for choice in choices]
        for index, choice in enumerate(choices):
            choice["index"] = index
        counts = [usage_of(answers) for _, answers in found]
        keys = ("prompt_tokens", "completion_tokens", "total_tokens")
        usage = {key: sum(count[key] for count in counts) for key in keys}
        recipes = [choice.pop("daedal")["recipe"] for choice in choices]
        return self.frame(choices, usage=usage, daedal={"recipes": recipes})
