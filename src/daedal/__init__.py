"""Daedal: a prompt becomes text, on your own machine, and everything behind it is here to read, train and change.

import daedal
story = daedal.load("house/text")
print(story("Once upon a time", seed=1))
"""

__version__ = "0.1.0"
__all__ = ["DaedalError", "__version__", "load"]

from daedal.errors import DaedalError


def load(name_or_folder: str, device: str = "auto", dtype: str = "auto", quantize: int | str | None = None):
    """A ready pipeline for a house model ("house/text"), a local folder or a Hub name; see `daedal.pipelines.text.load`."""
    from daedal.pipelines.text import load as load_text  # torch is imported here, not with the package

    return load_text(name_or_folder, device=device, dtype=dtype, quantize=quantize)
