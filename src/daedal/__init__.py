"""Daedal: a prompt becomes text, on your own machine, and everything behind it is here to read, train and change.

import daedal
story = daedal.load("house/text")
print(story("Once upon a time", seed=1))
"""

__version__ = "0.1.0"
__all__ = ["DaedalError", "__version__", "load"]

from daedal.errors import DaedalError


def load(name_or_folder: str, device: str = "auto", dtype: str = "auto", quantize: int | str | None = None):
    """A ready pipeline for a house model ("house/text", "house/image"), a local folder or a Hub name: of text or of pictures, as the folder's
    config says. See `daedal.pipelines.text.load` and `daedal.pipelines.image.load`; `quantize` is for text."""
    from daedal.pipelines.registry import load as load_any  # torch is imported here, not with the package

    return load_any(name_or_folder, device=device, dtype=dtype, quantize=quantize)
