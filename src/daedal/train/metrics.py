"""What a run wrote down of itself, metrics.jsonl and evaluations.jsonl: read again, and drawn as
curves."""

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from daedal.errors import DaedalError
from daedal.media import images, plots

# what is drawn of each step, where a run has it
STEP = ("loss", "reward", "kl", "entropy", "length", "ended", "clipped")
POINTS = 100  # of a curve at most; each stands for the steps around it


def whole_lines(path: Path) -> list[str]:
    """Lines of a JSONL file, less one that a kill cut short."""
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("}\n")]


def curves(runs: Sequence[Path]) -> images.Pixels:
    """A panel of the loss, of what reinforcement learning watches, and of each evaluated number,
    with a line for each run: of a step's numbers the median and the middle half of the steps around
    a point, of an evaluation the value, in its 95 % interval where a standard error is known."""
    apart = len({run.name for run in runs}) == len(runs)
    named = {run.name if apart else str(run): run for run in runs}
    steps = {name: read(run / "metrics.jsonl") for name, run in named.items()}
    evaluations = {name: read(run / "evaluations.jsonl") for name, run in named.items()}
    if empty := [run for run, rows in steps.items() if not rows]:
        raise DaedalError(
            f"{empty[0]} has no metrics.jsonl; give the folder of a run, as `out` of its recipe names it."
        )
    panels = []
    for name in STEP:
        found = {run: [row for row in rows if name in row] for run, rows in steps.items()}
        watched = {run: smoothed(rows, name) for run, rows in found.items() if rows}
        panels += [plots.lines(watched, name, "step")] if watched else []
    keys = dict.fromkeys(key for rows in evaluations.values() for row in rows for key in row)
    for name in [key for key in keys if key not in ("step", "standard_error")]:
        found = {run: [row for row in rows if name in row] for run, rows in evaluations.items()}
        points = {run: [point(row, name) for row in rows] for run, rows in found.items() if rows}
        panels.append(plots.lines(points, name.replace("_", " "), "step"))
    return images.grid(panels)


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's file, without the numbers that are not finite (of earlier versions)."""
    rows = [json.loads(line) for line in whole_lines(path)] if path.exists() else []
    return [{key: value for key, value in row.items() if math.isfinite(value)} for row in rows]


def smoothed(rows: Sequence[dict[str, Any]], name: str) -> list[plots.Point]:
    width, points = -(-len(rows) // POINTS), list[plots.Point]()
    for start in range(0, len(rows), width):
        values = sorted(row[name] for row in rows[start : start + width])
        middle = (statistics.median(values), values[len(values) // 4], values[3 * len(values) // 4])
        points.append((rows[start : start + width][-1]["step"], middle))
    return points


def point(row: dict[str, Any], name: str) -> plots.Point:
    """An evaluation; its standard error is that of the number named first."""
    known = "standard_error" in row and name == list(row)[1]
    error = 1.96 * row["standard_error"] if known else 0.0
    return row["step"], (row[name], row[name] - error, row[name] + error)
