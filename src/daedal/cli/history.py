"""`daedal history` and `daedal again ID`."""

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer


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
            prompt = e.prompt if isinstance(e.prompt, str) else e.prompt[-1].get("content", "") if isinstance(e.prompt[-1], dict) else str(e.prompt)
            words = " ".join(f"{prompt}{e.result if e.medium == 'text' else f'  ({e.medium})'}".split())
            at = time.strftime("%Y-%m-%d %H:%M", time.localtime(e.at))
            print(f"{e.id:>5}  {at}  {e.model}  seed {e.settings['seed']}  {words[:70]}")


def again(
    number: Annotated[int, typer.Argument(metavar="ID", help="A number from `daedal history`.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File for a picture.")] = None,
) -> None:
    """Make a generation again, byte for byte: same weights, prompt, settings and seed."""
    from daedal.errors import DaedalError
    from daedal.pipelines import history as log

    entry = log.get(number)
    if entry.medium == "image":
        from daedal.pipelines import image as medium

        pipeline = medium.load(entry.model, device=entry.runtime["device"])
        now = medium.runtime(pipeline.painter)
    else:
        from daedal.pipelines import text as medium

        bits = entry.runtime["bits"]
        pipeline = medium.load(entry.model, device=entry.runtime["device"], quantize=min(bits) if bits else None)
        now = medium.runtime(pipeline.network)
    from daedal.pipelines.digest import digest

    if pipeline.folder and digest(pipeline.folder) != entry.digest:
        raise DaedalError(f"{entry.model} has changed since generation {number} (its digest was {entry.digest[:12]}), so it cannot be made again.")
    if now != entry.runtime:
        print(f"daedal: this machine runs the model differently now ({now} instead of {entry.runtime}); the last bits may differ.", file=sys.stderr)
    recipe = {"prompt": entry.prompt, "settings": entry.settings, "sample": entry.sample}
    if entry.medium == "image":
        result = medium.reproduce(pipeline, recipe)
        print(result.save(output or f"{medium.file_name(entry.prompt)}-{number}.png"))
    else:
        result = medium.reproduce(pipeline, recipe, entry.tokens if entry.finish_reason == "cancelled" else None)
        print((entry.prompt if isinstance(entry.prompt, str) else "") + result.text)
    if result.logged != entry.result:
        raise DaedalError(f"generation {number} came out different from the logged one.")
