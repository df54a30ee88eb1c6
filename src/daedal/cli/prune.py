"""`daedal prune MODEL OUT`: layers and neurons that matter least are cut out."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from daedal.cli.options import MODEL


def prune(
    model: MODEL,
    out: Annotated[
        Path,
        typer.Argument(
            help="Folder to write; train it further with recipes/chat/distil.yaml model.start=OUT teacher=MODEL."
        ),
    ],
    calibrate: Annotated[
        str, typer.Option(help="Text data (parquet, jsonl, txt) to see on what matters.")
    ],
    layers: Annotated[int | None, typer.Option(help="How many layers stay.")] = None,
    intermediate: Annotated[
        int | None, typer.Option(help="How many feed-forward neurons stay in each.")
    ] = None,
    column: Annotated[str, typer.Option(help="Column of the text.")] = "text",
    tokens: Annotated[int, typer.Option(help="Tokens to look at.")] = 16_384,
) -> None:
    """Make a smaller model out of a trained one."""
    from daedal import checkpoints
    from daedal.checkpoints.prune import prune_folder
    from daedal.cli.quantize import calibration
    from daedal.errors import DaedalError

    if layers is None and intermediate is None:
        raise DaedalError("nothing is to be cut; give --layers, --intermediate or both.")
    folder = checkpoints.resolve(model)
    batches = calibration(folder, calibrate, column, tokens)
    smaller = prune_folder(Path(folder), out, batches, layers, intermediate)
    print(f"daedal: {smaller.parameter_count():,} parameters", file=sys.stderr)
    print(out)
