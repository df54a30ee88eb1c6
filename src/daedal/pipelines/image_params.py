"""The settings of a picture, each once: its name, default, range and meaning. Python calls, recipes and the command line take them from here."""

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Setting:
    """What a setting means, in a line of help, and the values that it may have."""

    help: str
    low: float | None = None
    high: float | None = None
    metavar: str | None = None  # in help, where the type does not say it


@dataclass(frozen=True)
class ImageParams:
    """Settings of one call. None is the model's own choice (its generation_config.json, or its scheduler)."""

    width: Annotated[int | None, Setting("Pixels.", 8, 8192)] = None
    height: Annotated[int | None, Setting("Pixels.", 8, 8192)] = None
    steps: Annotated[int | None, Setting("Denoising steps.", 1, 1000)] = None
    guidance_scale: Annotated[float | None, Setting("How closely to follow the prompt; 1 is no guidance.", 0, 100)] = None
    negative: Annotated[str, Setting("What to keep away from.")] = ""
    sampler: Annotated[str | None, Setting("euler, heun, dpmpp_2m, ddim, ...")] = None
    seed: Annotated[int | None, Setting("Same seed, same picture.", 0, 2**62)] = None
    n: Annotated[int, Setting("How many pictures; picture i has seed + i.", 1, 256)] = 1
    init: Annotated[str | None, Setting("Start from this picture.", metavar="FILE")] = None
    strength: Annotated[float | None, Setting("With init: 1 forgets it, 0.3 keeps most of it; if not given 0.75, or 1 to extend it.")] = None
    mask: Annotated[str | None, Setting("With init: white is painted anew, black is kept to the bit.", metavar="FILE")] = None
    extend: Annotated[str | None, Setting("With init: paint so many pixels more on each side.", metavar="L,T,R,B")] = None
    like: Annotated[str, Setting("Whose noise a seed means: diffusers, webui, comfy.")] = "diffusers"
    control: Annotated[
        str | tuple[str, ...],
        Setting("Follow a picture of edges, depth, a pose, ...: canny:edges.png; house model: edges, edges-of.", metavar="KIND:FILE"),
    ] = ()
    control_model: Annotated[str | None, Setting("ControlNet or T2I-Adapter: a folder, Hub name, or folder of them named by kind.")] = None
    control_scale: Annotated[float, Setting("How strictly it is followed; 1 as trained.", 0, 10)] = 1.0
    reference: Annotated[str | None, Setting("A picture as a prompt, beside the words.", metavar="FILE")] = None
    reference_model: Annotated[str | None, Setting("The IP-Adapter that reads it: its .safetensors file.", metavar="FILE")] = None
    reference_scale: Annotated[float, Setting("How much it counts.", 0, 10)] = 0.6
    lora: Annotated[str | tuple[str, ...], Setting("LoRAs for this picture.", metavar="FILE[:SCALE]")] = ()
    embedding: Annotated[str | tuple[str, ...], Setting("Textual inversion: a word that may be used in the prompt.", metavar="FILE")] = ()
    noise_level: Annotated[int | None, Setting("How noisy a model that enlarges a picture is told it, of 1000.", 0, 999)] = None
    truncation: Annotated[float, Setting("GANs: 1 as drawn, towards 0 likelier and more alike.", 0, 1)] = 1.0
    then: Annotated[str | tuple[str, ...] | None, Setting("A model that goes on from the picture: an upscaler, a refiner.", metavar="MODEL")] = None
