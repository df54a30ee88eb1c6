"""`daedal quantize MODEL OUT`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from daedal.cli.options import MODEL, SHARD_MB


def quantize(
    model: MODEL,
    out: Annotated[Path, typer.Argument(help="Folder to write; it loads ready to run.")],
    bits: Annotated[int, typer.Option(help="8 or 4.")] = 8,
    calibrate: Annotated[
        str | None,
        typer.Option(help="Text data (parquet, jsonl, txt) to calibrate 4 bits on, by GPTQ."),
    ] = None,
    column: Annotated[str, typer.Option(help="Column of the calibration data.")] = "text",
    tokens: Annotated[int, typer.Option(help="Calibration tokens.")] = 32_768,
    shard_mb: SHARD_MB = 5000,
) -> None:
    """Pack a model's weights to 8 or 4 bits."""
    from daedal import checkpoints
    from daedal.checkpoints.quantize import quantize as write
    from daedal.errors import DaedalError
    from daedal.systems import voice

    if bits not in (4, 8):
        raise DaedalError(f"--bits {bits} is not 8 or 4.")
    folder = checkpoints.resolve(model)
    if voice.holds(folder):
        voice.quantize(folder, out, bits)
        told(out)
        return
    batches = calibration(folder, calibrate, column, tokens) if calibrate else None
    write(folder, out, bits, batches, int(shard_mb * 1e6))
    told(out)


def told(out: Path) -> None:
    size = sum(f.stat().st_size for f in out.glob("*.safetensors"))
    print(f"daedal: {size / 1e6:.1f} MB", file=sys.stderr)
    print(out)


def calibration(folder: Path, path: str, column: str, tokens: int) -> list:
    """Rows of up to 512 tokens from the data, (1, T) each."""
    import torch

    from daedal.checkpoints import read_config
    from daedal.data.documents import Source, documents
    from daedal.data.tokenizer import Tokenizer

    tokenizer, left, rows = Tokenizer.load(folder), tokens, []
    length = min(512, read_config(folder).get("max_position_embeddings", 512))
    for text in documents([Source(path=path, column=column)]):
        ids = tokenizer.encode(text)[:length]
        rows.append(torch.tensor([ids]))
        left -= len(ids)
        if left <= 0:
            break
    return rows
