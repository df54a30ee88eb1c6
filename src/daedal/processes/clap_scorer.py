"""A trained ear: a CLAP folder of transformers, with its tokenizer and what it makes of sounds before
it listens. It says how well a sound fits a text, which ranks sounds and measures models of them.

Legend: B sounds, N samples, P width of the shared space."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from daedal import checkpoints
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.media.sound import mel_filters, resample, stft
from daedal.networks.clap import ClapModel, ClapTextModelWithProjection

FEATURES = {  # of the published unfused models, where the folder does not say
    "sampling_rate": 48000, "hop_length": 480, "fft_window_size": 1024, "feature_size": 64, "frequency_min": 50, "frequency_max": 14000,
    "max_length_s": 10, "padding": "repeatpad",
}  # fmt: skip
LONGEST = 512  # tokens of a text


@dataclass
class ClapScorer:
    clap: ClapModel
    tokenizer: Tokenizer
    features: dict[str, Any]  # FEATURES, as the folder says them

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        path = Path(checkpoints.resolve(str(folder)))
        clap = checkpoints.load(path, torch.float32)
        if not isinstance(clap, ClapModel):
            raise DaedalError(
                f"{folder} holds a {type(clap).__name__}; give the folder of a CLAP model, such as laion/clap-htsat-unfused."
            )
        return cls(clap, Tokenizer.load(path), features_of(path))

    @torch.no_grad()
    def texts(self, captions: Sequence[str]) -> Tensor:
        """Unit vectors (B, P)."""
        return embedded(self.clap, self.tokenizer, captions)

    @torch.no_grad()
    def sounds(self, sounds: Sequence[np.ndarray], rate: int) -> Tensor:
        """Sounds of (C, N) samples at a rate -> unit vectors (B, P)."""
        mels = [self.mel(resample(each.mean(0), rate, self.rate)) for each in sounds]
        where = next(self.clap.parameters()).device
        return torch.cat(
            [self.clap.embed_sounds(torch.from_numpy(mel)[None].to(where)) for mel in mels]
        )

    def fits(self, sounds: Sequence[np.ndarray], rate: int, caption: str) -> Tensor:
        """How well each sound fits a text: cosines (B,)."""
        return self.sounds(sounds, rate) @ self.texts([caption])[0]

    @property
    def rate(self) -> int:
        return int(self.features["sampling_rate"])

    def mel(self, samples: np.ndarray) -> np.ndarray:
        """(N,) -> decibels (T, M) of ten seconds: the middle of a longer sound, a shorter one
        repeated as often as it fits, with silence behind."""
        f = self.features
        most = int(f["max_length_s"] * self.rate)
        if len(samples) > most:
            begin = (len(samples) - most) // 2
            samples = samples[begin : begin + most]
        if f["padding"] == "repeatpad":
            samples = np.tile(samples, most // len(samples))
        samples = np.pad(samples, (0, most - len(samples)))
        n_fft, bands = int(f["fft_window_size"]), int(f["feature_size"])
        low, high = float(f["frequency_min"]), float(f["frequency_max"])
        power = np.abs(stft(samples, n_fft, int(f["hop_length"]))) ** 2
        mel = mel_filters(self.rate, n_fft, bands, low, high) @ power
        return (10 * np.log10(np.maximum(mel, 1e-10))).T.astype(np.float32)


def features_of(folder: Path) -> dict[str, Any]:
    """FEATURES with what a folder's preprocessor_config.json says."""
    file = folder / "preprocessor_config.json"
    told = json.loads(file.read_text()) if file.is_file() else {}
    return {key: told.get(key, value) for key, value in FEATURES.items()}


def embedded(
    clap: ClapModel | ClapTextModelWithProjection, tokenizer: Tokenizer, captions: Sequence[str]
) -> Tensor:
    """Texts as unit vectors (B, P), each between the marks of its beginning and its end."""
    begin, end = (tokenizer.backend.token_to_id(mark) for mark in ("<s>", "</s>"))
    rows = [[begin, *plain(tokenizer, text)[: LONGEST - 2], end] for text in captions]
    tokens = torch.tensor([i for row in rows for i in row])
    where = next(clap.parameters()).device
    return clap.embed_text(tokens.to(where), [len(row) for row in rows])


def plain(tokenizer: Tokenizer, text: str) -> list[int]:
    """A text's tokens without marks."""
    return tokenizer.backend.encode(text, add_special_tokens=False).ids
