"""Server-sent events: each event one write, comments while nothing comes, errors as events."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import Request
from starlette.responses import StreamingResponse

from daedal.server import errors

HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
LINES = "application/x-ndjson"
KINDS: dict[str, Any] = {"application/json": {}, "text/event-stream": {}, LINES: {}}
STREAMS: dict[int | str, dict[str, Any]] = {200: {"content": KINDS}}  # of a route's description
QUIET = 15.0  # seconds without an event until a comment keeps the connection open
DONE = "data: [DONE]\n\n"


async def stream_of(
    request: Request,
    context: AbstractAsyncContextManager[Any],
    produce: Callable[[Any], AsyncIterator[str]],
    end: str = DONE,
    framed: bool = False,
    media_type: str = "text/event-stream",
) -> StreamingResponse:
    """Answer with what `produce` makes of an opened context: the data of events, or with `framed`
    whole events. The context is entered before the answer begins, so that what is refused is refused
    with its status; after that an error is an event."""
    opened = await context.__aenter__()

    async def body() -> AsyncIterator[str]:
        try:
            async for data in kept_alive(produce(opened)):
                yield data if framed or data.startswith(":") else f"data: {data}\n\n"
        except Exception as error:
            yield f"data: {errors.event(error)}\n\n"
        else:
            yield end
        finally:
            with contextlib.suppress(Exception):
                await context.__aexit__(None, None, None)

    return StreamingResponse(body(), media_type=media_type, headers=HEADERS)


async def kept_alive(events: AsyncIterator[str]) -> AsyncIterator[str]:
    """Events, with a comment whenever none has come for a while."""
    following = aiter(events)
    pending = asyncio.ensure_future(anext(following, None))
    try:
        while True:
            done, _ = await asyncio.wait({pending}, timeout=QUIET)
            if not done:
                yield ": keep-alive\n\n"
                continue
            if (event := pending.result()) is None:
                return
            yield event
            pending = asyncio.ensure_future(anext(following, None))
    finally:
        if not pending.done():
            pending.cancel()
            await asyncio.gather(pending, return_exceptions=True)
        await following.aclose()  # type: ignore[attr-defined]
