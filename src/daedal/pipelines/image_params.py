"""The settings of a picture, each once: its name, default, range and meaning. Python calls, recipes
and the command line take them from here."""

from dataclasses import dataclass
from typing import Annotated

from daedal.pipelines.medium import Loading, Medium
from daedal.settings import Setting


@dataclass(frozen=True)
class ImageParams:
    """Settings of one call. None is the model's own choice (its generation_config.json, or its
    scheduler)."""

    size: Annotated[
        str | None, Setting("Pixels; snapped to what the model can paint.", metavar="WxH")
    ] = None
    width: Annotated[int | None, Setting("Pixels.", 8, 8192)] = None
    height: Annotated[int | None, Setting("Pixels.", 8, 8192)] = None
    steps: Annotated[int | None, Setting("Denoising steps.", 1, 1000)] = None
    guidance_scale: Annotated[
        float | None, Setting("How closely to follow the prompt; 1 or less is no guidance.", 0, 100)
    ] = None
    negative: Annotated[str, Setting("What to keep away from.")] = ""
    sampler: Annotated[str | None, Setting("euler, heun, dpmpp_2m, ddim, ...")] = None
    seed: Annotated[int | None, Setting("Same seed, same picture.", 0, 2**62)] = None
    n: Annotated[
        int, Setting("How many pictures; picture i has seed + i.", 1, 256, flags=("-n", "--n"))
    ] = 1
    init: Annotated[
        str | None, Setting("Start from this picture.", metavar="FILE", place="picture")
    ] = None
    strength: Annotated[
        float | None,
        Setting(
            "With init: 1 forgets it, 0.3 keeps most of it; if not given 0.75, or 1 to extend it."
        ),
    ] = None
    mask: Annotated[
        str | None,
        Setting(
            "With init: white is painted anew, black is kept to the bit.",
            metavar="FILE",
            place="picture",
        ),
    ] = None
    extend: Annotated[
        str | None, Setting("With init: paint so many pixels more on each side.", metavar="L,T,R,B")
    ] = None
    like: Annotated[str, Setting("Whose noise a seed means: diffusers, webui, comfy.")] = (
        "diffusers"
    )
    control: Annotated[
        str | tuple[str, ...],
        Setting(
            "Follow a picture of edges, depth, a pose, ...: canny:edges.png; house model: edges, edges-of.",
            metavar="KIND:FILE",
            place="picture",
        ),
    ] = ()
    control_model: Annotated[
        str | None,
        Setting(
            "ControlNet or T2I-Adapter: a folder, Hub name, or folder of them named by kind.",
            place="weights",
        ),
    ] = None
    control_scale: Annotated[
        float, Setting("How strictly it is followed; 1 as trained.", 0, 10)
    ] = 1.0
    reference: Annotated[
        str | None,
        Setting("A picture as a prompt, beside the words.", metavar="FILE", place="picture"),
    ] = None
    reference_model: Annotated[
        str | None,
        Setting(
            "The IP-Adapter that reads it: its .safetensors file.", metavar="FILE", place="weights"
        ),
    ] = None
    reference_scale: Annotated[float, Setting("How much it counts.", 0, 10)] = 0.6
    lora: Annotated[
        str | tuple[str, ...],
        Setting("LoRAs for this picture.", metavar="FILE[:SCALE]", place="weights"),
    ] = ()
    embedding: Annotated[
        str | tuple[str, ...],
        Setting(
            "Textual inversion: a word that may be used in the prompt.",
            metavar="FILE",
            place="weights",
        ),
    ] = ()
    noise_level: Annotated[
        int | None,
        Setting("How noisy a model that enlarges a picture is told it, of 1000.", 0, 999),
    ] = None
    truncation: Annotated[
        float, Setting("GANs: 1 as drawn, towards 0 likelier and more alike.", 0, 1)
    ] = 1.0
    then: Annotated[
        str | tuple[str, ...] | None,
        Setting(
            "A model that goes on from the picture: an upscaler, a refiner.",
            metavar="MODEL",
            place="model",
        ),
    ] = None
    expand: Annotated[
        str | None,
        Setting(
            "A language model that first makes a short prompt a dense one.",
            metavar="MODEL",
            place="model",
        ),
    ] = None


@dataclass(frozen=True)
class PartMeasuring:
    """What an autoencoder or a CLIP is measured on."""

    data: Annotated[
        str | None, Setting("Real pictures with captions, or a recipe, which holds some out.")
    ] = None
    split: Annotated[str | None, Setting("Keep rows whose `split` column has this value.")] = None
    n: Annotated[int, Setting("Pictures, of each kind.", 1, 10**9, flags=("-n", "--n"))] = 100
    sheet: Annotated[str | None, Setting("Where the pictures go, for a look.", metavar="FILE")] = (
        None
    )


@dataclass(frozen=True)
class ImageMeasuring(PartMeasuring):
    each: Annotated[
        int, Setting("With --data: an image model's pictures of each caption.", 1, 10**6)
    ] = 1
    features: Annotated[
        str | None,
        Setting(
            "A CLIP folder: its eye measures an image model, and how pictures fit their captions."
        ),
    ] = None
    plot: Annotated[
        str | None, Setting("Where plots of an image model's measures go.", metavar="PNG")
    ] = None
    guidance_scale: Annotated[
        str | None,
        Setting(
            "Of an image model; several are measured one by one, and drawn as curves.",
            metavar="S[,S...]",
        ),
    ] = None


IMAGE = Medium(
    name="image",
    help="Paint a prompt with an image model. Prints the file's name.",
    prompt="What to paint.",
    plural="pictures",
    settings=ImageParams,
    loading=Loading,
    measuring=ImageMeasuring,
    model="house/image",
    module="daedal.pipelines.image",
    metrics="daedal.evals.image",
    suffix=".png",
    suffixes=(".png", ".webp", ".jpg", ".jpeg"),
)
