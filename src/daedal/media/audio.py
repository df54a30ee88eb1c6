"""Sound files: read at any rate and number of channels, whole or in blocks; written whole or not at
all, with the recipe that made them in their metadata; played where a player is.

    samples, rate = open_audio("take.flac")                   # (C, N) float32 in [-1, 1], Hz
    save_audio(samples, "out.opus", rate, recipe={"seed": 1})
    recipe_of("out.opus")                                     # {"seed": 1}

libsndfile reads and writes wav, flac, ogg, opus and mp3; the sound track of a video and m4a files
are read through PyAV, where it is installed. Legend: C channels, N samples."""

import base64
import io
import json
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from daedal.errors import DaedalError, nearest
from daedal.files import write_whole
from daedal.media.sound import Resampler, Samples, resample_blocks

SECONDS = 30.0  # of a block
# suffix -> libsndfile's container and coding
FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}
OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
KEY = "daedal "  # in front of the recipe, in the file's comment
MIME = {".wav": "wav", ".flac": "flac", ".ogg": "ogg", ".opus": "ogg", ".mp3": "mpeg"}
PLAYERS = {  # a program that plays a file, and its arguments
    "ffplay": ("-v", "error", "-nodisp", "-autoexit"),
    "paplay": (),
    "aplay": ("-q",),
    "afplay": (),
}
AudioFile = str | Path | bytes


def open_audio(file: AudioFile, rate: int | None = None, mono: bool = False) -> tuple[Samples, int]:
    """The samples (C, N) float32 of a file (a path, or its bytes), and their rate; at `rate` if
    given, and as one channel if `mono`. A video gives its sound track."""
    own, blocks = open_blocks(file, rate=rate, mono=mono)
    return np.concatenate(list(blocks), axis=1), own


def open_blocks(
    file: AudioFile, seconds: float = SECONDS, rate: int | None = None, mono: bool = False
) -> tuple[int, Iterator[Samples]]:
    """The rate of a file, and its samples in blocks of `seconds`: an hour is read in the memory of
    a minute."""
    found, blocks = _sndfile_blocks(file, seconds) or _av_blocks(file)
    first = next(blocks, None)
    if first is None:
        raise DaedalError(
            f"{_named(file)} holds no sound: it has 0 samples; record or export it again."
        )
    blocks = chain([first], blocks)
    if mono:
        blocks = (block.mean(0, keepdims=True, dtype=np.float32) for block in blocks)
    if rate and rate != found:
        return rate, resample_blocks(blocks, found, rate)
    return found, blocks


def _sndfile_blocks(file: AudioFile, seconds: float) -> tuple[int, Iterator[Samples]] | None:
    """Through libsndfile; None where it does not know the format."""
    try:
        sound = soundfile.SoundFile(_source(file))
    except soundfile.LibsndfileError:
        return None

    def blocks() -> Iterator[Samples]:
        with sound:
            try:
                while len(block := sound.read(int(seconds * sound.samplerate), "float32", True)):
                    yield np.ascontiguousarray(block.T)
            except soundfile.LibsndfileError as error:
                raise _damaged(file, error) from None

    return sound.samplerate, blocks()


def _av_blocks(file: AudioFile) -> tuple[int, Iterator[Samples]]:
    """Through FFmpeg: what libsndfile cannot read."""
    if find_spec("av") is None:
        raise DaedalError(
            f"{_named(file)} is no wav, flac, ogg, opus or mp3 file; convert it, or pip install av, which reads m4a and the sound of videos."
        )
    import av

    try:
        container = av.open(_source(file))
    except av.FFmpegError as error:
        raise _damaged(file, error) from None
    if not container.streams.audio:
        raise DaedalError(f"{_named(file)} has no sound track; give a file with sound.")
    stream = container.streams.audio[0]
    planes = av.AudioResampler("fltp", stream.layout, stream.rate)

    def blocks() -> Iterator[Samples]:
        with container:
            try:
                for frame in container.decode(stream):
                    yield from (each.to_ndarray() for each in planes.resample(frame))
            except av.FFmpegError as error:
                raise _damaged(file, error) from None

    return stream.rate, blocks()


def encode(
    samples: np.ndarray, rate: int, suffix: str = ".wav", recipe: dict[str, Any] | None = None
) -> bytes:
    """The bytes of a file of (C, N) or (N,) samples in the format of `suffix`. What lies outside
    [-1, 1] is clipped. Opus knows five rates; others become the next higher one."""
    container, coding = FORMATS[suffix]
    samples, to = np.atleast_2d(samples), rate_for(suffix, rate)
    # second by second: a long sound is held once, and libsndfile's Vorbis overflows on long writes
    seconds = (samples[:, at : at + rate] for at in range(0, samples.shape[1], rate))
    buffer = io.BytesIO()
    with soundfile.SoundFile(
        buffer, "w", to, len(samples), coding, format=container, closefd=False
    ) as out:
        if recipe is not None and suffix != ".wav":
            out.comment = KEY + json.dumps(recipe)
        for part in seconds if to == rate else resample_blocks(seconds, rate, to):
            out.write(np.clip(part.T, -1, 1))
    if recipe is not None and suffix == ".wav":
        return with_comment(buffer.getvalue(), KEY + json.dumps(recipe))
    return buffer.getvalue()


def rate_for(suffix: str, rate: int) -> int:
    """The rate that a file of this format has: Opus knows five, of which the next higher one."""
    if suffix != ".opus" or rate in OPUS_RATES:
        return rate
    return next((each for each in OPUS_RATES if each >= rate), OPUS_RATES[-1])


class Encoder:
    """A file of one channel written as its samples come: `push` and `finish` give the bytes that are
    ready. What a writer would go back to and fill in at the end (a length) stays open."""

    def __init__(self, rate: int, suffix: str) -> None:
        self.suffix, self.sent = suffix, 0
        to = rate_for(suffix, rate)
        self.resampler = Resampler(rate, to) if to != rate else None
        self.buffer = io.BytesIO()
        container, coding = FORMATS[suffix]
        # without its first frame an MP3's length is told from its rate, which must then be constant
        mp3 = {"bitrate_mode": "CONSTANT", "compression_level": 0.5}  # some 80 kbit/s
        constant = mp3 if suffix == ".mp3" else {}
        self.file = soundfile.SoundFile(
            self.buffer, "w", to, 1, coding, format=container, closefd=False, **constant
        )

    def push(self, samples: np.ndarray) -> bytes:
        """Of (N,) samples."""
        parts = self.resampler.push(samples[None]) if self.resampler else [samples[None]]
        for part in parts:
            self.file.write(np.clip(part[0], -1, 1))
        self.file.flush()
        return self._new()

    def finish(self) -> bytes:
        for part in self.resampler.finish() if self.resampler else ():
            self.file.write(np.clip(part[0], -1, 1))
        self.file.close()
        return self._new(last=True)

    def _new(self, last: bool = False) -> bytes:
        """What has come since. FLAC comes at its end, since readers want its length in front."""
        if self.suffix == ".flac" and not last:
            return b""
        data = self.buffer.getvalue()[self.sent :]
        begins, self.sent = not self.sent, self.sent + len(data)
        return endless(data, self.suffix) if begins else data


def endless(data: bytes, suffix: str) -> bytes:
    """The beginning of a file whose length is not known: a WAV header says so by its largest number;
    MP3's first frame, which would tell it, is left out."""
    if suffix == ".wav":
        most, at = struct.pack("<I", 0xFFFFFFFF), data.find(b"data") + 4
        return data[:4] + most + data[8:at] + most + data[at + 4 :]
    if suffix == ".mp3" and (next_frame := data.find(data[:2], 4)) > 0:
        return data[next_frame:]
    return data


class AacEncoder:
    """The same in AAC with ADTS headers, through PyAV."""

    def __init__(self, rate: int) -> None:
        import av

        self.buffer, self.sent, self.at = io.BytesIO(), 0, 0
        self.container = av.open(self.buffer, "w", "adts")
        self.stream = self.container.add_stream("aac", rate=rate, layout="mono")
        self.rate = rate

    def push(self, samples: np.ndarray) -> bytes:
        """Of (N,) samples."""
        import av

        if not len(samples):
            return b""
        block = np.ascontiguousarray(samples[None], np.float32)
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
        frame.rate, frame.pts = self.rate, self.at
        self.at += len(samples)
        self.container.mux(self.stream.encode(frame))  # type: ignore[attr-defined]
        return self._new()

    def finish(self) -> bytes:
        self.container.mux(self.stream.encode(None))  # type: ignore[attr-defined]
        self.container.close()
        return self._new()

    def _new(self) -> bytes:
        data = self.buffer.getvalue()[self.sent :]
        self.sent += len(data)
        return data


def with_comment(wav: bytes, comment: str) -> bytes:
    """A WAV file with a comment (RIFF's LIST INFO, ICMT), of which libsndfile would keep 2 kB."""
    text = comment.encode() + b"\0" * (2 - len(comment.encode()) % 2)
    info = b"INFO" + struct.pack("<4sI", b"ICMT", len(text)) + text
    made = wav + struct.pack("<4sI", b"LIST", len(info)) + info
    return made[:4] + struct.pack("<I", len(made) - 8) + made[8:]


def comment_of(wav: bytes) -> str:
    """The comment in a WAV file; empty where there is none."""
    at = 12
    while at + 8 <= len(wav):
        kind, size = struct.unpack_from("<4sI", wav, at)
        if kind == b"LIST" and wav[at + 8 : at + 16] == b"INFOICMT":
            return wav[at + 20 : at + 8 + size].rstrip(b"\0").decode("utf-8", "replace")
        at += 8 + size + size % 2
    return ""


def save_audio(
    samples: np.ndarray, path: str | Path, rate: int, recipe: dict[str, Any] | None = None
) -> Path:
    """Write (C, N) or (N,) samples in the format of the suffix (.wav, .flac, .ogg, .opus, .mp3),
    with the recipe that made them. The file appears whole or not at all."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise DaedalError(
            f"{path.name!r} does not end in a sound format{nearest(suffix, list(FORMATS))}; use {', '.join(FORMATS)}."
        )
    write_whole(path, encode(samples, rate, suffix, recipe))
    return path


def recipe_of(file: AudioFile) -> dict[str, Any] | None:
    """The recipe that `save_audio` wrote into a file; None where there is none."""
    try:
        with soundfile.SoundFile(_source(file)) as sound:
            comment, container = sound.comment, sound.format
        if container.startswith("WAV"):
            comment = comment_of(file if isinstance(file, bytes) else Path(file).read_bytes())
    except soundfile.LibsndfileError as error:
        raise _damaged(file, error) from None
    if not comment.startswith(KEY + "{"):  # nothing, or a comment of someone else's
        return None
    try:
        return json.loads(comment[len(KEY) :])
    except json.JSONDecodeError as error:
        raise DaedalError(
            f"the recipe in {_named(file)} is damaged ({error}); take the file as it was saved."
        ) from None


def play(samples: np.ndarray, rate: int) -> bool:
    """Play a sound to its end; False where no player is installed, or none finds a loudspeaker."""
    with tempfile.TemporaryDirectory() as folder:
        file = save_audio(samples, Path(folder) / "sound.wav", rate)
        for name, arguments in PLAYERS.items():
            program = shutil.which(name)
            if (
                program
                and not subprocess.run(
                    [program, *arguments, str(file)], stderr=subprocess.DEVNULL, check=False
                ).returncode
            ):
                return True
    return False


def player(samples: np.ndarray, rate: int, suffix: str = ".mp3") -> str:
    """HTML that plays a sound in a notebook or a page, the sound inside it."""
    data = base64.b64encode(encode(samples, rate, suffix)).decode()
    return f'<audio controls src="data:audio/{MIME[suffix]};base64,{data}"></audio>'


def _source(file: AudioFile) -> Any:
    if isinstance(file, bytes):
        return io.BytesIO(file)
    if not Path(file).is_file():
        raise DaedalError(f"there is no sound file {file}; check its name and folder.")
    return str(file)


def _named(file: AudioFile) -> str:
    return "the sound" if isinstance(file, bytes) else str(file)


def _damaged(file: AudioFile, error: Exception) -> DaedalError:
    return DaedalError(
        f"{_named(file)} is damaged, or no sound file ({str(error).strip().rstrip('.')}); copy or download it again."
    )
