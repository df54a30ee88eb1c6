"""The settings of a sound, each once: effects, textures, anything that is heard."""

from dataclasses import dataclass
from typing import Annotated

from daedal.pipelines.medium import Loading, Medium
from daedal.settings import Setting


@dataclass(frozen=True)
class SoundParams:
    """Settings of one call. None is the model's own choice."""

    seconds: Annotated[
        float | None, Setting("How long, up to what the model was trained to make.", 0.05, 600)
    ] = None
    steps: Annotated[int | None, Setting("Denoising steps.", 1, 1000)] = None
    guidance_scale: Annotated[
        float | None, Setting("How closely to follow the prompt; 1 or less is no guidance.", 0, 100)
    ] = None
    negative: Annotated[str, Setting("What to keep away from.")] = ""
    sampler: Annotated[str | None, Setting("euler, heun, dpmpp_2m, ddim, ...")] = None
    init: Annotated[
        str | None, Setting("Start from this sound.", metavar="FILE", place="picture")
    ] = None
    strength: Annotated[
        float, Setting("With init: 1 forgets it, 0.3 keeps most of it.", 0.001, 1)
    ] = 0.75
    best_of: Annotated[
        int | None,
        Setting("Make so many, and keep those that an ear says fit the prompt best.", 1, 64),
    ] = None
    scorer: Annotated[
        str | None,
        Setting(
            "That ear: a CLAP folder or Hub name; AudioLDM 2 has its own.",
            metavar="MODEL",
            place="model",
        ),
    ] = None
    seed: Annotated[int | None, Setting("Same seed, same sound.", 0, 2**62)] = None
    n: Annotated[int, Setting("How many; sound i has seed + i.", 1, 16, flags=("-n", "--n"))] = 1


@dataclass(frozen=True)
class SoundMeasuring:
    """What `daedal eval` of a model of sounds takes."""

    data: Annotated[
        str | None, Setting("Captions, one a line, of a text file.", metavar="FILE")
    ] = None
    n: Annotated[int, Setting("Sounds.", 1, 10**6, flags=("-n", "--n"))] = 20
    scorer: Annotated[
        str | None,
        Setting("A CLAP folder or Hub name: how sounds fit their captions.", metavar="MODEL"),
    ] = None


SOUND = Medium(
    name="sound",
    help="Make the sound of a prompt with a model of sounds. Prints the file's name.",
    prompt="What is heard.",
    plural="sounds",
    settings=SoundParams,
    loading=Loading,
    measuring=SoundMeasuring,
    model="house/sound",
    module="daedal.pipelines.sound",
    metrics="daedal.evals.sound",
    suffix=".wav",
    suffixes=(".wav", ".flac", ".ogg", ".opus", ".mp3"),
)
