"""AnimateDiff (Guo et al. 2023): Stable Diffusion 1.5 with motion modules, frame by frame but for
these."""

from typing import Any

from torch import Tensor

from daedal.networks.unet_blocks import Keys
from daedal.nn.conv3d import as_clip, as_frames
from daedal.systems.stable_diffusion import StableDiffusion
from daedal.systems.system import Prepared
from daedal.systems.video import VideoSystem


class Frames:
    """A codec of pictures as one of clips."""

    def __init__(self, codec: Any) -> None:
        self.codec, self.factor = codec, codec.factor
        self.factors = 1, codec.factor

    def encode(self, clips: Tensor) -> Tensor:
        return as_clip(self.codec.encode(as_frames(clips)), len(clips))

    def decode(self, latents: Tensor) -> Tensor:
        return as_clip(self.codec.decode(as_frames(latents)), len(latents))


class AnimateDiff(VideoSystem, StableDiffusion):
    takes = frozenset()

    def __init__(self, parts: dict[str, Any]) -> None:
        super().__init__(parts | {"vae": Frames(parts["vae"])})
        self.defaults |= {"frames": 16, "fps": 8.0}

    def predict(self, x: Tensor, time: Tensor, prepared: Prepared) -> Tensor:
        """x (B, C, F, h, w) at times in 0..999 -> the noise; each frame reads its clip's text."""
        count = x.shape[2]
        keys = [
            Keys(*(each.repeat_interleave(count, 0) for each in (key.k, key.v)))
            for key in prepared["text_kv"]
        ]
        told = {"text_kv": keys, "guidance": prepared["guidance"], "frames": count}
        return as_clip(self.network(as_frames(x), time.repeat_interleave(count), **told), len(x))
