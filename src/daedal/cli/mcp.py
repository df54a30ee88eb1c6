"""`daedal mcp`: our media, documents and memory as tools for other programs."""

from typing import Annotated

import typer


def mcp(
    tools: Annotated[
        str,
        typer.Option(
            help="Comma-separated: calculator, time, python, memory, documents:FOLDER, files:FOLDER, image:FOLDER, say:FOLDER and other media."
        ),
    ] = "calculator,time,python",
) -> None:
    """Serve tools over MCP on standard input and output, for a program that starts this command."""
    from daedal.assist.tools.mcp_server import serve_stdio

    serve_stdio(tools)
