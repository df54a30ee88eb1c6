"""Clips: `load` a model by name and call it.

    pipeline = daedal.load("runs/video/motion/model")
    clip = pipeline("a red circle moves right", seed=1)
    clip.save("a.mp4")                                        # the recipe goes into the file
    pipeline("a red circle moves right", init="first.png", seconds=4)

One rule for what is given: frames are clean and stay as they are. A first picture, a last one, the
clip that is gone on from, and the overlap with which a long clip is made in pieces are all that."""

import base64
import hashlib
import json
import secrets
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from daedal import device as machine
from daedal.checkpoints.resolve import house_models
from daedal.engine.runtime import Generation, GeneratorLane
from daedal.errors import DaedalError
from daedal.media import audio, images, terminal, video
from daedal.pipelines import given, open_video
from daedal.pipelines.house_video import HouseFilmer, Shot
from daedal.pipelines.medium import Pipeline, Result, SteppedHandle
from daedal.pipelines.open_video import OpenFilmer
from daedal.pipelines.painter import snapped
from daedal.pipelines.place import located
from daedal.pipelines.video_params import VIDEO, VideoParams
from daedal.processes.imaging import pixels
from daedal.processes.samplers import sampler_named
from daedal.settings import read


@dataclass(frozen=True)
class Clip(Result):
    """One finished clip."""

    medium = VIDEO
    frames: np.ndarray  # (F, H, W, 3) uint8
    rate: float  # frames a second
    steps: int
    sound: video.Track | None = None

    @property
    def logged(self) -> str:
        return hashlib.sha256(self.frames.tobytes()).hexdigest()

    @property
    def amount(self) -> int:
        return self.steps

    @property
    def seconds(self) -> float:
        return len(self.frames) / self.rate

    def save(self, path: str | Path) -> Path:
        """Write mp4, webm, gif, animated webp or png by suffix, with the recipe in the metadata."""
        return video.save_clip(self.frames, path, self.rate, self.recipe, self.sound)

    @classmethod
    def show(cls, results: list[Any]) -> None:
        terminal.show(images.grid([video.sheet(clip.frames) for clip in results], 1))

    def _repr_html_(self) -> str:
        with tempfile.TemporaryDirectory() as folder:
            data = self.save(Path(folder) / "clip.mp4").read_bytes()
        source = f"data:video/mp4;base64,{base64.b64encode(data).decode()}"
        return f'<video controls loop width="256" src="{source}"></video>'


@dataclass(frozen=True)
class Progress:
    """A step of a clip: how many of how many, and a frame of the estimate within it."""

    done: int
    total: int
    preview: Callable[[], np.ndarray]  # (B, h, w, 3) uint8


Filmer = HouseFilmer | OpenFilmer


class VideoPipeline(Pipeline):
    """A model of clips behind one call. Settings are those of `VideoParams`; init and last may also be
    arrays (H, W, 3) uint8, extend (F, H, W, 3), and sound samples (C, N) with their rate."""

    medium = VIDEO

    def __init__(
        self, filmer: Filmer, name: str, folder: Path | None, loading: dict[str, Any]
    ) -> None:
        self.filmer, self.name, self.folder, self.loading = filmer, name, folder, loading
        self.lane = GeneratorLane()

    def start(
        self, prompt: str, *, client: str = "", priority: int = 0, **settings: Any
    ) -> "Filming":
        params, shot, remarks = self.shot(prompt, settings)
        said = (*remarks, *filter(None, [self.filmer.remark(prompt)]))
        return Filming(self, params, shot, client, priority, said)

    def runtime(self) -> dict[str, Any]:
        parameter = next(iter(self.filmer.network.parameters()))
        return machine.runtime_of(parameter) | {"loading": self.loading}

    def shot(self, prompt: str, settings: dict[str, Any]) -> tuple[VideoParams, Shot, list[str]]:
        """The settings with every None filled in, the work they mean, and what was changed."""
        if not isinstance(prompt, str) or not prompt.strip():
            raise DaedalError(
                'the prompt is empty; say what happens, for example "a red circle moves right".'
            )
        files = {name: settings.get(name) for name in ("init", "last", "extend")}
        noted = {name: given.remembered(value) for name, value in files.items()}
        sound = settings.get("sound")
        noted["sound"] = given.remembered(sound[0] if isinstance(sound, tuple) else sound)
        noted_loras = tuple(map(given.remembered_lora, given.listed(settings.get("lora"))))
        p = read(VideoParams, settings | noted | {"lora": noted_loras}, "clips")
        d = self.filmer.defaults
        chosen: dict[str, Any] = {
            k: d[k] for k in ("fps", "steps", "guidance_scale", "sampler") if getattr(p, k) is None
        }
        p = replace(p, **chosen, seed=secrets.randbelow(2**31) if p.seed is None else p.seed)
        wanted = [name for name in (*files, "loop") if is_given(settings.get(name))]
        if unfit := [name for name in wanted if name not in self.filmer.takes]:
            takes = ", ".join(sorted(self.filmer.takes)) or "words alone"
            raise DaedalError(f"{self.name} cannot be given {unfit[0]}; it takes {takes}.")
        if missing := sorted(self.filmer.needs.difference(wanted)):
            raise DaedalError(
                f"{self.name} starts from pictures; give {' and '.join(missing)} too."
            )
        if p.lora and not self.filmer.takes_lora:
            raise DaedalError(f"{self.name} takes no LoRA; leave lora out, or name an open model.")
        if p.loop and (p.last or p.extend):
            raise DaedalError("a loop ends where it begins; leave last and extend out, or loop.")
        if p.extend and p.init:
            raise DaedalError("a clip that is gone on from has a first frame; leave init out.")
        width, height, remarks = self.size(p)
        sampler_named(str(p.sampler))
        front, end = self.front(files, float(p.fps or 0), height, width), None
        if files["last"] is not None:
            end = video.resized(given.opened(files["last"])[None, ..., :3], height, width)
        before = len(front) if front is not None and p.extend else 0
        new = self.frames(p, before, remarks)
        loras = tuple((given.unchanged(f), s) for f, s in map(given.scaled_file, p.lora))
        if new + before - (0 if front is None or before else 1) < 1:
            raise DaedalError(f"{p.seconds} s at {p.fps} a second is one frame; ask for more.")
        seeds = [int(p.seed or 0) + i for i in range(p.n)]
        return p, Shot(
            prompt, p.negative, seeds, before + new, float(p.fps or 0), height, width, int(p.steps or 0), float(p.guidance_scale or 0),
            str(p.sampler), front, end, p.loop, self.sound(sound, (before + new) / float(p.fps or 1), remarks), loras,
        ), remarks  # fmt: skip

    def sound(
        self, asked: str | video.Track | None, seconds: float, remarks: list[str]
    ) -> video.Track | None:
        """The sound that is heard with a clip, as long as that."""
        if asked is None:
            return None
        track = asked if isinstance(asked, tuple) else audio.open_audio(given.unchanged(asked))
        fitted, done = video.fitted(track, seconds)
        remarks += [done] if done else []
        return fitted

    def size(self, p: VideoParams) -> tuple[int, int, list[str]]:
        d, multiple = self.filmer.defaults, self.filmer.multiple
        if p.size is None:
            return snapped(d["width"], multiple), snapped(d["height"], multiple), []
        width, height, changed = images.parse_size(p.size, multiple)
        return width, height, [changed] if changed else []

    def frames(self, p: VideoParams, before: int, remarks: list[str]) -> int:
        """How many are to be made behind so many, at least one."""
        if p.seconds is None:
            return self.filmer.legal(self.filmer.most - 1, before) if before else self.filmer.most
        exact = p.seconds * float(p.fps or 0)
        count = self.filmer.legal(max(round(exact), 1), before)
        if abs(exact - count) > 1e-6:
            seconds = count / float(p.fps or 1)
            remarks.append(
                f"{p.seconds:g} s are made {count} frames, {seconds:.3f} s at {p.fps:g} a second."
            )
        return count

    def front(
        self, files: dict[str, Any], rate: float, height: int, width: int
    ) -> np.ndarray | None:
        """The frames that the clip begins with."""
        if files["init"] is not None:
            return video.resized(given.opened(files["init"])[None, ..., :3], height, width)
        if files["extend"] is None:
            return None
        if isinstance(files["extend"], np.ndarray):
            return video.resized(files["extend"], height, width)
        frames, own = video.open_clip(given.unchanged(str(files["extend"])))
        return video.resized(video.at_rate(frames, own, rate), height, width)


def is_given(value: Any) -> bool:
    return isinstance(value, np.ndarray) or bool(value)


class Filming(SteppedHandle):
    """Clips under way."""

    def __init__(
        self, pipeline: VideoPipeline, params: VideoParams, shot: Shot, client: str, priority: int, remarks: tuple[str, ...],
    ) -> None:  # fmt: skip
        self.pipeline, self.params, self.shot, self.remarks = pipeline, params, shot, remarks
        self.total = pipeline.filmer.total(shot)
        generation = Generation(pipeline.filmer.make(shot), shot.loras, client, priority)
        super().__init__(pipeline.lane.submit(generation))

    def event(self, state: Any) -> Progress:
        i, _, x0 = state
        return Progress(i + 1, self.total, partial(self.pipeline.filmer.preview, x0, self.shot))

    def results(self) -> list[Clip]:
        made, shot = self.value(), self.shot
        if not torch.isfinite(made).all():
            raise DaedalError(
                "the clip has numbers that are NaN or infinite; load the model with dtype fp32, or check its weights."
            )
        clips = pixels(made.flatten(0, 1)).reshape(*made.shape[:2], *made.shape[3:], 3)
        settings = {k: v for k, v in asdict(self.params).items() if v not in (None, False, ())}
        recipe = self.pipeline.recipe(shot.prompt, settings)
        results = []
        for i, frames in enumerate(clips):
            if shot.front is not None:  # to the bit
                frames[: len(shot.front)] = shot.front[: len(frames)]
            if shot.end is not None:
                frames[-1:] = shot.end
            made_of = (recipe | {"sample": i}, "stop", frames, shot.rate, self.total, shot.sound)
            results.append(Clip(*made_of, joules=self.share(len(clips))))
        return results


def holds(folder: Path) -> bool:
    """Whether a folder holds a model of clips."""
    config = folder / "config.json"
    if config.is_file():
        return bool(json.loads(config.read_text()).get("time_layers"))
    return bool(open_video.named(folder))


def connect(server: str, model: str) -> Pipeline:
    """A model of a Daedal server."""
    raise DaedalError(f"{model} of {server}: clips are made on this machine; leave --server out.")


def load(name_or_folder: str | Path, device: str = "auto", dtype: str = "auto") -> VideoPipeline:
    """A pipeline for a house model, or a folder of an open one that diffusers saved."""
    if name_or_folder == VIDEO.model and VIDEO.model not in house_models():
        raise DaedalError(
            "there is no house model of clips yet; train one with `daedal train recipes/video/motion.yaml` and give its folder, or one of Wan, as the model."
        )
    folder, where = located(name_or_folder), machine.pick_device(device)
    if not holds(folder):
        raise DaedalError(f"{name_or_folder} is no model of clips; try `daedal image`.")
    compute = machine.compute_dtype(dtype, where)
    kind = OpenFilmer if open_video.named(folder) else HouseFilmer
    filmer: Filmer = kind.load(folder, where, compute)
    loading = {"device": where.type, "dtype": dtype}
    return VideoPipeline(filmer, str(name_or_folder), folder, loading)
