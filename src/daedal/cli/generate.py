"""The verbs that generate, one a medium: `daedal text PROMPT`, which is also `daedal PROMPT`,
`daedal image PROMPT`, ... Their options are the medium's settings; what they do is the same for
all."""

import inspect
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from daedal.cli.options import SERVER
from daedal.errors import DaedalError
from daedal.files import check_writable
from daedal.pipelines.medium import Handle, Medium, Pipeline, Result
from daedal.settings import Setting, settings_of, several

Option = typer.Option


def verb(medium: Medium) -> Callable[..., None]:
    """The command of a medium, with an option for each of its settings."""

    def command(
        prompt: Annotated[str | None, typer.Argument(help=medium.prompt)] = None,
        output: Annotated[
            Path | None,
            Option("-o", "--output", help="File; where there are several, a number is added."),
        ] = None,
        model: Annotated[
            str, Option(*medium.model_flags, help="House model, folder, file or Hub name.")
        ] = medium.model,
        *,
        server: SERVER = None,
        as_json: Annotated[bool, Option("--json", help="One JSON object a result.")] = False,
        quiet: Annotated[
            bool,
            Option("--quiet", "-q", help="Show nothing while it is made, and no picture after it."),
        ] = False,
        **given: Any,
    ) -> None:
        given = {name: value for name, value in given.items() if value not in (None, [])}
        loading = {name: given.pop(name) for name in settings_of(medium.loading) if name in given}
        asked = named(prompt, medium) if medium.file else with_stdin(prompt, medium.readable)
        asked = of_file(asked) if medium.reads_files else asked
        if output:
            check_writable(output, medium.suffixes)
        if server and loading:
            first = next(iter(loading))
            raise DaedalError(f"{first} is the server's to choose; leave it out, or --server.")
        code = medium.code
        pipeline = code.connect(server, model) if server else code.load(model, **loading)
        generate(medium, pipeline, asked, given, output, as_json, quiet)

    signature = inspect.signature(command)
    own = [each for each in signature.parameters.values() if each.kind is not Parameter.VAR_KEYWORD]
    options = [*options_of(medium.settings, defaults=True), *options_of(medium.loading)]
    command.__signature__ = signature.replace(parameters=[*own[:3], *options, *own[3:]])  # type: ignore[attr-defined]
    command.__doc__ = medium.help
    return command


def options_of(model: type, defaults: bool = False) -> list[Parameter]:
    """An option for each setting. One that is not given is None, so that the model's own choice
    holds; its help says the default else."""
    found = []
    plain = {field.name: field.default for field in fields(model)}
    for name, (kind, setting) in settings_of(model).items():
        if setting.typed:
            typed = option(name, kind, setting, plain[name] if defaults else None)
            found.append(Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=typed))
    return found


def option(name: str, kind: Any, setting: Setting, default: Any) -> Any:
    """The annotation that typer reads."""
    number = isinstance(default, int | float) and not isinstance(default, bool)
    shown = f"{setting.help} [{default}]" if number else setting.help
    if several(kind):
        return Annotated[
            list[str] | None, Option(*setting.flags, help=shown, metavar=setting.metavar)
        ]
    types = [part for part in get_args(kind) or (kind,) if part is not type(None)]
    first = next((part for part in (bool, str, float, int) if part in types), str)
    if first is bool:
        return Annotated[bool | None, Option(f"--{name.replace('_', '-')}", help=shown)]
    return Annotated[first | None, Option(*setting.flags, help=shown, metavar=setting.metavar)]


def generate(
    medium: Medium,
    pipeline: Pipeline,
    prompt: str,
    settings: dict[str, Any],
    output: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Start, show progress, log, and write, print or show the results."""
    from daedal.pipelines import history
    from daedal.trust import registry

    handle = pipeline.start(prompt, **settings)
    say(handle.remarks)
    said = len(handle.remarks)
    streams = medium.readable and not (as_json or quiet or output or settings.get("n", 1) > 1)
    interrupted = False
    try:
        if streams:
            print_pieces(handle)
        else:
            with progress(quiet) as update:
                for event in handle:
                    update(event.done, event.total)
    except KeyboardInterrupt:  # one Ctrl-C stops the work; where a part is a result, it is kept
        if not medium.readable:
            raise
        interrupted = True
    results = handle.results()
    say(handle.remarks[said:])
    if as_json:
        print("\n".join(json.dumps(result.as_dict(), ensure_ascii=False) for result in results))
    saved = list[Path]()
    if output or not (medium.readable or as_json):
        saved = write(
            medium,
            results,
            output or Path(default_name(medium, results[0])),
            as_json or medium.readable,
        )
    elif not (streams or as_json):
        print("\n\n---\n\n".join(result.whole for result in results))
    try:
        numbers = [history.add(result) for result in results]
        for file, result, number in zip(saved, results, numbers, strict=False):
            registry.record(file, result, number)
    except DaedalError as error:  # what was made is worth more than its record
        say((str(error),))
    if sys.stdout.isatty() and not quiet:
        type(results[0]).show(results)
    if interrupted:
        raise typer.Exit(130)


def write(medium: Medium, results: list[Result], path: Path, aside: bool) -> list[Path]:
    """Save results, and print their names: `aside` on stderr, where stdout carries something else."""
    saved = list[Path]()
    for i, result in enumerate(results):
        name = path if len(results) == 1 else path.with_stem(f"{path.stem}-{i + 1}")
        saved.append(save(result, name))
        print(saved[-1], file=sys.stderr if aside else sys.stdout)
    return saved


def save(result: Result, path: Path) -> Path:
    """Save a result with a signed manifest, where its format and this installation have one."""
    from daedal.pipelines import history
    from daedal.trust import manifest, registry

    saved = result.save(path)
    if saved.suffix.lower() not in manifest.TYPES or not manifest.wanted():
        return saved
    try:
        if manifest.installed():
            manifest.sign(saved, result.recipe)
        elif history.location() and registry.size() == 0:  # said with the first file, not with each
            say((manifest.MISSING,))
    except DaedalError as error:
        say((str(error),))
    return saved


def default_name(medium: Medium, result: Result) -> str:
    """A file name from the prompt and the seed."""
    words = "".join(c if c.isalnum() else " " for c in str(result.recipe["prompt"]).lower()).split()
    name = "-".join(words).encode()[:60].decode(errors="ignore").rstrip("-")
    return f"{name or medium.name}-{result.recipe['settings'].get('seed')}{medium.suffix}"


def print_pieces(handle: Handle) -> None:
    """The text as it comes, behind the prompt that it continues (bold on a terminal)."""
    sys.stdout.write(
        f"\033[1m{handle.front}\033[0m" if handle.front and sys.stdout.isatty() else handle.front
    )
    try:
        for piece in handle:
            sys.stdout.write(piece.text)
            sys.stdout.flush()
    finally:
        sys.stdout.write("\n")
        sys.stdout.flush()


@contextmanager
def progress(quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, where a person looks."""
    if quiet or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def update(done: int, total: int) -> None:
            speed = bar.tasks[0].speed
            bar.update(
                task, completed=done, total=total, description=f"{speed:.1f} it/s" if speed else ""
            )

        yield update


def say(remarks: tuple[str, ...]) -> None:
    for remark in remarks:
        print(f"daedal: {remark}", file=sys.stderr)


def named(prompt: str | None, medium: Medium) -> str:
    """The file that a medium is about."""
    if prompt is None:
        verb = medium.verb or medium.name
        raise DaedalError(f"there is no file; write daedal {verb} FILE.")
    return prompt


def with_stdin(prompt: str | None, context: bool) -> str:
    """The prompt; piped input stands for one that is missing, or with `context` in front of it."""
    # bytes that are not UTF-8
    if prompt is not None and any(0xDC80 <= ord(c) <= 0xDCFF for c in prompt):
        prompt = os.fsencode(prompt).decode("latin-1")
    wanted = context or prompt is None  # else it is somebody else's, as in `while read` of a script
    piped = read_stdin() if wanted and sys.stdin and not sys.stdin.isatty() else ""
    if prompt is None and not piped:
        raise DaedalError('there is no prompt; write daedal "Once upon a time", or pipe a text in.')
    if prompt is None:
        return piped.rstrip("\n")
    if piped.strip():
        return f"{piped.rstrip()}\n\n{prompt}"
    return prompt


def of_file(prompt: str) -> str:
    """The text of a file, where the prompt is the name of one."""
    named = len(prompt) < 4096 and "\n" not in prompt and prompt.endswith((".txt", ".md"))
    if not named or (" " in prompt and not Path(prompt).is_file()):
        return prompt
    try:
        return Path(prompt).expanduser().read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DaedalError(
            f"{prompt} cannot be read as a UTF-8 text file ({error}); check its name, or convert it."
        ) from None


def read_stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError:
        raise DaedalError("standard input is not UTF-8 text; convert it first.") from None
