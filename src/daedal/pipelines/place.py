"""Where a model is: a folder, or a file of weights."""

from pathlib import Path

from daedal import checkpoints

FILES = (".safetensors", ".ckpt")


def located(name: str | Path) -> Path:
    """The folder of a model's name; a file of weights is itself."""
    path = Path(name).expanduser()
    return path if path.is_file() and path.suffix in FILES else Path(checkpoints.resolve(name))
