"""What a person sees of a run, on stderr: a live bar on a terminal, a line every half minute
elsewhere."""

import sys
import time
from typing import Any, Self


class Progress:
    def __init__(self, steps: int, unit: str, visible: bool) -> None:
        self.steps, self.unit, self.visible, self.bar, self.last = steps, unit, visible, None, 0.0

    def __enter__(self) -> Self:
        if self.visible and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
            )

            columns = (
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.description}"),
                TimeRemainingColumn(),
            )
            self.bar = Progress(*columns, console=Console(stderr=True))
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
            left = (self.steps - m["step"]) * m["seconds"] / m["step"]
            print(
                f"step {m['step']}/{self.steps}  {text}  {left / 60:.0f} min left",
                file=sys.stderr,
                flush=True,
            )

    def note(self, metrics: dict[str, Any]) -> None:
        self.text(
            "  ".join(
                f"{key} {value:.4f}" if isinstance(value, float) else f"{key} {value}"
                for key, value in metrics.items()
            )
        )

    def text(self, text: str) -> None:
        if self.visible:
            (
                self.bar.console.print(text, markup=False)
                if self.bar
                else print(text, file=sys.stderr, flush=True)
            )
