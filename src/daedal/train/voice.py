"""A smaller voice from a larger one. Without noise a VITS is a function of its phonemes, so a
student can be taught each part's output directly, with no recordings. The flow, nearly half of the
weights, is distilled into one feed-forward pass; the text encoder, the durations and the decoder
stay the teacher's, in 8 bits.

`out/model` is the voice: config.json, its weights, and voice.json, which numbers its phonemes.
Legend: B sentences, C channels of the latents, F frames."""

import dataclasses
import json
import random
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal import checkpoints
from daedal.checkpoints import piper
from daedal.checkpoints.compact import eight
from daedal.data.documents import Source, documents
from daedal.data.phonemes.reader import Reader, pieces
from daedal.data.phonemes.speller import Speller
from daedal.data.phonemes.symbols import symbols_of
from daedal.errors import DaedalError
from daedal.networks.vits import StudentFlow, VitsConfig, VitsModel, stretched
from daedal.nn.conv1d import channels_last
from daedal.systems.voice import ABOUT, write_about
from daedal.train.pictures import cost
from daedal.train.recipe.speech import VoiceRecipe
from daedal.train.task import Cost, Task, evaluating
from daedal.train.trainer import Batch, Objective

A_DOCUMENT = 40  # sentences taken of one document at most
SHORTEST, LONGEST = 12, 220  # characters of a sentence to learn from
FRAMES = 400  # of a sentence, for the plan: some 5 s


class Student(nn.Module):
    """What is trained: the student's flow; the teacher's decoder says what counts."""

    compute_dtype: torch.dtype | None = None
    layers = nn.ModuleList()

    def __init__(self, config: VitsConfig, first: nn.Module) -> None:
        super().__init__()
        self.config, self.flow = config, StudentFlow(config).init_weights()
        self.first = (first,)  # in a tuple: it is not trained, and not saved with what is


def distilling(network: Student, part: Batch) -> Tensor:
    """|z - z'| a channel, and as the decoder's first layer hears it; a sum over frames."""
    kind = network.compute_dtype or torch.float32
    mask, wanted = part["mask"], part["latents"]
    made = network.flow.inverse(part["prior"].to(kind), mask.to(kind)).float()
    missed = (made - wanted) * mask
    heard = F.conv1d(missed, network.first[0].weight.float(), padding=3)
    return missed.abs().mean(1).sum() + heard.abs().mean(1).sum()


class SentenceBatches:
    """Batches {"prior", "latents": (B, C, F), "mask": (B, 1, F)} of what the teacher makes of
    sentences of about one length."""

    def __init__(self, lines: list[str], teach: Any, size: int, seed: int, step: int) -> None:
        self.lines, self.teach = sorted(lines, key=len), teach
        self.size, self.seed, self.step = size, seed, step

    def __iter__(self) -> Any:
        while True:
            rng = random.Random(f"{self.seed}/{self.step}")
            at = rng.randrange(max(1, len(self.lines) - self.size + 1))
            self.step += 1
            yield self.teach(self.lines[at : at + self.size])

    def state(self) -> dict[str, Any]:
        return {"step": self.step}


class Voice(Task):
    """`out/model` is a voice that `daedal say --voice` takes."""

    recipe_type, unit, unit_label = VoiceRecipe, "sentences", "sentences"
    objective = Objective(distilling, lambda batch: int(batch["mask"].sum()))

    def build(self) -> None:
        r = self.recipe
        self.teacher, self.about = opened_teacher(r.teacher)
        self.symbols = symbols_of(self.about)
        self.reader = Reader(Speller.load(checkpoints.resolve(r.phonemes)))
        self.network = Student(
            student_config(self.teacher.config, r), self.teacher.decoder.conv_pre
        )
        lines = lines_of(r.texts, r.sentences, r.seed)
        self.batches = SentenceBatches(lines, self.teach, r.rows, r.seed, self.start.step)
        self.units, self.flops = r.rows, self.cost(torch.float32).flops
        kept = lines_of(r.validation, r.evaluate_sentences, r.seed) if r.validation else []
        size = r.rows
        self.held_out = [self.teach(kept[i : i + size]) for i in range(0, len(kept), size)]

    @property
    def width(self) -> int:
        return self.network.config.flow_size

    @torch.no_grad()
    def teach(self, lines: list[str]) -> Batch:
        """What the teacher makes of sentences: its prior, stretched, and its latents."""
        priors, latents = zip(*(self.lesson(line) for line in lines), strict=True)
        longest = max(z.shape[-1] for z in latents)
        mask = torch.tensor(
            [[[1.0] * z.shape[-1] + [0.0] * (longest - z.shape[-1])] for z in latents]
        )

        def padded(parts: Any) -> Tensor:
            return torch.stack([F.pad(each, (0, longest - each.shape[-1])) for each in parts])

        return {"prior": padded(priors), "latents": padded(latents), "mask": mask}

    def lesson(self, line: str) -> tuple[Tensor, Tensor]:
        ids = torch.tensor([self.symbols(self.reader.words(line)).ids])
        hidden, mean, _ = self.teacher.encode(ids)
        prior, mask = stretched(mean, self.teacher.frames(hidden))
        prior = channels_last(prior)
        return prior[0], self.teacher.flow.inverse(prior, mask)[0]

    def cost(self, dtype: torch.dtype) -> Cost:
        rows = self.recipe.rows
        config = student_config(VitsConfig(), self.recipe)
        size = (1, config.flow_size, FRAMES)

        def forward(flow: StudentFlow) -> Tensor:
            return flow.inverse(torch.zeros(size), torch.ones(1, 1, FRAMES))

        weights, flops, kept = cost(lambda: StudentFlow(config), forward)
        return Cost(weights, rows, flops * rows, 20 * weights + kept * self.recipe.micro_rows)

    @torch.no_grad()
    def evaluate(self, network: Student) -> dict[str, float]:
        """The share of the latents' variance that the student misses, on held-out sentences, and
        how far its spectrum is off, in decibels a bin."""
        missed = total = decibels = frames = 0.0
        with evaluating(network):
            for batch in self.held_out:
                made = network.flow.inverse(batch["prior"], batch["mask"])
                missed += float((((made - batch["latents"]) * batch["mask"]) ** 2).sum())
                total += float((batch["latents"] ** 2 * batch["mask"]).sum())
                z = [channels_last(each[:1]) for each in (made, batch["latents"])]
                a, b = (spectrum(self.teacher.decode(each)) for each in z)
                decibels += float((a - b).abs().mean(1).sum())
                frames += a.shape[-1]
        return {"unexplained": missed / max(total, 1e-9), "decibels": decibels / max(frames, 1)}

    def save(self, state: dict[str, Tensor]) -> None:
        flow = {
            name.removeprefix("flow."): t for name, t in state.items() if name.startswith("flow.")
        }
        voice = VitsModel(self.network.config)
        voice.load_state_dict(
            {n: t for n, t in self.teacher.state_dict().items() if not n.startswith("flow.")},
            strict=False,
        )
        voice.flow.load_state_dict(flow)
        checkpoints.save(voice, self.folder, compact=eight)
        write_about(self.folder, self.about)


def opened_teacher(name: str) -> tuple[VitsModel, dict[str, Any]]:
    place = checkpoints.resolve(name)
    file = piper.voice_file(place)
    if file is not None:
        return piper.load(file)
    if not (place / ABOUT).exists():
        raise DaedalError(f"{name} is no voice; `daedal models pull joe` brings one.")
    vits = checkpoints.load(place, torch.float32, kind=VitsModel)
    return vits, json.loads((place / ABOUT).read_text())


def student_config(config: VitsConfig, r: VoiceRecipe) -> VitsConfig:
    return dataclasses.replace(
        config, student_blocks=r.student.blocks, student_inner=r.student.inner
    )


def lines_of(sources: list[Source], most: int, seed: int) -> list[str]:
    """Sentences of texts, at most `most`, a few of each document."""
    rng, found = random.Random(seed), list[str]()
    texts = list(islice(documents(sources), 20 * most // A_DOCUMENT + 1))
    rng.shuffle(texts)
    for text in texts:
        lines = [line for line, _ in pieces(text) if SHORTEST <= len(line) <= LONGEST]
        lines = [line for line in lines if sum(c.isalpha() for c in line) > len(line) // 2]
        found += rng.sample(lines, min(A_DOCUMENT, len(lines)))
        if len(found) >= most:
            break
    return found[:most]


def spectrum(samples: Tensor) -> Tensor:
    """Decibels of (B, N) samples in each bin and frame, floored at -80: (bins, T) of the first."""
    shape = torch.hann_window(1024)
    power = torch.stft(samples, 1024, 256, window=shape, return_complex=True).abs()[0] ** 2
    return 10 * torch.log10(power + 1e-8)
