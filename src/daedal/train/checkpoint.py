"""Training state on disk: one file a checkpoint, written beside and renamed, so that a kill at any instant leaves a whole one."""

import json
import os
from pathlib import Path
from typing import Any

import torch

from daedal.errors import DaedalError
from daedal.train.recipe.base import Run

KEEP = 2  # the newest checkpoints that stay
FIXED = (  # what a run may not change when it goes on: what its state is made of, and what it learns from
    "task", "kind", "method", "model", "tokenizer", "codec", "data", "classes", "side", "options", "critic_options", "critic_width", "vocab_size",
    "text_length", "rows", "seed", "uncertainty", "align_to", "averages", "start", "adapter", "context", "sampled",
    "task_pairs",
)  # fmt: skip
KEPT = ("ema", "align", "adversarial")  # whether there is one: these bring a state with them


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


def resume(recipe: Run) -> dict[str, Any] | None:
    """The checkpoint that a run goes on from, or None. One of a run with another model, data or kind of optimizer is an error; steps, rates,
    weights of terms and how a run is watched may change."""
    state = newest(Path(recipe.out) / "checkpoints")
    if state:
        before, now = (fixed(json.loads(text)) for text in (state["recipe"], recipe.model_dump_json()))
        for key in before:
            if key in now and before[key] != now[key]:
                raise DaedalError(
                    f"{recipe.out} holds a run with another {key}; give a new out=, or delete {Path(recipe.out) / 'checkpoints'} to start over."
                )
    return state


def fixed(recipe: dict[str, Any]) -> dict[str, Any]:
    held = {key: recipe[key] for key in FIXED if key in recipe}
    return held | {"optimizer.name": recipe["optimizer"]["name"]} | {f"{key} (or none)": bool(recipe[key]) for key in KEPT if key in recipe}


def newest(folder: Path) -> dict[str, Any] | None:
    """The latest checkpoint that opens (tensors and plain values only), or None."""
    for path in reversed(checkpoints(folder)):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError):
            continue  # truncated by a failing disk: the one before is whole
    return None
