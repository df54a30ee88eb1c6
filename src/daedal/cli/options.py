"""Arguments and options that several verbs have, each once."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

MODEL = Annotated[str, Argument(help="House model, folder or Hub name.")]
AS_JSON = Annotated[bool, Option("--json", help="As JSON.")]
MAX_TOKENS = Annotated[int, Option(help="Longest answer.")]
SHARD_MB = Annotated[float, Option(help="Largest weight file, in MB.")]
OUTPUT = Annotated[Path | None, Option("-o", "--output", help="File for the result.")]
SERVER = Annotated[
    str | None,
    Option(envvar="DAEDAL_SERVER", help="Have a Daedal server do it: its address.", metavar="URL"),
]
