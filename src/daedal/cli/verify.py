"""`daedal verify FILE`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from daedal.cli.options import AS_JSON


def verify(
    file: Annotated[Path, typer.Argument(help="A picture, sound, clip or text.")],
    model: Annotated[
        str | None, typer.Option(help="Of a text: the model that may have written it.")
    ] = None,
    as_json: AS_JSON = False,
) -> None:
    """What is known of where a file comes from: manifest, registry, recipe, watermark."""
    from daedal.checkpoints import resolve
    from daedal.data.tokenizer import Tokenizer
    from daedal.trust.verify import verify as ask

    found = ask(file, Tokenizer.load(resolve(model)) if model else None)
    if as_json:
        print(json.dumps(found.as_dict(), ensure_ascii=False))
        return
    for sentence in found.sentences():
        print(sentence)
