"""A policy from comparisons without a reward model: DPO and cDPO, IPO, KTO, ORPO, SimPO (losses:
daedal.train.pair_objectives).

    daedal train recipes/chat/dpo.yaml

The reference is the start. What it thinks of the comparisons that a run will see is computed once,
before the first step, and kept in the run's folder: no second model in memory, with an adapter or
without one.

Legend: B rows, K completions, T tokens, N tokens of all completions.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from daedal.data.comparisons import Comparison, Comparisons
from daedal.data.conversations import Talk
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.networks.decoder import Decoder
from daedal.processes.sampling import SamplingParams
from daedal.train import assistant, pair_objectives, parallel, sampled
from daedal.train.recipe.chat import PreferenceRecipe
from daedal.train.reward import comparisons, end_to_end, mean_length
from daedal.train.start import Start, begin, mark
from daedal.train.trainer import Batch, Objective

REFERENCED = ("dpo", "ipo", "kto")  # methods that compare with where the policy started


def plan(recipe: PreferenceRecipe) -> dict[str, Any]:
    """What a run will take if every completion is as long as the context."""
    return assistant.plan(recipe, passes=2 + (2 / 3 if recipe.method in REFERENCED else 0))


# ---- log-probabilities ---------------------------------------------------------------------------


def logprobs_of(network: Decoder, part: Batch) -> tuple[Tensor, Tensor]:
    """Log-probability of each completion after its prompt, summed over its tokens (B, K), and how
    many they are (B, K)."""
    tokens, segments, there = end_to_end(part)
    said, lengths = part["said"][there], part["lengths"]  # (N,)
    owner = torch.arange(lengths.numel(), device=lengths.device).repeat_interleave(
        lengths.flatten()
    )
    # a completion follows a prompt, so the token before is of the same segment
    goals = said.nonzero()[:, 0]
    hidden = network.hidden(tokens, cache=segments)[0][goals - 1]
    logp = -F.cross_entropy(network.head(hidden).float(), tokens[0, goals], reduction="none")
    totals = torch.zeros(lengths.numel(), device=lengths.device).index_add(0, owner[goals], logp)
    counts = torch.zeros(lengths.numel(), device=lengths.device).index_add(
        0, owner[goals], torch.ones_like(logp)
    )
    return totals.view(lengths.shape), counts.view(lengths.shape)


class Referenced:
    """Batches with `reference` (B, K): what the start thought of them."""

    def __init__(self, batches: Comparisons, table: Tensor | None) -> None:
        self.batches, self.table = batches, table

    def __iter__(self) -> Any:
        for batch in self.batches:
            yield (
                batch
                if self.table is None
                else batch | {"reference": self.table[batch["number"], : batch["ranks"].shape[1]]}
            )

    def state(self) -> dict[str, Any]:
        return self.batches.state()


@torch.no_grad()
def reference_table(
    recipe: PreferenceRecipe, start: Start, network: Decoder, batches: Comparisons
) -> Tensor:
    """(comparisons, K) log-probabilities under the start, of those that the run will draw; from the
    run's folder where it made them before. They are computed in the policy's dtype: in another one
    the log ratios would not start at 0."""
    dtype = str(start.dtype).removeprefix("torch.")
    file = (
        start.out
        / f"reference-{dtype}-{mark(recipe, 'data', 'context', 'seed', 'task_pairs', 'method', 'adapter', weights=recipe.start)}.safetensors"
    )
    shape = (batches.firsts[-1], max(len(c.talks) for pool in batches.pools for c in pool))
    table = load_file(file)["logprobs"] if file.exists() else torch.full(shape, float("nan"))
    fresh = Comparisons(batches.pools, batches.weights, recipe.rows, recipe.seed)
    drawn = {fresh.draw() for _ in range(recipe.rows * recipe.steps)}
    # more, where steps grew
    absent = sorted(
        (i for i in drawn if table[i, 0].isnan()), key=lambda i: max(map(len, batches[i].talks))
    )
    start.prepared(network)
    for at in range(0, len(absent), recipe.micro_rows):
        numbers = absent[at : at + recipe.micro_rows]
        batch = {key: value.to(start.device) for key, value in batches.batch(numbers).items()}
        table[numbers, : batch["lengths"].shape[1]] = logprobs_of(network, batch)[0].cpu()
    if absent:
        partial = file.with_suffix(f".partial{start.rank}")
        save_file({"logprobs": table}, partial)
        partial.replace(file)
    return table


# ---- objectives ----------------------------------------------------------------------------------


def objective(recipe: PreferenceRecipe) -> Objective:
    """The method's loss, a mean over pairs (of KTO, over completions)."""
    r = recipe

    def loss(network: Decoder, part: Batch) -> Tensor:
        totals, counts = logprobs_of(network, part)
        chosen, rejected = totals.unbind(1)
        if r.method == "kto":
            # the second is an answer to another prompt
            apart = (totals[:, 1] - part["reference"][:, 1]).detach().mean()
            good = part["ranks"][:, 0] == 1
            each = pair_objectives.kto(
                chosen, part["reference"][:, 0], good, apart, r.beta, r.good_weight, r.bad_weight
            )
        elif r.method in ("orpo", "simpo"):
            better, worse = (totals / counts).unbind(1)
            each = (
                pair_objectives.orpo(better, worse, r.beta)
                if r.method == "orpo"
                else pair_objectives.simpo(better, worse, r.beta, r.gamma)
            )
        elif r.method == "ipo":
            each = pair_objectives.ipo(
                chosen, rejected, part["reference"][:, 0], part["reference"][:, 1], r.beta
            )
        else:
            each = pair_objectives.dpo(
                chosen,
                rejected,
                part["reference"][:, 0],
                part["reference"][:, 1],
                r.beta,
                r.smoothing,
            )
        return each.sum()

    return Objective(loss, lambda batch: len(batch["ranks"]))


def as_pairs(pool: list[Comparison]) -> list[Comparison]:
    """Two completions each, the better first; of a ranked list, the best and the worst."""
    made = []
    for c in pool:
        if len(c.talks) < 2:
            raise DaedalError(
                "single completions with a label are for method: kto; give pairs (prompt, chosen, rejected), or method=kto."
            )
        order = sorted(range(len(c.ranks)), key=lambda i: c.ranks[i])
        made.append(Comparison((c.talks[order[0]], c.talks[order[-1]]), (1, 2), c.margin))
    return made


def as_singles(pool: list[Comparison]) -> list[Comparison]:
    """One completion each, good or bad, and beside it, for KTO's estimate, the next one's
    completion after its own prompt."""
    best = [min(c.ranks) if len(c.ranks) > 1 else 1 for c in pool]
    flat = [
        (talk, 1 if rank == top else 2)
        for c, top in zip(pool, best, strict=True)
        for talk, rank in zip(c.talks, c.ranks, strict=True)
    ]
    step = max((len(c.talks) for c in pool), default=1)  # so that the next one has another prompt
    return [
        Comparison((talk, crossed(talk, flat[(i + step) % len(flat)][0])), (rank, 0))
        for i, (talk, rank) in enumerate(flat)
    ]


def crossed(prompt: Talk, completion: Talk) -> Talk:
    """The prompt of one with the completion of another."""
    parts = (prompt, ~prompt.mask), (completion, completion.mask)
    ids, mask = zip(*((talk.ids[which], talk.mask[which]) for talk, which in parts), strict=True)
    most = max(len(prompt), len(completion))  # no longer than what was asked to fit
    return Talk(np.concatenate(ids)[:most], np.concatenate(mask)[:most])


# ---- the run -------------------------------------------------------------------------------------


def run(recipe: PreferenceRecipe) -> Path:
    """Train, and write `out/model` (or `out/adapter`). Returns that folder."""
    start, tokenizer = begin(recipe), assistant.tokenizer_of(recipe)
    network = assistant.network_of(recipe.start, recipe.adapter)
    context = assistant.context_of(recipe, network)
    recipe = sampled.with_pairs(recipe, network, tokenizer, start)
    batches = comparisons(recipe, tokenizer, context, start)
    shaped = as_singles if recipe.method == "kto" else as_pairs
    batches = Comparisons(
        [shaped(list(pool)) for pool in batches.pools],
        batches.weights,
        recipe.rows,
        recipe.seed,
        batches.state(),
    )
    assistant.adapted(recipe, network)  # which is nothing yet, but for what packing the base rounds
    table = (
        reference_table(recipe, start, network, batches) if recipe.method in REFERENCED else None
    )
    state = assistant.fit(
        recipe, start, network, Referenced(batches, table), objective(recipe), 2 * recipe.rows * mean_length(batches),
        evaluation(recipe, tokenizer, batches, table, start), assistant.sampling(recipe, tokenizer),
    )  # fmt: skip
    folder = assistant.publish(recipe, start, network, tokenizer, state)
    parallel.finish()
    return folder


def evaluation(
    recipe: PreferenceRecipe,
    tokenizer: Tokenizer,
    batches: Comparisons,
    table: Tensor | None,
    start: Start,
) -> Callable[[Any], dict[str, float]]:
    """Held-out tasks answered greedily, and on the first batch the margin: how much more the policy
    prefers the better one than the start did (of methods without a reference: than the worse one, a
    token), and in what share of pairs it does."""
    tasks, params = (
        assistant.held_out_tasks(recipe),
        SamplingParams(temperature=0, max_tokens=recipe.answer_tokens),
    )
    batch = next(
        iter(
            Referenced(Comparisons(batches.pools, batches.weights, recipe.rows, recipe.seed), table)
        )
    )

    @torch.no_grad()
    def evaluate(network: Decoder) -> dict[str, float]:
        found = assistant.scored(network, tokenizer, tasks, params) if tasks else {}
        totals, counts = (
            value.cpu()
            for value in logprobs_of(
                network, {key: value.to(start.device) for key, value in batch.items()}
            )
        )
        if recipe.method == "kto":
            gained, good = totals[:, 0] - batch["reference"][:, 0], batch["ranks"][:, 0] == 1
            return found | {
                "gained_good": gained[good].mean().item(),
                "gained_bad": gained[~good].mean().item(),
            }
        gained = totals - batch["reference"] if table is not None else totals / counts
        margin = gained[:, 0] - gained[:, 1]
        return found | {
            "margin": margin.mean().item(),
            "preferred": (margin > 0).float().mean().item(),
            "chosen_gained": gained[:, 0].mean().item(),
        }

    return evaluate
