"""Ids to text one at a time, for streaming: never half a character, never a lost leading space,
constant work a token.

A byte-level token is a string of bytes and a SentencePiece token is one too, so decoding is joining
bytes and an incremental UTF-8 decoder. Only the few tokenizers that are neither (WordPiece) are
decoded through a short window of the last tokens."""

import codecs
import json
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from daedal.data.tokenizer import Tokenizer

SPACE = "▁"
WINDOW = 6  # tokens of context when a decoder is not one of bytes


@lru_cache(maxsize=1)
def byte_of() -> dict[str, int]:
    """GPT-2's alphabet, character to byte: printable Latin-1 stands for itself, the other 68 bytes
    for U+0100 and on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(rest)}


def _kind(decoder: dict | None) -> tuple[str, bool]:
    """('bytes' | 'pieces' | 'other', whether a text's first space is the dummy one) of a
    tokenizer.json's decoder."""
    if decoder is None:
        return "other", False
    steps = decoder.get("decoders", [decoder])
    names = {step["type"] for step in steps}
    if "ByteLevel" in names:
        return "bytes", False
    metaspace = next((step for step in steps if step["type"] == "Metaspace"), None)
    if metaspace:
        return "pieces", metaspace.get("prepend_scheme", "always") != "never"
    if names <= {"Replace", "ByteFallback", "Fuse", "Strip"} and "Replace" in names:
        return "pieces", any(step["type"] == "Strip" and step["start"] for step in steps)
    return "other", False


class TokenBytes:
    """The bytes of every token of one tokenizer: `table[id]`, made when first asked for."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        decoder = tokenizer.backend.decoder
        self.kind, self.strips = _kind(json.loads(decoder.__getstate__()) if decoder else None)
        self._token = tokenizer.backend.id_to_token
        self._added = tokenizer.backend.get_added_tokens_decoder()
        self._table: dict[int, bytes] = {}

    def __getitem__(self, index: int) -> bytes:
        if index not in self._table:
            self._table[index] = self._bytes(index)
        return self._table[index]

    def _bytes(self, index: int) -> bytes:
        text = self._token(index)
        if text is None:
            return b""
        if index in self._added and self.kind == "bytes":
            return text.encode("utf-8")
        if self.kind == "bytes":
            table = byte_of()
            if all(c in table for c in text):
                return bytes(table[c] for c in text)
            return text.encode("utf-8")
        if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            return bytes.fromhex(text[3:5])
        return text.replace(SPACE, " ").encode("utf-8")


def token_bytes(tokenizer: "Tokenizer") -> TokenBytes:
    """The table of a tokenizer, made once and kept on it."""
    if "bytes" not in tokenizer.derived:
        tokenizer.derived["bytes"] = TokenBytes(tokenizer)
    return tokenizer.derived["bytes"]


class Detokenizer:
    """`push(id)` returns the text that this token completes (perhaps none yet); `flush()` returns
    what is left at the end.

    `prompt`: the ids that came before. With a prompt the text goes on in the middle of a sentence,
    so its first space is a real one."""

    def __init__(
        self, tokenizer: "Tokenizer", prompt: Sequence[int] = (), *, skip_special: bool = True
    ) -> None:
        self._bytes = token_bytes(tokenizer)
        self._skip = tokenizer.special_ids if skip_special else frozenset()
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._strip = self._bytes.strips and all(i in tokenizer.special_ids for i in prompt)
        self._backend = tokenizer.backend
        self._window = [i for i in prompt[-WINDOW:] if i not in self._skip]
        self._shown = self._decode_window()

    def push(self, index: int) -> str:
        if index in self._skip:
            return ""
        if self._bytes.kind == "other":
            return self._push_window(index)
        text = self._utf8.decode(self._bytes[index])
        if self._strip and text:
            self._strip = False
            text = text.removeprefix(" ")
        return text

    def flush(self) -> str:
        return self._utf8.decode(b"", final=True)

    def _decode_window(self) -> str:
        if self._bytes.kind == "other":
            return self._backend.decode(self._window, skip_special_tokens=False)
        return ""

    def _push_window(self, index: int) -> str:
        self._window.append(index)
        whole = self._decode_window()
        text = whole[len(self._shown) :]
        if len(self._window) > 2 * WINDOW:
            del self._window[:-WINDOW]
            whole = self._decode_window()
        self._shown = whole
        return text
