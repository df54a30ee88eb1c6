"""`daedal embed TEXTS`."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer


def embed(
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts; without any, the lines of standard input.")
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Folder or Hub name of an encoder of sentences.")
    ] = "sentence-transformers/all-MiniLM-L6-v2",
    prompt: Annotated[
        str | None, typer.Option(help="One of the model's own prompts, such as query.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A .npz of texts and embeddings, or a .jsonl."),
    ] = None,
    dtype: Annotated[str, typer.Option(help="What it computes in: fp32, bf16, fp16.")] = "fp32",
) -> None:
    """Turn texts into vectors. Prints a line of JSON for each, or writes a file."""
    from daedal.cli.generate import progress, read_stdin
    from daedal.errors import DaedalError
    from daedal.files import check_writable, write_whole
    from daedal.pipelines import embedding
    from daedal.pipelines.registry import load

    if output:
        check_writable(output, (".npz", ".jsonl"))
    texts = texts or [line for line in read_stdin().splitlines() if line.strip()]
    if not texts:
        raise DaedalError('there are no texts; write daedal embed "a cat" "a dog".')
    embedder = load(model, dtype=dtype)
    if not isinstance(embedder, embedding.Embedder):
        raise DaedalError(
            f"{model} is not an encoder of sentences; give one such as sentence-transformers/all-MiniLM-L6-v2."
        )
    with progress(quiet=False) as update:
        vectors = embedder.embed(texts, prompt, update)
    if output and output.suffix.lower() == ".npz":
        write_whole(output, embedding.archive(texts, vectors))
    else:
        lines = (
            json.dumps({"text": text, "embedding": vector.tolist()}, ensure_ascii=False) + "\n"
            for text, vector in zip(texts, vectors, strict=True)
        )
        write_whole(output, "".join(lines).encode()) if output else sys.stdout.writelines(lines)
    if output:
        print(output)
