"""Captioned pictures for training: generated scenes and parquet sets, mixed by weight, with
captions in many wordings.

A sample depends on (seed, number) only, so a run resumes by its step. Transparent pictures are laid
on white or on a random plain colour that the caption names: the same drawing then teaches that
backgrounds are said (dense captions are the largest lever known: notes of PRX and DALL-E 3), and a
short run sees more pictures than the file holds."""

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError, nearest
from daedal.media.images import open_image
from daedal.worlds.scenes import BACKGROUNDS, COLOURS, KINDS, draw, scene

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
PAPER = {
    name: value
    for name, value in {**BACKGROUNDS, **COLOURS}.items()
    if name not in ("brown", "gray")
}


class Source(Protocol):
    def sample(self, rng: random.Random) -> tuple[np.ndarray, str]:
        """One picture (H, W, 3) uint8 and its caption."""
        ...


class Scenes:
    """`daedal.worlds.scenes`: all of them, or those of `only`: one of their kinds, or "unseen",
    colours and shapes never paired in training."""

    def __init__(self, side: int, only: str = "") -> None:
        if only not in (some := ["unseen", *KINDS, ""]):
            raise DaedalError(
                f"scenes:{only} is not a kind of scene{nearest(only, some)}; there are {', '.join('scenes:' + k for k in some[:-1])}."
            )
        self.side, self.only = side, only

    def sample(self, rng: random.Random) -> tuple[np.ndarray, str]:
        made = scene(rng, unseen=True) if self.only == "unseen" else scene(rng, kind=self.only)
        return draw(made, self.side), made.caption


class Parquet:
    """A parquet file with columns `image` (encoded bytes), `caption`, and where it has them `name`,
    `style` and `keywords`. `column` names another of encoded pictures, conditions. Transparent
    pictures lie on white or on a random plain colour; with `plain` always on white."""

    def __init__(
        self,
        path: str | Path,
        side: int,
        where: dict[str, str | list[str]] | None = None,
        column: str | None = None,
        plain: bool = False,
    ) -> None:
        self.plain = plain
        rows = [row for row in read_rows(Path(path)) if matches(row, where or {})]
        if not rows:
            raise DaedalError(f"{path} has no row where {where}; check the columns and values.")
        self.captions = [wordings(row) for row in rows]
        self.names = [str(row.get("name") or row["caption"]) for row in rows]
        self.pictures = np.stack([decode(row["image"], side) for row in rows])  # (N, H, W, 4)
        if column and any(row.get(column) is None for row in rows):
            raise DaedalError(
                f"{path} has no picture {column!r} in every row; its columns are {', '.join(rows[0])}."
            )
        self.conditions = self.pictures[:0]
        if column:
            self.conditions = np.stack([decode(row[column], side) for row in rows])

    def __len__(self) -> int:
        return len(self.pictures)

    def picture(self, index: int) -> np.ndarray:
        """(side, side, 3) uint8, on white."""
        return laid_on(self.pictures[index], (255, 255, 255))

    def caption(self, index: int) -> str:
        """Its first wording."""
        return self.captions[index][0]

    def condition(self, index: int) -> np.ndarray:
        """(side, side, 3) uint8."""
        return laid_on(self.conditions[index], (255, 255, 255))

    def sample(self, rng: random.Random) -> tuple[np.ndarray, str]:
        index = rng.randrange(len(self.pictures))
        caption = rng.choice(self.captions[index])
        if self.plain:
            return self.picture(index), caption
        paper = "white" if rng.random() < 0.6 else rng.choice(tuple(PAPER))
        if paper != "white" or rng.random() < 0.2:
            caption += f" on a {paper} background"
        return laid_on(self.pictures[index], PAPER[paper]), caption


class Folder:
    """A folder of pictures, each with its caption: beside it (`cat.png`, `cat.txt`), or in
    metadata.jsonl (`file_name`, `text`) as `datasets`' imagefolder has it; none is "". `column` of
    metadata.jsonl names another picture of each, a condition. The middle of a picture is seen."""

    def __init__(
        self,
        path: str | Path,
        side: int,
        column: str | None = None,
        where: dict[str, str | list[str]] | None = None,
    ) -> None:
        folder, self.side = Path(path), side
        rows = [json.loads(line) for line in lines(folder / "metadata.jsonl")]
        if not rows:
            files = (file for file in sorted(folder.iterdir()) if file.suffix.lower() in SUFFIXES)
            rows = [{"file_name": file.name} for file in files]
        if not rows:
            raise DaedalError(
                f"{folder} holds no pictures ({', '.join(SUFFIXES)}) and no metadata.jsonl; give a folder that does."
            )
        rows = [row for row in rows if matches(row, where or {})]
        if not rows:
            raise DaedalError(
                f"{folder} has no picture where {where}; check the columns of metadata.jsonl and their values."
            )
        if column and any(column not in row for row in rows):
            raise DaedalError(
                f"{folder / 'metadata.jsonl'} does not name a {column!r} for every picture; add it, or take another condition."
            )
        self.files = [folder / row["file_name"] for row in rows]
        self.captions: list[str] = []
        for row, file in zip(rows, self.files, strict=True):
            said = row.get("text") or " ".join(lines(file.with_suffix(".txt")))
            self.captions.append(str(said).strip())
        self.conditions = [folder / row[column] for row in rows] if column else []

    def __len__(self) -> int:
        return len(self.files)

    def picture(self, index: int) -> np.ndarray:
        """(side, side, 3) uint8, on white."""
        return laid_on(fitted(self.files[index], self.side), (255, 255, 255))

    def caption(self, index: int) -> str:
        return self.captions[index]

    def condition(self, index: int) -> np.ndarray:
        """(side, side, 3) uint8."""
        return laid_on(fitted(self.conditions[index], self.side), (255, 255, 255))

    def sample(self, rng: random.Random) -> tuple[np.ndarray, str]:
        index = rng.randrange(len(self))
        return self.picture(index), self.caption(index)


def lines(path: Path) -> list[str]:
    """The lines of a text file that hold something; none of a file that is not there."""
    return (
        [line for line in path.read_text().splitlines() if line.strip()] if path.is_file() else []
    )


def fitted(file: Path, side: int) -> np.ndarray:
    """The middle of a picture file, upright, as (side, side, 4) uint8."""
    from PIL import Image, ImageOps

    return np.asarray(ImageOps.fit(opened(file), (side, side), Image.Resampling.LANCZOS))


def opened(file: Path | bytes) -> Any:
    """A picture, or the bytes of one, as PIL's RGBA: the same as when it is opened for generation."""
    from PIL import Image

    return Image.fromarray(open_image(file)).convert("RGBA")


def read_rows(path: Path, only: Sequence[str] = ()) -> list[dict[str, Any]]:
    """All rows, with all columns or those of `only` that there are."""
    import pyarrow.parquet as parquet

    if not path.is_file():
        raise DaedalError(
            f"{path} is not a file; a picture source is a parquet file or the word scenes."
        )
    columns = parquet.read_schema(path).names
    if missing := {"image", "caption"} - set(columns):
        raise DaedalError(
            f"{path} has no column {', '.join(sorted(missing))}; its columns are {', '.join(columns)}."
        )
    read = [c for c in columns if c in only] if only else None
    return parquet.read_table(path, columns=read).to_pylist()


def matches(row: dict[str, Any], where: dict[str, str | list[str]]) -> bool:
    wanted = {key: v if isinstance(v, list) else [v] for key, v in where.items()}
    return all(row.get(key) in values for key, values in wanted.items())


def wordings(row: dict[str, Any]) -> list[str]:
    """Ways to say a row: its caption (twice as often), its name, and its name with two keywords."""
    name = row.get("name") or row["caption"]
    style = row.get("style")
    words = [w for w in row.get("keywords") or () if w not in row["caption"]]
    said = [row["caption"], row["caption"], name]
    end = f", {style}" if style else ""
    for i in range(0, min(len(words) - 1, 6), 2):
        said.append(f"{name}, {words[i]}, {words[i + 1]}{end}")
    return said


def decode(data: bytes | dict[str, Any], side: int) -> np.ndarray:
    """Encoded bytes, or the struct {bytes, path} that the `datasets` library writes, -> (side,
    side, 4) uint8."""
    from PIL import Image

    if isinstance(data, dict):
        data = data.get("bytes") or Path(str(data.get("path"))).expanduser().read_bytes()
    picture = opened(data)
    if picture.size != (side, side):
        picture = picture.resize((side, side), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def laid_on(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """RGBA (H, W, 4) over a plain colour -> (H, W, 3)."""
    alpha = picture[..., 3:].astype(np.float32) / 255
    mixed = picture[..., :3] * alpha + np.array(colour, np.float32) * (1 - alpha)
    return mixed.round().astype(np.uint8)


Weighted = tuple[Source, float]  # and its share of the samples


class DrawnBatches:
    """Endless batches, each a function of seed and step. Subclasses give `batch`."""

    def __init__(self, sources: Sequence[Weighted], rows: int, seed: int, step: int = 0) -> None:
        self.sources, self.weights = [s for s, _ in sources], [w for _, w in sources]
        self.rows, self.seed, self.step = rows, seed, step

    def state(self) -> dict[str, Any]:
        return {"step": self.step}

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        while True:
            self.step += 1
            yield self.batch(self.step)

    def batch(self, step: int) -> dict[str, Tensor]:
        raise NotImplementedError


class PictureBatches(DrawnBatches):
    """Batches {"images": (B, 3, H, W) uint8, "captions": (B, L) int64}; `drop` of the captions are
    empty."""

    def __init__(
        self,
        sources: Sequence[Weighted],
        tokenizer: Tokenizer,
        rows: int,
        length: int,
        seed: int,
        drop: float = 0.0,
        step: int = 0,
    ) -> None:
        super().__init__(sources, rows, seed, step)
        self.tokenizer, self.length, self.drop = tokenizer, length, drop

    def batch(self, step: int) -> dict[str, Tensor]:
        rng = random.Random(f"{self.seed}/{step}")
        drawn = [rng.choices(self.sources, self.weights)[0].sample(rng) for _ in range(self.rows)]
        captions = ["" if rng.random() < self.drop else caption for _, caption in drawn]
        images = stacked([picture for picture, _ in drawn])
        tokens = encode_captions(self.tokenizer, captions, self.length)
        return {"images": images, "captions": tokens}


def stacked(pictures: Sequence[np.ndarray]) -> Tensor:
    """Pictures (H, W, 3) uint8 -> (B, 3, H, W)."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def encode_captions(tokenizer: Tokenizer, captions: Sequence[str], length: int) -> Tensor:
    """(B, length) int64: lower-cased, cut to `length`, filled with the pad token. An empty caption
    is all padding."""
    ids = [
        tokenizer.encode(caption.lower().strip(), add_bos=False)[:length] if caption.strip() else []
        for caption in captions
    ]
    return torch.tensor([row + [tokenizer.pad_id] * (length - len(row)) for row in ids])
