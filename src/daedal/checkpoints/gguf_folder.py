"""A GGUF file as a model folder: `opened("x.gguf")` is a folder in the cache with the config.json and
generation_config.json of its metadata, an index of its tensors, and links to its parts.

So whoever takes a folder takes a GGUF file: there is one place where a name becomes a folder
(`checkpoints.resolve`). The folder is made once and named after the file's path, size and time of
change. Its tokenizer.json is written by `Tokenizer.load`, which lives on a floor above.
"""

import dataclasses
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from daedal.checkpoints import gguf_config, gguf_file, gguf_names
from daedal.errors import DaedalError
from daedal.files import cache_folder
from daedal.networks import config_from_dict

INDEX = "gguf.index"  # no companion of weights that are written as a folder
SUFFIX = ".gguf"


def holds(folder: Path) -> bool:
    """Whether a folder is one that was opened here."""
    return (folder / INDEX).is_file()


def is_gguf(path: Path) -> bool:
    """Whether a path is that of a GGUF file, by its name."""
    return path.suffix == SUFFIX and path.is_file()


def folder_of(path: str | Path) -> Path:
    """The folder of a GGUF file, or of a folder that holds one and no config.json; any other path as
    it is."""
    path = Path(path)
    if is_gguf(path):
        return opened(path)
    if path.is_dir() and not (path / "config.json").exists() and any(path.glob("*.gguf")):
        return opened(only(path))
    return path


def only(folder: Path) -> Path:
    """The one model among the GGUF files of a folder."""
    firsts = sorted({gguf_file.parts_of(file)[0] for file in folder.glob("*.gguf")})
    if len(firsts) > 1:
        raise DaedalError(
            f"{folder} holds {len(firsts)} GGUF models ({', '.join(file.name for file in firsts)}); give the file of one."
        )
    return firsts[0]


def opened(path: Path) -> Path:
    """The folder of a file, made if there is none."""
    parts = [part.resolve() for part in gguf_file.parts_of(path)]
    stamp = [[str(part), (s := part.stat()).st_size, s.st_mtime_ns] for part in parts]
    mark = hashlib.sha256(json.dumps([stamp, code()]).encode()).hexdigest()[:12]
    folder = writable() / f"{path.stem}-{mark}"
    return folder if holds(folder) else make(parts[0], folder)


@cache
def code() -> str:
    """Of the modules that fill such a folder: another version makes another."""
    here = Path(__file__)
    files = sorted([*here.parent.glob("gguf_*.py"), *here.parent.parent.glob("data/gguf_*.py")])
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


@cache
def writable() -> Path:
    """Where such folders are: the cache, or where that cannot be written a temporary folder."""
    place = cache_folder() / "gguf"
    try:
        place.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=place).close()
    except OSError:
        return Path(tempfile.mkdtemp(prefix="daedal-gguf-"))
    return place


def make(first: Path, folder: Path) -> Path:
    """Fill a folder beside and move it into place; if somebody else did meanwhile, theirs."""
    file = gguf_file.read(first)
    config = gguf_config.config_of(file)
    config_from_dict(config)  # says what is missing
    if kinds := gguf_names.kinds(file, config):
        config["quantization_config"] = {"quant_method": "gguf", "kinds": kinds}
    entries = {name: dataclasses.astuple(entry) for name, entry in file.entries.items()}
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.partial")
    partial.mkdir(parents=True)
    try:
        write(partial / "config.json", config)
        write(partial / "generation_config.json", gguf_config.generation_config(file))
        write(partial / INDEX, {"parts": [part.name for part in file.parts], "tensors": entries,
                                "architecture": file.metadata["general.architecture"]})  # fmt: skip
        for part in file.parts:
            link(part, partial / part.name)
        os.replace(partial, folder)
    except OSError:
        if not holds(folder):
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def link(file: Path, at: Path) -> None:
    try:
        at.symlink_to(file)
    except OSError:  # Windows without developer mode
        os.link(file, at)


def file_of(folder: Path) -> gguf_file.File:
    """The file of such a folder, by its index: with no metadata but the architecture."""
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    entries = {
        name: gguf_file.Entry(part, kind, tuple(shape), offset, size)
        for name, (part, kind, shape, offset, size) in index["tensors"].items()
    }
    parts = tuple((folder / part).resolve() for part in index["parts"])
    return gguf_file.File(parts, {"general.architecture": index["architecture"]}, entries)


def source_of(folder: Path) -> Path:
    """The file that a folder was made of here; any other folder itself."""
    if not holds(folder):
        return folder
    return (folder / json.loads((folder / INDEX).read_text(encoding="utf-8"))["parts"][0]).resolve()
