"""Pairs of pictures of which one was liked better: rated by people, in a file, or by a rule that a
program can check.

A file is a parquet file or JSON lines with `chosen`, `rejected` (encoded pictures, or paths of
picture files beside it) and, where the rating was about one, a `caption`."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from daedal.data.pictures import decode, laid_on
from daedal.errors import DaedalError, nearest
from daedal.worlds import scenes

# chosen and rejected (H, W, 3) uint8, and the caption, or ""
Pair = tuple[np.ndarray, np.ndarray, str]


def drawn_on(picture: np.ndarray) -> np.ndarray:
    """(H, W) bool: what differs from the upper left corner."""
    return (picture != picture[0, 0]).any(-1)


def redness(picture: np.ndarray) -> float:
    """How much more red than green and blue there is, as a mean over pixels."""
    red, green, blue = picture.astype(float).mean((0, 1))
    return red - (green + blue) / 2


TASTES: dict[str, Callable[[np.ndarray], float]] = {
    "larger": lambda picture: float(drawn_on(picture).mean()),
    "redder": redness,
}


class TastePairs:
    """Two scenes, ordered by a taste out of TASTES."""

    def __init__(self, side: int, taste: str) -> None:
        if taste not in TASTES:
            raise DaedalError(
                f"scenes:{taste} is no taste{nearest(taste, TASTES)}; there are {', '.join('scenes:' + t for t in TASTES)}."
            )
        self.side, self.taste = side, TASTES[taste]

    def sample(self, rng: random.Random) -> tuple[np.ndarray, str]:
        made = scenes.scene(rng)
        return scenes.draw(made, self.side), made.caption

    def pair(self, rng: random.Random) -> Pair:
        both = sorted((self.sample(rng)[0] for _ in range(2)), key=self.taste)
        return both[1], both[0], ""


class FilePairs:
    def __init__(self, path: str | Path, side: int) -> None:
        rows, folder = read_pairs(Path(path)), Path(path).parent
        self.pairs: list[Pair] = []
        for row in rows:
            chosen, rejected = (
                laid_on(decode(bytes_of(row[key], folder), side), (255, 255, 255))
                for key in ("chosen", "rejected")
            )
            self.pairs.append((chosen, rejected, str(row.get("caption") or "")))

    def sample(self, rng: random.Random) -> tuple[np.ndarray, str]:
        chosen, _, caption = self.pair(rng)
        return chosen, caption

    def pair(self, rng: random.Random) -> Pair:
        return rng.choice(self.pairs)


def read_pairs(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise DaedalError(
            f"{path} is not a file; give a parquet or jsonl file of chosen, rejected, caption, or scenes:TASTE."
        )
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    else:
        import pyarrow.parquet as parquet

        rows = parquet.read_table(path).to_pylist()
    if not rows or {"chosen", "rejected"} - rows[0].keys():
        raise DaedalError(
            f"{path} has no rows with chosen and rejected; its columns are {', '.join(rows[0]) if rows else 'none'}."
        )
    return rows


def bytes_of(value: Any, folder: Path) -> bytes:
    """An encoded picture: as it stands, as Hugging Face's {bytes, path}, or in a file."""
    value = value.get("bytes") or value.get("path") if isinstance(value, dict) else value
    return value if isinstance(value, bytes) else (folder / value).read_bytes()


def pairs(path: str, side: int) -> TastePairs | FilePairs:
    if path.startswith("scenes"):
        return TastePairs(side, path.removeprefix("scenes:"))
    return FilePairs(path, side)
