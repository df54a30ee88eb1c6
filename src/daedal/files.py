"""Files written whole or not at all, and where those lie that can be made again."""

import os
import secrets
from pathlib import Path

from daedal.errors import DaedalError, nearest


def check_writable(path: Path, suffixes: tuple[str, ...] = ()) -> None:
    """Before long work: whether its result can be written under this name, which ends in one of
    `suffixes` if there are any."""
    if suffixes and path.suffix.lower() not in suffixes:
        raise DaedalError(
            f"{path.name!r} does not end in {', '.join(suffixes)}{nearest(path.suffix, list(suffixes))}; give a name that does."
        )
    if path.is_dir():
        raise DaedalError(f"{path} is a folder; give the name of a file in it.")
    folder = next(each for each in path.absolute().parents if each.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise DaedalError(f"{folder} is no folder that can be written; give another place.")


def write_whole(path: Path, data: bytes) -> None:
    """Write beside, wait for the disk, rename: at no instant is there half a file under this name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Where Daedal keeps what it can make again: measured peaks, built kernels. `DAEDAL_CACHE`
    moves it."""
    return Path(
        os.environ.get("DAEDAL_CACHE")
        or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "daedal"
    )
