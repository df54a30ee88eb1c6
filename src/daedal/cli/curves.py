"""`daedal curves RUN...`: the loss and the evaluations of training runs, as a picture."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def curves(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Folders of runs, finished or not; several are drawn into the same plots.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="File (.png, .webp, .jpg).")
    ] = Path("curves.png"),
) -> None:
    """Draw training curves. Prints the file's name."""
    from daedal.media import images, terminal
    from daedal.train import metrics

    drawn = metrics.curves(runs)
    print(images.save_image(drawn, output))
    if sys.stdout.isatty():
        terminal.show(drawn)
