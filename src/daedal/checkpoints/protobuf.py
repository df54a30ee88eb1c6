"""Protobuf messages as fields, for formats of which a few are needed (ONNX, SentencePiece):
https://protobuf.dev/programming-guides/encoding."""

from collections.abc import Iterator
from typing import Any

Data = bytes | memoryview


def fields(data: Data) -> Iterator[tuple[int, Any]]:
    """(number, value) of a message: an int, or the bytes of all other kinds, as a slice of `data`.
    ValueError or IndexError for what is no message, or a part of one."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = varint(data, at)
            yield key >> 3, value
            continue
        size = {1: 8, 5: 4}.get(kind)
        if size is None and kind != 2:
            raise ValueError(f"wire type {kind}")
        if size is None:
            size, at = varint(data, at)
        if at + size > len(data):
            raise ValueError("the message ends early")
        yield key >> 3, data[at : at + size]
        at += size


def varint(data: Data, at: int) -> tuple[int, int]:
    """The integer at a place, and the place behind it."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def integers(value: int | Data) -> list[int]:
    """A repeated integer, packed or not."""
    if isinstance(value, int):
        return [value]
    found, at = [], 0
    while at < len(value):
        number, at = varint(value, at)
        found.append(number)
    return found
