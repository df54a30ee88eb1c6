"""Procedural data with exact ground truth, endless and licence-free: `tales` (little stories) and
`scenes` (captioned pictures that can be read back from their pixels)."""

from daedal.worlds.programs import programs
from daedal.worlds.tales import tale, tales

__all__ = ["programs", "tale", "tales"]
