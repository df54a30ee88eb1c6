"""The settings of speech, each once."""

from dataclasses import dataclass
from typing import Annotated

from daedal.pipelines.medium import Loading, Medium
from daedal.settings import Setting


@dataclass(frozen=True)
class SpeechParams:
    """Settings of one call."""

    speed: Annotated[float, Setting("1 as the voice speaks, 2 twice as fast.", 0.25, 4)] = 1.0
    pitch: Annotated[float, Setting("Semitones up or down.", -12, 12)] = 0.0
    energy: Annotated[float, Setting("Loudness, as a factor.", 0.05, 4)] = 1.0
    pauses: Annotated[float, Setting("Silence between sentences, as a factor.", 0, 10)] = 1.0
    noise: Annotated[
        float | None,
        Setting("How freely it varies: 0 always alike; if not given the voice's own.", 0, 1.5),
    ] = None
    speaker: Annotated[
        str | None,
        Setting("Of a voice that has several; of Bark v2/en_speaker_6, or an .npz file."),
    ] = None
    subtitles: Annotated[
        str | None,
        Setting(
            "Also write what is heard when: .srt, or .json of every word.",
            metavar="FILE",
            place="file",
        ),
    ] = None
    seed: Annotated[int | None, Setting("Same seed, same speech.", 0, 2**62)] = None
    n: Annotated[
        int, Setting("How many readings; reading i has seed + i.", 1, 16, flags=("-n", "--n"))
    ] = 1


@dataclass(frozen=True)
class SpeechMeasuring:
    data: Annotated[
        str | None, Setting("Texts to read: a parquet or text file; sentences are drawn of it.")
    ] = None
    split: Annotated[str | None, Setting("Keep rows whose `split` column has this value.")] = None
    n: Annotated[int, Setting("Sentences.", 1, 10**9, flags=("-n", "--n"))] = 100
    ear: Annotated[
        str | None,
        Setting(
            "A CTranslate2 folder of Whisper that writes down what it hears.", metavar="FOLDER"
        ),
    ] = None
    beside: Annotated[
        str | None, Setting("Another voice that reads the same.", metavar="MODEL")
    ] = None


SPEECH = Medium(
    name="speech",
    verb="say",
    help="Read a text aloud. Prints the file's name, and plays it where a player is.",
    prompt="What to say, or a .txt file of it.",
    plural="speech",
    settings=SpeechParams,
    loading=Loading,
    measuring=SpeechMeasuring,
    model="house/voice",
    model_flags=("--voice", "--model"),
    module="daedal.pipelines.speech",
    metrics="daedal.evals.speech",
    suffix=".wav",
    suffixes=(".wav", ".flac", ".ogg", ".opus", ".mp3"),
    reads_files=True,
)
