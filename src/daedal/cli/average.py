"""`daedal average RUN OUT --length 0.08`: the model of a run with an average of its weights whose
length is chosen now."""

from pathlib import Path
from typing import Annotated

import typer


def average(
    run: Annotated[
        Path, typer.Argument(help="The folder of a run that was trained with averages=[0.05,0.1].")
    ],
    out: Annotated[Path, typer.Argument(help="Folder to write; it must not exist.")],
    length: Annotated[
        float, typer.Option(help="Spread of the average over training, as a share of it.")
    ] = 0.1,
    step: Annotated[
        int | None, typer.Option(help="Where it ends; the last step by default.")
    ] = None,
) -> None:
    """Average a run's weights anew, over a longer or shorter time."""
    from daedal.train.averages import ship

    print(ship(run, length, out, step))
