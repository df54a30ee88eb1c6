"""A reward model from comparisons (Stiennon et al. 2020, Ouyang et al. 2022): one number for a
conversation, read at its last token.

    daedal train recipes/chat/reward.yaml

Pairs with margins, ranked lists, and a pull of the mean towards zero; or, with kind: process,
whether each step of a solution is right, read at the step's last token. The losses are in
daedal.train.pair_objectives. Completions of a batch lie end to end, without padding, and see only
themselves.

Legend: B rows, K completions, T tokens, N tokens of all completions.
"""

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
from daedal.train import assistant, parallel, sampled
from daedal.train.pair_objectives import bradley_terry, centring, plackett_luce, process_loss
from daedal.train.recipe.chat import RewardRecipe
from daedal.train.start import Start, begin
from daedal.train.trainer import Batch, Objective


def plan(recipe: RewardRecipe) -> dict[str, Any]:
    """What a run will take if every pair is as long as the context."""
    return assistant.plan(recipe, passes=2)


def end_to_end(part: Batch) -> tuple[Tensor, Segments, Tensor]:
    """(tokens (1, N), their segments, there (B, K, T)): the completions of a batch without their
    padding."""
    lengths = part["lengths"]
    there = torch.arange(part["tokens"].shape[-1], device=lengths.device) < lengths[..., None]
    numbers = (
        torch.arange(lengths.numel(), device=lengths.device)
        .view(*lengths.shape, 1)
        .expand(there.shape)
    )
    return part["tokens"][there][None], Segments(numbers[there][None]), there


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
    return torch.zeros(part["ranks"].shape, device=values.device).masked_scatter(
        part["ranks"] > 0, values
    )


def objective(recipe: RewardRecipe) -> Objective:
    """Pairs by Bradley-Terry with the margins, longer lists by Plackett-Luce, steps by
    cross-entropy."""

    def process(network: ScalarModel, part: Batch) -> Tensor:
        return process_loss(
            step_rewards(network, part), part["ranks"] == 1, part["ranks"] > 0
        ).sum()

    def loss(network: ScalarModel, part: Batch) -> Tensor:
        rewards, ranks = rewards_of(network, part), part["ranks"]
        if ranks.shape[1] == 2:
            first = ranks[:, 0] < ranks[:, 1]
            better, worse = (
                torch.where(first, rewards[:, 0], rewards[:, 1]),
                torch.where(first, rewards[:, 1], rewards[:, 0]),
            )
            each = bradley_terry(better, worse, recipe.margin * part["margin"])
        else:
            each = plackett_luce(rewards, ranks)
        return (each + recipe.centre * centring(rewards, ranks)).sum()

    return Objective(
        process if recipe.kind == "process" else loss, lambda batch: len(batch["ranks"])
    )


def run(recipe: RewardRecipe) -> Path:
    """Train, and write `out/model`, a folder of one-label sequence classification. Returns that
    folder."""
    start, tokenizer = begin(recipe), assistant.tokenizer_of(recipe)
    decoder = assistant.network_of(recipe.start, recipe.adapter)
    context = assistant.context_of(recipe, decoder)
    recipe = sampled.with_pairs(recipe, decoder, tokenizer, start)
    network = ScalarModel(decoder)
    assistant.adapted(recipe, network)
    network.score.weight.requires_grad_(True)
    batches = comparisons(recipe, tokenizer, context, start)
    tokens = 2 * recipe.rows * mean_length(batches)
    state = assistant.fit(
        recipe,
        start,
        network,
        batches,
        objective(recipe),
        tokens,
        evaluation(recipe, tokenizer, context, start),
    )
    if recipe.adapter:
        state = assistant.merged(recipe, network)
    if start.rank == 0:
        tokenizer.save(start.out / "model")
        pad = tokenizer.special_tokens.get(
            tokenizer.roles.get("pad_token", ""), tokenizer.eos_ids[-1]
        )
        checkpoints.save(
            network, start.out / "model", state=state, extra_config={"pad_token_id": pad}
        )
    parallel.finish()
    return start.out / "model"


def comparisons(recipe: Any, tokenizer: Tokenizer, context: int, start: Start) -> Comparisons:
    """The training sources' comparisons, what was left out said."""
    left_out: Counter[str] = Counter()
    load = loader(recipe)
    pools = [
        load(source, tokenizer, context, f"{recipe.seed}/{i}", left_out, recipe.task_pairs)
        for i, source in enumerate(recipe.data.train)
    ]
    if left_out:
        assistant.say(f"left out: {reasons(left_out)}", start)
    weights = [source.weight for source in recipe.data.train]
    return Comparisons(
        pools, weights, recipe.rows, recipe.seed, start.resume and start.resume["data"]
    )


def loader(recipe: Any) -> Callable[..., list[Comparison]]:
    return steps.load if getattr(recipe, "kind", "") == "process" else pairs.load


def mean_length(batches: Comparisons) -> int:
    some = [
        len(talk)
        for pool in batches.pools
        for comparison in pool[:200]
        for talk in comparison.talks
    ]
    return max(1, sum(some) // len(some))


def evaluation(
    recipe: RewardRecipe, tokenizer: Tokenizer, context: int, start: Start
) -> Callable[[Any], dict[str, float]]:
    """Accuracy on held-out pairs (of a process: on steps), each validation source apart and
    held-out tasks, with Wilson's interval; mean and spread of all rewards."""
    kinds = ",".join(recipe.evaluate_kinds)
    sources = [
        *recipe.data.validation,
        *([ChatSource(path=f"tasks:{kinds}")] if recipe.evaluate_tasks else []),
    ]
    load, read, counted = (
        loader(recipe),
        *((step_rewards, right_steps) if recipe.kind == "process" else (rewards_of, agreements)),
    )
    held_out = {
        name_of(source): load(
            source, tokenizer, context, "held out", Counter(), recipe.evaluate_tasks, held_out=True
        )
        for source in sources
    }

    def evaluate(network: ScalarModel) -> dict[str, float]:
        found, seen = dict[str, float](), list[Tensor]()
        for name, some in held_out.items():
            rewards, ranks = judged(network, some, recipe.micro_rows, start.device, read)
            hits, n = counted(rewards, ranks)
            low, high = wilson(hits, n)
            seen.append(rewards[ranks > 0])
            found |= {f"accuracy/{name}": hits / n, f"low/{name}": low, f"high/{name}": high}
        every = torch.cat(seen)
        return found | {"reward_mean": every.mean().item(), "reward_std": every.std().item()}

    return evaluate if held_out else lambda network: {}


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
        batch = {key: value.to(device) for key, value in stacked(some[i : i + rows]).items()}
        K = batch["ranks"].shape[1]
        rewards[i : i + rows, :K], ranks[i : i + rows, :K] = (
            read(network, batch).cpu(),
            batch["ranks"].cpu(),
        )
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
