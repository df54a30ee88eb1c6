"""A reward model from comparisons (Stiennon et al. 2020, Ouyang et al. 2022): one number for a
conversation, read at its last token.

    daedal train recipes/chat/reward.yaml

Pairs with margins, ranked lists, and a pull of the mean towards zero; or, with kind: process,
whether each step of a solution is right, read at the step's last token. The losses are in
daedal.train.pair_objectives. Completions of a batch lie end to end, without padding, and see only
themselves.

Legend: B rows, K completions, T tokens, N tokens of all completions."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from daedal import checkpoints
from daedal.data import comparisons as pairs
from daedal.data import steps
from daedal.data.comparisons import Comparison, Comparisons, stacked
from daedal.data.conversations import reasons
from daedal.data.rows import ChatSource
from daedal.data.tokenizer import Tokenizer
from daedal.networks.scalar import ScalarModel
from daedal.nn.segments import Segments
from daedal.processes.measures import wilson
from daedal.train import sampled
from daedal.train.assistant import ChatTask, adapted, merged
from daedal.train.pair_objectives import bradley_terry, centring, plackett_luce, process_loss
from daedal.train.recipe.chat import RewardRecipe
from daedal.train.start import Start, say
from daedal.train.trainer import Batch, Objective, to_device


def end_to_end(part: Batch) -> tuple[Tensor, Segments, Tensor]:
    """(tokens (1, N), their segments, there (B, K, T)): the completions of a batch without their
    padding."""
    lengths = part["lengths"]
    there = torch.arange(part["tokens"].shape[-1], device=lengths.device) < lengths[..., None]
    numbers = torch.arange(lengths.numel(), device=lengths.device).view(*lengths.shape, 1)
    segments = Segments(numbers.expand(there.shape)[there][None])
    return part["tokens"][there][None], segments, there


def rewards_of(network: ScalarModel, part: Batch) -> Tensor:
    """The value at the last token of each completion (B, K); 0 where there is none."""
    tokens, segments, _ = end_to_end(part)
    values = network(tokens, cache=segments)[0]  # (N,)
    lengths = part["lengths"]
    last = lengths.flatten().cumsum(0).view(lengths.shape) - 1
    return values[last.clamp(min=0)] * (lengths > 0)


def step_rewards(network: ScalarModel, part: Batch) -> Tensor:
    """The logit at the last token of each step (B, S); 0 where there is none."""
    tokens, segments, there = end_to_end(part)
    # row by row, as ranks have them
    values = network(tokens, cache=segments)[0][part["said"][there]]
    zeros = torch.zeros(part["ranks"].shape, device=values.device)
    return zeros.masked_scatter(part["ranks"] > 0, values)


def objective(recipe: RewardRecipe) -> Objective:
    """Pairs by Bradley-Terry with the margins, longer lists by Plackett-Luce, steps by
    cross-entropy."""

    def process(network: ScalarModel, part: Batch) -> Tensor:
        rewards, ranks = step_rewards(network, part), part["ranks"]
        return process_loss(rewards, ranks == 1, ranks > 0).sum()

    def loss(network: ScalarModel, part: Batch) -> Tensor:
        rewards, ranks = rewards_of(network, part), part["ranks"]
        if ranks.shape[1] == 2:
            first = ranks[:, 0] < ranks[:, 1]
            better = torch.where(first, rewards[:, 0], rewards[:, 1])
            worse = torch.where(first, rewards[:, 1], rewards[:, 0])
            each = bradley_terry(better, worse, recipe.margin * part["margin"])
        else:
            each = plackett_luce(rewards, ranks)
        return (each + recipe.centre * centring(rewards, ranks)).sum()

    chosen = process if recipe.kind == "process" else loss
    return Objective(chosen, lambda batch: len(batch["ranks"]))


def comparisons(recipe: Any, tokenizer: Tokenizer, context: int, start: Start) -> Comparisons:
    """The training sources' comparisons, what was left out said."""
    left_out: Counter[str] = Counter()
    load = loader(recipe)
    pools = [
        load(source, tokenizer, context, f"{recipe.seed}/{i}", left_out, recipe.task_pairs)
        for i, source in enumerate(recipe.data.train)
    ]
    if left_out:
        say(f"left out: {reasons(left_out)}", start)
    weights = [source.weight for source in recipe.data.train]
    return Comparisons(pools, weights, recipe.rows, recipe.seed, start.data)


def loader(recipe: Any) -> Callable[..., list[Comparison]]:
    return steps.load if getattr(recipe, "kind", "") == "process" else pairs.load


def mean_length(batches: Comparisons) -> int:
    first = [comparison for pool in batches.pools for comparison in pool[:200]]
    lengths = [len(talk) for comparison in first for talk in comparison.talks]
    return max(1, sum(lengths) // len(lengths))


def name_of(source: ChatSource) -> str:
    return "tasks" if source.kinds else Path(source.path).stem


@torch.no_grad()
def judged(
    network: ScalarModel,
    some: Sequence[Comparison],
    rows: int,
    device: torch.device,
    read: Callable[[ScalarModel, Batch], Tensor] = rewards_of,
) -> tuple[Tensor, Tensor]:
    """(rewards, ranks), each (n, K) or (n, S), of comparisons."""
    most = max(len(c.ranks) for c in some)
    rewards, ranks = torch.zeros(len(some), most), torch.zeros(len(some), most, dtype=torch.int64)
    for i in range(0, len(some), rows):
        batch = to_device(stacked(some[i : i + rows]), device)
        K = batch["ranks"].shape[1]
        rewards[i : i + rows, :K] = read(network, batch).cpu()
        ranks[i : i + rows, :K] = batch["ranks"].cpu()
    return rewards, ranks


def agreements(rewards: Tensor, ranks: Tensor) -> tuple[int, int]:
    """(pairs in the right order, pairs), over every two completions of a prompt that differ in
    rank; a tie is half right, rounded down."""
    better = (ranks[:, :, None] < ranks[:, None, :]) & (ranks[:, :, None] > 0)
    right = (rewards[:, :, None] > rewards[:, None, :]) & better
    tied = (rewards[:, :, None] == rewards[:, None, :]) & better
    return math.floor(int(right.sum()) + int(tied.sum()) / 2), int(better.sum())


def right_steps(rewards: Tensor, ranks: Tensor) -> tuple[int, int]:
    """(steps told right from wrong, steps)."""
    there = ranks > 0
    return int((((rewards > 0) == (ranks == 1)) & there).sum()), int(there.sum())


# ---- the run -------------------------------------------------------------------------------------


class Reward(ChatTask):
    """`out/model` is a folder of one-label sequence classification."""

    recipe_type, passes = RewardRecipe, 2

    def build(self) -> None:
        self.load()
        r = self.recipe = sampled.with_pairs(self.recipe, self.network, self.tokenizer, self.start)
        self.network = adapted(r, ScalarModel(self.network))
        self.network.score.weight.requires_grad_(True)
        self.batches = comparisons(r, self.tokenizer, self.context, self.start)
        self.objective, self.units = objective(r), 2 * r.rows * mean_length(self.batches)
        sources = list(r.data.validation)
        if r.evaluate_tasks:
            sources.append(ChatSource(path=f"tasks:{','.join(r.evaluate_kinds)}"))
        load, given = loader(r), (self.tokenizer, self.context, "held out")
        self.held_out = {
            name_of(source): load(source, *given, Counter(), r.evaluate_tasks, held_out=True)
            for source in sources
        }

    def evaluate(self, network: ScalarModel) -> dict[str, float]:
        """Accuracy on held-out pairs (of a process: on steps), each validation source apart and
        held-out tasks, with Wilson's interval; mean and spread of all rewards."""
        process, found, seen = self.recipe.kind == "process", dict[str, float](), list[Tensor]()
        read, counted = (step_rewards, right_steps) if process else (rewards_of, agreements)
        for name, some in self.held_out.items():
            rewards, ranks = judged(network, some, self.recipe.micro_rows, self.start.device, read)
            hits, n = counted(rewards, ranks)
            low, high = wilson(hits, n)
            seen.append(rewards[ranks > 0])
            found |= {f"accuracy/{name}": hits / n, f"low/{name}": low, f"high/{name}": high}
        if not seen:
            return {}
        every = torch.cat(seen)
        return found | {"reward_mean": every.mean().item(), "reward_std": every.std().item()}

    def save(self, state: dict[str, Tensor]) -> None:
        if self.recipe.adapter:
            state = merged(self.recipe, self.network)
        tokenizer = self.tokenizer
        tokenizer.save(self.folder)
        role = tokenizer.roles.get("pad_token", "")
        pad = {"pad_token_id": tokenizer.special_tokens.get(role, tokenizer.eos_ids[-1])}
        checkpoints.save(self.network, self.folder, state=state, extra_config=pad)
