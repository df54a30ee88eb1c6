"""Video files: frames read as arrays, clips written frame by frame, whole or not at all, with the
recipe that made them in the metadata.

    frames, rate = open_clip("cat.mp4")                        # (F, H, W, 3) uint8, frames a second
    save_clip(frames, "out.mp4", rate, recipe={"seed": 1})
    with Writer("long.webm", rate) as file:                    # while the frames come
        for frame in more: file.add(frame)

mp4 (H.264), webm (VP9) and whatever else FFmpeg reads go through PyAV; gif, animated webp and png
through Pillow. Legend: F frames, H height, W width."""

import io
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
from PIL import Image, ImageSequence, UnidentifiedImageError

from daedal.errors import DaedalError, nearest
from daedal.files import write_whole

Frames = np.ndarray  # (F, H, W, 3) uint8

# of each, FFmpeg's encoder, its options, and how it names the pixels that players read
ENCODERS: dict[str, tuple[str, dict[str, str]]] = {
    ".mp4": ("libx264", {"crf": "16", "preset": "medium"}),
    ".webm": ("libvpx-vp9", {"crf": "20", "b:v": "0", "deadline": "good", "cpu-used": "4"}),
}
STILLS = {".gif": "GIF", ".webp": "WEBP", ".png": "PNG", ".apng": "PNG"}
SUFFIXES = (*ENCODERS, *STILLS)
MAX_FRAMES = 100_000
KEY = "daedal"


# ---- writing -------------------------------------------------------------------------------------


class Writer:
    """A video file that is written while its frames come, each (H, W, 3) uint8 and all of one size.
    It appears under its name when the block ends; where the block raises, nothing is left. Odd sizes
    get a row or column more, as players want even ones."""

    def __init__(self, path: str | Path, rate: float, recipe: dict[str, Any] | None = None) -> None:
        self.path = Path(path)
        suffix = self.path.suffix.lower()
        if suffix not in ENCODERS:
            raise DaedalError(
                f"{self.path.name!r} does not end in a video format{nearest(suffix, list(SUFFIXES))}; use {', '.join(SUFFIXES)}."
            )
        if not 0 < rate <= 240:
            raise DaedalError(f"{rate} frames a second cannot be written; give 1 to 240.")
        self.rate, self.recipe = Fraction(rate).limit_denominator(1001), recipe
        self.codec, self.options = ENCODERS[suffix]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.partial = self.path.with_name(f".{self.path.stem}.{secrets.token_hex(4)}{suffix}")
        self.container: Any = None
        self.size: tuple[int, ...] = ()

    def __enter__(self) -> Self:
        return self

    def add(self, frame: np.ndarray) -> None:
        """One frame more."""
        if self.container is None:
            self._open(frame.shape)
        if frame.shape != self.size:
            raise DaedalError(
                f"a frame of {frame.shape[1]}x{frame.shape[0]} does not fit a clip of {self.size[1]}x{self.size[0]}; give frames of one size."
            )
        even = np.pad(
            frame, [(0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)], mode="edge"
        )
        try:
            picture = av.VideoFrame.from_ndarray(even, format="rgb24")
            picture = picture.reformat(format="yuv420p", dst_colorspace="ITU709")
            self.container.mux(self.stream.encode(picture))
        except (av.FFmpegError, OSError) as error:
            raise DaedalError(
                f"{self.path} could not be written ({error}); free some room."
            ) from None

    def _open(self, size: tuple[int, ...]) -> None:
        self.size = size
        options = {"movflags": "+faststart+use_metadata_tags"} if self.path.suffix == ".mp4" else {}
        self.container = av.open(str(self.partial), "w", options=options)
        if self.recipe is not None:
            self.container.metadata["comment"] = json.dumps({KEY: self.recipe})
        self.stream = self.container.add_stream(self.codec, rate=self.rate, options=self.options)
        self.stream.height, self.stream.width = (side + side % 2 for side in size[:2])
        self.stream.pix_fmt = "yuv420p"
        context = self.stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = 1  # bt709

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self.container is not None:
                if kind is None:
                    self.container.mux(self.stream.encode(None))
                self.container.close()
            elif kind is None:
                raise DaedalError("a clip needs at least one frame; none came.")
            if kind is None:
                os.replace(self.partial, self.path)
        finally:
            self.partial.unlink(missing_ok=True)


def save_clip(
    frames: Frames, path: str | Path, rate: float, recipe: dict[str, Any] | None = None
) -> Path:
    """Write (F, H, W, 3) uint8 in the format of the suffix."""
    path = Path(path)
    if path.suffix.lower() in STILLS:
        write_whole(path, encode(frames, rate, path.suffix.lower(), recipe))
        return path
    with Writer(path, rate, recipe) as file:
        for frame in frames:
            file.add(frame)
    return path


def encode(frames: Frames, rate: float, suffix: str, recipe: dict[str, Any] | None = None) -> bytes:
    """The bytes of an animated gif, webp or png."""
    pictures = [Image.fromarray(frame) for frame in frames]
    said = json.dumps({KEY: recipe}) if recipe is not None else ""
    # each frame ends where it should, although a length is whole milliseconds (of a gif, tens)
    unit = 10 if suffix == ".gif" else 1
    ends = [round(1000 * (i + 1) / rate / unit) * unit for i in range(len(pictures))]
    lengths = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    options: dict[str, Any] = {"save_all": True, "append_images": pictures[1:], "loop": 0}
    if suffix == ".gif":
        options["comment"] = said.encode()
    elif suffix == ".webp":
        options |= {"lossless": True, "exif": _exif(said)}
    else:
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_itxt(KEY, said)
        options["pnginfo"] = info
    buffer = io.BytesIO()
    pictures[0].save(buffer, STILLS[suffix], duration=lengths, **options)
    return buffer.getvalue()


def _exif(text: str) -> Image.Exif:
    exif = Image.Exif()
    exif[0x010E] = text  # ImageDescription
    return exif


# ---- reading -------------------------------------------------------------------------------------


def open_clip(file: str | Path, limit: int = MAX_FRAMES) -> tuple[Frames, float]:
    """The frames of a file, (F, H, W, 3) uint8, the first `limit` of them, and how many there are a
    second."""
    found = list(islice(read(file), limit))
    return np.stack([frame for frame, _ in found]), found[0][1]


def read(file: str | Path) -> Iterator[tuple[np.ndarray, float]]:
    """(frame, frames a second) of a file, one after another."""
    path, empty = Path(file), True
    if not path.is_file():
        raise DaedalError(f"there is no file {path}; give a video.")
    try:
        for each in _animation(path) if path.suffix.lower() in STILLS else _video(path):
            empty = False
            yield each
    except (av.FFmpegError, UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DaedalError(
            f"{path} is no video that can be read, or is damaged ({error}); give mp4, webm, gif or another."
        ) from None
    if empty:
        raise DaedalError(f"{path} has no pictures in it, only sound perhaps; give a video.")


def _video(path: Path) -> Iterator[tuple[np.ndarray, float]]:
    with av.open(str(path)) as container:
        if not container.streams.video:
            return
        stream = container.streams.video[0]
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        for frame in container.decode(stream):
            yield frame.to_ndarray(format="rgb24"), rate


def _animation(path: Path) -> Iterator[tuple[np.ndarray, float]]:
    with Image.open(path) as picture:
        pages = [
            (np.asarray(p.convert("RGB")), p.info.get("duration", 0))
            for p in ImageSequence.Iterator(picture)
        ]
    length = sum(duration for _, duration in pages) / 1000
    rate = round(len(pages) / length, 3) if length else 10.0
    yield from ((page, rate) for page, _ in pages)


def recipe_of(file: str | Path) -> dict[str, Any] | None:
    """The recipe that a file carries; None where there is none."""
    path = Path(file)
    if path.suffix.lower() in STILLS:
        with Image.open(path) as picture:
            info = picture.info
            text = info.get("comment") or info.get(KEY) or picture.getexif().get(0x010E) or ""
    else:
        with av.open(str(path)) as container:
            tags = {key.lower(): value for key, value in container.metadata.items()}
            text = tags.get("comment", "")
    text = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
    if not text.startswith("{"):  # a comment of someone else's
        return None
    try:
        return json.loads(text).get(KEY)
    except (json.JSONDecodeError, AttributeError):
        return None


# ---- sizes, sheets -------------------------------------------------------------------------------


def resized(frames: Frames, height: int, width: int) -> Frames:
    """Frames of another size, their middles where the shape differs."""
    from PIL import ImageOps

    if frames.shape[1:3] == (height, width):
        return frames
    method = Image.Resampling.LANCZOS
    fitted = (ImageOps.fit(Image.fromarray(f), (width, height), method) for f in frames)
    return np.stack([np.asarray(f) for f in fitted])


def at_rate(frames: Frames, rate: float, wanted: float) -> Frames:
    """The frames that are shown at the times of another rate."""
    count = max(round(len(frames) * wanted / rate), 1)
    at = np.minimum((np.arange(count) * rate / wanted + 1e-6).astype(int), len(frames) - 1)
    return frames[at]


def sheet(frames: Frames | Sequence[np.ndarray], most: int = 8) -> np.ndarray:
    """At most so many frames of a clip side by side, evenly spaced, the first and the last among
    them."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(most, len(frames))).round().astype(int))
    return np.concatenate([frames[i] for i in chosen], 1)
