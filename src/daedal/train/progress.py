"""What a person sees of a run, on stderr: a live bar on a terminal, a line every half minute
elsewhere."""

import sys
import time
from typing import Any, Self

from rich import progress
from rich.console import Console


class Progress:
    def __init__(self, steps: int, unit: str, visible: bool) -> None:
        self.steps, self.unit, self.visible, self.bar, self.last = steps, unit, visible, None, 0.0

    def __enter__(self) -> Self:
        if self.visible and sys.stderr.isatty():
            text = progress.TextColumn("{task.description}")
            columns = progress.BarColumn(), progress.MofNCompleteColumn(), text
            left, console = progress.TimeRemainingColumn(), Console(stderr=True)
            self.bar = progress.Progress(*columns, left, console=console)
            self.task = self.bar.add_task("", total=self.steps)
            self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar:
            self.bar.stop()

    def update(self, m: dict[str, Any]) -> None:
        if not self.visible:
            return
        text = f"loss {m['loss']:.3f}  {m[f'{self.unit}_per_second']:,.0f} {self.unit}/s  MFU {m['mfu']:.0%}"
        if self.bar:
            self.bar.update(self.task, completed=m["step"], description=text)
        elif time.monotonic() - self.last > 30 or m["step"] == self.steps:
            self.last = time.monotonic()
            left = (self.steps - m["step"]) * m["seconds"] / m["step"] / 60
            self.text(f"step {m['step']}/{self.steps}  {text}  {left:.0f} min left")

    def note(self, metrics: dict[str, Any]) -> None:
        shown = ((k, f"{v:.4f}" if isinstance(v, float) else str(v)) for k, v in metrics.items())
        self.text("  ".join(map(" ".join, shown)))

    def text(self, text: str) -> None:
        if self.bar:
            self.bar.console.print(text, markup=False)
        elif self.visible:
            print(text, file=sys.stderr, flush=True)
