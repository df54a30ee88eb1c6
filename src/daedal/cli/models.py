"""`daedal models`: list, show, pull, remove."""

import json
import sys
from typing import Annotated

import typer

app = typer.Typer(help="Models on this machine: list, show, pull, remove.", no_args_is_help=False, invoke_without_command=True)


@app.callback()
def default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_models()


@app.command("list")
def list_models() -> None:
    """House models and those pulled from the Hub."""
    from daedal.checkpoints.hub import HOUSE, house_models, pulled

    for name in house_models():
        folder = HOUSE / name.removeprefix("house/")
        print(f"{name:<40} {sum(f.stat().st_size for f in folder.glob('*.safetensors')) / 1e6:8.1f} MB")
    for name, size in pulled():
        print(f"{name:<40} {size / 1e6:8.1f} MB")


@app.command()
def show(name: str) -> None:
    """A model's family, sizes and costs, as JSON."""
    import torch

    from daedal import checkpoints
    from daedal.checkpoints.folder import empty_network
    from daedal.evals.parts import part_of
    from daedal.pipelines.image import holds

    folder = checkpoints.resolve(name)
    if holds(folder) or part_of(name):
        files = [*folder.glob("*.safetensors"), *folder.glob("*/*.safetensors")]
        config = json.loads((folder / ("model_index.json" if (folder / "model_index.json").exists() else "config.json")).read_text())
        print(json.dumps({"folder": str(folder), "config": config, "weight_bytes": sum(f.stat().st_size for f in files)}, indent=2))
        return
    network = empty_network(folder)
    print(json.dumps({
        "folder": str(folder), "config": network.config.to_dict(), "parameters": network.parameter_count(),
        "weight_bytes": sum(f.stat().st_size for f in folder.glob("*.safetensors")),
        "cache_bytes_per_token": network.cache_bytes_per_token(torch.float32), "flops_per_token": network.flops_per_token(1),
    }, indent=2))  # fmt: skip


@app.command()
def pull(name: Annotated[str, typer.Argument(metavar="OWNER/MODEL")]) -> None:
    """Download a model from the Hub; a download that was cut off goes on."""
    from daedal.checkpoints.hub import download

    print(download(name))


@app.command()
def remove(name: Annotated[str, typer.Argument(metavar="OWNER/MODEL")]) -> None:
    """Delete a pulled model from this machine."""
    from daedal.checkpoints.hub import remove as delete

    print(f"daedal: {delete(name) / 1e6:.1f} MB freed", file=sys.stderr)
