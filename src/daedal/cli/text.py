"""`daedal text PROMPT`, which is also `daedal PROMPT`."""

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

Option = typer.Option


def text(
    prompt: Annotated[str | None, typer.Argument(help="What to continue or answer; standard input is the prompt, or its context.")] = None,
    model: Annotated[str, Option(help="House model, folder or Hub name.")] = "house/text",
    adapter: Annotated[str | None, Option(help="Folder or Hub name of a LoRA to put on the model.")] = None,
    seed: Annotated[int | None, Option(help="Same seed, same text.")] = None,
    max_tokens: Annotated[int, Option(help="Longest continuation.")] = 256,
    temperature: Annotated[float, Option(help="0 is greedy, 1 the model's own distribution.")] = 0.8,
    top_k: Annotated[int, Option(help="Draw from the k likeliest; 0 for all.")] = 0,
    top_p: Annotated[float, Option(help="Draw from the likeliest that hold this share.")] = 0.95,
    min_p: Annotated[float, Option(help="Drop tokens below this share of the likeliest.")] = 0.0,
    stop: Annotated[list[str] | None, Option(help="End before this string; may be repeated.")] = None,
    n: Annotated[int, Option("-n", "--n", help="How many texts.")] = 1,
    as_json: Annotated[bool, Option("--json", help="One JSON object a text, with seed, tokens and finish reason.")] = False,
    schema: Annotated[Path | None, Option(help="JSON schema file that the text will satisfy.")] = None,
    no_stream: Annotated[bool, Option("--no-stream", help="Print when finished.")] = False,
    output: Annotated[Path | None, Option("-o", "--output", help="Write the text to a file.")] = None,
    quantize: Annotated[str | None, Option(help="Pack the weights on loading: 8, 4, or 16 for bf16.")] = None,
    device: Annotated[str, Option(help="auto, cpu, cuda, mps.")] = "auto",
) -> None:
    """Continue a prompt with a language model."""
    prompt = with_stdin(prompt)
    settings: dict[str, Any] = {
        "max_tokens": max_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "stop": list(stop or ()), "n": n,
    }  # fmt: skip
    if seed is not None:
        settings["seed"] = seed
    if schema is not None:
        settings["schema"] = read_schema(schema)
    from daedal.pipelines import history
    from daedal.pipelines.text import load

    pipeline = load(f"{model}:{adapter}" if adapter else model, device=device, quantize=quantize)
    show = not (as_json or no_stream or output or n > 1)
    stream = pipeline.start(prompt, **settings)
    with suppress(KeyboardInterrupt):  # one Ctrl-C stops the answer; what there is of it is kept
        print_pieces(stream, prompt) if show else wait(stream)
    results = [stream.result(index) for index in range(n)]
    for result in results:
        history.add("text", result)
    finish(results, prompt, as_json, output, show)


def print_pieces(stream, prompt: str) -> None:
    """The text as it comes, the prompt in front of it (bold on a terminal)."""
    sys.stdout.write(f"\033[1m{prompt}\033[0m" if sys.stdout.isatty() else prompt)
    try:
        for piece in stream:
            sys.stdout.write(piece.text)
            sys.stdout.flush()
    finally:
        sys.stdout.write("\n")
        sys.stdout.flush()


def wait(stream) -> None:
    """A count on stderr while nothing is shown."""
    total = stream.params.n * stream.params.max_tokens
    while not stream.done:
        stream.advance()
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{stream.made}/{total} tokens" + ("\r\033[K" if stream.done else ""))


def finish(results: list, prompt: str, as_json: bool, output: Path | None, shown: bool) -> None:
    if as_json:
        body = "\n".join(json.dumps(as_dict(result), ensure_ascii=False) for result in results)
    else:
        body = "\n\n---\n\n".join(prompt + result.text for result in results)
    if output:
        partial = output.with_name(f".{output.name}.{os.getpid()}")
        partial.write_text(body + "\n", encoding="utf-8")
        os.replace(partial, output)
        print(output, file=sys.stderr)
    elif not shown:
        print(body)
    if results[-1].finish_reason == "cancelled":
        raise typer.Exit(130)


def as_dict(result) -> dict[str, Any]:
    recipe = result.recipe
    return {
        "text": result.text, "prompt": recipe["prompt"], "finish_reason": result.finish_reason, "model": recipe["model"], "digest": recipe["digest"],
        "seed": recipe["settings"]["seed"],
        "sample": recipe["sample"], "tokens": list(result.tokens), "logprobs": list(result.logprobs),
    }  # fmt: skip


def with_stdin(prompt: str | None) -> str:
    """The prompt, with piped input as context in front of it."""
    from daedal.errors import DaedalError

    piped = "" if sys.stdin is None or sys.stdin.isatty() else read_stdin()
    if prompt is None and not piped:
        raise DaedalError('there is no prompt; write daedal "Once upon a time", or pipe a text in.')
    return piped.rstrip("\n") if prompt is None else f"{piped.rstrip()}\n\n{prompt}" if piped.strip() else prompt


def read_stdin() -> str:
    from daedal.errors import DaedalError

    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError:
        raise DaedalError("standard input is not UTF-8 text; convert it first.") from None


def read_schema(path: Path) -> Any:
    from daedal.errors import DaedalError

    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise DaedalError(f"the schema {path} cannot be read: {error}.") from None
