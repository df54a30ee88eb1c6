"""Tunes: a language model writes notes under the grammar of daedal.data.tunes, and the synthesiser
plays them."""

import json
import random
import secrets
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from daedal import checkpoints
from daedal import device as machine
from daedal.data import tune_captions
from daedal.data.tokenizer import Tokenizer
from daedal.data.tunes import BOS, RHYTHMS, Grammar, Wanted, tune_of
from daedal.engine.engine import Engine
from daedal.engine.runtime import RUNTIME
from daedal.errors import DaedalError, nearest
from daedal.media.abc import key_of
from daedal.media.score import Tune
from daedal.media.synth import INSTRUMENTS, RATE, render
from daedal.networks.decoder import Decoder
from daedal.pipelines.medium import Handle, Pipeline
from daedal.pipelines.music_params import MUSIC, MusicParams
from daedal.pipelines.music_result import Music, Progress
from daedal.processes.sampling_params import SamplingParams
from daedal.settings import read

MARK = "tunes.json"  # beside the weights
FOREIGN = ("guidance_scale", "init", "melody")  # settings of audio models
KEYS = {"major": ("D", "G", "A", "C"), "minor": ("E", "A", "D", "B"), "dorian": ("E", "A", "D"), "mixolydian": ("D", "A", "G")}  # fmt: skip
PLAYERS = {"air": ("flute", "harp", "oboe"), "waltz": ("accordion", "concertina", "harp"), "march": ("pipes", "whistle")}  # fmt: skip
USUAL = ("fiddle", "flute", "whistle", "concertina", "mandolin")
FADE = 0.4  # seconds, of a tune that is cut


@dataclass(frozen=True)
class Order:
    """What is written and how it is played. None is the model's choice, or the seed's."""

    wanted: Wanted
    tonic: str | None
    bpm: float | None
    pace: float
    instrument: str | None
    remarks: tuple[str, ...]


def order_of(prompt: str, params: MusicParams) -> Order:
    """The prompt's words, and the settings over them."""
    said = tune_captions.read(prompt)
    tonic, mode = said.tonic, said.mode
    remarks = []
    if params.key:
        tonic, mode = key_of(plain_key(params.key))
    rhythm, metre = said.rhythm, said.metre
    if rhythm and metre and metre not in RHYTHMS[rhythm][0]:
        metres = RHYTHMS[rhythm][0]
        remarks.append(
            f"a {rhythm} is written in {' or '.join(metres)}, not {metre}; it is played in {metres[0]}."
        )
        metre = metres[0]
    instrument = params.instrument or said.instrument
    if instrument is not None and instrument not in INSTRUMENTS:
        known = tune_captions.INSTRUMENTS.get(instrument.lower())
        if known is None:
            raise DaedalError(
                f"instrument {instrument!r} is not one that plays here{nearest(instrument, list(INSTRUMENTS))}; choose from {', '.join(INSTRUMENTS)}."
            )
        instrument = known
    bars, wish = said.bars, Wanted(rhythm, metre, mode, said.form)
    if bars is not None:
        wish, remark = barred(wish, bars)
        remarks += [remark] if remark else []
    return Order(wish, tonic, params.bpm or said.bpm, said.pace, instrument, tuple(remarks))


def barred(wish: Wanted, bars: int) -> tuple[Wanted, str]:
    """So many bars, written out: of two strains, or one where there are few."""
    form = wish.form or ("AB" if bars >= 8 else "A")
    strains = len(set(form))
    each = min((4, 6, 8, 10, 12, 14, 16), key=lambda n: abs(n * strains - bars))
    made = each * strains
    remark = "" if made == bars else f"{bars} bars are written as {made}, {each} in each part."
    return replace(wish, form=form, bars=each), remark


def plain_key(text: str) -> str:
    """ "F# minor" as ABC has it: "F#min"."""
    words = text.replace("♯", "#").replace("♭", "b").split()
    head = words[0][:1].upper() + words[0][1:]
    return head + "".join(words[1:]).lower()[:3]


class TunePipeline(Pipeline):
    """A writer of tunes behind one call. Settings are those of `MusicParams`."""

    medium = MUSIC

    def __init__(
        self,
        network: Decoder,
        tokenizer: Tokenizer,
        name: str,
        folder: Path,
        loading: dict[str, Any],
    ) -> None:
        self.network, self.tokenizer = network, tokenizer
        self.name, self.folder, self.loading = name, folder, loading
        self.ids = tokenizer.backend.get_vocab()

    @classmethod
    def load(cls, name: str, folder: Path, device: str, dtype: str) -> "TunePipeline":
        where = machine.pick_device(device)
        wanted = machine.compute_dtype("fp32" if dtype == "auto" else dtype, where)
        network = checkpoints.load(folder, wanted, where, kind=Decoder)
        loading = {"device": where.type, "dtype": dtype}
        return cls(network, Tokenizer.load(folder), name, folder, loading)

    @cached_property
    def engine(self) -> Engine:
        engine = Engine(self.network, self.tokenizer)
        RUNTIME.add(engine)
        return engine

    def runtime(self) -> dict[str, Any]:
        return machine.runtime_of(self.network.embed_tokens.weight) | {"loading": self.loading}

    def start(
        self, prompt: str, *, client: str = "", priority: int = 0, **settings: Any
    ) -> "Writing":
        if not isinstance(prompt, str) or not prompt.strip():
            raise DaedalError(
                'the prompt is empty; say what to play, for example "a lively jig in D major".'
            )
        params = read(MusicParams, settings, "pieces of music")
        if foreign := [name for name in FOREIGN if getattr(params, name) is not None]:
            raise DaedalError(
                f"{self.name} writes notes and cannot be given {foreign[0]}; that is for audio models such as MusicGen."
            )
        if params.seed is None:
            params = replace(params, seed=secrets.randbelow(2**31))
        return Writing(self, prompt, params, order_of(prompt, params), client, priority)


class Writing(Handle):
    """Tunes under way."""

    def __init__(
        self,
        pipeline: TunePipeline,
        prompt: str,
        params: MusicParams,
        order: Order,
        client: str,
        priority: int,
    ) -> None:
        self.pipeline, self.prompt, self.params, self.order = pipeline, prompt, params, order
        self.remarks, self.shown = order.remarks, 0
        most = pipeline.engine.max_len - 2
        draw = SamplingParams(
            temperature=params.temperature,
            top_k=params.top_k or 0,
            max_tokens=most,
            seed=params.seed,
            n=params.n,
            grammar=Grammar(pipeline.ids, order.wanted),
        )
        first = [pipeline.ids[BOS]]
        self.samples = pipeline.engine.submit(first, draw, client=client, priority=priority).samples
        self.total = most * params.n

    @property
    def done(self) -> bool:
        return all(sample.finished for sample in self.samples)

    @property
    def made(self) -> int:
        return sum(len(sample.output) for sample in self.samples)

    def wait_for(self, ready: Callable[[], bool]) -> None:
        RUNTIME.wait(ready)

    def abandon(self) -> None:
        for sample in self.samples:
            self.pipeline.engine.cancel(sample)

    def events(self) -> Iterator[Progress]:
        if self.made > self.shown:
            self.shown = self.made
            yield Progress(self.shown, self.shown if self.done else self.total)

    def results(self) -> list[Music]:
        self.wait()
        return [self.one(i, sample) for i, sample in enumerate(self.samples)]

    def one(self, index: int, sample: Any) -> Music:
        if sample.error:
            raise sample.error
        if sample.finished == "cancelled":
            raise DaedalError("it was cancelled before it was done; ask again.")
        text = self.pipeline.tokenizer.decode(sample.output)
        if sample.finished == "length":
            raise DaedalError(
                "the tune did not end within the model's context; ask for fewer bars, or another seed."
            )
        tune, instrument = self.played(text, index)
        samples = fitted(render(tune, instrument), tune, self.params.seconds)
        settings = {key: value for key, value in asdict(self.params).items() if value is not None}
        recipe = self.pipeline.recipe(self.prompt, settings) | {"sample": index}
        return Music(
            recipe,
            "stop",
            samples[None],
            RATE,
            len(sample.output),
            tune,
            instrument,
            joules=sample.joules,
        )

    def played(self, text: str, index: int) -> tuple[Tune, str]:
        """The tune, in the key and at the pace that were asked for, else in one that the seed
        draws."""
        rhythm, _, mode, *_ = text.split()
        name, draw = rhythm.replace("-", " "), random.Random(f"{self.params.seed}-{index}")
        tonic = self.order.tonic or draw.choice(KEYS[mode])
        bpm = self.order.bpm or round(tune_captions.usual_bpm(name) * self.order.pace)
        instrument = self.order.instrument or draw.choice(PLAYERS.get(name, USUAL))
        title = f"{name.title()} in {tonic} {mode}, no. {(self.params.seed or 0) + index}"
        return tune_of(text, tonic, bpm, title), instrument


def fitted(samples: np.ndarray, tune: Tune, seconds: float | None) -> np.ndarray:
    """The sound, or exactly so many seconds of it: played again where it is shorter, and faded out
    where it is cut."""
    if seconds is None:
        return samples
    whole, period = round(seconds * RATE), round(tune.seconds * RATE)
    out = np.zeros(max(whole, len(samples)) + len(samples), np.float32)
    for at in range(0, whole, period):
        out[at : at + len(samples)] += samples[: len(out) - at]
    out = out[:whole]
    fade = min(whole, round(FADE * RATE))
    out[whole - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
    return out


def holds(place: Path) -> bool:
    return (place / MARK).is_file()


def publish(folder: Path, out: Path) -> None:
    """A trained folder as one of tunes, which `daedal music --model` opens."""
    import torch

    checkpoints.save(checkpoints.load(folder, torch.bfloat16), out)
    Tokenizer.load(folder).save(out)
    (out / MARK).write_text(json.dumps({"words": "daedal.data.tunes"}) + "\n")
