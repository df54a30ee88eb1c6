"""`daedal train RECIPE [key=value ...]`."""

import sys
from typing import Annotated

import typer


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe file, such as recipes/text/tiny.yaml.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="Override a key: steps=100 model.depth=4 out=runs/mine."
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print the resolved recipe and what it will take; train nothing."
        ),
    ] = False,
) -> None:
    """Train a model from a recipe. Started again with the same out=, a run goes on where it
    stopped."""
    from daedal.train import tasks
    from daedal.train.trainer import Interrupted

    resolved = tasks.load_recipe(recipe, overrides or [])
    if dry_run:
        print(describe(resolved, tasks.plan(resolved)))
        return
    try:
        folder = tasks.run(resolved)
    except Interrupted as stopped:
        print(f"daedal: {stopped}", file=sys.stderr)
        raise typer.Exit(130) from None
    print(folder)


def describe(recipe, plan: dict) -> str:
    import yaml

    return "\n".join([
        yaml.safe_dump(recipe.model_dump(), sort_keys=False).rstrip(),
        "---",
        f"parameters   {plan['parameters']:,}",
        f"data         {plan['units']}",
        f"FLOPs        {plan['flops']:.3g}",
        f"device       {plan['device']}, {plan['dtype']}, measured matrix peak {plan['measured_peak_flops'] / 1e9:,.0f} GFLOP/s",
        f"memory       about {plan['memory_bytes'] / 2**20:,.0f} MiB",
        f"time         {hours(plan['hours_at_full_peak'])} at the full peak, {hours(plan['hours_at_60_percent'])} at 60 % of it",
    ])  # fmt: skip


def hours(value: float) -> str:
    if value >= 1:
        return f"{value:.1f} h"
    if value * 60 >= 1:
        return f"{value * 60:.1f} min"
    return f"{value * 3600:.0f} s"
