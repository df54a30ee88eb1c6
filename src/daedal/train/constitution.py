"""Constitutional AI (Bai et al. 2022b): a model criticises and revises its own answers by written
principles, learns the revisions, and then learns from preferences that an AI states by the same
principles.

    daedal train recipes/chat/constitution.yaml

Stages, each kept in the run's folder, so that a run goes on where it stopped: answers and their
revisions (revisions.jsonl), fine-tuning on them (sft/), pairs of new answers with the critic's
preference (pairs.jsonl), DPO on these (dpo/), and `model`, a copy of its folder.

The critic is the model itself, another one, or a program that knows the words which break a
principle: the smaller, honest version for models that cannot follow an instruction. Its revision
leaves out the sentences that break, and its preference is the answer that breaks less.

Legend: N prompts."""

import json
import random
import re
import shutil
from collections.abc import Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any, Protocol

import torch
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from daedal.data import chat
from daedal.data.rows import ChatSource, Messages, first_prompt, rows
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.networks.decoder import Decoder
from daedal.processes.sampling import SamplingParams
from daedal.train import assistant
from daedal.train.assistant import ChatTask
from daedal.train.preference import Preference
from daedal.train.recipe.chat import ChatRun, ConstitutionRecipe, PreferenceRecipe, SFTRecipe
from daedal.train.sft import SFT
from daedal.train.start import Row, begin, mark, once, say
from daedal.worlds import instructions

OWN = Path(__file__).with_name("principles.yaml")


class Principle(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    principle: str
    critique: str
    revision: str
    breaks: list[str] = []

    def broken(self, text: str) -> list[str]:
        """What in a text breaks the principle, as far as its words tell."""
        found = list[str]()
        for word in self.breaks:
            is_pattern = word.startswith("/") and word.endswith("/")
            pattern = word[1:-1] if is_pattern else rf"\b{re.escape(word)}\b"
            found += [match[0] for match in re.finditer(pattern, text, re.IGNORECASE)]
        return found


def read_principles(path: str | Path | None = None) -> list[Principle]:
    path = path or OWN
    try:
        listed = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        found = [Principle.model_validate(one) for one in listed]
    except OSError as error:
        raise DaedalError(
            f"principles = {path} cannot be read ({error.strerror}); give a file such as {OWN}."
        ) from None
    except (yaml.YAMLError, ValidationError, TypeError) as error:
        raise DaedalError(
            f"{path} is not a list of principles (name, principle, critique, revision): {str(error).splitlines()[0]}."
        ) from None
    if not found:
        raise DaedalError(f"{path} holds no principles; write at least one.")
    return found


# ---- critics -------------------------------------------------------------------------------------


Texts, Pairs, Principles = Sequence[str], Sequence[tuple[str, str]], Sequence[Principle]


class Critic(Protocol):
    def revised(self, asked: Texts, answers: Texts, by: Principles) -> list[str]:
        """Each answer, mended by its principle."""
        ...

    def preferred(self, asked: Texts, pairs: Pairs, by: Principles) -> list[float]:
        """How likely the first of each pair is the better by its principle, 0 to 1."""
        ...


class Program:
    """Judges by the words of all principles."""

    def __init__(self, principles: Principles) -> None:
        self.principles = principles

    def broken(self, text: str) -> int:
        return sum(len(principle.broken(text)) for principle in self.principles)

    def revised(self, asked: Texts, answers: Texts, by: Principles) -> list[str]:
        sentences = [re.split(r"(?<=[.!?])\s+", answer) for answer in answers]
        return [" ".join(part for part in some if not self.broken(part)) for some in sentences]

    def preferred(self, asked: Texts, pairs: Pairs, by: Principles) -> list[float]:
        counts = [(self.broken(a), self.broken(b)) for a, b in pairs]
        return [0.5 if a == b else float(a < b) for a, b in counts]


class Model:
    """Asks a chat model: first for a critique, then for the answer again; and which of two answers
    is better."""

    def __init__(self, network: Decoder, tokenizer: Tokenizer, params: SamplingParams) -> None:
        self.network, self.tokenizer, self.params = network, tokenizer, params

    def revised(self, asked: Texts, answers: Texts, by: Principles) -> list[str]:
        talks = [
            [user(a), said(b), user(f"{p.critique} ({p.principle})")]
            for a, b, p in zip(asked, answers, by, strict=True)
        ]
        critiques = self.answered(talks)
        asks = [
            [*talk, said(critique), user(p.revision)]
            for talk, critique, p in zip(talks, critiques, by, strict=True)
        ]
        return self.answered(asks)

    def answered(self, talks: list[Messages]) -> list[str]:
        found = assistant.answers(self.network, self.tokenizer, talks, self.params)
        return [texts[0] for texts in found]

    @torch.no_grad()
    def preferred(self, asked: Texts, pairs: Pairs, by: Principles) -> list[float]:
        """The probability of "A" against "B" as the first word of the answer, the mean over both
        orders (section 4.1)."""
        letters = [self.tokenizer.encode(letter, add_bos=False)[0] for letter in "AB"]

        def first(prompt: str, a: str, b: str, p: Principle) -> float:
            question = f"{p.principle}\n\nRequest: {prompt}\n\n(A) {a}\n\n(B) {b}\n\nWhich answer is better by this principle? Reply with A or B."
            context = self.network.config.max_position_embeddings
            ids = chat.encode(self.tokenizer, [user(question)])[-context:]
            tokens = torch.tensor([ids], device=self.network.lm_head.weight.device)
            logits = self.network.eval()(tokens)[0, -1, letters]
            return float(logits.float().softmax(0)[0])

        found = zip(asked, pairs, by, strict=True)
        return [(first(x, a, b, p) + 1 - first(x, b, a, p)) / 2 for x, (a, b), p in found]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


# ---- stages --------------------------------------------------------------------------------------


def generated(source: ChatSource, seed: int) -> Any:
    """Endless prompts of tasks."""
    rngs = (random.Random(f"constitution/{seed}/{i}") for i in count())
    return (instructions.task(rng, source.kinds).prompt for rng in rngs)


class Constitution(ChatTask):
    """All stages; `out/model` is the folder to use, `out/report.json` how often answers break a
    principle before, between and after. What is planned is fine-tuning and DPO; answers and
    revisions come on top."""

    recipe_type, passes = ConstitutionRecipe, 3

    def run(self) -> Path:
        r, self.start = self.recipe, begin(self.recipe)
        self.tokenizer = assistant.chat_tokenizer(r.start)
        self.principles = read_principles(r.principles)
        self.found: dict[str, dict[str, float]] = {}
        keys = ("principles", "critic", "seed", "questions", "rounds", "data")
        file = self.start.out / f"revisions-{mark(r, *keys, weights=r.start)}.jsonl"
        pairs = file.with_name(file.name.replace("revisions", "pairs"))
        network = self.measured("start", r.start)
        revised = once(file, lambda: self.revisions(network), self.start.rank)
        learned = SFT(self.stage(SFTRecipe, "sft", r.start, file, r.sft_steps, r.sft_lr)).run()
        tuned = self.measured("sft", learned)
        if once(pairs, lambda: self.preferences(tuned), self.start.rank):
            of_pairs = self.stage(PreferenceRecipe, "dpo", str(learned), pairs, r.steps, r.dpo_lr)
            learned = Preference(of_pairs).run()
            self.measured("dpo", learned)
        else:
            undecided = "the critic prefers neither answer of any pair"
            say(f"{undecided}; there is nothing for DPO to learn", self.start)
        if self.start.rank == 0:
            shutil.copytree(learned, self.folder, dirs_exist_ok=True)
            report = json.dumps({"revised": len(revised), **self.found}, indent=2)
            (self.start.out / "report.json").write_text(report + "\n")
        return self.folder

    def stage(
        self, kind: type[ChatRun], name: str, base: str, file: Path, steps: int, rate: float
    ) -> Any:
        """The recipe of one stage."""
        keys = "seed rows micro_rows dtype device context answer_tokens evaluate_tasks"
        keys += " evaluate_kinds checkpoint_every"
        shared = self.recipe.model_dump(include=set(keys.split()))
        optimizer = {"name": "adamw", "adam_lr": rate, "weight_decay": 0.0, "warmup": 5}
        own = {"out": str(self.start.out / name), "start": base, "steps": steps}
        own |= {"evaluate_every": steps, "sample_every": steps}
        own |= {"data": {"train": [{"path": str(file)}]}, "optimizer": optimizer | {"decay": 0.8}}
        return kind.model_validate(shared | own)

    def revisions(self, network: Decoder) -> list[Row]:
        """Prompts with the first answer and the one that is left after `rounds` of revision, each
        by a principle of chance."""
        rng, asked = random.Random(self.recipe.seed), self.prompts()
        critic = self.critic(network)
        last = first = [texts[0] for texts in self.answers(network, asked)]
        for _ in range(self.recipe.rounds):
            last = critic.revised(asked, last, [rng.choice(self.principles) for _ in asked])
        made = zip(asked, first, last, strict=True)
        return [{"prompt": a, "completion": c, "first": b} for a, b, c in made if c.strip()]

    def preferences(self, network: Decoder) -> list[Row]:
        """Two answers to each prompt, the one that the critic likes better first; where it is
        undecided the pair is left out."""
        seed, asked, critic = self.recipe.seed + 1, self.prompts(), self.critic(network)
        given = [(a, b) for a, b in self.answers(network, asked, n=2, seed=seed)]
        rng, made = random.Random(seed), list[Row]()
        likely = critic.preferred(asked, given, [rng.choice(self.principles) for _ in asked])
        for prompt, (a, b), p in zip(asked, given, likely, strict=True):
            if abs(p - 0.5) >= self.recipe.sure and a.strip() and b.strip() and a != b:
                better, worse = (a, b) if p > 0.5 else (b, a)
                made.append({"prompt": prompt, "chosen": better, "rejected": worse})
        return made

    def measured(self, name: str, folder: str | Path) -> Decoder:
        """The network of a stage, once it is measured on held-out prompts: the share of answers
        that break a principle, as far as words tell, and what the tasks' own program says."""
        network = assistant.network_of(folder).to(self.start.device)
        tasks, found = assistant.held_out_tasks(self.recipe), dict[str, float]()
        if tasks:
            talks = [task.messages for task in tasks]
            given = assistant.answers(network, self.tokenizer, talks, self.params())
            broken = [any(p.broken(texts[0]) for p in self.principles) for texts in given]
            helpful = [task.check(texts[0]) for task, texts in zip(tasks, given, strict=True)]
            found["breaks"] = sum(broken) / len(broken)
            found["helpful"] = sum(helpful) / len(helpful)
        self.found[name] = found
        numbers = ", ".join(f"{key} {value:.3f}" for key, value in found.items())
        say(f"{name}: {numbers}", self.start)
        return network

    def prompts(self) -> list[str]:
        """The first user's words of the data's rows, and of generated tasks, `questions` in all."""
        r, found = self.recipe, list[str]()
        sources = r.data.train or [ChatSource(path="tasks:story")]
        for source in sources:
            own = filter(None, map(first_prompt, rows(source)))
            made = generated(source, r.seed) if source.kinds else own
            found += islice(made, r.questions // len(sources))
        if not found:
            raise DaedalError(
                "the data hold no prompts; give data.train a file whose rows have one, or tasks."
            )
        return found

    def params(self, **other: int) -> SamplingParams:
        """How answers are drawn."""
        r = self.recipe
        drawn = {"temperature": r.temperature, "max_tokens": r.answer_tokens, "seed": r.seed}
        return SamplingParams(**drawn | other)

    def answers(self, network: Decoder, asked: Texts, **other: int) -> list[list[str]]:
        talks = [[user(prompt)] for prompt in asked]
        return assistant.answers(network, self.tokenizer, talks, self.params(**other))

    def critic(self, network: Decoder) -> Critic:
        r, tokenizer = self.recipe, self.tokenizer
        if r.critic == "program":
            if not any(p.breaks for p in self.principles):
                raise DaedalError(
                    f"critic: program needs words that break a principle, and {r.principles or OWN} has no `breaks`; add some, or take a model."
                )
            return Program(self.principles)
        if r.critic != "self":
            network, tokenizer = assistant.network_of(r.critic), assistant.chat_tokenizer(r.critic)
        return Model(network, tokenizer, self.params())
