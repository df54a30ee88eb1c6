"""Daedal: a prompt becomes text, on your own machine, and everything behind it is here to read,
train and change.

import daedal
story = daedal.load("house/text")
print(story("Once upon a time", seed=1))"""

__version__ = "0.1.0"
__all__ = ["DaedalError", "__version__", "load"]

from daedal.errors import DaedalError


def load(name_or_folder: str, device: str = "auto", dtype: str = "auto", **loading):
    """A ready pipeline for a house model ("house/text", "house/image"), a local folder, a file of
    weights or a Hub name: of text or of pictures, as it says itself. `loading` is what its medium
    can be loaded with: of text quantize, adapter, draft, ...
    (`daedal.pipelines.text_params.TextLoading`)."""
    # torch is imported here, not with the package
    from daedal.pipelines.registry import load as load_any

    return load_any(name_or_folder, device=device, dtype=dtype, **loading)
