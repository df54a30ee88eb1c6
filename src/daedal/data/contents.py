"""What data hold, as a digest: data are the same wherever they lie, and other data once a byte
changes.

A field of a settings model that names data is annotated `DataPath`; `plain` then compares models by
what such fields lead to. Digests of large files are kept on disk by size and time of change."""

import hashlib
import json
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel

from daedal import device

CONTENTS = "compared by contents"
DataPath = Annotated[str, CONTENTS]
GENERATED = re.compile(r"(tales|programs|tasks|scenes)(:|$)")  # made by daedal.worlds, not read
LARGE = 2**20  # bytes of a file whose digest is worth keeping


def plain(value: Any) -> Any:
    """A value as JSON holds it, data paths as digests."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return {
            name: digest(getattr(value, name)) if CONTENTS in field.metadata else plain(getattr(value, name))
            for name, field in fields.items()
        }  # fmt: skip
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


def root(path: str) -> Path:
    """Where data lie on this machine; those of `hub:owner/name` are downloaded."""
    if not path.startswith("hub:"):
        return Path(path).expanduser()
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(path.removeprefix("hub:"), repo_type="dataset"))


def digest(path: str) -> str:
    """Of a file's bytes, or of all files of a folder with their places in it. The path itself for
    data that are generated, and for data that are not there, of which their reader will speak."""
    if GENERATED.match(path) or not (place := root(path)).exists():
        return path
    if place.is_file():
        return of_file(place)
    found = hashlib.blake2b(digest_size=16)
    for file in sorted(place.rglob("*")):
        inside = file.relative_to(place)
        if file.is_file() and not any(part.startswith(".") for part in inside.parts):
            found.update(f"{inside.as_posix()}\0{of_file(file)}\0".encode())
    return found.hexdigest()


def of_file(path: Path) -> str:
    stat = path.stat()
    return of_bytes(str(path.resolve()), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=100_000)
def of_bytes(path: str, size: int, changed: int) -> str:
    """The digest of a file of this size, last changed then (nanoseconds)."""
    kept = (
        device.cache_folder()
        / "digests"
        / hashlib.blake2b(f"{path}\0{size}\0{changed}".encode(), digest_size=16).hexdigest()
    )
    if size >= LARGE and kept.is_file():
        return kept.read_text()
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    if size >= LARGE:
        keep(kept, found)
    return found


def keep(file: Path, text: str) -> None:
    """Write a file of the cache at once; a cache that cannot be written costs time, no more."""
    partial = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text)
        os.replace(partial, file)
    except OSError:
        partial.unlink(missing_ok=True)


def mark(*values: Any) -> str:
    """A few letters that are others when any of these values is, or the data that they name: for
    the names of files that are made from them."""
    return hashlib.sha256(
        json.dumps([plain(value) for value in values], default=str).encode()
    ).hexdigest()[:8]
