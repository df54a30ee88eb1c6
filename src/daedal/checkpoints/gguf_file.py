"""GGUF files, the format of llama.cpp (ggml's docs/gguf.md, versions 2 and 3): metadata by key, and
where each tensor lies.

    file = read("model-Q4_K_M.gguf")           # or any part of model-00001-of-00003.gguf
    file.metadata["general.architecture"]      # "qwen2"
    file.raw("blk.0.attn_q.weight")            # uint8 (N, bytes of a row), a map of the file

The header is parsed here: the `gguf` package's own reader makes an array of every string, which
takes 9 s for a vocabulary of 150 thousand tokens (this one 0.1 s).
"""

import math
import mmap
import re
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from daedal.errors import DaedalError
from daedal.nn.blocks import KINDS, unpack

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
FLOAT32, STRING, ARRAY = 6, 8, 9
PLAIN = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
# ggml's number of a type -> its name, weights and bytes of a block
TYPES = {0: ("f32", 1, 4), 1: ("f16", 1, 2), 30: ("bf16", 1, 2)} | {
    kind.number: (name, kind.weights, kind.size) for name, kind in KINDS.items()
}
SPLIT = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies: in which part, of which kind ("q4_k"), its shape as torch says it
    (outputs first), its first byte and how many there are."""

    part: int
    kind: str
    shape: tuple[int, ...]
    offset: int
    size: int


@dataclass(frozen=True)
class File:
    """A GGUF file, or several parts of one."""

    parts: tuple[Path, ...]
    metadata: dict[str, Any]
    entries: dict[str, Entry]

    def raw(self, name: str) -> Tensor:
        """The bytes of a tensor, a row on the last axis: uint8 (..., bytes of a row)."""
        entry = self.entries[name]
        data = mapped(self.parts[entry.part])[entry.offset : entry.offset + entry.size]
        return torch.from_numpy(data).view(*entry.shape[:-1], -1)


@lru_cache(maxsize=64)
def mapped(path: Path) -> np.ndarray:
    """The bytes of a file, private to who writes into them."""
    return np.memmap(path, dtype=np.uint8, mode="c")


def dense(raw: Tensor, kind: str) -> Tensor:
    """The values of raw rows, uint8 (..., bytes of a row) -> (..., K): floating point as it is
    stored, blocks in fp32."""
    if kind in PLAIN:
        return raw.contiguous().view(PLAIN[kind])
    return unpack(raw.flatten(0, -2), kind).unflatten(0, raw.shape[:-1])


# Reading.


def read(path: str | Path) -> File:
    """The metadata and tensors of a file, of all its parts if it is one of several. A file that is
    none, or not whole, and a kind of tensor that is not read are errors."""
    parts = parts_of(Path(path))
    metadata, entries = dict[str, Any](), dict[str, Entry]()
    for index, part in enumerate(parts):
        found, tensors = header(part)
        metadata = metadata or found  # the first part has all of it
        entries |= {info[0]: entry_of(part, index, info) for info in tensors}
    return File(parts, metadata, entries)


def parts_of(path: Path) -> tuple[Path, ...]:
    """All parts of the file that this one is a part of, in order."""
    split = SPLIT.fullmatch(path.name)
    if not split:
        return (path,)
    stem, _, count = split.groups()
    parts = [path.with_name(f"{stem}-{i:05d}-of-{count}.gguf") for i in range(1, int(count) + 1)]
    if absent := [part.name for part in parts if not part.is_file()]:
        raise DaedalError(
            f"{path} is one of {int(count)} parts, and {', '.join(absent)} is not beside it; download the missing part."
        )
    return tuple(parts)


Info = tuple[str, int, tuple[int, ...], int]  # name, ggml's number of the type, shape, first byte


def header(path: Path) -> tuple[dict[str, Any], list[Info]]:
    """The metadata of one file and its tensors."""
    with path.open("rb") as file:
        start = file.read(8)
        if start[:4] != MAGIC:
            raise DaedalError(
                f"{path} is not a GGUF file (it starts with {start[:4]!r}); download it again, or give the model's folder."
            )
        version = int.from_bytes(start[4:], "little")
        if len(start) == 8 and version not in VERSIONS:
            raise DaedalError(
                f"{path} is GGUF version {version}, and Daedal reads {VERSIONS[0]} and {VERSIONS[1]}, little-endian; convert the model again."
            )
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        return Reader(data).header()
    except (struct.error, ValueError, OverflowError):
        raise truncated(path) from None


def truncated(path: Path) -> DaedalError:
    return DaedalError(f"{path} is truncated or damaged; download it again.")


class Reader:
    """Reads values one after another."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 8  # after magic and version

    def header(self) -> tuple[dict[str, Any], list[Info]]:
        tensors, pairs = self.number("Q"), self.number("Q")
        metadata = dict(self.pair() for _ in range(pairs))
        infos = [self.info() for _ in range(tensors)]
        start = -self.at % int(metadata.get("general.alignment", 32)) + self.at
        return metadata, [(name, kind, shape, start + at) for name, kind, shape, at in infos]

    def number(self, code: str) -> Any:
        (value,) = struct.unpack_from(f"<{code}", self.data, self.at)
        self.at += struct.calcsize(f"<{code}")
        return value

    def text(self) -> str:
        size = self.number("Q")
        if self.at + size > len(self.data):
            raise ValueError
        self.at += size
        return self.data[self.at - size : self.at].decode("utf-8", "replace")

    def texts(self, count: int) -> list[str]:
        """As `text`, for the hundreds of thousands of a vocabulary: in one loop, 3x as fast."""
        data, at, length, found = self.data, self.at, struct.Struct("<Q").unpack_from, list[str]()
        for _ in range(count):
            end = at + 8 + length(data, at)[0]
            found.append(data[at + 8 : end].decode("utf-8", "replace"))
            at = end
        if at > len(data):
            raise ValueError
        self.at = at
        return found

    def pair(self) -> tuple[str, Any]:
        return self.text(), self.value(self.number("I"))

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            return self.array(self.number("I"), self.number("Q"))
        value = self.number(code_of(kind))
        # the shortest decimal number that is this one in 32 bits: 1e-06, not 9.99999997e-07
        return float(str(np.float32(value))) if kind == FLOAT32 else value

    def array(self, kind: int, count: int) -> list[Any]:
        if kind == STRING:
            return self.texts(count)
        if kind == ARRAY:
            return [self.value(kind) for _ in range(count)]
        code = f"<{count}{code_of(kind)}"
        values = struct.unpack_from(code, self.data, self.at)
        self.at += struct.calcsize(code)
        return list(values)

    def info(self) -> Info:
        name = self.text()
        sizes = [self.number("Q") for _ in range(self.number("I"))]
        return name, self.number("I"), tuple(reversed(sizes)), self.number("Q")


def code_of(kind: int) -> str:
    if kind not in SCALARS:
        raise ValueError
    return SCALARS[kind]


def entry_of(path: Path, part: int, info: Info) -> Entry:
    """The entry of a tensor, if it is of a kind that is read and there to its end."""
    name, number, shape, offset = info
    kind, block, width = kind_of(path, name, number)
    size = math.prod(shape) // block * width
    if offset + size > path.stat().st_size or shape[-1] % block:
        raise truncated(path)
    return Entry(part, kind, shape, offset, size)


def kind_of(path: Path, name: str, number: int) -> tuple[str, int, int]:
    """(kind, weights of a block, bytes of a block) of ggml's number of a type."""
    if number not in TYPES:
        raise DaedalError(
            f"{path} holds {name} in type {called(number)}, which Daedal does not read; take a file of another type, such as Q4_K_M."
        )
    return TYPES[number]


def called(number: int) -> str:
    """ggml's name of a type that is not read."""
    from gguf import GGMLQuantizationType

    known = {int(kind): kind.name for kind in GGMLQuantizationType}
    return known.get(number, f"number {number}")
