"""Folders in and out: `load` a transformers folder into a network, `save` a network as one, `resolve` a name to a folder."""

from daedal.checkpoints.folder import load, read_config, save
from daedal.checkpoints.hub import resolve

__all__ = ["load", "read_config", "resolve", "save"]
