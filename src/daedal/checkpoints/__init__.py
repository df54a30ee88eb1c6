"""Folders in and out: `load` a folder (or GGUF file) into the network that it holds, `save` a network as one,
`load_parts` of a pipeline's folder, `resolve` a name to a folder."""

from daedal.checkpoints.folder import load, load_parts, load_plain, read_config, save
from daedal.checkpoints.resolve import resolve

__all__ = ["load", "load_parts", "load_plain", "read_config", "resolve", "save"]
