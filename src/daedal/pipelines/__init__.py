"""Prompts to content: one file a medium."""

from pathlib import Path
from typing import Any


def load(name_or_folder: str | Path, device: str = "auto", dtype: str = "auto", quantize: int | str | None = None) -> Any:
    """The pipeline of a model, by what its folder holds."""
    from daedal.checkpoints.adapter import parted
    from daedal.errors import DaedalError
    from daedal.pipelines import image, text

    if not image.paints(image.located(parted(name_or_folder)[0])):
        return text.load(name_or_folder, device=device, dtype=dtype, quantize=quantize)
    if quantize is not None:
        raise DaedalError(f"quantize={quantize!r} packs language models only; {name_or_folder} paints pictures.")
    return image.load(name_or_folder, device=device, dtype=dtype)
