"""The tensors and nodes of an ONNX file, read without the onnx package: the file is one protobuf
message (ModelProto > GraphProto), of which the few fields that weights need are parsed."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from daedal.errors import DaedalError

MODEL_GRAPH, GRAPH_NODE, GRAPH_TENSOR = 7, 1, 5  # field numbers of onnx.proto
DTYPES = {1: np.float32, 6: np.int32, 7: np.int64, 10: np.float16, 11: np.float64}
Field = tuple[int, int | memoryview]


@dataclass
class Node:
    """An operation: its kind, the names of its inputs, and those of its attributes that are lists
    of integers."""

    name: str = ""
    kind: str = ""
    inputs: list[str] = field(default_factory=list)
    numbers: dict[str, list[int]] = field(default_factory=dict)


def read(path: Path) -> tuple[dict[str, np.ndarray], list[Node]]:
    """Name -> weight of an ONNX file, and its nodes in order. Raises DaedalError for a file that is
    none."""
    try:
        data = memoryview(path.read_bytes())
        graph = next(value for number, value in fields(data) if number == MODEL_GRAPH)
        parts = list(fields(graph))  # type: ignore[arg-type]
        found = (tensor(value) for number, value in parts if number == GRAPH_TENSOR)  # type: ignore[arg-type]
        nodes = [node(value) for number, value in parts if number == GRAPH_NODE]  # type: ignore[arg-type]
        return {name: array for name, array in found if array is not None}, nodes
    except (IndexError, StopIteration, ValueError, struct.error):
        raise DaedalError(
            f"{path} is no ONNX file, or only part of one; download it again."
        ) from None


def fields(data: memoryview) -> Iterator[Field]:
    """(number, value) of a protobuf message: an int, or the bytes of all other kinds."""
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


def varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def integers(value: int | memoryview) -> list[int]:
    """A repeated integer, packed or not."""
    if isinstance(value, int):
        return [value]
    found, at = [], 0
    while at < len(value):
        number, at = varint(value, at)
        found.append(number)
    return found


def tensor(data: int | memoryview) -> tuple[str, np.ndarray | None]:
    """The name and values of a TensorProto; None for kinds that are no numbers."""
    name, shape, raw, dtype = "", list[int](), memoryview(b""), 0
    for number, value in fields(data):  # type: ignore[arg-type]
        if number == 1:
            shape += integers(value)
        elif number == 2:
            dtype = int(value)  # type: ignore[arg-type]
        elif number == 8:
            name = bytes(value).decode()  # type: ignore[arg-type]
        elif number in (4, 9):  # float_data, raw_data
            raw = value  # type: ignore[assignment]
    if dtype not in DTYPES or (not len(raw) and np.prod(shape)):
        return name, None
    return name, np.frombuffer(raw, DTYPES[dtype]).reshape(shape)


def node(data: int | memoryview) -> Node:
    """A NodeProto."""
    made = Node()
    for number, value in fields(data):  # type: ignore[arg-type]
        if number == 1:
            made.inputs.append(bytes(value).decode())  # type: ignore[arg-type]
        elif number == 3:
            made.name = bytes(value).decode()  # type: ignore[arg-type]
        elif number == 4:
            made.kind = bytes(value).decode()  # type: ignore[arg-type]
        elif number == 5:
            parts = list(fields(value))  # type: ignore[arg-type]
            name = next((bytes(each).decode() for key, each in parts if key == 1), "")  # type: ignore[arg-type]
            made.numbers[name] = [n for key, each in parts if key == 8 for n in integers(each)]
    return made
