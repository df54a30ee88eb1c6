"""Our tools for other programs, as an MCP server (by the official SDK) over stdio:

    serve_stdio("calculator,documents:notes,image:pictures")

The tools are opened and run on one thread, one call after another, as databases and models want."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from daedal import __version__
from daedal.assist.tools.builtin import Toolbox
from daedal.assist.tools.mcp_client import MISSING
from daedal.assist.tools.tool import Tool
from daedal.errors import DaedalError


def server_of(tools: list[Tool], thread: ThreadPoolExecutor) -> Any:
    """An MCP server of tools, which run on a thread."""
    try:
        from mcp import types
        from mcp.server import Server
    except ImportError:
        raise DaedalError(MISSING) from None
    known = {tool.name: tool for tool in tools}

    def listed(tool: Tool) -> Any:
        hints = types.ToolAnnotations(read_only_hint=not tool.acts, open_world_hint=False)
        return types.Tool(
            name=tool.name, description=tool.description, input_schema=dict(tool.parameters), annotations=hints
        )  # fmt: skip

    async def on_list(context: Any, params: Any) -> Any:
        return types.ListToolsResult(tools=[listed(tool) for tool in tools])

    async def on_call(context: Any, params: Any) -> Any:
        try:
            if params.name not in known:
                raise DaedalError(
                    f"there is no tool {params.name!r}; there are {', '.join(known)}."
                )
            run = asyncio.get_running_loop().run_in_executor
            said = await run(thread, known[params.name], params.arguments or {})
            failed = False
        except DaedalError as error:
            said, failed = str(error), True
        return types.CallToolResult(
            content=[types.TextContent(type="text", text=said)], is_error=failed
        )

    return Server("daedal", version=__version__, on_list_tools=on_list, on_call_tool=on_call)


def serve_stdio(names: str) -> None:
    """Serve tools on standard input and output until the other side is gone."""
    with ThreadPoolExecutor(1) as thread:
        box = thread.submit(Toolbox, names).result()
        try:
            asyncio.run(_served(server_of(box.tools, thread)))
        finally:
            thread.submit(box.__exit__).result()


async def _served(server: Any) -> None:
    from mcp.server.stdio import stdio_server

    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())
