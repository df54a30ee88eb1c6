"""The tensors and nodes of an ONNX file, read without the onnx package: the file is one protobuf
message (ModelProto > GraphProto), of which the few fields that weights need are parsed."""

import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from daedal.checkpoints.protobuf import fields, integers
from daedal.errors import DaedalError

MODEL_GRAPH, GRAPH_NODE, GRAPH_TENSOR = 7, 1, 5  # field numbers of onnx.proto
DTYPES = {1: np.float32, 6: np.int32, 7: np.int64, 10: np.float16, 11: np.float64}


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
        parts = list(fields(graph))
        found = (tensor(value) for number, value in parts if number == GRAPH_TENSOR)
        nodes = [node(value) for number, value in parts if number == GRAPH_NODE]
        return {name: array for name, array in found if array is not None}, nodes
    except (IndexError, StopIteration, ValueError, struct.error):
        raise DaedalError(
            f"{path} is no ONNX file, or only part of one; download it again."
        ) from None


def tensor(data: memoryview) -> tuple[str, np.ndarray | None]:
    """The name and values of a TensorProto; None for kinds that are no numbers."""
    name, shape, raw, dtype = "", list[int](), memoryview(b""), 0
    for number, value in fields(data):
        if number == 1:
            shape += integers(value)
        elif number == 2:
            dtype = value
        elif number == 8:
            name = bytes(value).decode()
        elif number in (4, 9):  # float_data, raw_data
            raw = value
    if dtype not in DTYPES or (not len(raw) and np.prod(shape)):
        return name, None
    return name, np.frombuffer(raw, DTYPES[dtype]).reshape(shape)


def node(data: memoryview) -> Node:
    """A NodeProto."""
    made = Node()
    for number, value in fields(data):
        if number == 1:
            made.inputs.append(bytes(value).decode())
        elif number == 3:
            made.name = bytes(value).decode()
        elif number == 4:
            made.kind = bytes(value).decode()
        elif number == 5:
            parts = list(fields(value))
            name = next((bytes(each).decode() for key, each in parts if key == 1), "")
            made.numbers[name] = [n for key, each in parts if key == 8 for n in integers(each)]
    return made
