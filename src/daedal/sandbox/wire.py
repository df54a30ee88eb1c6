"""Plain data as bytes, between the parent and a process that it does not trust.

A value is a tag byte and its content: None, bool, int (any size), float (NaN and infinities),
complex, str, bytes, list, tuple, deque, set, frozenset, dict. Nothing else exists here, so decoding
can build nothing else and calls no code of the sender: no pickle, no hooks, no `__eq__`. Values of
subclasses are written as their base (a Counter is a dict). Decoding is bounded in bytes, in depth
and in colliding keys.

A frame is a nonce of 16 bytes, a length, and a value. The nonce is the parent's and is new for each
call, so that what is written before its time answers nothing."""

import struct
from collections import deque
from collections.abc import Iterable
from typing import Any

NONCE_BYTES = 16
HEADER = struct.Struct("<16sI")
MAX_DEPTH = 100
SPARE_COLLISIONS = (
    64  # equal hashes among the keys of one set or dict; honest data has next to none
)
COUNT = struct.Struct("<I")
FLOAT = struct.Struct("<d")
COMPLEX = struct.Struct("<dd")
SINGLE = {b"N": None, b"T": True, b"F": False}
SEQUENCES: tuple[tuple[bytes, type], ...] = (
    (b"l", list),
    (b"t", tuple),
    (b"s", set),
    (b"z", frozenset),
    (b"q", deque),
)


class WireError(ValueError):
    """A value that is not plain data, or bytes that are not a value."""


def encode(value: Any, limit: int = 2**26) -> bytes:
    """The bytes of a value. WireError if it is not plain data or takes more than `limit` bytes."""
    out = bytearray()
    _write(out, value, limit, 0)
    return bytes(out)


def _write(out: bytearray, value: Any, limit: int, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise WireError(f"the value is nested deeper than {MAX_DEPTH}")
    content = _scalar(value)
    if content is not None:
        out += content
    elif isinstance(value, dict):
        flat = [part for pair in dict.items(value) for part in pair]
        _write_all(out, b"d", flat, len(flat) // 2, limit, depth)
    else:
        tag, kind = next(((t, k) for t, k in SEQUENCES if isinstance(value, k)), (b"", object))
        if not tag:
            raise WireError(f"a value of type {type(value).__name__!r} is not plain data")
        items = list(kind.__iter__(value))  # type: ignore[attr-defined]
        _write_all(out, tag, items, len(items), limit, depth)
    if len(out) > limit:
        raise WireError(f"the value takes more than {limit} bytes")


def _write_all(
    out: bytearray, tag: bytes, items: Iterable[Any], count: int, limit: int, depth: int
) -> None:
    out += tag + COUNT.pack(count)
    for item in items:
        _write(out, item, limit, depth + 1)


def _scalar(value: Any) -> bytes | None:
    """The bytes of a value without parts, else None."""
    if value is None:
        return b"N"
    if value is True or value is False:
        return b"T" if value else b"F"
    if isinstance(value, int):
        size = (int.bit_length(value) + 8) // 8
        return _counted(b"i", int.to_bytes(value, size, "little", signed=True))
    if isinstance(value, float):
        return b"f" + FLOAT.pack(value)
    if isinstance(value, complex):
        return b"c" + COMPLEX.pack(value.real, value.imag)
    if isinstance(value, str):
        return _counted(b"u", str.encode(value, "utf-8", "surrogatepass"))
    if isinstance(value, bytes | bytearray):
        return _counted(b"b", bytes(value))
    return None


def _counted(tag: bytes, content: bytes) -> bytes:
    return tag + COUNT.pack(len(content)) + content


def decode(data: bytes) -> Any:
    """The value of these bytes, all of them. WireError for anything else."""
    reader = _Reader(data)
    value = reader.value(0)
    if reader.at != len(data):
        raise WireError(f"{len(data) - reader.at} bytes follow the value")
    return value


class _Reader:
    def __init__(self, data: bytes):
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self.data):
            raise WireError("the value is cut off")
        part = self.data[self.at : end]
        self.at = end
        return part

    def count(self) -> int:
        return int(COUNT.unpack(self.take(4))[0])

    def value(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise WireError(f"the value is nested deeper than {MAX_DEPTH}")
        tag = self.take(1)
        if tag in SINGLE:
            return SINGLE[tag]
        if tag == b"i":
            return int.from_bytes(self.take(self.count()), "little", signed=True)
        if tag == b"f":
            return FLOAT.unpack(self.take(8))[0]
        if tag == b"c":
            return complex(*COMPLEX.unpack(self.take(16)))
        if tag == b"u":
            return self.text()
        if tag == b"b":
            return self.take(self.count())
        return self.container(tag, depth)

    def text(self) -> str:
        try:
            return self.take(self.count()).decode("utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            raise WireError("a text is not UTF-8") from error

    def container(self, tag: bytes, depth: int) -> Any:
        kind = dict if tag == b"d" else dict(SEQUENCES).get(tag)
        if kind is None:
            raise WireError(f"{tag!r} is no tag")
        count = self.count()
        parts = [self.value(depth + 1) for _ in range(count * 2 if kind is dict else count)]
        if kind in (list, tuple, deque):
            return kind(parts)
        keys = parts[::2] if kind is dict else parts
        _check_keys(keys)
        return dict(zip(keys, parts[1::2], strict=True)) if kind is dict else kind(keys)


def _check_keys(keys: list[Any]) -> None:
    """Refuse keys that have no hash, and those made to collide: n of them cost n * n
    comparisons."""
    try:
        distinct = len({hash(key) for key in keys})
    except TypeError as error:
        raise WireError(f"a key has no hash: {error}") from error
    if len(keys) - distinct > SPARE_COLLISIONS:
        raise WireError(f"{len(keys) - distinct} keys collide")


def frame(nonce: bytes, value: Any, limit: int = 2**26) -> bytes:
    """A value ready to be sent."""
    content = encode(value, limit)
    return HEADER.pack(nonce, len(content)) + content


def unframe(buffer: bytearray, nonce: bytes, limit: int) -> tuple[bool, Any]:
    """(whether a whole frame has come, its value). WireError if what has come is no frame of this
    nonce and size, or more than one."""
    if len(buffer) < HEADER.size:
        return False, None
    got, size = HEADER.unpack_from(buffer)
    if got != nonce:
        raise WireError("an answer does not carry its call's nonce")
    if size > limit:
        raise WireError(f"an answer takes more than {limit} bytes")
    if len(buffer) > HEADER.size + size:
        raise WireError("more was written than one answer")
    if len(buffer) < HEADER.size + size:
        return False, None
    return True, decode(bytes(buffer[HEADER.size :]))
