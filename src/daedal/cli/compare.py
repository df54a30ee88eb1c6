"""`daedal compare A B`: which of two models answers better."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from daedal.cli.options import AS_JSON, MAX_TOKENS

JUDGES = (
    '"check" (the program that knows the right answer; generated tasks), or a model that judges.'
)
PROMPTS = '"tasks" or "requests" (generated), or a file: lines of text, or .jsonl with `prompt` or `messages`.'


def compare(
    a: Annotated[str, typer.Argument(help="A model: folder, house model or Hub name.")],
    b: Annotated[str, typer.Argument(help="The other.")],
    judge: Annotated[str, typer.Option(help=JUDGES)] = "check",
    prompts: Annotated[str, typer.Option(help=PROMPTS)] = "tasks",
    n: Annotated[int, typer.Option("-n", "--n", help="How many prompts.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the answers; both models have the same.")] = 0,
    max_tokens: MAX_TOKENS = 160,
    temperature: Annotated[float, typer.Option()] = 0.7,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Every prompt with both answers, as .jsonl."),
    ] = None,
    as_json: AS_JSON = False,
) -> None:
    """Win rate of A against B, with its 95 % interval."""
    from daedal.evals import compare as evals
    from daedal.pipelines.text import load

    asked, decide = judged(judge, prompts, n, seed)
    bar = counted if sys.stderr.isatty() else None
    options = {"max_tokens": max_tokens, "temperature": temperature}
    found = evals.compare(load(a), load(b), asked, decide, seed=seed, on_progress=bar, **options)
    if output:
        found.save(output)
    if as_json:
        print(json.dumps({"a": a, "b": b, "judge": judge} | found.report(), indent=2))
    else:
        for name in ("win_rate", "wins", "ties", "losses"):
            print(f"{name:<9} {getattr(found, name)}")


def judged(judge: str, prompts: str, n: int, seed: int) -> tuple[list, Any]:
    """The prompts, and who decides between two answers."""
    from daedal.errors import DaedalError
    from daedal.evals import compare as evals
    from daedal.pipelines.text import load

    tasks = generated(prompts, n, seed) if prompts in ("tasks", "requests") else []
    asked = [task.messages for task in tasks] if tasks else evals.read_prompts(prompts, n)
    if judge != "check":
        return asked, evals.by_model(load(judge), asked)
    if not tasks:
        raise DaedalError(
            "only generated tasks come with a program that checks answers; "
            "give --judge MODEL for a file of prompts."
        )
    return asked, evals.by_score(lambda i, text: tasks[i].check(text))


def counted(done: int, total: int) -> None:
    print(f"\r{done}/{total}", end="" if done < total else "\n", file=sys.stderr)


def generated(kind: str, n: int, seed: int) -> list:
    """Held-out tasks or requests, the same ones for a seed."""
    import random

    from daedal.worlds.instructions import task
    from daedal.worlds.requests import request

    make = {"tasks": task, "requests": request}[kind]
    return [make(random.Random(f"compare/{seed}/{i}"), held_out=True) for i in range(n)]
