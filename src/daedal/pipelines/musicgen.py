"""MusicGen behind the call of the medium music: sound from a prompt, or on from a clip."""

import json
import secrets
from collections.abc import Generator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from daedal import checkpoints
from daedal import device as machine
from daedal.engine.runtime import Generation, GeneratorLane
from daedal.errors import DaedalError
from daedal.media.audio import open_audio
from daedal.media.sound import check_heard
from daedal.pipelines.medium import Pipeline, SteppedHandle
from daedal.pipelines.music_params import MUSIC, MusicParams
from daedal.pipelines.music_result import Music, Progress
from daedal.settings import read
from daedal.systems.musicgen import MusicGen, composed

SECONDS, GUIDANCE, TOP_K = 8.0, 3.0, 250  # where neither the caller nor the folder says
KINDS = ("musicgen", "musicgen_melody")
WORDS = ("bpm", "key", "instrument")  # settings that it can only be told in its prompt


class MusicGenPipeline(Pipeline):
    """Settings are those of `MusicParams`."""

    medium = MUSIC

    def __init__(self, music: MusicGen, name: str, folder: Path, loading: dict[str, Any]) -> None:
        self.music, self.name, self.folder, self.loading = music, name, folder, loading
        path = folder / "generation_config.json"
        own = json.loads(path.read_text()) if path.exists() else {}
        self.guidance = float(own.get("guidance_scale") or GUIDANCE)
        self.lane = GeneratorLane()

    @classmethod
    def load(cls, name: str, folder: Path, device: str, dtype: str) -> "MusicGenPipeline":
        where = machine.pick_device(device)
        if dtype != "auto":
            machine.compute_dtype(dtype, where)
        loading = {"device": where.type, "dtype": dtype}
        return cls(MusicGen.load(folder, where, dtype), name, folder, loading)

    def runtime(self) -> dict[str, Any]:
        weight = self.music.network.lm.layer_norm.weight
        return machine.runtime_of(weight) | {"loading": self.loading}

    def start(
        self, prompt: str, *, client: str = "", priority: int = 0, **settings: Any
    ) -> "Composing":
        if not isinstance(prompt, str) or not prompt.strip():
            raise DaedalError('the prompt is empty; say what to play, for example "calm piano".')
        params = read(MusicParams, settings, "pieces of music")
        if params.seed is None:
            params = replace(params, seed=secrets.randbelow(2**31))
        return Composing(self, prompt, params, client, priority)


class Composing(SteppedHandle):
    """Pieces under way."""

    def __init__(
        self,
        pipeline: MusicGenPipeline,
        prompt: str,
        params: MusicParams,
        client: str,
        priority: int,
    ) -> None:
        self.pipeline, self.prompt = pipeline, prompt
        self.params = replace(
            params,
            seconds=params.seconds or SECONDS,
            guidance_scale=params.guidance_scale or pipeline.guidance,
            top_k=TOP_K if params.top_k is None else params.top_k,
        )
        self.frames = max(1, round((self.params.seconds or SECONDS) * pipeline.music.frame_rate))
        told = [name for name in WORDS if getattr(params, name) is not None]
        if told:
            self.remarks = (
                f"{pipeline.name} reads {' and '.join(told)} as words of the prompt and may not keep to them.",
            )
        steps = self.steps(self.clip(params.init), self.tune(params.melody))
        super().__init__(pipeline.lane.submit(Generation(steps, None, client, priority)))

    @property
    def words(self) -> str:
        """The prompt, and the settings that it can only be told."""
        p = self.params
        said = (
            f"{p.bpm:g} bpm" if p.bpm else "",
            f"in {p.key}" if p.key else "",
            p.instrument or "",
        )
        return ", ".join(filter(None, (self.prompt, *said)))

    def clip(self, file: str | None) -> np.ndarray | None:
        """The samples (C, N) to go on from."""
        music = self.pipeline.music
        if file is None:
            return None
        samples, _ = open_audio(file, rate=music.rate, mono=music.channels == 1)
        samples = np.repeat(samples, 2, 0) if len(samples) < music.channels else samples
        if samples.shape[1] >= self.frames * music.network.audio_encoder.config.hop:
            raise DaedalError(
                f"{file} lasts {samples.shape[1] / music.rate:.1f} s, and {self.params.seconds:g} s are asked for in all; ask for more seconds."
            )
        return samples[: music.channels]

    def tune(self, file: str | None) -> np.ndarray | None:
        """The samples (N,) of a melody to follow."""
        music = self.pipeline.music
        if file is None:
            return None
        if not music.follows:
            raise DaedalError(
                f"{self.pipeline.name} cannot follow a melody; take a MusicGen melody model, such as facebook/musicgen-melody."
            )
        samples, _ = open_audio(file, rate=music.rate, mono=True)
        check_heard(samples, file)
        return samples[0]

    @torch.inference_mode()
    def steps(
        self, clip: np.ndarray | None, tune: np.ndarray | None
    ) -> Generator[int, None, torch.Tensor]:
        music, p = self.pipeline.music, self.params
        device = music.network.lm.layer_norm.weight.device
        noise = torch.Generator().manual_seed(int(p.seed or 0))
        books = music.network.lm.config.num_codebooks
        given = torch.zeros(1, books, 0, dtype=torch.long, device=device)
        if clip is not None:
            given = music.codes(torch.from_numpy(clip)[None].to(device))
        codes = yield from composed(
            music,
            music.encode(self.words, tune),
            given.expand(p.n, -1, -1),
            self.frames,
            float(p.guidance_scale or 1),
            p.temperature,
            p.top_k or 0,
            noise,
        )
        return music.sound(codes)

    def event(self, state: int) -> Progress:
        return Progress(state, self.frames + max(self.pipeline.music.network.lm.config.delays))

    def results(self) -> list[Music]:
        sounds = self.value().float().cpu().numpy()
        settings = {key: value for key, value in asdict(self.params).items() if value is not None}
        recipe = self.pipeline.recipe(self.prompt, settings)
        rate, joules = self.pipeline.music.rate, self.share(len(sounds))
        return [
            Music(recipe | {"sample": i}, "stop", sound, rate, self.frames, joules=joules)
            for i, sound in enumerate(sounds)
        ]


def holds(place: Path) -> bool:
    """Whether a folder holds a MusicGen."""
    config = place / "config.json"
    return config.is_file() and checkpoints.read_config(place).get("model_type") in KINDS
