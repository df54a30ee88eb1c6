"""`daedal lsp`: a language server for editors."""

import importlib.util

from daedal.cli.code import MODEL, chosen
from daedal.errors import DaedalError

CONTEXT = 4096  # tokens


def lsp(model: MODEL = None) -> None:
    """Complete code as you type, in any editor that speaks LSP (on standard input and output)."""
    if importlib.util.find_spec("pygls") is None:
        raise DaedalError('the language server needs pygls; pip install "daedal[editor]".')
    from daedal.assist.code.language_server import Editor
    from daedal.pipelines.text import load

    pipeline = load(chosen(model), context=CONTEXT)
    # any beginning of the file is shared from key to key, not only whole chunks of it, although the
    # last bits may then depend on what was asked before
    pipeline.serving |= {"exact_prefixes": False, "max_batch": 2}
    Editor(pipeline).server.start_io()
