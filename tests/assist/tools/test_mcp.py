"""MCP both ways, with the official SDK on the other side."""

import json
import os
import sys

import pytest

from daedal.assist.tools.loop import Loop
from daedal.assist.tools.mcp_client import Servers, schema_fault
from daedal.errors import DaedalError

pytest.importorskip("mcp")

OTHER = """
import os, sys, time
from mcp.server import MCPServer
server = MCPServer("other")

@server.tool()
def shout(words: str) -> str:
    "In capitals."
    return words.upper()

@server.tool()
def die() -> str:
    os._exit(3)

@server.tool()
def hang() -> str:
    time.sleep(60)

@server.tool()
def fail() -> str:
    raise ValueError("no ink")

@server.tool()
def environment() -> str:
    return ",".join(os.environ)

server.run()
"""
OURS = "from daedal.cli import main; import sys; sys.argv = ['daedal', 'mcp', '--tools', 'calculator']; main()"


def test_tools_of_another_server_and_what_goes_wrong_with_it(tmp_path, monkeypatch):
    monkeypatch.setenv("OUR_SECRET", "x")
    config = tmp_path / "mcp.json"
    python = {"command": sys.executable}
    named = {
        "other": {**python, "args": ["-c", OTHER], "alwaysAllow": ["shout"]},
        "broken": {**python, "args": ["-c", "print('hello'); raise SystemExit(1)"]},
        "nowhere": {"command": "no-such-program"},
        "empty": {},
    }
    config.write_text(json.dumps({"mcpServers": named}))
    with Servers.of_file(config, answer=20) as servers:
        tools = {tool.name: tool for tool in servers.tools}
        assert not tools["other_shout"].acts and tools["other_die"].acts
        assert tools["other_shout"].untrusted and tools["other_shout"]({"words": "hi"}) == "HI"
        with pytest.raises(DaedalError, match="needs 'words'"):
            tools["other_shout"]({})
        with pytest.raises(DaedalError, match="fail"):
            tools["other_fail"]({})
        assert "OUR_SECRET" not in tools["other_environment"]({})
        servers.answer = 1.0
        with pytest.raises(DaedalError, match="did not answer within"):
            tools["other_hang"]({})
        with pytest.raises(DaedalError, match="go on without it"):
            tools["other_die"]({})
        troubles = "\n".join(servers.troubles)
        assert len(servers.troubles) == 3
        assert all(f"the MCP server {name} " in troubles for name in ("broken", "nowhere", "empty"))
        Loop(None, servers.tools)


@pytest.mark.parametrize(
    "schema",
    [None, [], {"type": "string"}, {"type": "object", "properties": {"a": {"type": "lie"}}}],
)
def test_a_schema_that_is_none_is_found_before_it_is_used(schema):
    assert schema_fault(schema)
    assert schema_fault({"type": "object", "properties": {"a": {"type": "string"}}}) is None


def test_a_file_without_servers_is_one_sentence(tmp_path):
    for text in ("{}", "[]", '{"mcpServers": {"a": 3}}', "nonsense"):
        (tmp_path / "mcp.json").write_text(text)
        with pytest.raises(DaedalError, match="names no MCP servers"):
            Servers.of_file(tmp_path / "mcp.json")


def test_our_tools_for_another_program():
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # a server is not given ours
    named = {"daedal": {"command": sys.executable, "args": ["-c", OURS], "env": paths}}
    with Servers(named, start=60) as servers:
        assert servers.troubles == []
        (tool,) = servers.tools
        assert tool({"expression": "0.1 + 0.2"}) == "0.3"
        with pytest.raises(DaedalError, match="divides by zero"):
            tool({"expression": "1/0"})
