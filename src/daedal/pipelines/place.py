"""Where a model is: a folder, or a file of weights."""

from pathlib import Path

from daedal import checkpoints
from daedal.checkpoints import read_config
from daedal.checkpoints.adapter import parted

FILES = (".safetensors", ".ckpt", ".onnx")


def located(name: str | Path) -> Path:
    """The folder of a model's name; a file of weights is itself."""
    path = Path(name).expanduser()
    return path if path.is_file() and path.suffix in FILES else Path(checkpoints.resolve(name))


# Parts of models, which make nothing by themselves.
CODECS, TOWERS = ("AutoencoderKL", "VQModel"), ("CLIPModel",)
SPELLERS = ("LettersToPhonemes",)


def part_of(name: str | Path) -> str | None:
    """The class of a folder that holds one measurable part and no painter; None of any other."""
    folder = located(parted(name)[0])
    raw = read_config(folder) if (folder / "config.json").is_file() else {}
    kind = raw.get("_class_name") or (raw.get("architectures") or [None])[0]
    return kind if kind in CODECS + TOWERS + SPELLERS else None
