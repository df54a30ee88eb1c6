"""`daedal image PROMPT`: a prompt becomes a picture, in a file and on the terminal. Its settings are those of ImageParams."""

import inspect
import sys
from collections.abc import Callable
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from daedal.pipelines.image_params import ImageParams

Option = typer.Option


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option for every setting of pictures but the size, in place of its `**settings`."""
    options = []
    for name, hint in get_type_hints(ImageParams, include_extras=True).items():
        kind, setting = get_args(hint)
        several = any(get_origin(part) is tuple for part in get_args(kind))
        flags = ("-n", "--n") if name == "n" else ()
        kind = Annotated[list[str] | None if several else kind, Option(*flags, help=setting.help, metavar=setting.metavar)]
        default = None if several else getattr(ImageParams, name)
        if name not in ("width", "height"):
            options.append(Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=kind))
    signature = inspect.signature(command)
    own = [each for each in signature.parameters.values() if each.kind is not Parameter.VAR_KEYWORD]
    before = [each.name for each in own].index("expand")
    command.__signature__ = signature.replace(parameters=[*own[:before], *options, *own[before:]])  # type: ignore[attr-defined]
    return command


@with_settings
def image(
    prompt: Annotated[str, typer.Argument(help="What to paint.")],
    output: Annotated[Path | None, Option("-o", "--output", help="File (.png, .webp, .jpg); with -n, a number is added.")] = None,
    model: Annotated[str, Option(help="House model, folder, .safetensors file or Hub name.")] = "house/image",
    size: Annotated[str | None, Option(metavar="WxH", help="Pixels; snapped to what the model can paint.")] = None,
    *,
    expand: Annotated[str | None, Option(metavar="MODEL", help="A language model that first makes a short prompt a dense one.")] = None,
    device: Annotated[str, Option(help="auto, cpu, cuda, mps.")] = "auto",
    quiet: Annotated[bool, Option("--quiet", "-q", help="Do not show the picture.")] = False,
    **settings: Any,
) -> None:
    """Paint a prompt with an image model. Prints the file's name."""
    from daedal.media import images
    from daedal.pipelines import history
    from daedal.pipelines.image import file_name, load

    pipeline = load(model, device=device)
    if size:
        settings["width"], settings["height"], remark = images.parse_size(size, pipeline.painter.multiple)
        say(remark)
    painted = longer(prompt, expand, device) if expand else prompt
    say(pipeline.painter.remark(painted))
    with Bar() as bar:
        pictures = pipeline.results(painted, on_progress=bar.update, **{key: value for key, value in settings.items() if value not in (None, [])})
    for i, picture in enumerate(pictures):
        history.add("image", picture)
        path = output or Path(f"{file_name(prompt)}-{picture.recipe['settings']['seed']}.png")
        print(picture.save(path if len(pictures) == 1 else path.with_stem(f"{path.stem}-{i + 1}")))
    if sys.stdout.isatty() and not quiet:
        from daedal.media import terminal

        terminal.show(images.grid([picture.pixels for picture in pictures]))


def longer(prompt: str, model: str, device: str) -> str:
    """The prompt as a language model fills it in (the DALL-E 3 idea); said on stderr, and what the recipe keeps."""
    from daedal.data.recaption import expanded
    from daedal.pipelines import load

    writer = load(model, device=device)

    def write(text: str) -> str:
        asked = [{"role": "user", "content": text}] if writer.tokenizer.chat_template else text
        return str(writer(asked, max_tokens=80, temperature=0))

    full = expanded(prompt, write)
    say(f"painting {full!r}")
    return full


def say(remark: str) -> None:
    if remark:
        print(f"daedal: {remark}", file=sys.stderr)


class Bar:
    """Steps on stderr, where a person looks."""

    def __enter__(self) -> "Bar":
        self.progress = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            rate = TextColumn("{task.description}")
            self.progress = Progress(BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
            self.task = self.progress.add_task("", total=None)
            self.progress.start()
        return self

    def update(self, done: int, total: int) -> None:
        if self.progress:
            self.progress.update(self.task, completed=done, total=total)
            speed = self.progress.tasks[0].speed
            self.progress.update(self.task, description=f"{speed:.1f} it/s" if speed else "")

    def __exit__(self, *error: object) -> None:
        if self.progress:
            self.progress.stop()
