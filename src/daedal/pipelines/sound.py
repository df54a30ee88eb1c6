"""Sounds: `load` a model by name and call it.

pipeline = daedal.load("stabilityai/stable-audio-open-1.0")
sound = pipeline("rain on a tin roof", seconds=8, seed=1)
sound.save("rain.wav")
pipeline("hail on a tin roof", init="rain.wav", strength=0.6)
"""

import secrets
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from daedal import checkpoints
from daedal import device as machine
from daedal.checkpoints.folder import read_index
from daedal.checkpoints.resolve import house_models
from daedal.engine.runtime import Generation, GeneratorLane
from daedal.errors import DaedalError
from daedal.media.audio import open_audio
from daedal.media.sound import check_heard
from daedal.pipelines import given
from daedal.pipelines.medium import Pipeline, SteppedHandle
from daedal.pipelines.place import located
from daedal.pipelines.remote_audio import RemoteSound
from daedal.pipelines.sound_params import SOUND, SoundParams
from daedal.pipelines.sound_result import Progress, Sound
from daedal.processes.clap_scorer import ClapScorer
from daedal.processes.imaging import generating, seeded_noise
from daedal.processes.prompts import remark
from daedal.processes.samplers import Steps, sampler_named
from daedal.settings import read
from daedal.systems.audioldm import AudioLDM, AudioLDM2
from daedal.systems.conditions import Conditions
from daedal.systems.sound import SoundSystem
from daedal.systems.stable_audio import StableAudio
from daedal.systems.system import denoiser, guided_by

SYSTEMS: dict[str, type[SoundSystem]] = {  # by what diffusers calls the pipeline
    "StableAudioPipeline": StableAudio,
    "AudioLDMPipeline": AudioLDM,
    "AudioLDM2Pipeline": AudioLDM2,
}


class SoundPipeline(Pipeline):
    """A model of sounds behind one call. Settings are those of `SoundParams`."""

    medium = SOUND

    def __init__(
        self,
        system: SoundSystem,
        name: str,
        folder: Path | None = None,
        loading: dict[str, Any] | None = None,
    ) -> None:
        self.system, self.name, self.folder, self.loading = system, name, folder, loading or {}
        self.lane = GeneratorLane()

    def start(
        self, prompt: str, *, client: str = "", priority: int = 0, **settings: Any
    ) -> "Sounds":
        if not isinstance(prompt, str) or not prompt.strip():
            raise DaedalError(
                'the prompt is empty; say what is heard, for example "rain on a tin roof".'
            )
        noted = {"init": given.remembered(settings.get("init"))}
        p = read(SoundParams, settings | noted, "sounds")
        samples = None if p.init is None else self.opened(given.unchanged(p.init))
        p = self.chosen(p, samples)
        sampler_named(str(p.sampler))
        if p.best_of and p.best_of < p.n:
            raise DaedalError(f"best_of={p.best_of} is fewer than n={p.n}; make at least as many.")
        return Sounds(self, prompt, p, samples, client, priority)

    def chosen(self, p: SoundParams, samples: np.ndarray | None) -> SoundParams:
        """The settings with every None filled in."""
        system = self.system
        own = system.defaults | {"sampler": system.schedule.sampler}
        if samples is not None:
            own["seconds"] = min(samples.shape[1] / system.rate, system.longest)
        open_ = {key: value for key, value in own.items() if getattr(p, key) is None}
        p = replace(p, **open_, seed=secrets.randbelow(2**31) if p.seed is None else p.seed)
        if float(p.seconds or 0) > system.longest + 1e-6:
            raise DaedalError(
                f"seconds={p.seconds:g} is more than the {system.longest:.2f} s that {self.name} was trained to make; ask for at most that."
            )
        return p

    def opened(self, file: Path) -> np.ndarray:
        """The samples (C, N) of a file to start from, at the model's rate and channels."""
        system = self.system
        samples, _ = open_audio(file, rate=system.rate, mono=system.sound_channels == 1)
        check_heard(samples, str(file))
        samples = np.repeat(samples, 2, 0) if len(samples) < system.sound_channels else samples
        return samples[: system.sound_channels]

    def runtime(self) -> dict[str, Any]:
        parameter = next(self.system.network.parameters())
        return machine.runtime_of(parameter) | {"loading": self.loading}

    @torch.no_grad()
    def make(self, prompt: str, p: SoundParams, samples: np.ndarray | None) -> Steps:
        """Steps that return sounds (n, C, N)."""
        system, seconds, n = self.system, float(p.seconds or 0), p.best_of or p.n
        seeds = [int(p.seed or 0) + i for i in range(n)]
        ear = None if n == p.n else self.ear(p)
        shape = system.latent_shape(seconds)
        noise = seeded_noise(seeds, shape, system.device)
        levels = system.schedule.levels(int(p.steps or 1))
        start = None
        if samples is not None:
            known = torch.from_numpy(samples)[None].to(system.device, system.dtype)
            start = system.from_samples(known, seconds).float().expand(n, *shape)
            levels = levels.tail(p.strength)
        yield None  # the sound to start from is encoded
        predict = denoiser(
            system,
            self.prepared(prompt, p, n),
            guidance_scale=float(p.guidance_scale or 0),
        )
        yield None  # the prompts are read
        x = yield from generating(
            predict,
            noise,
            levels,
            sampler=sampler_named(str(p.sampler)),
            start=start,
            opening=system.schedule.start,
        )
        sounds = yield from self.decoded(x, seconds)
        return sounds if ear is None else self.best(sounds, prompt, p, ear)

    def best(self, sounds: Tensor, prompt: str, p: SoundParams, ear: ClapScorer) -> Tensor:
        """The n sounds of (best_of, C, N) that fit the prompt best, best first."""
        fits = ear.fits([*sounds.numpy()], self.system.rate, prompt)
        return sounds[fits.argsort(descending=True, stable=True)[: p.n].cpu()]

    def ear(self, p: SoundParams) -> ClapScorer:
        """What chooses among sounds."""
        if p.scorer is not None:
            return ClapScorer.load(p.scorer)
        if self.system.listener is None:
            raise DaedalError(
                f"best_of={p.best_of} wants an ear that chooses, and {self.name} has none; give a CLAP folder or Hub name as scorer, such as laion/clap-htsat-unfused."
            )
        return self.system.listener

    def prepared(self, prompt: str, p: SoundParams, n: int) -> dict[str, Any]:
        system, scale = self.system, float(p.guidance_scale or 0)
        negatives = [p.negative] * (n * guided_by(system, scale))
        prompts = [*[prompt] * n, *negatives]
        texts = list(dict.fromkeys(prompts))
        told = system.encode(texts, cut=True)  # at once, so that they are as long
        index = torch.tensor([texts.index(text) for text in prompts], device=system.device)
        rows = {key: value.to(system.device)[index] for key, value in told.items()}
        conditions = Conditions((1, 1), scale, len(negatives), seconds=float(p.seconds or 0))
        return system.prepare(rows, conditions)

    def decoded(self, x: Tensor, seconds: float) -> Steps:
        """One sound after another, a piece a step, for memory."""
        sounds = []
        for one in x.to(next(self.system.codec.parameters()).dtype):
            pieces = []
            for piece in self.system.pieces(one[None], seconds):
                pieces.append(piece.float().cpu())
                yield None
            sounds.append(torch.cat(pieces, -1))
        return torch.cat(sounds)


class Sounds(SteppedHandle):
    """Sounds under way."""

    def __init__(
        self,
        pipeline: SoundPipeline,
        prompt: str,
        params: SoundParams,
        samples: np.ndarray | None,
        client: str,
        priority: int,
    ) -> None:
        self.pipeline, self.prompt, self.params = pipeline, prompt, params
        steps = int(params.steps or 1)
        self.total = max(1, int(steps * params.strength)) if params.init else steps
        unread = remark(prompt, pipeline.system.tokenizers)
        self.remarks = tuple(filter(None, [unread]))
        work = pipeline.make(prompt, params, samples)
        super().__init__(pipeline.lane.submit(Generation(work, (), client, priority)))

    def event(self, state: Any) -> Progress:
        return Progress(state[0] + 1, self.total)

    def results(self) -> list[Sound]:
        made = self.value().numpy()
        if not np.isfinite(made).all():
            raise DaedalError(
                "the sound has numbers that are NaN or infinite; load the model with dtype fp32, or check its weights."
            )
        settings = {k: v for k, v in asdict(self.params).items() if v is not None}
        recipe, rate = self.pipeline.recipe(self.prompt, settings), self.pipeline.system.rate
        return [
            Sound(
                recipe | {"sample": i},
                "stop",
                samples,
                rate,
                self.total,
                joules=self.share(len(made)),
            )
            for i, samples in enumerate(made)
        ]


def named(folder: Path) -> str:
    """What diffusers calls the pipeline of a folder of a model of sounds; empty for any other."""
    if not (folder / "model_index.json").is_file():
        return ""
    kind = str(read_index(folder).get("_class_name", ""))
    return kind if kind in SYSTEMS or "Audio" in kind else ""


def holds(folder: Path) -> bool:
    """Whether a folder holds a model of sounds."""
    return bool(named(folder))


def connect(server: str, model: str) -> Pipeline:
    """A model of a Daedal server."""
    return RemoteSound(server, model)


def load(name_or_folder: str | Path, device: str = "auto", dtype: str = "auto") -> SoundPipeline:
    """A pipeline for a folder that diffusers saved, or a Hub name. The autoencoder computes in
    fp32, whatever the rest does."""
    if name_or_folder == SOUND.model and SOUND.model not in house_models():
        raise DaedalError(
            "there is no house model of sounds yet; give the folder or Hub name of Stable Audio Open or AudioLDM as the model."
        )
    folder, where = located(name_or_folder), machine.pick_device(device)
    kind = named(folder)
    if kind not in SYSTEMS:
        known = ", ".join(SYSTEMS)
        raise DaedalError(
            f"{name_or_folder} is {f'a {kind}' if kind else 'no model of sounds'}; Daedal makes sounds with {known}."
        )
    parts = checkpoints.load_parts(folder, machine.compute_dtype(dtype, where), where)
    parts["vae"].float()
    loading = {"device": where.type, "dtype": dtype}
    return SoundPipeline(SYSTEMS[kind](parts), str(name_or_folder), folder, loading)
