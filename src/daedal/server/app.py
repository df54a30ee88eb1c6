"""The application: routes, and what stands before every one of them (request ids, keys, limits,
logs)."""

import contextlib
import json
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from daedal import __version__
from daedal.server import errors
from daedal.server.auth import Keys
from daedal.server.errors import ApiError
from daedal.server.routes import (
    anthropic,
    audio,
    batches,
    chat,
    code,
    completions,
    embeddings,
    evaluations,
    files,
    health,
    history,
    images,
    jobs,
    memories,
    models,
    moderations,
    music,
    ollama,
    preferences,
    provenance,
    responses,
    speech,
    studio,
    tokens,
    traces,
    trainings,
    videos,
)
from daedal.server.state import Options, Server

log = logging.getLogger("daedal.server")

GROUPS = (
    health, chat, completions, responses, embeddings, images, models, files, batches, jobs,
    tokens, code, videos, anthropic, ollama, history, trainings, preferences, evaluations, speech, audio, music, provenance, traces, memories, moderations, studio,
)  # fmt: skip
REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"description": "An error in OpenAI's form.", "model": None}
    for status in (400, 401, 403, 404, 409, 413, 429, 499, 500, 503, 507)
}


def create_app(options: Options) -> FastAPI:
    """The application of a server, which starts with it and stops with it."""
    server = Server(options)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        responses.recover(server)
        await server.start()
        yield
        await server.stop()

    app = FastAPI(title="Daedal", version=__version__, lifespan=lifespan, responses=REFUSALS)
    app.state.server = server
    errors.install(app)
    for group in GROUPS:
        app.include_router(group.routes)
    server.jobs.kinds |= {
        "generate": lambda job: jobs.generate(server, job),
        "pull": lambda job: models.pulled(server, job),
        "quantize": lambda job: models.quantized(server, job),
        "train": lambda job: trainings.train(server, job),
        "evaluate": lambda job: evaluations.evaluate(server, job),
        "video": lambda job: videos.film(server, job),
        "batch": lambda job: batches.run(server, app, job),
    }
    app.add_middleware(Gate, server=server, keys=Keys(options.keys))  # type: ignore[arg-type]
    if options.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=options.origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "x-daedal-rate", "x-daedal-recipe"],
        )
    return app


class Gate:
    """What every request passes. Plain ASGI: a wrapper of responses would hide that a client has
    hung up."""

    def __init__(self, app: ASGIApp, server: Server, keys: Keys) -> None:
        self.app, self.server, self.keys = app, server, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0
        headers = {
            key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]
        }
        given = headers.get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"

        async def answered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            if "daedal.client" not in scope:  # a batch asks in its owner's name
                scope["daedal.client"] = self.keys.client(scope["path"], headers)
            read = limited(receive, headers, self.server.options.max_body)
            await self.app(scope, read, answered)
        except ApiError as error:
            await errors.answer(error, scope["path"])(scope, receive, answered)
        except Exception as error:
            if status:
                raise  # the answer has begun
            await errors.answer(error, scope["path"])(scope, receive, answered)
        finally:
            self._note(scope, request_id, status, time.perf_counter() - began)

    def _note(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "none")
        self.server.metrics.requests.labels(route, str(status)).inc()
        self.server.metrics.duration.labels(route).observe(seconds)
        row = {
            "request": request_id,
            "client": scope.get("daedal.client", ""),
            "method": scope["method"],
        }
        row |= {"path": scope["path"], "status": status, "seconds": round(seconds, 4)}
        log.info(json.dumps(row))


def limited(receive: Receive, headers: dict[str, str], limit: int) -> Receive:
    """`receive`, which refuses bodies above a limit, also those that do not say how long they are."""
    if int(length) > limit if (length := headers.get("content-length", "")).isdigit() else False:
        raise too_large(limit)
    taken = 0

    async def read() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > limit:
            raise too_large(limit)
        return message

    return read


def too_large(limit: int) -> ApiError:
    return ApiError(413, f"the body is larger than {limit:,} bytes; send less.", "body_too_large")
