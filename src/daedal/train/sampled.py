"""A model's own answers to tasks, checked by program: what rejection sampling keeps (Nakano et al.
2021, Touvron et al. 2023), and pairs of the best and the worst of n.

Each is made once, before training, and kept in the run's folder as jsonl: a run that goes on reads
what it made."""

import random
from typing import Any

from daedal.data.rows import ChatSource
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.networks.decoder import Decoder
from daedal.processes.sampling import SamplingParams
from daedal.train import assistant
from daedal.train.recipe.chat import PreferenceRecipe, RewardRecipe, SampledRecipe, SFTRecipe
from daedal.train.start import Start, mark, say, write_rows
from daedal.worlds import instructions
from daedal.worlds.tasks import Task

Tried = list[tuple[Task, list[tuple[float, str]]]]


def tried(
    wanted: SampledRecipe, network: Decoder, tokenizer: Tokenizer, seed: int, max_tokens: int
) -> Tried:
    """Tasks, each with its n answers and what they earn, the best first."""
    kinds = wanted.kinds or instructions.KINDS
    rngs = (random.Random(f"sampled/{seed}/{i}") for i in range(wanted.tasks))
    tasks = [instructions.task(rng, kinds) for rng in rngs]
    drawn = {"n": wanted.n, "temperature": wanted.temperature, "max_tokens": max_tokens}
    params = SamplingParams(**drawn, seed=seed)
    given = assistant.answers(network, tokenizer, [task.messages for task in tasks], params)
    made = []
    for task, texts in zip(tasks, given, strict=True):
        earned = [(task.check(text), text) for text in texts]
        made.append((task, sorted(earned, key=lambda pair: -pair[0])))
    return made


def kept(found: Tried, threshold: float) -> list[dict[str, Any]]:
    """Every different answer that earns at least `threshold`, as prompt and completion."""
    return [
        {"prompt": task.messages, "completion": text}
        for task, answers in found
        for text in dict.fromkeys(text for earned, text in answers if earned >= threshold and text)
    ]


def pairs(found: Tried) -> list[dict[str, Any]]:
    """The best and the worst answer of each task where they differ in what they earn; the margin is
    by how much."""
    made = []
    for task, answers in found:
        said = [(earned, text) for earned, text in answers if text]
        if said and said[0][0] > said[-1][0]:
            (best, chosen), (worst, rejected) = said[0], said[-1]
            answers = {"chosen": chosen, "rejected": rejected, "margin": best - worst}
            made.append({"prompt": task.messages, **answers})
    return made


def source(
    recipe: SFTRecipe | PreferenceRecipe | RewardRecipe,
    name: str,
    network: Decoder,
    tokenizer: Tokenizer,
    start: Start,
) -> ChatSource:
    """A source of what the network made: `name` is "kept" or "pairs"."""
    wanted = recipe.sampled
    assert wanted is not None
    keys = ("sampled", "seed", "answer_tokens")
    file = start.out / f"{name}-{mark(recipe, *keys, weights=recipe.start)}.jsonl"
    if not file.exists():
        if wanted.teacher:
            network = assistant.network_of(wanted.teacher)
            tokenizer = assistant.chat_tokenizer(wanted.teacher)
        network = network.to(start.device)
        found = tried(wanted, network, tokenizer, recipe.seed, recipe.answer_tokens)
        rows = kept(found, wanted.threshold) if name == "kept" else pairs(found)
        every = [earned for _, answers in found for earned, _ in answers]
        mean = f"{len(every)} answers to {len(found)} tasks earn {sum(every) / len(every):.3f}"
        say(f"{mean} on average; {name}: {len(rows)}", start)
        if not rows:
            raise DaedalError(
                f"{len(every)} answers of {wanted.teacher or 'the start'} gave no {name}: lower sampled.threshold, raise sampled.n, or start from an SFT model."
            )
        write_rows(file, rows, start.rank)
    return ChatSource(path=str(file), weight=wanted.weight)


def with_pairs(recipe: Any, network: Decoder, tokenizer: Tokenizer, start: Start) -> Any:
    """The recipe, the start's own pairs among its data if it asks for them."""
    if not recipe.sampled:
        return recipe
    own = source(recipe, "pairs", network, tokenizer, start)
    data = recipe.data.model_copy(update={"train": [*recipe.data.train, own]})
    return recipe.model_copy(update={"data": data})
