"""`daedal memory`: what conversations remember of their user."""

import json
import sys
from typing import Annotated

import typer

app = typer.Typer(invoke_without_command=True, help="What `daedal chat` remembers of you: off until you switch it on; yours to read, change and forget.")  # fmt: skip
NUMBER = Annotated[int, typer.Argument(help="Its number in the list.")]


@app.callback()
def memory(context: typer.Context) -> None:
    """What conversations remember of you."""
    if context.invoked_subcommand is None:
        listed()


@app.command("list")
def listed(
    everything: Annotated[
        bool, typer.Option("--all", help="Also what later facts took the place of.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """The facts, with when and in which words they were said; `daedal memory` alone does the same."""
    from daedal.assist.memory.store import Memory, switch

    with Memory() as kept:
        for fact in kept.facts(replaced=everything):
            if as_json:
                print(json.dumps(vars(fact), ensure_ascii=False))
            else:
                print(f"{fact.id:>4}  {fact.day}  {fact.key} = {fact.value}  {shown(fact)}")
    if not as_json:
        state = "on" if switch().exists() else "off; `daedal memory on` switches it on"
        print(f"daedal: memory is {state}", file=sys.stderr)


def shown(fact) -> str:
    said = f"({fact.quote})" if fact.turn is not None else "(entered by hand)"
    return f"{said}  replaced" if fact.replaced else said


@app.command()
def on() -> None:
    """Let `daedal chat` remember what you say of yourself, and use it."""
    from daedal.assist.memory.store import switch

    switch().parent.mkdir(parents=True, exist_ok=True)
    switch().touch()


@app.command()
def off() -> None:
    """Remember and use nothing; what is kept stays until `forget`."""
    from daedal.assist.memory.store import switch

    switch().unlink(missing_ok=True)


@app.command()
def add(key: str, value: str) -> None:
    """Enter a fact: daedal memory add home Oslo."""
    from daedal.assist.memory.store import Memory

    with Memory() as kept:
        kept.enter(key, value)


@app.command()
def edit(number: NUMBER, value: str) -> None:
    """Another value for a fact; what was said before is forgotten."""
    from daedal.assist.memory.store import Memory

    with Memory() as kept:
        kept.edit(number, value)


@app.command()
def forget(
    number: Annotated[int | None, typer.Argument(help="Its number in the list.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of it.")] = False,
) -> None:
    """Forget a fact, and the turns that said it."""
    from daedal.assist.memory.store import Memory
    from daedal.errors import DaedalError

    if (number is None) != everything:
        raise DaedalError("say which: a number of `daedal memory`, or --all.")
    with Memory() as kept:
        if number is None:
            print(f"{kept.clear()} facts forgotten")
        else:
            fact = kept.forget(number)
            print(f"forgotten: {fact.key} = {fact.value}")


@app.command()
def search(words: str) -> None:
    """Find what you said."""
    import time

    from daedal.assist.memory.store import Memory

    with Memory() as kept:
        for _, at, text in kept.turns(words):
            print(f"{time.strftime('%Y-%m-%d', time.localtime(at))}  {' '.join(text.split())}")


@app.command()
def export() -> None:
    """All of it, as JSON."""
    from daedal.assist.memory.store import Memory

    with Memory() as kept:
        print(kept.export())
