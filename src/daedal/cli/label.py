"""`daedal label MODEL`: a person ranks two answers, and the ranks teach reward models and DPO."""

import json
import random
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from daedal.cli.options import MAX_TOKENS, MODEL

KEYS = {"1": ("chosen", 0), "2": ("chosen", 1), "s": ("skip", 0), "q": ("quit", 0)}


def label(
    model: MODEL,
    prompts: Annotated[
        str, typer.Option(help="A file: lines of text, or .jsonl with `prompt` or `messages`.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            help="Where the pairs go (.jsonl); what is there stays, and is not asked again.",
        ),
    ],
    against: Annotated[
        str | None,
        typer.Option(help="A second model for the other answer; else both are of the first."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the answers.")] = 0,
    max_tokens: MAX_TOKENS = 160,
    temperature: Annotated[float, typer.Option()] = 1.0,
) -> None:
    """Show two answers to each prompt, in an order of chance, and write down which one you take."""
    from daedal.evals.compare import answer, read_prompts
    from daedal.pipelines.text import load

    asked, done = read_prompts(prompts, sys.maxsize), labelled(output)
    first = load(model)
    pipelines = [first, load(against) if against else first]
    made = 0
    for i, prompt in enumerate(asked):
        if prompt in done:
            continue
        options = {"max_tokens": max_tokens, "temperature": temperature}
        answers = [
            answer(pipeline, prompt, seed=seed + 2 * i + side, **options)
            for side, pipeline in enumerate(pipelines)
        ]
        if answers[0] == answers[1]:
            continue
        kind, row = ranked(prompt, answers, swap=random.Random(f"{seed}/{i}").random() < 0.5)
        if kind == "quit":
            break
        if row:
            with output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            made += 1
    print(f"daedal: {made} pairs; {len(labelled(output))} in {output}", file=sys.stderr)


def labelled(path: Path) -> set[str]:
    """Prompts that a file of pairs holds."""
    if not path.exists():
        return set()
    lines = path.read_text(encoding="utf-8").splitlines()
    return {json.loads(line)["prompt"] for line in lines if line.strip()}


def ranked(prompt: str, answers: list[str], swap: bool) -> tuple[str, dict[str, Any] | None]:
    """Ask which of two answers is better: what was decided, and the pair."""
    shown = answers[::-1] if swap else answers
    print(f"\n{'=' * 80}\n{prompt}\n\n[1]\n{shown[0]}\n\n[2]\n{shown[1]}\n", file=sys.stderr)
    while True:
        try:
            asked = "1 or 2 is better; s skips, q quits: " if sys.stdin.isatty() else ""
            key = input(asked).strip().lower()
        except EOFError:
            return "quit", None
        if key in KEYS:
            break
        print("daedal: type 1, 2, s or q", file=sys.stderr)
    kind, better = KEYS[key]
    pair = {"prompt": prompt, "chosen": shown[better], "rejected": shown[1 - better]}
    return kind, pair if kind == "chosen" else None
