"""Video files: frames read as arrays, clips written frame by frame, whole or not at all, with the
recipe that made them in the metadata.

    frames, rate = open_clip("cat.mp4")                        # (F, H, W, 3) uint8, frames a second
    save_clip(frames, "out.mp4", rate, recipe={"seed": 1})
    with Writer("long.webm", rate) as file:                    # while the frames come
        for frame in more: file.add(frame)

A sound stands beside the frames of mp4 (AAC) and webm (Opus); the other formats are silent.

mp4 (H.264), webm (VP9) and whatever else FFmpeg reads go through PyAV; gif, animated webp and png
through Pillow. Legend: F frames, H height, W width."""

import io
import json
import math
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
from daedal.media.audio import OPUS_RATES
from daedal.media.sound import Samples, resample

Frames = np.ndarray  # (F, H, W, 3) uint8
Track = tuple[Samples, int]  # (C, N) float32 in [-1, 1], Hz

# of each, FFmpeg's encoder, its options, and how it names the pixels that players read
ENCODERS: dict[str, tuple[str, dict[str, str]]] = {
    ".mp4": ("libx264", {"crf": "16", "preset": "medium"}),
    ".webm": ("libvpx-vp9", {"crf": "20", "b:v": "0", "deadline": "good", "cpu-used": "4"}),
}
# of each, the encoder of its sound and the rates that it takes
SOUNDS: dict[str, tuple[str, tuple[int, ...]]] = {
    ".mp4": ("aac", (8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000)),
    ".webm": ("libopus", OPUS_RATES),
}
STILLS = {".gif": "GIF", ".webp": "WEBP", ".png": "PNG", ".apng": "PNG"}
SUFFIXES = (*ENCODERS, *STILLS)
MAX_FRAMES = 100_000
KEY = "daedal"


# ---- writing -------------------------------------------------------------------------------------


class Writer:
    """A video file that is written while its frames come, each (H, W, 3) uint8 and all of one size.
    It appears under its name when the block ends; where the block raises, nothing is left. Odd sizes
    get a row or column more, as players want even ones. `sound` is written as far as frames come."""

    def __init__(
        self,
        path: str | Path,
        rate: float,
        recipe: dict[str, Any] | None = None,
        sound: Track | None = None,
    ) -> None:
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
        self.sound, self.count = sound, 0
        self.track: SoundTrack | None = None
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
            self.count += 1
            if self.track is not None:
                self.track.write(self.count / self.rate)
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
        if self.sound is not None:
            self.track = SoundTrack(self.container, self.path.suffix.lower(), *self.sound)

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
                    if self.track is not None:
                        self.track.end()
                self.container.close()
            elif kind is None:
                raise DaedalError("a clip needs at least one frame; none came.")
            if kind is None:
                os.replace(self.partial, self.path)
        finally:
            self.partial.unlink(missing_ok=True)


class SoundTrack:
    """The sound of a file under way, in stereo or mono, written beside its frames."""

    def __init__(self, container: Any, suffix: str, samples: Samples, rate: int) -> None:
        codec, rates = SOUNDS[suffix]
        self.rate = min((each for each in rates if each >= rate), default=rates[-1])
        self.samples, self.at = resample(samples[:2], rate, self.rate), 0
        self.layout = "stereo" if len(self.samples) == 2 else "mono"
        self.container = container
        self.stream = container.add_stream(codec, rate=self.rate, layout=self.layout)

    def write(self, seconds: Fraction) -> None:
        """What is heard until then."""
        end = min(math.floor(seconds * self.rate), self.samples.shape[1])
        if end <= self.at:
            return
        block = np.ascontiguousarray(self.samples[:, self.at : end].reshape(1, -1, order="F"))
        frame = av.AudioFrame.from_ndarray(
            block.astype(np.float32), format="flt", layout=self.layout
        )
        frame.rate, frame.pts, frame.time_base = self.rate, self.at, Fraction(1, self.rate)
        self.container.mux(self.stream.encode(frame))
        self.at = end

    def end(self) -> None:
        self.container.mux(self.stream.encode(None))


def fitted(sound: Track, seconds: float) -> tuple[Track, str]:
    """A sound as long as a clip, cut or with silence behind it, and what was done."""
    samples, rate = sound
    count, have = round(seconds * rate), samples.shape[1] / rate
    if abs(have - seconds) < 0.5 / 24:  # less than half a frame of film
        done = ""
    elif have > seconds:
        done = f"the sound of {have:.2f} s is cut to the clip's {seconds:.2f} s."
    else:
        done = f"the sound ends after {have:.2f} s of the clip's {seconds:.2f} s; silence follows."
    room = max(count - samples.shape[1], 0)
    return (np.pad(samples[:, :count], [(0, 0), (0, room)]), rate), done


def save_clip(
    frames: Frames,
    path: str | Path,
    rate: float,
    recipe: dict[str, Any] | None = None,
    sound: Track | None = None,
) -> Path:
    """Write (F, H, W, 3) uint8 in the format of the suffix, and a sound where it has one."""
    path = Path(path)
    if path.suffix.lower() in STILLS:
        write_whole(path, encode(frames, rate, path.suffix.lower(), recipe))
        return path
    with Writer(path, rate, recipe, sound) as file:
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
