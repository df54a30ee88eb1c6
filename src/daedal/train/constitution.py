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

Legend: N prompts.
"""

import json
import random
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from daedal import checkpoints
from daedal.data import chat
from daedal.data.rows import ChatSource, Messages, first_prompt, rows
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.networks.decoder import Decoder
from daedal.processes.sampling import SamplingParams
from daedal.train import assistant, preference, sampled, sft
from daedal.train.recipe.chat import ConstitutionRecipe, PreferenceRecipe, SFTRecipe
from daedal.train.start import Start, begin, mark
from daedal.worlds import instructions

Row = dict[str, Any]
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
        patterns = [
            word[1:-1] if word.startswith("/") and word.endswith("/") else rf"\b{re.escape(word)}\b"
            for word in self.breaks
        ]
        return [
            match[0] for pattern in patterns for match in re.finditer(pattern, text, re.IGNORECASE)
        ]


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


class Critic(Protocol):
    def revised(
        self, asked: Sequence[str], answers: Sequence[str], by: Sequence[Principle]
    ) -> list[str]:
        """Each answer, mended by its principle."""
        ...

    def preferred(
        self, asked: Sequence[str], pairs: Sequence[tuple[str, str]], by: Sequence[Principle]
    ) -> list[float]:
        """How likely the first of each pair is the better by its principle, 0 to 1."""
        ...


class Program:
    """Judges by the words of all principles."""

    def __init__(self, principles: Sequence[Principle]) -> None:
        self.principles = principles

    def broken(self, text: str) -> int:
        return sum(len(principle.broken(text)) for principle in self.principles)

    def revised(
        self, asked: Sequence[str], answers: Sequence[str], by: Sequence[Principle]
    ) -> list[str]:
        kept = [
            [part for part in re.split(r"(?<=[.!?])\s+", answer) if not self.broken(part)]
            for answer in answers
        ]
        return [" ".join(parts) for parts in kept]

    def preferred(
        self, asked: Sequence[str], pairs: Sequence[tuple[str, str]], by: Sequence[Principle]
    ) -> list[float]:
        counts = [(self.broken(a), self.broken(b)) for a, b in pairs]
        return [0.5 if a == b else float(a < b) for a, b in counts]


class Model:
    """Asks a chat model: first for a critique, then for the answer again; and which of two answers
    is better."""

    def __init__(self, network: Decoder, tokenizer: Tokenizer, params: SamplingParams) -> None:
        self.network, self.tokenizer, self.params = network, tokenizer, params

    def revised(
        self, asked: Sequence[str], answers: Sequence[str], by: Sequence[Principle]
    ) -> list[str]:
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
        return [
            texts[0]
            for texts in assistant.answers(self.network, self.tokenizer, talks, self.params)
        ]

    @torch.no_grad()
    def preferred(
        self, asked: Sequence[str], pairs: Sequence[tuple[str, str]], by: Sequence[Principle]
    ) -> list[float]:
        """The probability of "A" against "B" as the first word of the answer, the mean over both
        orders (section 4.1)."""
        letters = [self.tokenizer.encode(letter, add_bos=False)[0] for letter in "AB"]

        def first(prompt: str, a: str, b: str, p: Principle) -> float:
            question = f"{p.principle}\n\nRequest: {prompt}\n\n(A) {a}\n\n(B) {b}\n\nWhich answer is better by this principle? Reply with A or B."
            ids = chat.encode(self.tokenizer, [user(question)])[
                -self.network.config.max_position_embeddings :
            ]
            logits = self.network.eval()(
                torch.tensor([ids], device=self.network.lm_head.weight.device)
            )[0, -1, letters]
            return float(logits.float().softmax(0)[0])

        found = zip(asked, pairs, by, strict=True)
        return [
            (first(prompt, a, b, p) + 1 - first(prompt, b, a, p)) / 2 for prompt, (a, b), p in found
        ]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def critic_of(
    recipe: ConstitutionRecipe, principles: list[Principle], network: Decoder, tokenizer: Tokenizer
) -> Critic:
    if recipe.critic == "program":
        if not any(p.breaks for p in principles):
            raise DaedalError(
                f"critic: program needs words that break a principle, and {recipe.principles or OWN} has no `breaks`; add some, or take a model."
            )
        return Program(principles)
    params = SamplingParams(
        temperature=recipe.temperature, max_tokens=recipe.answer_tokens, seed=recipe.seed
    )
    if recipe.critic == "self":
        return Model(network, tokenizer, params)
    return Model(
        assistant.network_of(recipe.critic),
        chat.prepared(Tokenizer.load(checkpoints.resolve(recipe.critic))),
        params,
    )


# ---- stages --------------------------------------------------------------------------------------


def prompts_of(recipe: ConstitutionRecipe) -> list[str]:
    """The first user's words of the data's rows, and of generated tasks, `questions` in all."""
    sources, found = recipe.data.train or [ChatSource(path="tasks:story")], list[str]()
    for source in sources:
        made = (
            generated(source, recipe.seed)
            if source.kinds
            else filter(None, map(first_prompt, rows(source)))
        )
        found += [
            prompt for prompt, _ in zip(made, range(recipe.questions // len(sources)), strict=False)
        ]
    if not found:
        raise DaedalError(
            "the data hold no prompts; give data.train a file whose rows have one, or tasks."
        )
    return found


def generated(source: ChatSource, seed: int) -> Any:
    return (
        instructions.task(random.Random(f"constitution/{seed}/{i}"), source.kinds).prompt
        for i in range(2**31)
    )


def once(file: Path, make: Callable[[], list[Row]], start: Start) -> list[Row]:
    """The rows of a file; made and written if it is not there."""
    if not file.exists():
        sampled.write(file, make(), start)
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def revisions(
    recipe: ConstitutionRecipe, principles: list[Principle], network: Decoder, tokenizer: Tokenizer
) -> list[Row]:
    """Prompts with the first answer and the one that is left after `rounds` of revision, each by a
    principle of chance."""
    rng, asked, critic = (
        random.Random(recipe.seed),
        prompts_of(recipe),
        critic_of(recipe, principles, network, tokenizer),
    )
    params = SamplingParams(
        temperature=recipe.temperature, max_tokens=recipe.answer_tokens, seed=recipe.seed
    )
    first = [
        texts[0]
        for texts in assistant.answers(
            network, tokenizer, [[user(prompt)] for prompt in asked], params
        )
    ]
    last = first
    for _ in range(recipe.rounds):
        last = critic.revised(asked, last, [rng.choice(principles) for _ in asked])
    return [
        {"prompt": a, "completion": c, "first": b}
        for a, b, c in zip(asked, first, last, strict=True)
        if c.strip()
    ]


def preferences(
    recipe: ConstitutionRecipe, principles: list[Principle], network: Decoder, tokenizer: Tokenizer
) -> list[Row]:
    """Two answers to each prompt, the one that the critic likes better first; where it is undecided
    the pair is left out."""
    rng, asked, critic = (
        random.Random(recipe.seed + 1),
        prompts_of(recipe),
        critic_of(recipe, principles, network, tokenizer),
    )
    params = SamplingParams(
        n=2, temperature=recipe.temperature, max_tokens=recipe.answer_tokens, seed=recipe.seed + 1
    )
    given = [
        tuple(texts)
        for texts in assistant.answers(
            network, tokenizer, [[user(prompt)] for prompt in asked], params
        )
    ]
    likely = critic.preferred(asked, given, [rng.choice(principles) for _ in asked])  # type: ignore[arg-type]
    made = []
    for prompt, (a, b), p in zip(asked, given, likely, strict=True):
        if abs(p - 0.5) >= recipe.sure and a.strip() and b.strip() and a != b:
            made.append(
                {"prompt": prompt, "chosen": a if p > 0.5 else b, "rejected": b if p > 0.5 else a}
            )
    return made


def run(recipe: ConstitutionRecipe) -> Path:
    """All stages; `out/model` is the folder to use, `out/report.json` how often answers break a
    principle before, between and after."""
    start, tokenizer, principles = (
        begin(recipe),
        assistant.tokenizer_of(recipe),
        read_principles(recipe.principles),
    )
    found: dict[str, Any] = {}

    def weighed(name: str, folder: str | Path) -> Decoder:
        network = assistant.network_of(folder).to(start.device)
        found[name] = measured(recipe, principles, network, tokenizer)
        assistant.say(
            f"{name}: " + ", ".join(f"{key} {value:.3f}" for key, value in found[name].items()),
            start,
        )
        return network

    network = weighed("start", recipe.start)
    file = (
        start.out
        / f"revisions-{mark(recipe, 'principles', 'critic', 'seed', 'questions', 'rounds', 'data', weights=recipe.start)}.jsonl"
    )
    revised = once(file, lambda: revisions(recipe, principles, network, tokenizer), start)
    learned = sft.run(stage(recipe, SFTRecipe, "sft", recipe.start, file, recipe.sft_steps))
    network = weighed("sft", learned)
    pairs = file.with_name(file.name.replace("revisions", "pairs"))
    if once(pairs, lambda: preferences(recipe, principles, network, tokenizer), start):
        learned = preference.run(
            stage(recipe, PreferenceRecipe, "dpo", str(learned), pairs, recipe.steps)
        )
        weighed("dpo", learned)
    else:
        assistant.say(
            "the critic prefers neither answer of any pair; there is nothing for DPO to learn",
            start,
        )
    if start.rank == 0:
        shutil.copytree(learned, start.out / "model", dirs_exist_ok=True)
        (start.out / "report.json").write_text(
            json.dumps({"revised": len(revised), **found}, indent=2) + "\n"
        )
    return start.out / "model"


def stage(
    recipe: ConstitutionRecipe, kind: Any, name: str, base: str, file: Path, steps: int
) -> Any:
    """The recipe of one stage."""
    shared = recipe.model_dump(
        include={
            "seed",
            "rows",
            "micro_rows",
            "dtype",
            "device",
            "context",
            "answer_tokens",
            "evaluate_tasks",
            "evaluate_kinds",
        }
    )
    rate = recipe.dpo_lr if kind is PreferenceRecipe else recipe.sft_lr
    optimizer = {"name": "adamw", "adam_lr": rate, "weight_decay": 0.0, "warmup": 5, "decay": 0.8}
    return kind.model_validate({
        **shared, "optimizer": optimizer, "out": str(Path(recipe.out) / name), "start": base, "steps": steps, "checkpoint_every": recipe.checkpoint_every,
        "evaluate_every": steps, "sample_every": steps, "data": {"train": [{"path": str(file)}]},
    })  # fmt: skip


def measured(
    recipe: ConstitutionRecipe, principles: list[Principle], network: Decoder, tokenizer: Tokenizer
) -> dict[str, float]:
    """On held-out prompts: the share of answers that break a principle, as far as words tell, and
    what the tasks' own program says of them."""
    tasks = assistant.held_out_tasks(recipe)
    params = SamplingParams(
        temperature=recipe.temperature, max_tokens=recipe.answer_tokens, seed=recipe.seed
    )
    given = assistant.answers(network, tokenizer, [task.messages for task in tasks], params)
    broken = [any(principle.broken(texts[0]) for principle in principles) for texts in given]
    helpful = [task.check(texts[0]) for task, texts in zip(tasks, given, strict=True)]
    return (
        {"breaks": sum(broken) / len(broken), "helpful": sum(helpful) / len(helpful)}
        if tasks
        else {}
    )


def plan(recipe: ConstitutionRecipe) -> dict[str, Any]:
    """What fine-tuning and DPO will take; answers and revisions come on top."""
    return assistant.plan(recipe, passes=3)
