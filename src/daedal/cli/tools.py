"""Tools in the terminal: which there are, a conversation with them, and a person's consent."""

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

TOOLS = Annotated[
    str | None,
    typer.Option(
        help="Tools that the model may call, comma-separated: calculator, time, python, memory, documents:FOLDER, files:FOLDER, image:FOLDER, say:FOLDER and other media."
    ),
]
MCP = Annotated[
    Path | None, typer.Option(help="A JSON file of MCP servers (mcpServers), whose tools to offer.")
]


@contextmanager
def opened_tools(names: str | None, servers: Path | None) -> Iterator[list[Any]]:
    """The tools of both options, open for a while."""
    if not names and servers is None:
        yield []
        return
    from daedal.assist.tools.builtin import Toolbox

    with ExitStack() as held:
        found = list(held.enter_context(Toolbox(names or "")).tools)
        if servers is not None:
            from daedal.assist.tools.mcp_client import Servers

            joined = held.enter_context(Servers.of_file(servers))
            for trouble in joined.troubles:
                print(f"daedal: {trouble}", file=sys.stderr)
            found += joined.tools
        yield found


def talked(conversation: Any) -> list[dict[str, Any]]:
    """The messages of a conversation with the model's answer, its calls and their results, each
    shown on stderr, and allowed in the terminal where a person must."""
    from daedal.assist.tools.loop import Loop, Talk

    loop = Loop(conversation.pipeline, conversation.tools, attended=True, **conversation.settings)
    loop.on_text = lambda text: print(text, end="", flush=True)
    loop.on_result = shown
    talk = Talk(list(conversation.with_memory()), trusted=conversation.trusted)
    told = len(talk.messages)
    talk = loop.run(talk)
    while talk.asked:
        for call in list(talk.asked):
            talk.answer(call.id, *consent(call))
        talk = loop.run(talk)
    print(flush=True)
    return [*conversation.messages, *talk.messages[told:]]


def shown(call: Any, result: str) -> None:
    lines = result.strip().splitlines() or [""]
    more = f" ... ({len(lines)} lines)" if len(lines) > 1 else ""
    print(f"daedal: {written(call)} -> {lines[0][:100]}{more}", file=sys.stderr)


def written(call: Any) -> str:
    given = ", ".join(f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in call.arguments.items())
    return f"{call.name}({given})"


def consent(call: Any) -> tuple[bool, bool]:
    """(allowed, for good) as a person says; no answer is no."""
    print(f"\ndaedal: {written(call)}\ndaedal: {call.reason}.", file=sys.stderr)
    ways = "y/n/always" if call.always else "y/n"
    try:
        said = input(f"allow it? [{ways}] ").strip().lower()
    except (EOFError, KeyboardInterrupt):
        return False, False
    always = call.always and said == "always"
    return always or said in ("y", "yes"), always
