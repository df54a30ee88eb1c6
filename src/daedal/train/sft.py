"""Supervised fine-tuning: a text model learns to answer, from conversations.

    daedal train recipes/chat/sft.yaml

The loss is on the assistant's tokens only, its mean over all of them in a step, however many rows,
micro-batches and processes they came in. Conversations are packed into rows and see only themselves
(daedal.nn.segments).

Legend: B rows, T tokens."""

from itertools import islice

import torch
from torch import Tensor

from daedal.data.conversations import PackedTalks, reasons
from daedal.networks.decoder import Decoder
from daedal.nn.segments import Segments
from daedal.train import sampled
from daedal.train.assistant import PolicyTask, adapted
from daedal.train.objectives import linear_cross_entropy
from daedal.train.recipe.chat import SFTRecipe
from daedal.train.start import say
from daedal.train.trainer import Batch, Objective, to_device


def answer_loss(network: Decoder, part: Batch) -> Tensor:
    """Sum of next-token losses over what the assistant wrote; tokens, mask and segments (B, T + 1)."""
    tokens, said = part["tokens"], part["mask"][:, 1:]
    hidden = network.hidden(tokens[:, :-1], cache=Segments(part["segments"][:, :-1]))  # (B, T, D)
    return linear_cross_entropy(
        hidden[said], network.lm_head.weight, tokens[:, 1:][said], softcap=network.softcap
    )


OBJECTIVE = Objective(answer_loss, lambda batch: int(batch["mask"][:, 1:].sum()))


class SFT(PolicyTask):
    """A text model learns to answer."""

    recipe_type, objective = SFTRecipe, OBJECTIVE

    def build(self) -> None:
        self.load()
        r = self.recipe
        sources = list(r.data.train)
        if r.sampled:
            sources.append(sampled.source(r, "kept", self.network, self.tokenizer, self.start))
        adapted(r, self.network)
        self.batches = PackedTalks(
            sources, self.tokenizer, r.rows, self.context, r.seed, state=self.start.data
        )
        self.units = r.rows * self.context
        if r.data.validation:
            validation = PackedTalks(r.data.validation, self.tokenizer, r.micro_rows, self.context)
        else:
            validation = []
        self.held_out = list(islice(validation, 8))

    @torch.no_grad()
    def evaluate(self, network: Decoder) -> dict[str, float]:
        """Held-out tasks answered greedily, and the loss on held-out conversations where the recipe
        has some."""
        found = self.task_scores(network)
        if self.held_out:
            parts = (to_device(batch, self.start.device) for batch in self.held_out)
            total = sum(answer_loss(network, part).item() for part in parts)
            found["held_out_loss"] = total / sum(map(OBJECTIVE.count, self.held_out))
        return found

    def save(self, state: dict[str, Tensor]) -> None:
        if self.batches.left_out:
            say(f"left out: {reasons(self.batches.left_out)}", self.start)
        super().save(state)
