"""A policy from comparisons without a reward model: DPO and cDPO, IPO, KTO, ORPO, SimPO (losses:
daedal.train.pair_objectives).

    daedal train recipes/chat/dpo.yaml

The reference is the start. What it thinks of the comparisons that a run will see is computed once,
before the first step, and kept in the run's folder: no second model in memory, with an adapter or
without one.

Legend: B rows, K completions, T tokens, N tokens of all completions."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from daedal.data.comparisons import Comparison, Comparisons
from daedal.data.conversations import Talk
from daedal.errors import DaedalError
from daedal.networks.decoder import Decoder
from daedal.train import sampled
from daedal.train.assistant import PolicyTask, adapted
from daedal.train.pair_objectives import dpo, ipo, kto, orpo, simpo
from daedal.train.recipe.chat import PreferenceRecipe
from daedal.train.reward import comparisons, end_to_end, mean_length
from daedal.train.start import Start, mark
from daedal.train.trainer import Batch, Objective, to_device

REFERENCED = ("dpo", "ipo", "kto")  # methods that compare with where the policy started


# ---- log-probabilities ---------------------------------------------------------------------------


def logprobs_of(network: Decoder, part: Batch) -> tuple[Tensor, Tensor]:
    """Log-probability of each completion after its prompt, summed over its tokens (B, K), and how
    many they are (B, K)."""
    tokens, segments, there = end_to_end(part)
    said, lengths = part["said"][there], part["lengths"]  # (N,)
    owner = torch.arange(lengths.numel(), device=lengths.device)
    owner = owner.repeat_interleave(lengths.flatten())
    # a completion follows a prompt, so the token before is of the same segment
    goals = said.nonzero()[:, 0]
    hidden = network.hidden(tokens, cache=segments)[0][goals - 1]
    logp = -F.cross_entropy(network.head(hidden).float(), tokens[0, goals], reduction="none")
    zeros = torch.zeros(lengths.numel(), device=lengths.device)
    totals = zeros.index_add(0, owner[goals], logp)
    counts = zeros.index_add(0, owner[goals], torch.ones_like(logp))
    return totals.view(lengths.shape), counts.view(lengths.shape)


class Referenced:
    """Batches with `reference` (B, K): what the start thought of them."""

    def __init__(self, batches: Comparisons, table: Tensor | None) -> None:
        self.batches, self.table = batches, table

    def __iter__(self) -> Any:
        for batch in self.batches:
            if self.table is not None:
                K = batch["ranks"].shape[1]
                batch = batch | {"reference": self.table[batch["number"], :K]}
            yield batch

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
    keys = ("data", "context", "seed", "task_pairs", "method", "adapter")
    marked = mark(recipe, *keys, weights=recipe.start)
    file = start.out / f"reference-{dtype}-{marked}.safetensors"
    shape = (batches.firsts[-1], max(len(c.talks) for pool in batches.pools for c in pool))
    table = load_file(file)["logprobs"] if file.exists() else torch.full(shape, float("nan"))
    fresh = Comparisons(batches.pools, batches.weights, recipe.rows, recipe.seed)
    drawn = {fresh.draw() for _ in range(recipe.rows * recipe.steps)}
    absent = [i for i in drawn if table[i, 0].isnan()]  # more, where steps grew
    absent.sort(key=lambda i: max(map(len, batches[i].talks)))
    start.prepared(network)
    for at in range(0, len(absent), recipe.micro_rows):
        numbers = absent[at : at + recipe.micro_rows]
        batch = to_device(batches.batch(numbers), start.device)
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
        if r.method == "kto":
            # the second is an answer to another prompt
            apart = (totals[:, 1] - part["reference"][:, 1]).detach().mean()
            good, own = part["ranks"][:, 0] == 1, part["reference"][:, 0]
            each = kto(totals[:, 0], own, good, apart, r.beta, r.good_weight, r.bad_weight)
        elif r.method == "orpo":
            each = orpo(*(totals / counts).unbind(1), r.beta)
        elif r.method == "simpo":
            each = simpo(*(totals / counts).unbind(1), r.beta, r.gamma)
        elif r.method == "ipo":
            each = ipo(*totals.unbind(1), *part["reference"].unbind(1), r.beta)
        else:
            each = dpo(*totals.unbind(1), *part["reference"].unbind(1), r.beta, r.smoothing)
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
    flat = []
    for c in pool:
        top = min(c.ranks) if len(c.ranks) > 1 else 1
        flat += zip(c.talks, [1 if rank == top else 2 for rank in c.ranks], strict=True)
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


class Preference(PolicyTask):
    """A policy from comparisons."""

    recipe_type = PreferenceRecipe

    @property
    def passes(self) -> float:  # type: ignore[override]
        """A pair, and forward alone what the start thinks of it."""
        return 2 + (2 / 3 if self.recipe.method in REFERENCED else 0)

    def build(self) -> None:
        self.load()
        r = self.recipe = sampled.with_pairs(self.recipe, self.network, self.tokenizer, self.start)
        batches = comparisons(r, self.tokenizer, self.context, self.start)
        shaped = as_singles if r.method == "kto" else as_pairs
        pools = [shaped(list(pool)) for pool in batches.pools]
        batches = Comparisons(pools, batches.weights, r.rows, r.seed, batches.state())
        adapted(r, self.network)  # which is nothing yet, but for what packing the base rounds
        self.table = None
        if r.method in REFERENCED:
            self.table = reference_table(r, self.start, self.network, batches)
        self.batches, self.objective = Referenced(batches, self.table), objective(r)
        self.units = 2 * r.rows * mean_length(batches)
        first = Comparisons(pools, batches.weights, r.rows, r.seed)
        self.first = next(iter(Referenced(first, self.table)))

    @torch.no_grad()
    def evaluate(self, network: Decoder) -> dict[str, float]:
        """Held-out tasks answered greedily, and on the first batch the margin: how much more the
        policy prefers the better one than the start did (of methods without a reference: than the
        worse one, a token), and in what share of pairs it does."""
        found, batch = self.task_scores(network), self.first
        both = logprobs_of(network, to_device(batch, self.start.device))
        totals, counts = (value.cpu() for value in both)
        if self.recipe.method == "kto":
            gained, good = totals[:, 0] - batch["reference"][:, 0], batch["ranks"][:, 0] == 1
            return found | {
                "gained_good": gained[good].mean().item(),
                "gained_bad": gained[~good].mean().item(),
            }
        gained = totals - batch["reference"] if self.table is not None else totals / counts
        margin = gained[:, 0] - gained[:, 1]
        return found | {
            "margin": margin.mean().item(),
            "preferred": (margin > 0).float().mean().item(),
            "chosen_gained": gained[:, 0].mean().item(),
        }
