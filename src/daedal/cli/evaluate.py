"""`daedal eval`: held-out bits per byte, or tasks of the lm-evaluation-harness; of an image model, scenes painted right and distances; of an
autoencoder PSNR, of a CLIP retrieval."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    model: Annotated[str, typer.Argument(help="House model, folder or Hub name.")] = "house/text",
    data: Annotated[
        str | None,
        typer.Option(
            help="Held-out text: parquet, jsonl or txt, a file or a folder. Of an image model: real pictures with captions, or a recipe, which holds some out."
        ),
    ] = None,
    column: Annotated[str, typer.Option(help="Text column.")] = "text",
    split: Annotated[str | None, typer.Option(help="Keep rows whose `split` column has this value.")] = None,
    documents: Annotated[int, typer.Option(help="At most so many documents.")] = 1000,
    context: Annotated[int | None, typer.Option(help="Window in tokens; the model's own by default.")] = None,
    tasks: Annotated[str | None, typer.Option(help="Comma-separated lm-evaluation-harness tasks (extra: evals).")] = None,
    limit: Annotated[int | None, typer.Option(help="Examples a task.")] = None,
    quantize: Annotated[str | None, typer.Option(help="Pack the weights on loading: 8, 4 or 16.")] = None,
    n: Annotated[int, typer.Option("-n", "--n", help="Pictures of an image model, of each kind.")] = 100,
    each: Annotated[int, typer.Option(min=1, help="With --data: an image model's pictures of each caption.")] = 1,
    features: Annotated[str | None, typer.Option(help="A CLIP folder: its eye measures an image model, and how pictures fit their captions.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Where an image model's pictures go, for a look.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Where plots of an image model's measures go (.png).")] = None,
    guidance_scale: Annotated[
        str | None, typer.Option(metavar="S[,S...]", help="Of an image model; several are measured one by one, and drawn as curves.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Measure a model, with 95 % confidence intervals."""
    from daedal.errors import DaedalError
    from daedal.evals.parts import part_of
    from daedal.pipelines import load
    from daedal.pipelines.image import ImagePipeline

    if part_of(model):
        return print_part(model, data, split, n, sheet, as_json)
    if isinstance(pipeline := load(model, quantize=quantize), ImagePipeline):
        return print_pictures(pipeline, n, each, scales_of(guidance_scale), sheet, plot, as_json, features, data, split)
    if not data and not tasks:
        raise DaedalError("there is nothing to measure; give --data FILE for bits per byte, or --tasks NAMES for the harness.")
    report: dict = {"model": model}
    if data:
        from daedal.evals.perplexity import held_out

        report["held_out"] = held_out(pipeline, data, column, split, documents, context)
    if tasks:
        from daedal.evals.harness import run_tasks

        report["tasks"] = run_tasks(pipeline, tasks.split(","), limit)
    if as_json:
        print(json.dumps(report, indent=2))
        return
    if data:
        m = report["held_out"]
        print(f"bits per byte  {m['bits_per_byte']:.4f} +- {m['bits_per_byte_ci95']:.4f} (95 %, {m['documents']} documents, {m['bytes']:,} bytes)")
        print(f"perplexity     {m['perplexity']:.3f} per token [{m['perplexity_low']:.3f}, {m['perplexity_high']:.3f}] ({m['tokens']:,} tokens)")
    for name, metrics in report.get("tasks", {}).items():
        for metric, m in metrics.items():
            print(f"{name:<20} {metric:<14} {m['value']:.4f} +- {m['ci95']:.4f}")


def print_part(model: str, data: str | None, split: str | None, n: int, sheet: Path | None, as_json: bool) -> None:
    from daedal.errors import DaedalError
    from daedal.evals.parts import report
    from daedal.media import images

    if not data:
        raise DaedalError(f"{model} is measured on real pictures; give --data FILE, with captions, and --split NAME for those held out.")
    groups, drawn = report(model, data, split, n)
    if as_json:
        print(json.dumps({"model": model} | plain(groups), indent=2))
    else:
        print_measured(groups)
    if sheet and drawn is not None:
        images.save_image(drawn, sheet)


def plain(groups: dict) -> dict:
    return {group: {name: asdict(measured) for name, measured in values.items()} for group, values in groups.items()}


def print_measured(groups: dict) -> None:
    for group, values in groups.items():
        for name, measured in values.items():
            print(f"{group:<10} {name:<12} {measured}")


def scales_of(text: str | None) -> list[float | None]:
    """ "1,2.5" -> [1.0, 2.5]; None is the model's own."""
    from daedal.errors import DaedalError

    try:
        return [float(part) for part in text.split(",")] if text else [None]
    except ValueError:
        raise DaedalError(f"guidance scales {text!r} are not numbers; write for example 1,2,4.") from None


def print_pictures(
    pipeline, n: int, each: int, scales: list[float | None], sheet: Path | None, plot: Path | None, as_json: bool, features: str | None,
    data: str | None, split: str | None,
) -> None:  # fmt: skip
    from daedal.errors import DaedalError
    from daedal.evals import plots
    from daedal.evals.pictures import real_pictures, report
    from daedal.media import images
    from daedal.processes.sight import Sight

    if each > 1 and not data:
        raise DaedalError(f"--each {each} paints captions of --data several times; give --data FILE, or leave --each out.")
    sight = Sight.load(features) if features else None
    real = real_pictures(data, pipeline.job("a picture", {})[1].width, split, sight) if data else None
    settings = {scale: {} if scale is None else {"guidance_scale": scale} for scale in scales}
    reports = {scale: report(pipeline, n, sight=sight, real=real, each=each, **chosen) for scale, chosen in settings.items()}
    found = {scale: groups for scale, (groups, _) in reports.items()}
    if as_json:
        every = [settings[scale] | plain(groups) for scale, groups in found.items()]
        print(json.dumps({"model": pipeline.name} | (every[0] if len(every) == 1 else {"reports": every}), indent=2))
    for scale, groups in {} if as_json else found.items():
        if scale is not None:
            print(f"guidance scale {scale:g}")
        print_measured(groups)
    if sheet:
        images.save_image(images.grid([drawn for _, drawn in reports.values()], columns=1, gap=8), sheet)
    if plot:
        images.save_image(plots.drawn(found), plot)
