"""`daedal code`: complete, fill, write, explain, review, test, translate, fix, solve."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from daedal.cli.options import AS_JSON
from daedal.errors import DaedalError
from daedal.files import write_whole

app = typer.Typer(
    help="Code with evidence: complete, fill, write, explain, review, test, translate, fix, solve.",
    no_args_is_help=True,
)
PLACE = Annotated[str, typer.Argument(metavar="FILE[:LINE[:COLUMN]]", help="Lines count from 1.")]
FILE = Annotated[Path, typer.Argument(help="A source file.")]
MODEL = Annotated[
    str | None, typer.Option(help="A code model; the best that is here if not given.")
]
SEED = Annotated[int, typer.Option(help="Same seed, same answer.")]
APPLY = Annotated[bool, typer.Option("--apply", help="Write it into the file.")]
LENGTH = Annotated[int, typer.Option(help="Longest completion, in tokens.")]
PREFERRED = ("coder", "house/code")


def chosen(model: str | None) -> str:
    """The model to use: the one named, else the best code model that is here."""
    from daedal.checkpoints import catalogue
    from daedal.checkpoints.resolve import house_models

    if model:
        return model
    for name in PREFERRED:
        if name in house_models() or catalogue.place(name):
            return name
    raise DaedalError(
        "there is no code model here; `daedal models pull coder` brings one, or give --model."
    )


def coder(model: str | None, seed: int = 0) -> Any:
    from daedal.assist.code.coder import Coder

    return Coder.load(chosen(model), seed)


def place_of(text: str) -> tuple[Path, int | None, int | None]:
    """FILE[:LINE[:COLUMN]]."""
    parts = text.rsplit(":", 2)
    numbers = []
    while len(parts) > 1 and parts[-1].isdigit():
        numbers.insert(0, int(parts.pop()))
    line, column = [*numbers, None, None][:2]
    return Path(":".join(parts)), line, column


def shown(found: Any, as_json: bool) -> None:
    """Code on standard output, the verdict beside it."""
    if as_json:
        print(json.dumps(found.as_dict(), ensure_ascii=False))
        return
    if found.code:
        print(found.code, end="" if found.code.endswith("\n") else "\n")
    print(f"daedal: {found.verdict}", file=sys.stderr)
    if not found.code:
        raise typer.Exit(1)


@app.command()
def complete(
    place: PLACE,
    model: MODEL = None,
    max_tokens: LENGTH = 128,
    apply: APPLY = False,
) -> None:
    """Go on with a file at its end, or at the end of a line, or in the middle of one."""
    from daedal.assist.code.complete import Gap
    from daedal.assist.code.complete import complete as completed
    from daedal.pipelines.text import load

    path, line, column = place_of(place)
    gap = Gap.at(path, line, column)
    found = completed(load(chosen(model)), gap, max_tokens)
    if found.remark:
        print(f"daedal: {found.remark}", file=sys.stderr)
    if apply:
        write_whole(path, (gap.before + found.text + gap.after).encode())
    print(found.text)


@app.command()
def fill(place: PLACE, model: MODEL = None, max_tokens: LENGTH = 128, apply: APPLY = False) -> None:
    """The same, with a place in the middle of the file."""
    if place_of(place)[1] is None:
        raise DaedalError(f"{place} names no line; write FILE:LINE, or `daedal code complete`.")
    complete(place, model, max_tokens, apply)


@app.command()
def write(
    task: Annotated[str, typer.Argument(help="What it should do; examples in it are run.")],
    model: MODEL = None,
    seed: SEED = 0,
    as_json: AS_JSON = False,
) -> None:
    """Write a function, and run it on the examples in its description."""
    with coder(model, seed) as one:
        shown(one.write(task), as_json)


@app.command()
def solve(
    task: Annotated[str, typer.Argument(help="The task, with examples; or a file that has it.")],
    model: MODEL = None,
    n: Annotated[int, typer.Option("-n", "--n", help="Samples at most.")] = 16,
    temperature: Annotated[float, typer.Option(help="Of the samples.")] = 0.8,
    seed: SEED = 0,
    as_json: AS_JSON = False,
) -> None:
    """Draw many solutions, run them, and pick from the largest group that agrees."""
    words = Path(task).read_text(encoding="utf-8") if is_file(task) else task
    with coder(model, seed) as one:
        shown(one.solve(words, n=n, temperature=temperature, on_stage=progress), as_json)


def is_file(text: str) -> bool:
    return len(text) < 250 and "\n" not in text and Path(text).is_file()


def progress(stage: dict[str, Any]) -> None:
    if sys.stderr.isatty():
        facts = ", ".join(
            f"{key} {value}" for key, value in stage.items() if key not in ("stage", "code")
        )
        print(f"daedal: {stage['stage']}: {facts}", file=sys.stderr)


@app.command()
def explain(file: FILE, model: MODEL = None, seed: SEED = 0) -> None:
    """Say what code does."""
    with coder(model, seed) as one:
        print(one.explain(source_of(file)))


@app.command()
def review(file: FILE, model: MODEL = None, seed: SEED = 0) -> None:
    """Say what is wrong with code."""
    with coder(model, seed) as one:
        print(one.review(source_of(file)))


@app.command()
def test(
    file: FILE,
    function: Annotated[str | None, typer.Option(help="Which; the last if not given.")] = None,
    model: MODEL = None,
    seed: SEED = 0,
    as_json: AS_JSON = False,
) -> None:
    """Write tests for a function, keep those that hold, and say how many small faults they notice."""
    with coder(model, seed) as one:
        shown(one.tests(source_of(file), function), as_json)


@app.command()
def translate(
    file: FILE,
    to: Annotated[str, typer.Option(help="The language.")] = "javascript",
    model: MODEL = None,
    seed: SEED = 0,
    as_json: AS_JSON = False,
) -> None:
    """Write code in another language, and where both run, compare them."""
    with coder(model, seed) as one:
        shown(one.translate(source_of(file), to), as_json)


@app.command()
def fix(
    file: FILE,
    failing: Annotated[
        str, typer.Option(help="What fails: asserts, a traceback, or a file of them.")
    ],
    model: MODEL = None,
    seed: SEED = 0,
    apply: APPLY = False,
    as_json: AS_JSON = False,
) -> None:
    """Mend code by what fails; shows the difference."""
    complaint = Path(failing).read_text(encoding="utf-8") if is_file(failing) else failing
    with coder(model, seed) as one:
        found = one.fix(source_of(file), complaint)
    if apply and found.sure:
        write_whole(file, found.code.encode())
    if as_json:
        print(json.dumps(found.as_dict(), ensure_ascii=False))
    else:
        print(found.details.get("diff", ""), end="")
        print(f"daedal: {found.verdict}", file=sys.stderr)
    if not found.sure:
        raise typer.Exit(1)


def source_of(file: Path) -> str:
    from daedal.assist.code.complete import source

    return source(file)
