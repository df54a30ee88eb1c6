"""What a transcription yields and returns, in the formats of OpenAI's API."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from daedal.files import write_whole
from daedal.pipelines.medium import Result
from daedal.pipelines.transcription_params import TRANSCRIPTION
from daedal.systems.languages import LANGUAGES
from daedal.systems.transcribe import Segment

OF_SUFFIX = {".srt": "srt", ".vtt": "vtt", ".json": "verbose_json"}


@dataclass(frozen=True)
class Piece:
    """A segment as it comes, with the `text` that the asked-for format has of it; how many seconds
    are heard, of how many that are read."""

    segment: Segment | None
    text: str
    done: int
    total: int


@dataclass(frozen=True)
class Transcription(Result):
    """What was said. `language` is a code, empty where nothing was heard; `seconds` is the length of
    the sound."""

    medium = TRANSCRIPTION
    segments: tuple[Segment, ...]
    language: str
    seconds: float

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.segments).strip()

    def __str__(self) -> str:
        return self.text

    @property
    def whole(self) -> str:
        """In the format that was asked for."""
        return self.formatted(self.recipe["settings"]["format"])

    @property
    def logged(self) -> str:
        return self.text

    @property
    def amount(self) -> int:
        return sum(len(segment.tokens) for segment in self.segments)

    def formatted(self, kind: str) -> str:
        """text, json, srt, vtt or verbose_json."""
        if kind == "text":
            return self.text
        if kind in ("json", "verbose_json"):
            words = self.recipe["settings"]["words"]
            value = self.verbose(words) if kind == "verbose_json" else self.plain(words)
            return json.dumps(value, ensure_ascii=False)
        return head(kind) + "".join(block(segment, kind) for segment in self.segments).rstrip("\n")

    def plain(self, words: bool = False) -> dict[str, Any]:
        """OpenAI's short form."""
        return {"text": self.text} | ({"words": self.words} if words else {})

    def verbose(self, words: bool = False, segments: bool = True) -> dict[str, Any]:
        """OpenAI's verbose_json."""
        task = "translate" if self.recipe["settings"]["translate"] else "transcribe"
        value: dict[str, Any] = {
            "task": task,
            "language": LANGUAGES.get(self.language, "").lower(),
            "duration": round(self.seconds, 2),
            "text": self.text,
        }
        if segments:
            value["segments"] = [as_dict(segment) for segment in self.segments]
        return value | ({"words": self.words} if words else {})

    @property
    def words(self) -> list[dict[str, Any]]:
        """Each word with its times."""
        every = [word for segment in self.segments for word in segment.words or ()]
        return [asdict(word) | {"word": word.word.strip()} for word in every]

    def as_dict(self) -> dict[str, Any]:
        words = self.recipe["settings"]["words"]
        return self.verbose(words) | super().as_dict()

    def save(self, path: str | Path) -> Path:
        """Write subtitles to .srt or .vtt, verbose_json to .json, else the text, as UTF-8."""
        text = self.formatted(OF_SUFFIX.get(Path(path).suffix.lower(), "text"))
        write_whole(Path(path), (text + "\n").encode())
        return Path(path)

    def _repr_markdown_(self) -> str:
        return self.text


def as_dict(segment: Segment) -> dict[str, Any]:
    """A segment of verbose_json."""
    value = {key: value for key, value in vars(segment).items() if key != "words"}
    return value | {"tokens": list(segment.tokens)}


def head(kind: str) -> str:
    return "WEBVTT\n\n" if kind == "vtt" else ""


def block(segment: Segment, kind: str) -> str:
    """A subtitle."""
    start, end = (
        stamp(seconds, "," if kind == "srt" else ".") for seconds in (segment.start, segment.end)
    )
    number = f"{segment.id + 1}\n" if kind == "srt" else ""
    return f"{number}{start} --> {end}\n{segment.text.strip()}\n\n"


def stamp(seconds: float, mark: str) -> str:
    """01:02:03,450"""
    whole = round(seconds * 1000)
    return f"{whole // 3_600_000:02}:{whole // 60_000 % 60:02}:{whole // 1000 % 60:02}{mark}{whole % 1000:03}"
