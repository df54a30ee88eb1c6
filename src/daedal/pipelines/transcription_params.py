"""Transcription as a medium: the settings of a call. What is asked about is a file of sound."""

from dataclasses import dataclass
from typing import Annotated

from daedal.pipelines.medium import Loading, Medium
from daedal.settings import Setting

FORMATS = ("text", "json", "srt", "vtt", "verbose_json")


@dataclass(frozen=True)
class TranscriptionParams:
    """Settings of one transcription."""

    language: Annotated[
        str | None, Setting('Of the sound, as "de" or "German"; heard if not given.')
    ] = None
    translate: Annotated[bool, Setting("Write it down in English, whatever is spoken.")] = False
    words: Annotated[bool, Setting("Say when each word is spoken (json, verbose_json).")] = False
    format: Annotated[str, Setting("text, json, srt, vtt or verbose_json.")] = "text"
    hint: Annotated[str, Setting("Words to expect: names, spellings, the text before.")] = ""
    beams: Annotated[int, Setting("Texts that the search keeps; 1 is greedy.", 1, 16)] = 5
    temperature: Annotated[
        float | None, Setting("Only draw at this one; 0 searches, and is not tried again.", 0, 1)
    ] = None
    seed: Annotated[int, Setting("Of what is drawn where the search fails.", 0, 2**31)] = 0


@dataclass(frozen=True)
class TranscriptionMeasuring:
    """What `daedal eval` of an ear takes."""

    data: Annotated[
        str | None, Setting("A table with columns audio and text, to write down and compare.")
    ] = None
    split: Annotated[str | None, Setting("Keep rows whose `split` column has this value.")] = None
    n: Annotated[int, Setting("Recordings.", 1, 10**9, flags=("-n", "--n"))] = 100


TRANSCRIPTION = Medium(
    name="transcription",
    verb="hear",
    file=True,
    help="Write down what is said in a recording, or in a video.",
    prompt="A file of sound.",
    plural="transcriptions",
    settings=TranscriptionParams,
    loading=Loading,
    measuring=TranscriptionMeasuring,
    model="whisper-base",
    module="daedal.pipelines.transcription",
    metrics="daedal.evals.transcription",
    suffix=".txt",
    suffixes=(".txt", ".srt", ".vtt", ".json"),
    readable=True,
)
