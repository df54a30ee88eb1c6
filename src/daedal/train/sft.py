"""Supervised fine-tuning: a text model learns to answer, from conversations.

    daedal train recipes/chat/sft.yaml

The loss is on the assistant's tokens only, its mean over all of them in a step, however many rows,
micro-batches and processes they came in. Conversations are packed into rows and see only themselves
(daedal.nn.segments).

Legend: B rows, T tokens.
"""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from daedal.data.conversations import PackedTalks, reasons
from daedal.data.tokenizer import Tokenizer
from daedal.networks.decoder import Decoder
from daedal.nn.segments import Segments
from daedal.processes.sampling import SamplingParams
from daedal.train import assistant, parallel, sampled
from daedal.train.objectives import linear_cross_entropy
from daedal.train.recipe.chat import SFTRecipe
from daedal.train.start import begin
from daedal.train.trainer import Batch, Objective

plan = assistant.plan


def answer_loss(network: Decoder, part: Batch) -> Tensor:
    """Sum of next-token losses over what the assistant wrote; tokens, mask and segments (B, T + 1)."""
    tokens, said = part["tokens"], part["mask"][:, 1:]
    hidden = network.hidden(tokens[:, :-1], cache=Segments(part["segments"][:, :-1]))  # (B, T, D)
    return linear_cross_entropy(
        hidden[said], network.lm_head.weight, tokens[:, 1:][said], softcap=network.softcap
    )


OBJECTIVE = Objective(answer_loss, lambda batch: int(batch["mask"][:, 1:].sum()))


def run(recipe: SFTRecipe) -> Path:
    """Train, and write `out/model` (or `out/adapter`). Returns that folder."""
    start, tokenizer = begin(recipe), assistant.tokenizer_of(recipe)
    network = assistant.network_of(recipe.start, recipe.adapter)
    context = assistant.context_of(recipe, network)
    sources = list(recipe.data.train)
    if recipe.sampled:
        sources.append(sampled.source(recipe, "kept", network, tokenizer, start))
    assistant.adapted(recipe, network)
    talks = PackedTalks(
        sources,
        tokenizer,
        recipe.rows,
        context,
        recipe.seed,
        state=start.resume and start.resume["data"],
    )
    state = assistant.fit(
        recipe, start, network, talks, OBJECTIVE, recipe.rows * context, evaluation(recipe, tokenizer, context, start.device),
        assistant.sampling(recipe, tokenizer),
    )  # fmt: skip
    if talks.left_out:
        assistant.say(f"left out: {reasons(talks.left_out)}", start)
    folder = assistant.publish(recipe, start, network, tokenizer, state)
    parallel.finish()
    return folder


def evaluation(
    recipe: SFTRecipe, tokenizer: Tokenizer, context: int, device: torch.device
) -> Callable[[Any], dict[str, float]]:
    """Held-out tasks answered greedily, and the loss on held-out conversations where the recipe has
    some."""
    tasks, params = (
        assistant.held_out_tasks(recipe),
        SamplingParams(temperature=0, max_tokens=recipe.answer_tokens),
    )
    validation = (
        PackedTalks(recipe.data.validation, tokenizer, recipe.micro_rows, context)
        if recipe.data.validation
        else None
    )
    batches = list(islice(validation, 8)) if validation else []

    @torch.no_grad()
    def evaluate(network: Decoder) -> dict[str, float]:
        found = assistant.scored(network, tokenizer, tasks, params) if tasks else {}
        if batches:
            total = sum(
                answer_loss(network, {key: value.to(device) for key, value in batch.items()}).item()
                for batch in batches
            )
            found["held_out_loss"] = total / sum(map(OBJECTIVE.count, batches))
        return found

    return evaluate
