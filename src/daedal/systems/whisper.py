"""Whisper as transcription and its training need it: the log-mel spectrogram that it reads, the ids of
its special tokens, its folders.

    whisper = Whisper.load(folder)
    states = whisper.encode(samples)          # of at most 30 s at 16 kHz

Legend: B sounds, N samples, M mel bins, T frames, S states, D width."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from daedal import checkpoints
from daedal.checkpoints import ctranslate2
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError, nearest
from daedal.media.sound import mel_filters, stft
from daedal.networks.whisper import STRIDE, WhisperForConditionalGeneration
from daedal.nn.quantized import BF16_UNITS, quantize_
from daedal.systems.languages import LANGUAGES

RATE, WINDOW, HOP = 16000, 400, 160
ENGLISH_END = 50256  # the end's id in the models that know English only
PER_SECOND = RATE // HOP // STRIDE  # states; timestamps count them


def log_mel(samples: np.ndarray, bins: int, count: int) -> np.ndarray:
    """(N,) at 16 kHz -> (M, T) of exactly `count` frames, silence after the sound: decibels of the
    mel bands, those 80 dB below the loudest and less made one, scaled to about [-1, 1]."""
    padded = np.zeros(count * HOP, np.float32)
    padded[: len(samples)] = samples[: len(padded)]
    power = np.abs(stft(padded, WINDOW, HOP)[:, :-1]) ** 2
    bands = np.log10(np.maximum(mel_filters(RATE, WINDOW, bins) @ power, 1e-10))
    return (np.maximum(bands, bands.max() - 8) + 4) / 4


@dataclass(frozen=True)
class Tokens:
    """Ids of the tokens that are no text. `languages` is empty where the model knows English only,
    `clock` the id of the timestamp of 0 s."""

    start: int
    end: int
    translate: int
    transcribe: int
    previous: int
    no_speech: int
    no_clock: int
    languages: dict[str, int]
    suppressed: tuple[int, ...]  # never drawn
    first: tuple[int, ...]  # not as the first word: a blank, the end

    @property
    def clock(self) -> int:
        return self.no_clock + 1

    def prompt(self, language: str, task: str) -> list[int]:
        """What stands before the first token that is drawn."""
        if not self.languages:
            return [self.start]
        return [self.start, self.languages[language], getattr(self, task)]


def tokens_of(tokenizer: Tokenizer, raw: dict[str, Any]) -> Tokens:
    """`raw` is generation_config.json, or CTranslate2's config.json."""

    def id_of(*names: str) -> int:
        found = next((i for name in names if (i := tokenizer.token_id(name)) is not None), None)
        if found is None:
            raise DaedalError(
                f"the tokenizer has no {names[0]}, so it is not Whisper's; take the model's own tokenizer.json."
            )
        return found

    start, translate = id_of("<|startoftranscript|>"), id_of("<|translate|>")
    known = {code: tokenizer.token_id(f"<|{code}|>") for code in LANGUAGES}
    languages = {code: i for code, i in known.items() if i is not None}
    special = (
        start,
        translate,
        id_of("<|transcribe|>"),
        id_of("<|startoflm|>"),
        id_of("<|startofprev|>"),
        id_of("<|nospeech|>", "<|nocaptions|>"),
    )
    suppressed = raw.get("suppress_tokens") or raw.get("suppress_ids") or ()
    end = id_of("<|endoftext|>")
    first = raw.get("begin_suppress_tokens") or raw.get("suppress_ids_begin") or (end,)
    return Tokens(
        start,
        end,
        translate,
        special[2],
        special[4],
        special[5],
        id_of("<|notimestamps|>"),
        languages if end != ENGLISH_END else {},
        tuple({*suppressed, *special}),
        tuple(first),
    )


@dataclass
class Whisper:
    """A network, its tokenizer, and the layers and heads whose attention follows the sound."""

    network: WhisperForConditionalGeneration
    tokenizer: Tokenizer
    tokens: Tokens
    heads: list[tuple[int, int]]

    @classmethod
    def load(cls, folder: Path, device: torch.device, dtype: str = "auto") -> "Whisper":
        """A folder of transformers or of CTranslate2. `dtype` auto runs on a CPU the encoder in
        bf16, where there are units for it, and the decoder with weights of 8 bits."""
        raw = read_json(folder / "config.json")
        wanted = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(dtype, torch.float32)
        if ctranslate2.holds(folder):
            network = ctranslate2.load(folder, raw, wanted, device)
        else:
            kind = WhisperForConditionalGeneration
            network = checkpoints.load(folder, wanted, device, kind=kind)
            raw = read_json(folder / "generation_config.json") or raw
        if dtype == "auto" and device.type == "cpu":
            quantize_(network.decoder, 8)
            if BF16_UNITS:
                network.encoder.to(torch.bfloat16)
        tokenizer = Tokenizer.load(folder)
        c = network.config
        heads = raw.get("alignment_heads") or [
            (layer, head)
            for layer in range(c.decoder_layers // 2, c.decoder_layers)
            for head in range(c.decoder_attention_heads)
        ]
        pairs = [(layer, head) for layer, head in heads]
        return cls(network, tokenizer, tokens_of(tokenizer, raw), pairs)

    @property
    def frames(self) -> int:
        """Of a window."""
        return STRIDE * self.network.config.max_source_positions

    @property
    def window(self) -> int:
        """Samples of a window."""
        return self.frames * HOP

    @property
    def device(self) -> torch.device:
        return self.network.encoder.conv1.weight.device

    @cached_property
    def cross_dtype(self) -> torch.dtype:
        """Of the keys and values of the sound: those of the encoder, which made them."""
        return self.network.encoder.conv1.weight.dtype

    def encode(self, samples: np.ndarray) -> Tensor:
        """(N,) at 16 kHz, at most a window -> states (1, S, D)."""
        mel = log_mel(samples, self.network.config.num_mel_bins, self.frames)
        return self.network.encode(torch.from_numpy(mel)[None].to(self.device))

    def language(self, name: str) -> str:
        """The code of a language ("de", "German"), if the model knows it."""
        code = {title.lower(): code for code, title in LANGUAGES.items()}.get(
            name.lower(), name.lower()
        )
        known = list(self.tokens.languages) or ["en"]
        if code not in known:
            titles = [LANGUAGES[each] for each in known]
            raise DaedalError(
                f"language {name!r} is none that this model knows{nearest(name, known + titles)}; it knows {', '.join(known)}."
            )
        return code

    def text(self, ids: Sequence[int]) -> str:
        """The words of ids, timestamps left out."""
        return self.tokenizer.decode([i for i in ids if i < self.tokens.end])


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
