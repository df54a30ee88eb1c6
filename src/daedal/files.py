"""Files written whole or not at all, and where those lie that can be made again."""

import os
import secrets
from collections.abc import Callable
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


def data_folder() -> Path:
    """Where Daedal keeps what cannot be made again: the history, keys. `XDG_DATA_HOME` moves it."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "daedal"


def private_file(name: str, make: Callable[[], bytes]) -> bytes:
    """What a file of the data folder holds that only its owner reads (mode 0600). `make` gives the
    bytes the first time; of several processes that make it at once, one wins and all read that."""
    path = data_folder() / name
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{name}.{secrets.token_hex(4)}.partial")
            _write_private(partial, make())
            try:
                os.link(partial, path)
            except FileExistsError:
                pass
            finally:
                partial.unlink()
        return path.read_bytes()
    except OSError as error:
        raise DaedalError(
            f"the private file {path} cannot be used ({error}); make its folder writable, or set XDG_DATA_HOME to another."
        ) from None


def _write_private(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
