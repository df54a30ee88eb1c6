"""The settings of a clip, each once: its name, default, range and meaning."""

from dataclasses import dataclass
from typing import Annotated

from daedal.pipelines.medium import Loading, Medium
from daedal.settings import Setting


@dataclass(frozen=True)
class VideoParams:
    """Settings of one call. None is the model's own choice (its generation_config.json)."""

    seconds: Annotated[
        float | None,
        Setting("How long; beyond what the model makes at once it goes on from itself.", 0.1, 60),
    ] = None
    fps: Annotated[float | None, Setting("Frames a second.", 1, 60)] = None
    size: Annotated[
        str | None, Setting("Pixels; snapped to what the model can make.", metavar="WxH")
    ] = None
    steps: Annotated[int | None, Setting("Denoising steps.", 1, 1000)] = None
    guidance_scale: Annotated[
        float | None, Setting("How closely to follow the prompt; 1 or less is no guidance.", 0, 100)
    ] = None
    negative: Annotated[str, Setting("What to keep away from.")] = ""
    sampler: Annotated[str | None, Setting("euler, heun, dpmpp_2m, ddim, ...")] = None
    seed: Annotated[int | None, Setting("Same seed, same clip.", 0, 2**62)] = None
    n: Annotated[
        int, Setting("How many clips; clip i has seed + i.", 1, 64, flags=("-n", "--n"))
    ] = 1
    init: Annotated[
        str | None, Setting("The first frame, a picture.", metavar="FILE", place="picture")
    ] = None
    last: Annotated[
        str | None, Setting("The last frame, a picture.", metavar="FILE", place="picture")
    ] = None
    extend: Annotated[
        str | None,
        Setting("Go on from this clip, which stands in front.", metavar="FILE", place="video"),
    ] = None
    sound: Annotated[
        str | None,
        Setting(
            "A sound that is heard with it, in mp4 and webm; cut or followed by silence.",
            metavar="FILE",
            place="sound",
        ),
    ] = None
    lora: Annotated[
        str | tuple[str, ...],
        Setting("LoRAs for this clip.", metavar="FILE[:SCALE]", place="weights"),
    ] = ()
    loop: Annotated[bool, Setting("End where it begins.")] = False


@dataclass(frozen=True)
class VideoMeasuring:
    """What a video model is measured on: generated clips whose truth is known."""

    n: Annotated[int, Setting("Clips, of each kind.", 1, 10**6, flags=("-n", "--n"))] = 60
    sheet: Annotated[str | None, Setting("Where frames of some go, for a look.", metavar="PNG")] = (
        None
    )


VIDEO = Medium(
    name="video",
    help="Make a clip of a prompt with a video model. Prints the file's name.",
    prompt="What happens.",
    plural="clips",
    settings=VideoParams,
    loading=Loading,
    measuring=VideoMeasuring,
    model="house/video",
    module="daedal.pipelines.video",
    metrics="daedal.evals.video",
    suffix=".mp4",
    suffixes=(".mp4", ".webm", ".gif", ".webp", ".png", ".apng"),
)
