"""`daedal index FOLDER`, `daedal search QUESTION`, `daedal ask QUESTION`."""

import json
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from daedal.cli.options import AS_JSON

FOLDER = Annotated[Path, typer.Option("--in", help="The folder that was indexed.")]
COUNT = Annotated[int, typer.Option("--count", "-k", min=1, max=50, help="How many passages.")]


def embedder_of(model: str | None, many: bool = False) -> Any:
    """The embedder to use: the one named, else minilm where it is here, else none. For `many` texts
    in bf16 where the device has units for it: 2.6 times as fast, and the cosines are the same to
    three digits."""
    from daedal import device as machine
    from daedal.checkpoints import catalogue
    from daedal.pipelines.registry import load

    name = model or ("minilm" if catalogue.place("minilm") else None)
    if name in (None, "none"):
        return None
    fast = many and machine.has_bf16_units(machine.pick_device("auto"))
    return load(name, dtype="bf16") if fast else load(name)


def index(
    folder: Annotated[Path, typer.Argument(help="A folder of documents.")],
    model: Annotated[
        str | None, typer.Option(help="An encoder of sentences, or none; minilm where it is here.")
    ] = None,
) -> None:
    """Read a folder's documents, so that they can be searched and asked. Again, only what has
    changed."""
    from daedal.assist.documents.index import Index
    from daedal.cli.generate import progress, say

    embedder = embedder_of(model, many=True)
    if embedder is None:
        say(("by words only; `daedal models pull minilm` finds by meaning too",))
    with Index.open(folder) as found, progress(quiet=False) as update:
        done = found.update(embedder, update)
        say(done.errors)
        size = len(found)
    gone = f", {done.removed} gone" if done.removed else ""
    print(f"{done.files} files read{gone}, {size} passages")


@contextmanager
def searching(folder: Path) -> Any:
    from daedal.assist.documents.index import Index

    with Index.open(folder, make=False) as found:
        yield found, embedder_of(found.model) if found.model else None


def search(
    question: Annotated[str, typer.Argument(help="What to look for.")],
    folder: FOLDER = Path(),
    count: COUNT = 8,
    as_json: AS_JSON = False,
) -> None:
    """Find passages of an indexed folder, by words and by meaning."""
    with searching(folder) as (found, embedder):
        hits = found.search(question, embedder, count)
    for number, hit in enumerate(hits, 1):
        where = f"{hit.file}, {hit.passage.place}"
        if as_json:
            row = {"file": hit.file, "place": hit.passage.place, "heading": hit.passage.heading, "text": hit.passage.text}  # fmt: skip
            print(json.dumps(row | {"score": hit.score}, ensure_ascii=False))
        else:
            print(f"[{number}] {where}\n{hit.passage.text}\n")
    if not hits:
        print("daedal: nothing like it was found.", file=sys.stderr)
        raise typer.Exit(1)


def ask(
    question: Annotated[str, typer.Argument(help="A question.")],
    folder: FOLDER = Path(),
    model: Annotated[str, typer.Option(help="A chat model.")] = "coder",
    count: COUNT = 6,
    as_json: AS_JSON = False,
) -> None:
    """Answer from an indexed folder: with sources, or that it is not there. What no source supports
    is left out, and said."""
    from daedal.assist.documents.answer import answered
    from daedal.pipelines.registry import load

    with searching(folder) as (found, embedder):
        hits = found.search(question, embedder, count)
    answer = answered(question, hits, load(model), embedder)
    if as_json:
        print(json.dumps(answer.as_dict(), ensure_ascii=False))
        return
    print(answer.text)
    cited = sorted({n for s in answer.sentences if s.supported for n in s.cites})
    for number in cited if answer.found else range(1, len(hits) + 1):
        hit = hits[number - 1]
        print(f"[{number}] {hit.file}, {hit.passage.place}", file=sys.stderr)
    for sentence in answer.sentences:
        if not sentence.supported:
            print(f"daedal: left out, as no source says so: {sentence.text}", file=sys.stderr)
    if not answer.found:
        raise typer.Exit(1)
