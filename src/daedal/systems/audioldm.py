"""AudioLDM (Liu et al. 2023) and AudioLDM 2 (Liu et al. 2023): diffusion in the latents of a log-mel
spectrogram, which a vocoder makes sound. AudioLDM is told CLAP's vector of the prompt beside the
noise level; AudioLDM 2 reads T5's states and a sequence that a language model goes on with from
those and CLAP's vector.

Legend: B prompts or sounds, L tokens, D width, M mel bands."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from daedal.errors import DaedalError
from daedal.media.sound import mel_filters, stft
from daedal.networks.clap import ClapModel
from daedal.processes.clap_scorer import FEATURES, ClapScorer, embedded, features_of
from daedal.systems.conditions import Conditions
from daedal.systems.sound import SoundSystem, cut
from daedal.systems.system import Conditioning, Prepared
from daedal.systems.text import T5, load_tokenizer

N_FFT, FLOOR = 1024, 1e-5  # of the spectrogram, and of its magnitudes
GENERATED = 8  # states that the language model adds


class AudioLDM(SoundSystem):
    role, trainable = "unet", False
    settings = {"steps": 10, "guidance_scale": 2.5}

    def __init__(self, parts: dict[str, Any]) -> None:
        super().__init__(parts)
        # small, and what is heard: in fp32, whatever the rest computes in
        self.vocoder, self.clap = parts["vocoder"].float(), parts["text_encoder"].float()
        self.words = load_tokenizer(parts["tokenizer"])
        self.tokenizers = [self.words]
        c = self.vocoder.config
        self.rate, self.hop, self.bands = c.sampling_rate, c.hop, c.model_in_dim
        size = self.config.sample_size
        rows = size[0] if isinstance(size, tuple) else size
        self.longest = rows * self.codec.factor * self.hop / self.rate
        self.defaults = {"seconds": self.longest, **self.settings}

    def encode(self, prompts: list[str], cut: bool = False) -> Conditioning:
        """{"told": (B, P)}"""
        return {"told": embedded(self.clap, self.words, prompts)}

    def prepare(self, conditioning: Conditioning, conditions: Conditions) -> Prepared:
        return {"labels": conditioning["told"]}

    def predict(self, x: Tensor, time: Tensor, prepared: Prepared) -> Tensor:
        return self.network(x, time, **prepared)

    def latent_shape(self, seconds: float) -> tuple[int, ...]:
        return (
            self.channels,
            self.rows(seconds) // self.codec.factor,
            self.bands // self.codec.factor,
        )

    def rows(self, seconds: float) -> int:
        """Frames of the spectrogram, a whole number of latent cells."""
        frames = max(1, int(round(seconds * self.rate) / self.hop))
        return math.ceil(frames / self.codec.factor) * self.codec.factor

    def from_samples(self, samples: Tensor, seconds: float) -> Tensor:
        rows = self.rows(seconds)
        mel = torch.from_numpy(self.mel(samples[0, 0].float().cpu().numpy()))[:rows]
        mel = F.pad(mel, (0, 0, 0, rows - len(mel)), value=math.log(FLOOR))
        return self.codec.encode(mel[None, None].to(samples.device, self.codec_dtype))

    def mel(self, samples: np.ndarray) -> np.ndarray:
        """(N,) -> the logarithm of its mel magnitudes (T, M)."""
        sizes = np.abs(stft(samples, N_FFT, self.hop))
        mel = mel_filters(self.rate, N_FFT, self.bands, 0.0, min(8000.0, self.rate / 2)) @ sizes
        return np.log(np.maximum(mel, FLOOR)).T.astype(np.float32)

    @property
    def codec_dtype(self) -> torch.dtype:
        return next(self.codec.parameters()).dtype

    def pieces(self, latents: Tensor, seconds: float) -> Iterator[Tensor]:
        mel = self.codec.decode(latents)[:, 0]  # (B, T, M)
        return cut(iter([self.vocoder(mel.float())]), round(seconds * self.rate))


class AudioLDM2(AudioLDM):
    settings = {"steps": 200, "guidance_scale": 3.5}

    def __init__(self, parts: dict[str, Any]) -> None:
        super().__init__(parts)
        if not hasattr(parts["text_encoder_2"].config, "d_model"):
            raise DaedalError(
                "this AudioLDM 2 speaks a transcript, read as phonemes; for speech there is `daedal say`."
            )
        self.t5 = T5(parts, "_2")
        self.tokenizers = [self.t5.tokenizer]
        self.projection, self.language = parts["projection_model"], parts["language_model"]
        if isinstance(self.clap, ClapModel):
            heard = parts.get("feature_extractor")
            features = features_of(heard) if isinstance(heard, Path) else FEATURES
            self.listener = ClapScorer(self.clap, self.words, features)

    def encode(self, prompts: list[str], cut: bool = False) -> Conditioning:
        """{"text": (B, L, D), "there": (B, L), "told": (B, P)}, L that of the longest prompt."""
        text, there = self.t5.read(prompts, 1, masked=True)
        return {"text": text, "there": there, **super().encode(prompts)}

    def prepare(self, conditioning: Conditioning, conditions: Conditions) -> Prepared:
        text, there = conditioning["text"], conditioning["there"]
        told = conditioning["told"][:, None].to(text.dtype)
        states, exists = self.projection(told, text, there)
        made = self.gone_on(states, exists)
        return {"text_kv": self.network.keys_of(made.to(self.dtype), text.to(self.dtype), there)}

    def gone_on(self, states: Tensor, exists: Tensor) -> Tensor:
        """What the language model adds to its states (B, L, D), each from all before it."""
        for _ in range(GENERATED):
            places = torch.arange(states.shape[1], device=states.device).expand(exists.shape)
            last = self.language.states(states, places, mask=exists)[:, -1:]
            states, exists = torch.cat([states, last], 1), F.pad(exists, (0, 1), value=True)
        return states[:, -GENERATED:]
