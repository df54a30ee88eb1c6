"""`daedal moderate TEXT`."""

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer
from typer import Option

from daedal.cli.options import AS_JSON


def moderate(
    text: Annotated[str | None, typer.Argument(help="Else standard input.")] = None,
    mask: Annotated[
        bool, Option("--mask", help="Print the text with personal data masked instead.")
    ] = False,
    as_json: AS_JSON = False,
) -> None:
    """Judge a text by category: harassment, hate, illicit, self-harm, sexual, violence, and personal
    data."""
    from daedal.trust import personal
    from daedal.trust.moderation.classifier import classifier

    said = sys.stdin.read() if text is None else text
    if mask:
        print(personal.masked(said), end="" if text is None else "\n")
        return
    verdict = classifier().judge(said)
    if as_json:
        print(json.dumps({"flagged": verdict.flagged} | asdict(verdict)))
        return
    for name, score in verdict.scores.items():
        print(f"{name:<14} {score:.3f}{'  flagged' if verdict.categories[name] else ''}")
    for each in personal.found(said):
        print(f"  {each.kind}: characters {each.start} to {each.end}")
