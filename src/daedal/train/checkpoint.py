"""Training state on disk: one file a checkpoint, written beside and renamed, so that a kill at any
instant leaves a whole one."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from daedal.data import contents
from daedal.errors import DaedalError
from daedal.train.recipe.base import FIXED, FIXED_PRESENCE, Run, Section, marks_of

KEEP = 2  # the newest checkpoints that stay


def save(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write `folder/step-000100.pt` atomically; older ones beyond KEEP go. An OSError (full disk)
    leaves the older ones as they were."""
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


def resume(recipe: Run, now: dict[str, Any]) -> dict[str, Any] | None:
    """The checkpoint that a run goes on from, or None. One that was made from something else than
    `now` (see `fixed`) is an error; steps, rates, weights of terms and how a run is watched may
    change."""
    state = newest(Path(recipe.out) / "checkpoints")
    if state:
        if "fixed" not in state:
            raise DaedalError(
                f"{recipe.out} holds a run of an earlier version of Daedal; give a new out=, or delete it to start over."
            )
        before = state["fixed"].items()
        other = next((key for key, value in before if now.get(key, value) != value), None)
        if other:
            what = f"{other} (files or their contents)" if other == "data" else other
            raise DaedalError(
                f"{recipe.out} holds a run with another {what}; "
                f"give a new out=, or delete {Path(recipe.out) / 'checkpoints'} to start over."
            )
    return state


def fixed(recipe: BaseModel) -> dict[str, Any]:
    """What a run may not change when it resumes, as its fields say
    (daedal.train.recipe.base.Fixed)."""
    found: dict[str, Any] = {"task": recipe.task} if hasattr(recipe, "task") else {}
    for name in type(recipe).model_fields:
        value, marks = getattr(recipe, name), marks_of(type(recipe), name)
        if FIXED in marks:
            found[name] = json.loads(json.dumps(contents.plain(value)))
        elif FIXED_PRESENCE in marks:
            found[f"{name} (or none)"] = bool(value)
        elif isinstance(value, Section):
            found |= {f"{name}.{key}": inner for key, inner in fixed(value).items()}
    return found


def newest(folder: Path) -> dict[str, Any] | None:
    """The latest checkpoint that opens (tensors and plain values only), or None."""
    for path in reversed(checkpoints(folder)):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError):
            continue  # truncated by a failing disk: the one before is whole
    return None
