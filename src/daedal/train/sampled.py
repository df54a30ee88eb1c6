"""A model's own answers to tasks, checked by program: what rejection sampling keeps (Nakano et al.
2021, Touvron et al. 2023), and pairs of the best and the worst of n.

Each is made once, before training, and kept in the run's folder as jsonl: a run that goes on reads
what it made.
"""

import json
import random
from pathlib import Path
from typing import Any

from daedal import checkpoints
from daedal.data import chat
from daedal.data.rows import ChatSource
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.networks.decoder import Decoder
from daedal.processes.sampling import SamplingParams
from daedal.train import assistant
from daedal.train.recipe.chat import PreferenceRecipe, RewardRecipe, SampledRecipe, SFTRecipe
from daedal.train.start import Start, mark
from daedal.worlds import instructions
from daedal.worlds.tasks import Task

Tried = list[tuple[Task, list[tuple[float, str]]]]


def tried(
    wanted: SampledRecipe, network: Decoder, tokenizer: Tokenizer, seed: int, max_tokens: int
) -> Tried:
    """Tasks, each with its n answers and what they earn, the best first."""
    kinds = wanted.kinds or instructions.KINDS
    tasks = [
        instructions.task(random.Random(f"sampled/{seed}/{i}"), kinds) for i in range(wanted.tasks)
    ]
    params = SamplingParams(
        n=wanted.n, temperature=wanted.temperature, max_tokens=max_tokens, seed=seed
    )
    given = assistant.answers(network, tokenizer, [task.messages for task in tasks], params)
    return [
        (task, sorted(((task.check(text), text) for text in texts), key=lambda pair: -pair[0]))
        for task, texts in zip(tasks, given, strict=True)
    ]


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
            made.append(
                {
                    "prompt": task.messages,
                    "chosen": chosen,
                    "rejected": rejected,
                    "margin": best - worst,
                }
            )
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
    file = (
        start.out
        / f"{name}-{mark(recipe, 'sampled', 'seed', 'answer_tokens', weights=recipe.start)}.jsonl"
    )
    if not file.exists():
        if wanted.teacher:
            network, tokenizer = (
                assistant.network_of(wanted.teacher),
                chat.prepared(Tokenizer.load(checkpoints.resolve(wanted.teacher))),
            )
        found = tried(
            wanted, network.to(start.device), tokenizer, recipe.seed, recipe.answer_tokens
        )
        rows = kept(found, wanted.threshold) if name == "kept" else pairs(found)
        every = [earned for _, answers in found for earned, _ in answers]
        assistant.say(
            f"{len(every)} answers to {len(found)} tasks earn {sum(every) / len(every):.3f} on average; {name}: {len(rows)}",
            start,
        )
        if not rows:
            raise DaedalError(
                f"{len(every)} answers of {wanted.teacher or 'the start'} gave no {name}: lower sampled.threshold, raise sampled.n, or start from an SFT model."
            )
        write(file, rows, start)
    return ChatSource(path=str(file), weight=wanted.weight)


def with_pairs(recipe: Any, network: Decoder, tokenizer: Tokenizer, start: Start) -> Any:
    """The recipe, the start's own pairs among its data if it asks for them."""
    if not recipe.sampled:
        return recipe
    own = source(recipe, "pairs", network, tokenizer, start)
    return recipe.model_copy(
        update={"data": recipe.data.model_copy(update={"train": [*recipe.data.train, own]})}
    )


def write(file: Path, rows: list[dict[str, Any]], start: Start) -> None:
    """Every process made the same rows; one writes them."""
    partial = file.with_suffix(f".partial{start.rank}")
    partial.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    partial.replace(file)
