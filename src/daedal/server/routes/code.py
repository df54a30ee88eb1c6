"""Code: filling in the middle by every name that editors have for it (`suffix` of
`/v1/completions`, `/v1/fim/completions`, `/infill`), and the verbs of `daedal code` under
`/v1/code/`, which run what they can and say what passed."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response, StreamingResponse

from daedal.assist.code.coder import Coder
from daedal.assist.code.complete import Gap, complete
from daedal.sandbox.sandbox import Sandbox
from daedal.server import errors
from daedal.server.errors import ApiError
from daedal.server.fields import Body
from daedal.server.routes.chat import Sampling, reply_of
from daedal.server.routes.completions import continued
from daedal.server.sse import STREAMS
from daedal.server.state import Server, server_of, while_connected

routes = APIRouter()

Value = TypeVar("Value")
Text = Annotated[str, Field(max_length=200_000)]


# ---- filling in ----------------------------------------------------------------------------------


class FimBody(Sampling):
    """Mistral's and DeepSeek's fields."""

    prompt: Text = ""
    suffix: Text | None = None
    logprobs: Annotated[int | None, Field(ge=0, le=5)] = None
    echo: bool | None = None


@routes.post("/v1/fim/completions", responses=STREAMS)
async def fim(request: Request, body: FimBody) -> Response:
    """Fill in between prompt and suffix."""
    return await continued(request, body, default(server_of(request)))


class InfillBody(Body):
    """llama.cpp's fields."""

    model: str | None = None
    input_prefix: Text = ""
    input_suffix: Text = ""
    input_extra: list[dict[str, str]] = []
    n_predict: Annotated[int, Field(ge=-1)] = 128
    temperature: Annotated[float, Field(ge=0, le=10)] = 0.0


@routes.post("/infill")
async def infilled(request: Request, body: InfillBody) -> dict[str, Any]:
    """Fill in between two texts, with other files in front."""
    server = server_of(request)
    name = server.models.resolved(body.model or default(server), "text")
    server.models.expect(name, "text")
    files = tuple((each.get("filename", ""), each.get("text", "")) for each in body.input_extra)
    gap = Gap(body.input_prefix, body.input_suffix, "", files)
    most = body.n_predict if body.n_predict > 0 else 128
    found = await while_connected(
        request,
        server.worked_on(
            name,
            lambda pipeline, unwanted: complete(
                pipeline, gap, most, unwanted, temperature=body.temperature
            ),
        ),
    )
    stopped = {"stop": True, "stopped_eos": found.finish_reason == "stop"}
    return {"content": found.text, "model": name, "remark": found.remark, **stopped}


def default(server: Server) -> str | None:
    """The code model to use where none is named."""
    return next((name for name in ("coder", "house/code") if name in server.models.names()), None)


# ---- verbs ---------------------------------------------------------------------------------------


class CodeBody(Body):
    model: str | None = None
    code: Text = ""
    task: Text = ""
    failing: Text = ""  # of fix
    function: str | None = None  # of test
    to: str = "javascript"  # of translate
    n: Annotated[int, Field(ge=1, le=256)] = 16  # of solve
    seed: Annotated[int, Field(ge=0)] = 0
    temperature: Annotated[float, Field(ge=0, le=10)] = 0.8  # of solve
    line: Annotated[int | None, Field(ge=1)] = None  # of complete
    column: Annotated[int | None, Field(ge=0)] = None
    max_tokens: Annotated[int, Field(ge=1, le=4096)] = 128


VERBS: dict[str, Callable[[Coder, CodeBody], Any]] = {
    "write": lambda coder, body: coder.write(body.task).as_dict(),
    "explain": lambda coder, body: {"text": coder.explain(body.code)},
    "review": lambda coder, body: {"text": coder.review(body.code)},
    "test": lambda coder, body: coder.tests(body.code, body.function).as_dict(),
    "translate": lambda coder, body: coder.translate(body.code, body.to).as_dict(),
    "fix": lambda coder, body: coder.fix(body.code, body.failing).as_dict(),
    "complete": lambda coder, body: vars(coder.complete(gap_of(body), max_tokens=body.max_tokens)),
}
NEEDS = {"write": "task", "solve": "task", "fix": "failing"}


def gap_of(body: CodeBody) -> Gap:
    lines = body.code.splitlines(keepends=True)
    if body.line is None:
        return Gap(body.code)
    if body.line > max(len(lines), 1):
        raise ApiError(
            400, f"the code has {len(lines)} lines and no line {body.line}.", param="line"
        )
    here = lines[body.line - 1] if lines else ""
    cut = len(here.rstrip("\r\n")) if body.column is None else min(body.column, len(here))
    before = "".join(lines[: body.line - 1]) + here[:cut]
    return Gap(before, here[cut:] + "".join(lines[body.line :]))


def sandbox_of(server: Server) -> Sandbox:
    """The one sandbox of a server, made when it is first needed."""
    with server.making_sandbox:
        server.sandbox = server.sandbox or Sandbox()
    return server.sandbox


@routes.post("/v1/code/solve", responses=STREAMS)
async def solve(request: Request, body: CodeBody) -> Response:
    """Draw many solutions, run them, pick from the largest group that agrees; events tell of each
    stage."""
    server, loop = server_of(request), asyncio.get_running_loop()
    name = named(server, "solve", body)
    stages: asyncio.Queue[Any] = asyncio.Queue()

    def tell(stage: Any) -> None:
        loop.call_soon_threadsafe(stages.put_nowait, stage)

    def work(coder: Coder) -> None:
        found = coder.solve(body.task, n=body.n, temperature=body.temperature, on_stage=tell)
        tell({"stage": "solved", **found.as_dict(), "verdict": found.verdict})

    async def run() -> None:
        try:
            await with_coder(server, name, body.seed, work)
        except Exception as error:
            tell(errors.api_error(error).body)
        tell(None)

    async def events() -> AsyncIterator[str]:
        task = server.background(run())
        try:
            while (stage := await stages.get()) is not None:
                yield f"data: {json.dumps(stage)}\n\n"
            yield "data: [DONE]\n\n"
        finally:
            task.cancel()

    return StreamingResponse(events(), media_type="text/event-stream")


@routes.post("/v1/code/{verb}")
async def verb(request: Request, verb: str, body: CodeBody) -> Response:
    """write, explain, review, test, translate, fix or complete."""
    server = server_of(request)
    if verb not in VERBS:
        raise errors.not_found("verb of code", verb)
    name = named(server, verb, body)
    found = await while_connected(
        request, with_coder(server, name, body.seed, lambda coder: VERBS[verb](coder, body))
    )
    return reply_of({"model": name, **found})


def named(server: Server, verb: str, body: CodeBody) -> str:
    """The model of a request, which must say what its verb needs."""
    need = NEEDS.get(verb, "code")
    if not getattr(body, need).strip():
        raise ApiError(400, f"{verb} needs {need}.", param=need)
    name = server.models.resolved(body.model or default(server), "chat")
    server.models.expect(name, "text")
    return name


async def with_coder(server: Server, name: str, seed: int, work: Callable[[Coder], Value]) -> Value:
    """Work with a model and the sandbox, on a thread, until nobody waits for it."""
    return await server.worked_on(
        name,
        lambda pipeline, unwanted: work(Coder(pipeline, sandbox_of(server), seed, unwanted)),
    )
