"""`daedal trace RESULT`."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from daedal.cli.options import AS_JSON
from daedal.errors import DaedalError


def trace(
    result: Annotated[
        Path | None,
        typer.Argument(help="A text, tune (.abc), picture, sound or clip; - is standard input."),
    ] = None,
    index: Annotated[
        Path | None, Option(help="Index of the training data; else the one beside the model.")
    ] = None,
    model: Annotated[
        str | None, Option(help="The model that made it; else the one in its metadata.")
    ] = None,
    build: Annotated[
        str | None, Option(help="Index this file or folder instead.", metavar="DATA")
    ] = None,
    output: Annotated[Path | None, Option("-o", "--output", help="Where the index goes.")] = None,
    licence: Annotated[str | None, Option(help="Of data that name none.")] = None,
    most: Annotated[int, Option(help="So many examples.", min=1)] = 5,
    as_json: AS_JSON = False,
) -> None:
    """The training examples nearest to a result, with their licences, and what it repeats word by
    word."""
    from daedal.trust.memorised import trace as tracing

    if build:
        make(build, output or Path(tracing.NAME), licence)
        return
    if result is None:
        raise DaedalError("there is no result to trace; give a file, or --build DATA for an index.")
    with tempfile.TemporaryDirectory() as folder:
        if str(result) == "-":
            result = Path(folder) / "result.txt"
            result.write_text(sys.stdin.read(), "utf-8")
        if not result.is_file():
            raise DaedalError(f"there is no file {result}; check its name and folder.")
        known = tracing.Index.load(index or beside(model, result))
        kind, found = tracing.trace(result, known, most)
    if as_json:
        print(json.dumps({"kind": kind, "nearest": tracing.as_dicts(found)}, ensure_ascii=False))
        return
    for near in found:
        print(near.sentence("notes" if kind == "tune" else "words"))
    if not found:
        size = known.sizes[kind]
        print(f"nothing of it stands in the {size:,} {kind}s of the index, verbatim or nearly.")


def make(data: str, output: Path, licence: str | None) -> None:
    from daedal.files import check_writable
    from daedal.trust.memorised.examples import examples
    from daedal.trust.memorised.trace import Index

    check_writable(output, (".safetensors",))
    made = Index.build(examples(data, licence))
    made.save(output)
    said = ", ".join(f"{count:,} {kind}s" for kind, count in made.sizes.items())
    print(f"{output}: {said}, {output.stat().st_size / 1e6:.1f} MB", file=sys.stderr)


def beside(model: str | None, result: Path) -> Path:
    """The index of a model, or of the one that a result's metadata names."""
    from daedal.checkpoints import resolve
    from daedal.trust.memorised.trace import NAME
    from daedal.trust.verify import recipe_of

    name = model or (recipe_of(result) or {}).get("model")
    if not name:
        raise DaedalError(f"{result} does not say which model made it; give --model or --index.")
    return resolve(name) / NAME
