"""A language server (LSP 3.18) on standard input and output: inline completions as you type, and
commands that explain, test and fix the code of a file. Any editor that speaks the protocol.

A key cancels the completion that the key before it asked for, at its next token; what stands before
the cursor stays in the engine's cache from key to key."""

import asyncio
import threading
from collections import OrderedDict
from functools import partial
from typing import Any

from lsprotocol import types
from pygls.lsp.server import LanguageServer

from daedal import __version__
from daedal.assist.code.coder import Coder
from daedal.assist.code.complete import Gap, complete
from daedal.errors import DaedalError
from daedal.pipelines.text import TextPipeline
from daedal.sandbox.sandbox import Sandbox

DEBOUNCE = 0.15  # seconds without a key before anything is asked
LINE, BLOCK = 32, 96  # tokens of a completion within a line, and at its end
BEHIND = 4  # lines behind the cursor that are read: they are read anew at each key
REMEMBERED = 64  # completions, so that undoing a key costs nothing
COMMANDS = {"daedal.explain": "Explain", "daedal.test": "Write tests", "daedal.fix": "Fix"}


class Editor:
    """A model, and what the keys of each document ask of it."""

    def __init__(self, pipeline: TextPipeline) -> None:
        self.pipeline = pipeline
        self.latest: dict[str, int] = {}  # of a document: the number of its last request
        self.kept: OrderedDict[tuple[str, str], str] = OrderedDict()
        self.server = LanguageServer("daedal", __version__)
        # `partial`: the library marks what it is given, which a method does not allow
        inline, options = types.TEXT_DOCUMENT_INLINE_COMPLETION, types.InlineCompletionOptions()
        self.server.feature(inline, options)(partial(self.inline))
        self.server.feature(types.TEXT_DOCUMENT_CODE_ACTION)(partial(self.actions))
        for name in COMMANDS:
            self.server.command(name)(self.command_of(name))

    async def inline(self, params: types.InlineCompletionParams) -> types.InlineCompletionList:
        """What belongs at the cursor, unless another key comes first."""
        uri = params.text_document.uri
        number = self.latest[uri] = self.latest.get(uri, 0) + 1
        gap = self.gap(uri, params.position)
        if (known := self.kept.get((gap.before, gap.after))) is None:
            await asyncio.sleep(DEBOUNCE)
            if self.latest[uri] != number:
                return types.InlineCompletionList([])
            known = await self.asked(gap, lambda: self.latest[uri] != number)
        if not known.strip() or self.latest[uri] != number:
            return types.InlineCompletionList([])
        here = types.Range(params.position, params.position)
        return types.InlineCompletionList([types.InlineCompletionItem(known, range=here)])

    async def asked(self, gap: Gap, unwanted: Any) -> str:
        """A completion, made on a thread; a request that is cancelled stops it."""
        gone = threading.Event()
        ends_line = gap.after[:1] in ("", "\n")
        try:
            found = await asyncio.to_thread(
                complete,
                self.pipeline,
                gap,
                BLOCK if ends_line else LINE,
                lambda: gone.is_set() or unwanted(),
            )
        except asyncio.CancelledError:
            gone.set()
            raise
        if not unwanted():
            self.kept[gap.before, gap.after] = found.text
            while len(self.kept) > REMEMBERED:
                self.kept.popitem(last=False)
        return found.text

    def gap(self, uri: str, position: types.Position) -> Gap:
        document = self.server.workspace.get_text_document(uri)
        offset = document.offset_at_position(position)
        behind = "".join(document.source[offset:].splitlines(keepends=True)[:BEHIND])
        return Gap(document.source[:offset], behind, uri.rpartition("/")[2])

    def actions(self, params: types.CodeActionParams) -> list[types.Command]:
        """The commands, for the file at hand."""
        problem = "\n".join(each.message for each in params.context.diagnostics)
        given = [params.text_document.uri, problem]
        return [
            types.Command(title, name, arguments=given)
            for name, title in COMMANDS.items()
            if name != "daedal.fix" or problem
        ]

    def command_of(self, name: str) -> Any:
        async def run(uri: str, problem: str = "") -> dict[str, Any]:
            source = self.server.workspace.get_text_document(uri).source
            try:
                found = await asyncio.to_thread(self.work, name, source, problem)
            except DaedalError as error:
                found = {"error": str(error)}
            said = found.get("text") or found.get("verdict") or found.get("error") or ""
            kind = types.MessageType.Error if "error" in found else types.MessageType.Info
            self.server.window_show_message(types.ShowMessageParams(kind, said))
            if found.get("sure") and name == "daedal.fix":
                self.replace(uri, source, found["code"])
            return found

        return run

    def work(self, name: str, source: str, problem: str) -> dict[str, Any]:
        """What a command answers with. The sandbox starts in some milliseconds."""
        with Coder(self.pipeline, Sandbox()) as coder:
            if name == "daedal.explain":
                return {"text": coder.explain(source)}
            if name == "daedal.test":
                return coder.tests(source).as_dict()
            return coder.fix(source, problem).as_dict()

    def replace(self, uri: str, old: str, new: str) -> None:
        end = types.Position(old.count("\n") + 1, 0)
        edit = types.TextEdit(types.Range(types.Position(0, 0), end), new)
        change = types.WorkspaceEdit(changes={uri: [edit]})
        self.server.workspace_apply_edit(types.ApplyWorkspaceEditParams(change))
