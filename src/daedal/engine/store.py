"""The model store: what is loaded, what it takes, and who uses it. One budget for all of it.

    with STORE.lease(("controlnet", path), lambda: load(path)) as network:
        ...                                   # never unloaded within

What is leased stays. What is idle is kept for the next who asks and unloaded, the least recently
used first, when the budget is short. A model that somebody holds for as long as they like
(`daedal.load`) is adopted: it counts, and is not unloaded."""

import contextlib
import gc
import os
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from daedal import device as machine
from daedal.errors import DaedalError, NoRoom

SHARE = 0.8  # of the machine's memory, where no budget is given


@dataclass(eq=False)
class Entry:
    """A model in the store. `model` is None until it is loaded."""

    key: Hashable
    model: Any = None
    bytes: int = 0
    leases: int = 0
    used: float = 0.0  # when it was last given back
    loading: threading.Lock = field(default_factory=threading.Lock)


class ModelStore:
    """Models by key, within a budget of bytes (default: DAEDAL_MEMORY in GB, else a share of the
    machine's memory)."""

    def __init__(self, budget: int | None = None) -> None:
        self._budget = budget
        self._mutex = threading.Lock()
        self._entries: dict[Hashable, Entry] = {}
        self._adopted: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    @property
    def budget(self) -> int:
        """Bytes that all models together may take."""
        if self._budget is None:
            self._budget = budget_of(os.environ.get("DAEDAL_MEMORY"))
        return self._budget

    @property
    def used(self) -> int:
        """Bytes that are taken, by leased, idle and adopted models, and by what these hold beside
        their weights now (keys and values)."""
        models = [entry.model for entry in list(self._entries.values())] + list(self._adopted)
        held = sum(entry.bytes for entry in list(self._entries.values()))
        return held + sum(self._adopted.values()) + sum(map(working, models))

    @contextlib.contextmanager
    def lease(
        self, key: Hashable, load: Callable[[], Any] | None, expected: int = 0
    ) -> Iterator[Any]:
        """The model of a key, loaded by the first who asks; others wait for it. `expected`: its
        bytes, where they are known before. Without `load`, one that is not there is a KeyError."""
        with self._mutex:
            entry = self._entries.setdefault(key, Entry(key))
            entry.leases += 1
        try:
            with entry.loading:
                if entry.model is None:
                    if load is None:
                        raise KeyError(key)
                    self.make_room(expected)
                    model = load()
                    with self._mutex:
                        entry.model, entry.bytes = model, bytes_of(model)
                    self.make_room(0)
            yield entry.model
        finally:
            with self._mutex:
                entry.leases -= 1
                entry.used = time.monotonic()
                if entry.model is None and not entry.leases:  # it could not be loaded
                    self._entries.pop(key, None)

    def adopt(self, model: Any, expected: int | None = None) -> Any:
        """Count a model that its owner keeps, for as long as it lives; returns it."""
        size = bytes_of(model) if expected is None else expected
        self.make_room(0)
        with self._mutex:
            self._adopted[model] = size
        return model

    def make_room(self, need: int) -> None:
        """Unload idle models until `need` bytes more fit. If all that is left is in use, and more
        is needed, that is an error."""
        with self._mutex:
            idle = sorted((e for e in self._entries.values() if not e.leases), key=lambda e: e.used)
            dropped = []
            for entry in idle:
                if self.used + need <= self.budget:
                    break
                dropped.append(self._entries.pop(entry.key))
            short = self.used + need - self.budget
        if dropped:
            models = [weakref.ref(each.model) for each in dropped]
            del dropped, idle, entry
            if any(model() is not None for model in models):  # its parts refer to each other
                gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        if need and short > 0:
            raise NoRoom(
                f"the model needs {need / 1e9:.2f} GB, and {self.used / 1e9:.2f} of the {self.budget / 1e9:.2f} GB are in use; "
                "end what runs, or raise DAEDAL_MEMORY (GB)."
            )

    def drop(self, key: Hashable) -> bool:
        """Unload a model, unless it is in use; whether it is gone."""
        with self._mutex:
            entry = self._entries.get(key)
            if entry is not None and not entry.leases:
                del self._entries[key]
            gone = entry is None or not entry.leases
        del entry
        gc.collect()
        return gone

    def models(self) -> list[tuple[Hashable, int, int]]:
        """(key, bytes, leases) of what is loaded."""
        with self._mutex:
            return [
                (entry.key, entry.bytes, entry.leases)
                for entry in self._entries.values()
                if entry.model is not None
            ]


STORE = ModelStore()  # of this process


def budget_of(setting: str | None) -> int:
    """Bytes of DAEDAL_MEMORY, or of what the machine has."""
    if setting is None:
        return int(SHARE * machine.memory(machine.pick_device())[0])
    try:
        gigabytes = float(setting)
    except ValueError:
        gigabytes = 0.0
    if not gigabytes > 0:
        raise DaedalError(
            f"DAEDAL_MEMORY={setting!r} is not a number of GB; write for example DAEDAL_MEMORY=8."
        )
    return int(gigabytes * 1e9)


def working(model: Any) -> int:
    """Bytes that a model takes now beside its weights, where it says so (`working_bytes`)."""
    return getattr(model, "working_bytes", 0)


def bytes_of(model: Any) -> int:
    """Bytes of the parameters and buffers of a module, or of all modules that an object holds;
    shared ones count once."""
    seen: dict[int, int] = {}
    for module in modules_in(model):
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_meta:
                continue
            storage = tensor.untyped_storage()
            seen[storage.data_ptr() or id(tensor)] = storage.nbytes()
    return sum(seen.values())


def modules_in(thing: Any, depth: int = 3) -> Iterator[nn.Module]:
    """The modules among an object's attributes, and among those of what it holds."""
    if isinstance(thing, nn.Module):
        yield thing
    elif isinstance(thing, dict | list | tuple):
        for value in thing.values() if isinstance(thing, dict) else thing:
            yield from modules_in(value, depth)
    elif depth and hasattr(thing, "__dict__") and type(thing).__module__.startswith("daedal"):
        for value in vars(thing).values():
            yield from modules_in(value, depth - 1)


def stamp(path: str | Path) -> tuple[str, int]:
    """A key's part that changes when a file, or one of a folder's weights, does."""
    path = Path(path).resolve()
    if path.is_file():
        files = [path]
    else:
        files = [*path.glob("*.safetensors"), *path.glob("*/*.safetensors"), *path.glob("*.json")]
    return str(path), max((file.stat().st_mtime_ns for file in files), default=0)
