"""`daedal history` and `daedal again ID`."""

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from daedal.cli.options import OUTPUT


def history(
    limit: Annotated[int, typer.Option("-n", "--limit", help="How many, newest first.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """What was generated on this machine (DAEDAL_HISTORY=0 turns the log off)."""
    from daedal.pipelines import history as log

    for e in log.entries(limit):
        if as_json:
            print(json.dumps(vars(e), ensure_ascii=False))
        else:
            at = time.strftime("%Y-%m-%d %H:%M", time.localtime(e.at))
            print(f"{e.id:>5}  {at}  {e.model}  seed {e.settings.get('seed')}  {summary(e)[:70]}")


def summary(entry) -> str:
    """The prompt, and what came of it where that is text."""
    from daedal.pipelines.registry import medium_named

    prompt = entry.prompt
    if not isinstance(prompt, str):
        prompt = prompt[-1].get("content", "") if isinstance(prompt[-1], dict) else str(prompt)
    came = entry.result if medium_named(entry.medium).readable else f"({entry.medium})"
    return " ".join(f"{prompt} {came}".split())


def again(
    number: Annotated[int, typer.Argument(metavar="ID", help="A number from `daedal history`.")],
    output: OUTPUT = None,
) -> None:
    """Make a generation again, byte for byte: same weights, prompt, settings and seed."""
    from daedal.cli.generate import default_name, save
    from daedal.errors import DaedalError
    from daedal.pipelines import history as log
    from daedal.pipelines.digest import digest
    from daedal.pipelines.registry import medium_named

    entry = log.get(number)
    medium = medium_named(entry.medium)
    pipeline = medium.code.load(entry.model, **loading_of(entry))
    if pipeline.folder and digest(pipeline.folder) != entry.digest:
        raise DaedalError(
            f"{entry.model} has changed since generation {number} (its digest was {entry.digest[:12]}), so it cannot be made again."
        )
    if (now := facts(pipeline.runtime())) != facts(entry.runtime):
        print(
            f"daedal: this machine runs the model differently now ({now} instead of {facts(entry.runtime)}); the last bits may differ.",
            file=sys.stderr,
        )
    recipe = {"prompt": entry.prompt, "settings": entry.settings, "sample": entry.sample}
    amount = entry.tokens if entry.finish_reason == "cancelled" else None
    result = pipeline.reproduce(recipe, amount)
    if output or not medium.readable:
        named = Path(default_name(medium, result)).with_suffix(f".{number}{medium.suffix}")
        print(save(result, output or named))
    else:
        print(result.whole)
    if result.logged != entry.result:
        raise DaedalError(f"generation {number} came out different from the logged one.")


def loading_of(entry) -> dict:
    """How the model was loaded."""
    bits = entry.runtime.get("bits")
    # logged before `loading` was
    old = {"device": entry.runtime["device"]} | ({"quantize": min(bits)} if bits else {})
    loading = entry.runtime.get("loading", old)
    return {key: value for key, value in loading.items() if value is not None}


def facts(runtime: dict) -> dict:
    return {key: value for key, value in runtime.items() if key != "loading"}
