"""`daedal merge A B OUT`: one model out of several."""

from pathlib import Path
from typing import Annotated

import typer


def merge(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Models of one shape (folders or Hub names), and last the folder to write."
        ),
    ],
    method: Annotated[str, typer.Option(help="linear, slerp, ties or dare.")] = "linear",
    weights: Annotated[str | None, typer.Option(help="One a model: 0.7,0.3.")] = None,
    base: Annotated[
        str | None, typer.Option(help="ties and dare: the model that the others were made from.")
    ] = None,
    density: Annotated[
        float, typer.Option(help="ties and dare: share of the changes that is kept.")
    ] = 0.5,
    seed: Annotated[int, typer.Option(help="dare: which are kept.")] = 0,
) -> None:
    """Merge models by arithmetic on their weights."""
    from daedal import checkpoints
    from daedal.checkpoints import merge as arithmetic
    from daedal.errors import DaedalError

    try:
        shares = [float(part) for part in weights.split(",")] if weights else None
    except ValueError:
        raise DaedalError(
            f"--weights {weights} is not numbers with commas between; write for example 0.7,0.3."
        ) from None
    *parts, out = models
    folders = [Path(checkpoints.resolve(name)) for name in parts]
    start = Path(checkpoints.resolve(base)) if base else None
    print(arithmetic.merge(folders, Path(out), method, shares, start, density, seed))  # type: ignore[arg-type]
