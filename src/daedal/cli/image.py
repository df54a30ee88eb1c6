"""`daedal image PROMPT`: a prompt becomes a picture, in a file and on the terminal."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

Option = typer.Option


def image(
    prompt: Annotated[str, typer.Argument(help="What to paint.")],
    output: Annotated[Path | None, Option("-o", "--output", help="File (.png, .webp, .jpg); with -n, a number is added.")] = None,
    model: Annotated[str, Option(help="House model, folder, .safetensors file or Hub name.")] = "house/image",
    size: Annotated[str | None, Option(metavar="WxH", help="Pixels; snapped to what the model can paint.")] = None,
    steps: Annotated[int | None, Option(help="Denoising steps.")] = None,
    guidance_scale: Annotated[float | None, Option(help="How closely to follow the prompt; 1 is no guidance.")] = None,
    negative: Annotated[str, Option(help="What to keep away from.")] = "",
    sampler: Annotated[str | None, Option(help="euler, heun, dpmpp_2m, ddim, ...")] = None,
    seed: Annotated[int | None, Option(help="Same seed, same picture.")] = None,
    n: Annotated[int, Option("-n", "--n", help="How many pictures; picture i has seed + i.")] = 1,
    init: Annotated[Path | None, Option(help="Start from this picture.")] = None,
    strength: Annotated[float | None, Option(help="With --init: 1 forgets it, 0.3 keeps most of it; 0.75 if not given.")] = None,
    mask: Annotated[Path | None, Option(help="With --init: white is painted anew, black is kept to the bit.")] = None,
    extend: Annotated[str | None, Option(metavar="L,T,R,B", help="With --init: paint so many pixels more on each side.")] = None,
    like: Annotated[str, Option(help="Whose noise a seed means: diffusers, webui, comfy.")] = "diffusers",
    control: Annotated[
        list[str] | None,
        Option(metavar="KIND:FILE", help="Follow a picture of edges, depth, a pose, ...: canny:edges.png; house model: edges, edges-of."),
    ] = None,
    control_model: Annotated[str | None, Option(help="ControlNet or T2I-Adapter: a folder, Hub name, or folder of them named by kind.")] = None,
    control_scale: Annotated[float | None, Option(help="How strictly it is followed; 1 as trained.")] = None,
    reference: Annotated[Path | None, Option(help="A picture as a prompt, beside the words.")] = None,
    reference_model: Annotated[Path | None, Option(help="The IP-Adapter that reads it: its .safetensors file.")] = None,
    reference_scale: Annotated[float | None, Option(help="How much it counts; 0.6 if not given.")] = None,
    lora: Annotated[list[str] | None, Option(metavar="FILE[:SCALE]", help="LoRAs for this picture.")] = None,
    embedding: Annotated[list[str] | None, Option(metavar="FILE", help="Textual inversion: a word that may be used in the prompt.")] = None,
    noise_level: Annotated[int | None, Option(help="How noisy a model that enlarges a picture is told it, of 1000.")] = None,
    truncation: Annotated[float, Option(help="GANs: 1 as drawn, towards 0 likelier and more alike.")] = 1.0,
    then: Annotated[list[str] | None, Option(metavar="MODEL", help="A model that goes on from the picture: an upscaler, a refiner.")] = None,
    expand: Annotated[str | None, Option(metavar="MODEL", help="A language model that first makes a short prompt a dense one.")] = None,
    device: Annotated[str, Option(help="auto, cpu, cuda, mps.")] = "auto",
    quiet: Annotated[bool, Option("--quiet", "-q", help="Do not show the picture.")] = False,
) -> None:
    """Paint a prompt with an image model. Prints the file's name."""
    settings: dict[str, Any] = {
        "seed": seed, "n": n, "steps": steps, "guidance_scale": guidance_scale, "negative": negative, "sampler": sampler,
        "init": init and str(init), "mask": mask and str(mask), "strength": strength, "extend": extend, "like": like, "control": control,
        "control_model": control_model, "control_scale": control_scale, "reference": reference and str(reference),
        "reference_model": reference_model and str(reference_model), "reference_scale": reference_scale, "lora": lora, "embedding": embedding,
        "noise_level": noise_level, "truncation": truncation, "then": then,
    }  # fmt: skip
    from daedal.media import images
    from daedal.pipelines import history
    from daedal.pipelines.image import file_name, load

    pipeline = load(model, device=device)
    if size:
        settings["width"], settings["height"], remark = images.parse_size(size, pipeline.painter.multiple)
        if remark:
            print(f"daedal: {remark}", file=sys.stderr)
    painted = longer(prompt, expand, device) if expand else prompt
    with Bar() as bar:
        pictures = pipeline.results(painted, on_progress=bar.update, **{key: value for key, value in settings.items() if value is not None})
    for i, picture in enumerate(pictures):
        history.add("image", picture)
        path = output or Path(f"{file_name(prompt)}-{picture.recipe['settings']['seed']}.png")
        print(picture.save(path if n == 1 else path.with_stem(f"{path.stem}-{i + 1}")))
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
    print(f"daedal: painting {full!r}", file=sys.stderr)
    return full


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
