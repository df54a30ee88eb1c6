"""Tools of MCP servers (Model Context Protocol, by its official SDK), named in a JSON file as other
programs write it:

    {"mcpServers": {"files": {"command": "some-server", "args": ["folder"], "env": {}},
                    "web": {"url": "http://127.0.0.1:8000/mcp", "alwaysAllow": ["lookup"]}}}

What a server gives is text of others, and every tool of it acts outside until the file says under
`alwaysAllow` that it may be called unasked: what a server says of itself is not proof. One that dies,
hangs or lies about its schema costs a sentence, and nothing else."""

import asyncio
import json
import re
import threading
from collections.abc import Coroutine, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TooSlow
from pathlib import Path
from typing import Any, Self

from daedal.assist.tools.tool import Tool
from daedal.errors import DaedalError

START, ANSWER = 20.0, 60.0  # seconds that a server may take to start, and to answer a call
MISSING = "MCP needs the extra `mcp`; pip install 'daedal[mcp]'."


class Servers:
    """Servers that run as long as this is open; `troubles` says what each that failed failed with."""

    def __init__(
        self, servers: Mapping[str, Mapping[str, Any]], start: float = START, answer: float = ANSWER
    ) -> None:
        try:
            import mcp  # noqa: F401 - of an extra
        except ImportError:
            raise DaedalError(MISSING) from None
        self.start, self.answer = start, answer
        self.tools: list[Tool] = []
        self.troubles: list[str] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._stop = asyncio.Event()
        self._held: list[Future[None]] = []
        for name, settings in servers.items():
            try:
                self.tools += self._joined(name, settings)
            except DaedalError as error:
                self.troubles.append(str(error))

    @classmethod
    def of_file(cls, path: Path, **times: float) -> Self:
        try:
            servers = json.loads(path.read_text("utf-8"))["mcpServers"]
            if not all(isinstance(each, dict) for each in servers.values()):
                raise TypeError
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise DaedalError(
                f'{path} names no MCP servers; write {{"mcpServers": {{"NAME": {{"command": "...", "args": []}}}}}}.'
            ) from None
        return cls(servers, **times)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        for held in self._held:
            try:
                held.result(5)
            except (Exception, TooSlow):  # it was to end, and has
                held.cancel()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _run(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _joined(self, name: str, settings: Mapping[str, Any]) -> list[Tool]:
        """Start a server, and the tools that it has."""
        ready: Future[tuple[Any, list[Any]]] = Future()
        held = self._run(self._hold(name, target_of(name, settings), ready))
        self._held.append(held)
        try:
            client, listed = ready.result(self.start)
        except TooSlow:
            held.cancel()
            raise DaedalError(
                f"the MCP server {name} did not start within {self.start:g} s; its tools are left out."
            ) from None
        except Exception as error:
            raise DaedalError(
                f"the MCP server {name} did not start ({reason(error)}); its tools are left out."
            ) from None
        unasked = settings.get("alwaysAllow") or []
        found = []
        for each in listed:
            try:
                found.append(self._tool(name, client, each, each.name not in unasked))
            except DaedalError as error:
                self.troubles.append(str(error))
        return found

    async def _hold(self, name: str, target: Any, ready: "Future[Any]") -> None:
        """Keep a server running until the end."""
        from mcp import Client

        try:
            async with Client(target, read_timeout_seconds=self.answer) as client:
                listed, cursor = list[Any](), None
                while len(listed) < 1000:
                    page = await client.list_tools(cursor=cursor)
                    listed += page.tools
                    cursor = page.next_cursor
                    if not cursor:
                        break
                ready.set_result((client, listed))
                await self._stop.wait()
        except BaseException as error:
            if not ready.done():
                ready.set_exception(RuntimeError(reason(error)))

    def _tool(self, server: str, client: Any, each: Any, acts: bool) -> Tool:
        schema = each.input_schema
        name = re.sub(r"[^\w-]", "_", f"{server}_{each.name}")[:64]
        if (fault := schema_fault(schema)) is not None:
            raise DaedalError(
                f"the schema of {each.name} of the MCP server {server} cannot be used ({fault}); the tool is left out."
            )

        def run(**arguments: Any) -> str:
            pending = self._run(client.call_tool(each.name, arguments))
            try:
                return text_of(each.name, pending.result(self.answer))
            except TooSlow:
                pending.cancel()
                raise DaedalError(
                    f"{server} did not answer within {self.answer:g} s; go on without it."
                ) from None
            except DaedalError:
                raise
            except Exception as error:
                raise DaedalError(f"{server} failed ({reason(error)}); go on without it.") from None

        said = (each.description or each.name)[:1000]
        return Tool(name, said, schema, run, untrusted=True, private=True, acts=acts)


def target_of(name: str, settings: Mapping[str, Any]) -> Any:
    """Where a server is, as the SDK takes it. Of our environment it is given only what is harmless
    and what the file names."""
    from mcp import StdioServerParameters

    if isinstance(url := settings.get("url"), str):
        return url
    command, given = settings.get("command"), settings.get("args") or []
    if not isinstance(command, str) or not isinstance(given, list):
        raise DaedalError(f"the MCP server {name} has neither a command nor a url; give one.")
    return StdioServerParameters(
        command=command, args=[str(each) for each in given], env=settings.get("env") or None
    )


def schema_fault(schema: Any) -> str | None:
    """Why a schema cannot hold the arguments of a call; None where it can."""
    import llguidance

    if not isinstance(schema, dict) or schema.get("type") != "object":
        return "it is not of an object"
    try:
        grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema))
        fault = llguidance.LLMatcher.validate_grammar(grammar)
    except Exception as error:  # the Rust side raises bare exceptions
        return reason(error)
    return " ".join(fault.split())[:120] if fault else None


def text_of(name: str, result: Any) -> str:
    """The text of a result; of what is not text its kind."""
    parts = [getattr(part, "text", None) or f"[{part.type}]" for part in result.content]
    said = "\n".join(parts)
    if result.is_error:
        raise DaedalError(f"{name} failed: {said[:500] or 'it says not why'}")
    return said


def reason(error: BaseException) -> str:
    """The innermost of what went wrong, on one line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return " ".join(str(error).split())[:160] or type(error).__name__
