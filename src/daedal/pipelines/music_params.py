"""Music as a medium: the settings of a call and of loading."""

from dataclasses import dataclass
from typing import Annotated

from daedal.pipelines.medium import Loading, Medium
from daedal.settings import Setting


@dataclass(frozen=True)
class MusicParams:
    """Settings of one piece. What the prompt says too ("in D major", "120 bpm") a setting says more
    exactly."""

    bpm: Annotated[float | None, Setting("Beats a minute.", 20, 400)] = None
    key: Annotated[str | None, Setting('As "D", "F#m", "Bb major", "E dorian".')] = None
    seconds: Annotated[
        float | None, Setting("How long; a tune is played again, or cut, to fit.", 0.05, 600)
    ] = None
    instrument: Annotated[str | None, Setting("Who plays: fiddle, flute, harp, piano, ...")] = None
    temperature: Annotated[float, Setting("0 is the likeliest, 1 as it was learnt.", 0, 2)] = 0.9
    top_k: Annotated[
        int | None,
        Setting("Draw from the k likeliest, 0 from all; the model's own if not given.", 0, 100_000),
    ] = None
    guidance_scale: Annotated[
        float | None, Setting("How closely an audio model follows the prompt.", 1, 30)
    ] = None
    init: Annotated[
        str | None,
        Setting("A clip that an audio model goes on from.", metavar="FILE", place="picture"),
    ] = None
    melody: Annotated[
        str | None,
        Setting(
            "A sound whose tune a MusicGen melody model follows.", metavar="FILE", place="picture"
        ),
    ] = None
    seed: Annotated[int | None, Setting("The same seed gives the same piece.", 0, 2**31)] = None
    n: Annotated[int, Setting("How many.", 1, 16, flags=("-n", "--n"))] = 1


@dataclass(frozen=True)
class MusicMeasuring:
    """What `daedal eval` of a model of tunes takes."""

    n: Annotated[int, Setting("Tunes.", 1, 10**9, flags=("-n", "--n"))] = 100
    data: Annotated[
        str | None, Setting("The tunes that it learnt from, as their words: how many are copies.")
    ] = None


MUSIC = Medium(
    name="music",
    help="Play a prompt. Prints the file's name; .mid, .abc and .svg write a tune's notes.",
    prompt="What to play.",
    plural="pieces of music",
    settings=MusicParams,
    loading=Loading,
    measuring=MusicMeasuring,
    model="house/tunes",
    module="daedal.pipelines.music",
    metrics="daedal.evals.music",
    suffix=".wav",
    suffixes=(".wav", ".flac", ".ogg", ".opus", ".mp3", ".mid", ".abc", ".svg"),
)
