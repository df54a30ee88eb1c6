"""Training state on disk: one file a checkpoint, written beside and renamed, so that a kill at any instant leaves a whole one."""

import os
from pathlib import Path
from typing import Any

import torch

KEEP = 2  # the newest checkpoints that stay


def save(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write `folder/step-000100.pt` atomically; older ones beyond KEEP go. An OSError (full disk) leaves the older ones as they were."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".step-{step:08d}.{os.getpid()}.partial"
    try:
        with open(partial, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, folder / f"step-{step:08d}.pt")
    finally:
        partial.unlink(missing_ok=True)
    for old in checkpoints(folder)[:-KEEP]:
        old.unlink(missing_ok=True)


def checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.pt"))


def newest(folder: Path) -> dict[str, Any] | None:
    """The latest checkpoint that opens (tensors and plain values only), or None."""
    for path in reversed(checkpoints(folder)):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError):
            continue  # truncated by a failing disk: the one before is whole
    return None
