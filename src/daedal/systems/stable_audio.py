"""Stable Audio Open (Evans et al. 2024): diffusion in the latents of a waveform autoencoder, told
T5's states and at which seconds the sound begins and ends. It always makes as much as it was
trained at; what lies behind the end that it was told is silence, and is cut."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from daedal.systems.conditions import Conditions
from daedal.systems.sound import SoundSystem, cut
from daedal.systems.system import Conditioning, Prepared
from daedal.systems.text import T5

LENGTH = 128  # tokens of a prompt in training, where the folder does not say


class StableAudio(SoundSystem):
    trainable = False

    def __init__(self, parts: dict[str, Any]) -> None:
        super().__init__(parts)
        self.t5, self.projection = T5(parts), parts["projection_model"]
        self.tokenizers = [self.t5.tokenizer]
        c = self.codec.config
        self.rate, self.sound_channels = c.sampling_rate, c.audio_channels
        self.frames = self.config.sample_size
        self.longest = self.frames * self.codec.factor / self.rate
        told = self.t5.tokenizer.config.get("model_max_length")
        self.length = told if isinstance(told, int) and told < 2**20 else LENGTH
        self.defaults = {"seconds": min(10.0, self.longest), "steps": 100, "guidance_scale": 7.0}

    def encode(self, prompts: list[str], cut: bool = False) -> Conditioning:
        """{"text": (B, L, D), "there": (B, L)}, zeros behind each prompt's end; an empty prompt is
        zeros throughout."""
        text, there = self.t5.read(prompts, self.length, masked=True, cut=True)
        said = torch.tensor([bool(prompt) for prompt in prompts], device=there.device)
        return {"text": text, "there": there & said[:, None]}

    def prepare(self, conditioning: Conditioning, conditions: Conditions) -> Prepared:
        """The keys of the text and the times; what is told no prompt is told no times either, but
        for those of the first token."""
        there = conditioning["there"]
        ones = torch.ones(len(there), device=self.device)
        text, times = self.projection(
            conditioning["text"].to(self.dtype), 0 * ones, conditions.seconds * ones
        )
        said = there.any(1)[:, None, None]
        read = torch.cat([text * there[..., None], times * said], 1)
        return {"keys": self.network.text_keys(read), "times": times.flatten(1)}

    def predict(self, x: Tensor, time: Tensor, prepared: Prepared) -> Tensor:
        return self.network(x, time, prepared["keys"], prepared["times"])

    def latent_shape(self, seconds: float) -> tuple[int, ...]:
        return self.channels, self.frames

    def from_samples(self, samples: Tensor, seconds: float) -> Tensor:
        wanted = self.frames * self.codec.factor
        samples = samples[..., :wanted]
        return self.codec.encode(F.pad(samples, (0, wanted - samples.shape[-1])))

    def pieces(self, latents: Tensor, seconds: float) -> Iterator[Tensor]:
        return cut(self.codec.pieces(latents), round(seconds * self.rate))
