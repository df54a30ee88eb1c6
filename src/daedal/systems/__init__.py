"""Systems, one file each: a codec, a conditioning, a network and a process as training and painting
both need them. `system_of` finds the one of a model folder's parts."""

from typing import Any

from daedal.errors import DaedalError
from daedal.systems.deepfloyd import DeepFloyd
from daedal.systems.dit import ClassConditional
from daedal.systems.flux import Flux
from daedal.systems.pixart import PixArt
from daedal.systems.stable_diffusion import StableDiffusion
from daedal.systems.stable_diffusion_3 import StableDiffusion3
from daedal.systems.system import System
from daedal.systems.upscaler import Upscaler

SYSTEMS: dict[str, type[System]] = {  # by the class of the network
    "UNet2DConditionModel": StableDiffusion,
    "SD3Transformer2DModel": StableDiffusion3,
    "FluxTransformer2DModel": Flux,
    "PixArtTransformer2DModel": PixArt,
    "DiTTransformer2DModel": ClassConditional,
}


def system_of(parts: dict[str, Any]) -> System:
    """The system of the parts that `checkpoints.load_parts` or `load_single_file` gives."""
    kind = type(parts.get("unet") or parts.get("transformer")).__name__
    if kind not in SYSTEMS:
        known = ", ".join(SYSTEMS)
        raise DaedalError(
            f"the folder's {kind} is not an image network that can be painted with; known are {known}."
        )
    if "low_res_scheduler" in parts:
        return Upscaler(parts)
    return SYSTEMS[kind](parts) if "vae" in parts else DeepFloyd(parts)
