"""`daedal models`: list, show, pull, remove."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="Models on this machine: list, show, pull, remove.",
    no_args_is_help=False,
    invoke_without_command=True,
)


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
        print(
            f"{name:<40} {sum(f.stat().st_size for f in folder.glob('*.safetensors')) / 1e6:8.1f} MB"
        )
    for name, size in pulled():
        print(f"{name:<40} {size / 1e6:8.1f} MB")


@app.command()
def show(name: str) -> None:
    """A model's family, sizes and costs, as JSON."""
    from daedal import checkpoints

    print(json.dumps(described(checkpoints.resolve(name)), indent=2))


def described(folder: Path) -> dict[str, Any]:
    """One network's config and costs, or those of each part of a pipeline."""
    from daedal.checkpoints.folder import config_of, empty_network, networks_of, read_index
    from daedal.nn.quantized import QuantLinear

    if (folder / "model_index.json").exists():
        index = read_index(folder)
        parts = {name: described(folder / name) for name in networks_of(index)}
        return {"folder": str(folder), "model_index": index, **parts}
    network = empty_network(folder)
    return {
        "folder": str(folder),
        "config": config_of(network),
        "parameters": sum(parameter.numel() for parameter in network.parameters())
        + sum(
            m.in_features * m.out_features for m in network.modules() if isinstance(m, QuantLinear)
        ),
        "weight_bytes": sum(
            file.stat().st_size
            for pattern in ("*.safetensors", "*.gguf")
            for file in folder.glob(pattern)
        ),
        **getattr(network, "costs", dict)(),
    }


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
