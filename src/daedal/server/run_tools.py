"""Tools that the server itself calls for a chat, on request (`run_tools`), where it was started with
them; harmless ones are always there."""

import json
import secrets
import time
from typing import Any

from daedal.assist.tools.builtin import HARMLESS, SHORT, Toolbox
from daedal.assist.tools.loop import Loop, Talk
from daedal.server.errors import ApiError
from daedal.server.state import Server
from daedal.server.text import Asked


def expect(server: Server, names: list[str], asked: Asked, stream: bool) -> str:
    """The tools of a request, as a Toolbox takes them; ApiError for what is not to be had."""
    known = {name.partition(":")[0]: name for name in (*HARMLESS, *server.options.tools)}
    plain = [SHORT.get(name, name) for name in names]
    if bad := [name for name in plain if name not in known]:
        raise ApiError(
            400,
            f"{bad[0]!r} is not among the tools that this server calls ({', '.join(known)}); `daedal serve --tools` gives it more.",
            param="run_tools",
        )
    if stream or asked.tools or asked.settings.get("n", 1) > 1:
        raise ApiError(
            400,
            "run_tools gives one answer, whole; leave out stream, tools and n.",
            param="run_tools",
        )
    return ",".join(known[name] for name in dict.fromkeys(plain))


async def answered(server: Server, name: str, asked: Asked, tools: str) -> dict[str, Any]:
    """A chat completion after a loop of tools; `daedal.calls` are the calls and their results."""
    calls: list[dict[str, Any]] = []

    def work(pipeline: Any, unwanted: Any) -> Talk:
        with Toolbox(tools) as box:
            loop = Loop(pipeline, box.tools, **asked.settings)
            loop.on_result = lambda call, result: calls.append(
                {"name": call.name, "arguments": json.dumps(call.arguments), "result": result}
            )
            return loop.run(Talk(list(asked.prompt)))

    talk = await server.worked_on(name, work)
    message = {"role": "assistant", "content": talk.text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return {
        "id": "chatcmpl-" + secrets.token_hex(12),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": name,
        "choices": [choice],
        "usage": {
            "prompt_tokens": 0,
            "completion_tokens": talk.tokens,
            "total_tokens": talk.tokens,
        },
        "daedal": {"calls": calls},
    }
