"""Distillation of language models: a student learns a teacher's distributions over next tokens
beside the text itself; on what the student writes, so that it learns where its own mistakes lead
(on_policy: Agarwal et al. 2024); or from what the teacher writes (sequence: Kim & Rush 2016).

Legend: B batch, T tokens, n positions, V vocabulary, D width (of each network its own)."""

import os
import random
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recomputed

from daedal import checkpoints
from daedal import device as machine
from daedal.data import chat
from daedal.data.documents import Mixture, Source
from daedal.data.packing import PackedRows
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.networks.decoder import Decoder
from daedal.processes.sampling import SamplingParams
from daedal.train import parallel
from daedal.train.objectives import linear_cross_entropy
from daedal.train.pretrain import Pretrain
from daedal.train.questions import Questions
from daedal.train.recipe.text import DistilTextRecipe
from daedal.train.rollout import Completion, complete, padded, seed_of, trimmed
from daedal.train.start import mark, write_rows
from daedal.train.trainer import Batch, Objective


def divergence(student: Tensor, teacher: Tensor, kind: str, beta: float = 0.5) -> Tensor:
    """How far two distributions of log-probabilities (n, V) are apart, (n,) nats. forward:
    KL(teacher || student), which covers all that the teacher says; reverse: KL(student || teacher),
    which keeps to its likeliest; js: the generalised Jensen-Shannon divergence with weight beta
    (Agarwal et al. 2024, eq. 1), forward KL as beta -> 0 and reverse as beta -> 1, each divided by
    it."""
    kl = lambda p, q: (p.exp() * (p - q)).sum(-1)  # noqa: E731
    if kind == "forward":
        return kl(teacher, student)
    if kind == "reverse":
        return kl(student, teacher)
    middle = torch.logaddexp(
        teacher + torch.tensor(beta).log(), student + torch.tensor(1 - beta).log()
    )
    return beta * kl(teacher, middle) + (1 - beta) * kl(student, middle)


def log_probabilities(hidden: Tensor, network: Decoder, temperature: float) -> Tensor:
    """hidden (n, D) -> (n, V), of the temperature."""
    logits = network.lm_head(hidden).float()
    if network.softcap is not None:
        logits = network.softcap * (logits / network.softcap).tanh()
    return (logits / temperature).log_softmax(-1)


def distance(
    ours: Tensor,
    theirs: Tensor,
    student: Decoder,
    teacher: Decoder,
    recipe: DistilTextRecipe,
    chunk: int = 512,
) -> Tensor:
    """Sum over positions of the divergence between two networks' next tokens, from their hidden
    states (n, D), in chunks whose logits are made again for the backward pass; times T^2, so that
    gradients keep their size (Hinton et al. 2015, section 2)."""

    def of(a: Tensor, b: Tensor) -> Tensor:
        T = recipe.temperature
        with torch.no_grad():
            wanted = log_probabilities(b, teacher, T)
        ours = log_probabilities(a, student, T)
        return T**2 * divergence(ours, wanted, recipe.divergence, recipe.beta).sum()

    parts = zip(ours.split(chunk), theirs.split(chunk), strict=True)
    return torch.stack([recomputed(of, a, b, use_reentrant=False) for a, b in parts]).sum()  # type: ignore[arg-type]


def distillation(recipe: DistilTextRecipe, teacher: Decoder) -> Objective:
    """Sum over tokens of (1 - weight) next-token loss + weight times the divergence from the
    teacher; of what the student wrote, which has a mask, the divergence alone."""
    written = 0.0

    def loss(network: Decoder, part: Batch) -> Tensor:
        nonlocal written
        written = float("mask" in part)
        part = trimmed(part) if written else part
        tokens, goal = part["tokens"][:, :-1], part["tokens"][:, 1:]
        kept = part.get("mask", torch.ones_like(goal, dtype=torch.bool))
        hidden = network.hidden(tokens)
        with torch.no_grad():
            theirs = teacher.to(tokens.device).hidden(tokens)
        away = distance(hidden[kept], theirs[kept], network, teacher, recipe)
        if written:
            return away
        text = (
            linear_cross_entropy(hidden, network.lm_head.weight, goal, softcap=network.softcap)
            if recipe.weight < 1
            else torch.zeros(())
        )
        return (1 - recipe.weight) * text + recipe.weight * away

    def count(batch: Batch) -> int:
        return int(batch["mask"].sum()) if "mask" in batch else batch["tokens"][:, 1:].numel()

    measured = (lambda: {"written": written}) if recipe.on_policy else None
    return Objective(loss, count, measured=measured)


# ---- on-policy -----------------------------------------------------------------------------------


class Written:
    """Rows of text, a share of the batches written by the student with the weights of the moment.
    What is drawn follows from the seed and the number of the batch, so a run that goes on writes
    the same."""

    def __init__(
        self,
        recipe: DistilTextRecipe,
        rows: PackedRows,
        network: Decoder,
        tokenizer: Tokenizer,
        state: dict[str, Any] | None,
    ) -> None:
        assert recipe.on_policy is not None
        self.recipe, self.how, self.rows, self.network = recipe, recipe.on_policy, rows, network
        self.number = state["number"] if state else 0
        self.params = SamplingParams(temperature=self.how.temperature, max_tokens=self.how.tokens)
        self.tokenizer, self.questions = tokenizer, None
        longest = network.config.max_position_embeddings - self.how.tokens
        if longest < (1 if self.how.prompts else self.how.prompt_tokens):
            raise DaedalError(
                f"on_policy.tokens = {self.how.tokens} after a prompt is beyond the student's context of {longest + self.how.tokens}; lower it."
            )
        if self.how.prompts:
            self.tokenizer = chat.prepared(tokenizer)
            self.questions = Questions(self.how.prompts, self.tokenizer, recipe.seed, longest)

    def __iter__(self) -> Iterator[Batch]:
        for text in self.rows:  # (B, T + 1)
            own = random.Random(f"{self.recipe.seed}/{self.number}").random() < self.how.share
            batch = self.written(text) if own else {"tokens": text}
            self.number += 1
            yield batch

    def state(self) -> dict[str, Any]:
        return {**self.rows.state(), "number": self.number}

    def written(self, text: Tensor) -> Batch:
        """tokens (B, T + 1) and mask (B, T). Every process writes its share, and all have the
        whole."""
        rank, world = parallel.rank(), parallel.count()
        share, first = len(text) // world, self.number * len(text)
        mine = range(rank * share, (rank + 1) * share)
        seeds = [seed_of(self.recipe.seed, first + i) for i in mine]
        prompts = [self.prompt(text[i], first + i) for i in mine]
        requests = complete(self.network, self.tokenizer, prompts, self.params, seeds, group=1)
        tokens, mask = padded(parallel.everyones([*map(Completion.of, requests)], world))
        return {"tokens": tokens, "mask": mask}

    def prompt(self, row: Tensor, number: int) -> list[int]:
        if self.questions:
            return self.questions.encoded(self.questions.question(number))
        return row[: self.how.prompt_tokens].tolist()


# ---- the teacher's text --------------------------------------------------------------------------


def teachers_text(recipe: DistilTextRecipe, teacher: Decoder) -> Source:
    """What the teacher writes, made once and kept in the run's folder."""
    how, out = recipe.sequence, Path(recipe.out)
    assert how is not None
    file = out / f"teacher-{mark(recipe, 'sequence', 'data', 'seed', weights=recipe.teacher)}.jsonl"
    if not file.exists():
        tokenizer = Tokenizer.load(checkpoints.resolve(recipe.teacher))
        read = islice(Mixture(recipe.data.train, recipe.seed), how.texts)
        prompts = [beginning(tokenizer, text, how.prompt_tokens) for text in read]
        params = SamplingParams(temperature=how.temperature, max_tokens=how.tokens)
        seeds = [seed_of(recipe.seed, i) for i in range(len(prompts))]
        made = complete(teacher, tokenizer, prompts, params, seeds, group=1)
        ended = [request.tokens for request in made if request.finished == "stop"]
        texts = list(dict.fromkeys(map(tokenizer.decode, ended)))
        said = f"the teacher brought {len(texts)} different texts of {len(made)} to an end"
        print(said, file=sys.stderr, flush=True)
        if not texts:
            raise DaedalError(
                f"none of {len(made)} texts of {recipe.teacher} ended within sequence.tokens = {how.tokens}; raise it."
            )
        out.mkdir(parents=True, exist_ok=True)
        write_rows(file, [{"text": text} for text in texts], int(os.environ.get("RANK", 0)))
    return Source(path=str(file))


def beginning(tokenizer: Tokenizer, text: str, size: int) -> list[int]:
    """The first `size` tokens of a document, after bos where there is one."""
    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    return start + tokenizer.encode(text, add_bos=False)[:size]


# ---- the run -------------------------------------------------------------------------------------


def teacher_of(recipe: DistilTextRecipe) -> Decoder:
    network = checkpoints.load_plain(checkpoints.resolve(recipe.teacher), kind=Decoder)
    return network.float().requires_grad_(False).eval().to(machine.pick_device(recipe.device))


class DistilText(Pretrain):
    """A student of a teacher. Its tokenizer is the teacher's."""

    recipe_type = DistilTextRecipe

    def run(self) -> Path:
        self.teacher = teacher_of(self.recipe)
        if self.recipe.sequence:
            data = {"train": [teachers_text(self.recipe, self.teacher)]}
            data = self.recipe.data.model_copy(update=data)
            self.recipe = self.recipe.model_copy(update={"data": data})
        return super().run()

    def build(self) -> None:
        super().build()
        if self.recipe.on_policy:
            self.batches = Written(
                self.recipe, self.rows, self.network, self.tokenizer, self.start.data
            )
        ours, theirs = self.network.config.vocab_size, self.teacher.config.vocab_size
        if ours != theirs:
            raise DaedalError(
                f"the student has {ours} tokens and the teacher {theirs}; a student learns from a teacher of its "
                f"own vocabulary: set tokenizer.path to the teacher's folder."
            )
        self.objective = distillation(self.recipe, self.teacher)
