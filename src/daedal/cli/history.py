"""`daedal history` and `daedal again ID`."""

import json
import sys
import time
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
            words = " ".join(f"{prompt}{e.result}".split())
            at = time.strftime("%Y-%m-%d %H:%M", time.localtime(e.at))
            print(f"{e.id:>5}  {at}  {e.model}  seed {e.settings['seed']}  {words[:70]}")


def again(number: Annotated[int, typer.Argument(metavar="ID", help="A number from `daedal history`.")]) -> None:
    """Make a generation again, byte for byte: same weights, prompt, settings and seed."""
    from daedal.errors import DaedalError
    from daedal.pipelines import history as log

    entry = log.get(number)
    from daedal.pipelines.digest import digest
    from daedal.pipelines.text import load, reproduce, runtime

    bits = entry.runtime["bits"]
    pipeline = load(entry.model, device=entry.runtime["device"], quantize=min(bits) if bits else None)
    if pipeline.folder and digest(pipeline.folder) != entry.digest:
        raise DaedalError(
            f"{entry.model} has changed since generation {number} (its digest was {entry.digest[:12]}), so the text cannot be made again."
        )
    if (now := runtime(pipeline.network)) != entry.runtime:
        print(f"daedal: this machine runs the model differently now ({now} instead of {entry.runtime}); the last words may differ.", file=sys.stderr)
    recipe = {"prompt": entry.prompt, "settings": entry.settings, "sample": entry.sample}
    result = reproduce(pipeline, recipe, entry.tokens if entry.finish_reason == "cancelled" else None)
    text = (entry.prompt if isinstance(entry.prompt, str) else "") + result.text
    print(text)
    if result.text != entry.result:
        raise DaedalError(f"generation {number} came out different from the logged one.")
