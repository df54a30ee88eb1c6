"""The language server, by a client in another process."""

import asyncio
import sys

import pytest

pytest.importorskip("pygls", reason="the editor extra is not installed")

from lsprotocol import types
from pygls.lsp.client import LanguageClient

URI = "file:///story.py"
TEXT = "# One day, a small duck\n"


async def opened(text: str = TEXT) -> LanguageClient:
    client = LanguageClient("test", "1")
    client.feature(types.WINDOW_SHOW_MESSAGE)(lambda params: None)
    await client.start_io(sys.executable, "-m", "daedal", "lsp", "--model", "house/text")
    capabilities = types.ClientCapabilities()
    found = await client.initialize_async(types.InitializeParams(capabilities))
    assert found.capabilities.inline_completion_provider is not None
    client.initialized(types.InitializedParams())
    document = types.TextDocumentItem(URI, "python", 1, text)
    client.text_document_did_open(types.DidOpenTextDocumentParams(document))
    return client


async def closed(client: LanguageClient) -> None:
    await client.shutdown_async(None)
    client.exit(None)
    await client.stop()


def asked(character: int, line: int = 0) -> types.InlineCompletionParams:
    context = types.InlineCompletionContext(types.InlineCompletionTriggerKind.Automatic)
    place = types.Position(line, character)
    return types.InlineCompletionParams(context, types.TextDocumentIdentifier(URI), place)


def test_a_completion_comes_and_comes_again_at_once():
    async def run() -> tuple[list, list, float]:
        client = await opened()
        first = await client.text_document_inline_completion_async(asked(len(TEXT) - 1))
        began = asyncio.get_running_loop().time()
        again = await client.text_document_inline_completion_async(asked(len(TEXT) - 1))
        spent = asyncio.get_running_loop().time() - began
        await closed(client)
        return first.items, again.items, spent

    first, again, spent = asyncio.run(run())
    assert first[0].insert_text == again[0].insert_text != "" and spent < 0.1


def test_only_the_last_of_several_keys_is_answered():
    async def run() -> list:
        client = await opened()
        keys = [client.text_document_inline_completion_async(asked(n)) for n in (10, 12, 22)]
        found = await asyncio.gather(*keys)
        await closed(client)
        return [len(each.items) for each in found]

    assert asyncio.run(run()) == [0, 0, 1]


def test_commands_answer():
    code = "def double(x: int) -> int:\n    return x * 2\n"

    async def run() -> tuple[list, dict]:
        client = await opened(code)
        everything = types.Range(types.Position(0, 0), types.Position(2, 0))
        params = types.CodeActionParams(
            types.TextDocumentIdentifier(URI), everything, types.CodeActionContext([])
        )
        actions = await client.text_document_code_action_async(params)
        command = next(each for each in actions if each.title == "Write tests")
        found = await client.workspace_execute_command_async(
            types.ExecuteCommandParams(command.command, arguments=command.arguments)
        )
        await closed(client)
        return [each.title for each in actions], found

    titles, found = asyncio.run(run())
    assert titles == ["Explain", "Write tests"]
    verdict = found["verdict"] if isinstance(found, dict) else found.verdict
    assert "mutants noticed" in verdict
