"""Reinforcement learning of a language model from a reward: PPO with a value network, REINFORCE++,
RLOO, GRPO, DAPO, Dr. GRPO, GSPO, CISPO.

    daedal train recipes/chat/grpo.yaml

A rollout asks the policy of this moment many questions (daedal.train.rollout), earns rewards
(daedal.train.rewards), and becomes batches for the one trainer, `epochs` times over. Its tensors
are part of a checkpoint, so that a run killed anywhere goes on to the same trajectory. The
objectives are in daedal.train.rl_objectives.

Legend: B completions of a rollout, G of one prompt, T tokens.
"""

import copy
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from daedal import checkpoints
from daedal import device as machine
from daedal.data.tokenizer import Tokenizer
from daedal.engine.request import Request
from daedal.errors import DaedalError
from daedal.networks import build, config_from_dict
from daedal.networks.decoder import Decoder
from daedal.networks.scalar import ScalarModel
from daedal.processes.sampling import SamplingParams
from daedal.train import assistant, checkpoint, parallel
from daedal.train import rl_objectives as rl
from daedal.train.actors import Actors
from daedal.train.policy import Reference, frozen_copy, policy_of, values_in, values_of
from daedal.train.questions import Question, Questions
from daedal.train.recipe.chat import RLRecipe
from daedal.train.rewards import Reward, Scoring, check_dropped, named
from daedal.train.rollout import (
    Completion,
    complete,
    padded,
    score,
    scored,
    seed_of,
    support_of,
    trimmed,
)
from daedal.train.start import Start, begin
from daedal.train.trainer import Batch, Objective, Trainer

# ---- methods -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """What sets the methods apart: how advantages are made, whose ratio is clipped (a token's or a
    completion's) and how, over what the loss is a mean, and where the divergence from the reference
    is charged."""

    advantages: Literal["gae", "returns", "rloo", "std", "mean"]
    mean: rl.Mean = "token"
    low: float = 0.2
    high: float = 0.2
    sequence: bool = False
    cispo: bool = False

    @property
    def kl_in_rewards(self) -> bool:
        return self.advantages in ("gae", "returns", "rloo")


METHODS = {
    "ppo": Method("gae"), "reinforce++": Method("returns"), "rloo": Method("rloo", "sequence"), "grpo": Method("std", "sequence"),
    "dapo": Method("std", high=0.28), "dr_grpo": Method("mean", "constant"), "gspo": Method("std", "sequence", 3e-4, 4e-4, sequence=True),
    "cispo": Method("std", low=1.0, high=0.28, cispo=True),
}  # fmt: skip


def sampling_of(recipe: RLRecipe) -> SamplingParams:
    r = recipe.rollout
    return SamplingParams(
        temperature=r.temperature,
        top_k=r.top_k,
        top_p=r.top_p,
        min_p=r.min_p,
        max_tokens=recipe.answer_tokens,
    )


# ---- rollouts as batches -------------------------------------------------------------------------


class Rollouts:
    """The trainer's batches: a rollout with the weights of this moment, its rows in order first,
    then in a random order an epoch.

    Where one step uses up a rollout, the old probabilities are the step's own. `metrics` are of the
    present rollout, `coefficient` is the weight of the divergence."""

    def __init__(
        self,
        recipe: RLRecipe,
        network: Decoder,
        tokenizer: Tokenizer,
        reward: Reward | None,
        start: Start,
    ) -> None:
        self.recipe, self.network, self.tokenizer, self.reward = recipe, network, tokenizer, reward
        self.rank, self.world, self.device, state = (
            start.rank,
            start.world,
            start.device,
            start.resume and start.resume["data"],
        )
        self.method, self.params = METHODS[recipe.method], sampling_of(recipe)
        longest = network.config.max_position_embeddings - recipe.answer_tokens
        self.questions = Questions(recipe.data.train, tokenizer, recipe.seed, longest)
        wants_reference = recipe.kl or recipe.kl_target or recipe.kl_stop
        self.reference = Reference(network, recipe) if wants_reference else None
        self.policy = (
            copy.deepcopy(network).requires_grad_(False)
            if recipe.parallel == "fsdp" and self.world > 1
            else network
        )
        self.learned = [
            name
            for name, p in network.named_parameters()
            if p.requires_grad and not name.startswith("critic.")
        ]
        self.actors = (
            self.actors_of(frozen_copy(network))
            if recipe.rollout.actors and self.rank == 0
            else None
        )
        # best: of held-out tasks so far
        self.asked, self.at, self.coefficient, self.best = 0, 0, recipe.kl, 0.0
        self.kept: dict[str, Tensor] | None = None
        self.metrics: dict[str, float] = {}
        self.pool = ThreadPoolExecutor(8)
        if state:
            self.asked, self.at, self.coefficient = (
                state["asked"],
                state["at"],
                state["coefficient"],
            )
            self.kept, self.metrics, self.best = state["kept"], state["metrics"], state["best"]

    def actors_of(self, network: Decoder) -> Actors:
        r = self.recipe.rollout
        return Actors(r.actors, network, self.tokenizer, self.params, r.group, r.batch)

    def state(self) -> dict[str, Any]:
        kept = self.kept if self.at < self.steps else None
        return {
            "asked": self.asked,
            "at": self.at,
            "coefficient": self.coefficient,
            "kept": kept,
            "metrics": self.metrics,
            "best": self.best,
        }

    @property
    def steps(self) -> int:
        """Optimizer steps of one rollout."""
        return (
            self.recipe.epochs
            * self.recipe.rollout.questions
            * self.recipe.rollout.group
            // self.recipe.rows
        )

    def __iter__(self) -> Iterator[Batch]:
        while True:
            if self.kept is None or self.at >= self.steps:
                self.kept, self.at = self.rollout(), 0
            rows, size = self.recipe.rows, len(self.kept["mask"])
            epoch, place = divmod(self.at * rows, size)
            order = (
                torch.arange(size)
                if not epoch
                else torch.randperm(
                    size, generator=torch.Generator().manual_seed(self.asked * 1000 + epoch)
                )
            )
            self.at += 1
            # completions of one prompt side by side, which then runs once
            chosen = order[place : place + rows].sort().values
            yield {key: value[chosen] for key, value in self.kept.items()}

    # -- one rollout -------------------------------------------------------------------------------

    def whole(self) -> Decoder:
        """The policy of this moment. What FSDP shards is gathered in a copy, which draws, scores
        and is saved."""
        if self.policy is not self.network:
            parallel.gather(self.policy, self.network)
        return self.policy

    def rollout(self) -> Batch:
        """Ask, score, and work out advantages. Every process asks its share, and all have the
        whole."""
        weights = dict(self.whole().named_parameters())
        if self.actors:
            self.actors.take({name: weights[name].detach().cpu().numpy() for name in self.learned})
        requests, rewards = self.earned()
        tokens, mask = padded(requests)
        mask &= ~rewards.isnan()[:, None]
        batch = self.before({"tokens": tokens, "mask": mask})
        self.metrics = self.measured(requests, rewards)
        batch |= self.advantages(batch, rewards)
        if self.reference:
            self.metrics["kl"] = gap = (
                rl.k3(batch["old"], batch["reference"]) * mask
            ).sum().item() / max(1, int(mask.any(1).sum()))
            self.coefficient = rl.next_kl_coefficient(
                self.coefficient, gap, self.recipe.kl_target, len(mask)
            )
            if self.recipe.kl_stop and not gap <= self.recipe.kl_stop:
                raise DaedalError(
                    f"a completion is {gap:.3g} nats from the reference, beyond kl_stop = {self.recipe.kl_stop}, at a reward of "
                    f"{self.metrics['reward']:.3g}: the policy has left what it knew. {kept_where(self.recipe)}"
                )
        if self.metrics["length"] < self.recipe.shortest:
            raise DaedalError(
                f"completions are down to {self.metrics['length']:.1f} tokens on average, below shortest = {self.recipe.shortest}: the policy has "
                f"collapsed. {kept_where(self.recipe)}"
            )
        return batch

    def earned(self) -> tuple[list[Completion], Tensor]:
        """Completions of `questions` prompts and their rewards (B,). With `dynamic`, of prompts
        whose rewards differ, while few are alike."""
        r, wanted = self.recipe.rollout, self.recipe.rollout.questions * self.recipe.rollout.group
        found, rewards = self.asked_once()
        for _ in range(4):
            told = rl.informative(rewards, r.group)
            if not r.dynamic or int(told.sum()) >= wanted:
                break
            more, theirs = self.asked_once()
            found, rewards = found + more, torch.cat([rewards, theirs])
        told = (
            rl.informative(rewards, r.group)
            if r.dynamic
            else torch.ones(len(rewards), dtype=torch.bool)
        )
        chosen = sorted(
            torch.cat([told.nonzero()[:, 0], (~told).nonzero()[:, 0]])[:wanted].tolist()
        )
        return [found[i] for i in chosen], rewards[chosen]

    def asked_once(self) -> tuple[list[Completion], Tensor]:
        r, mine = self.recipe.rollout, self.share()
        self.asked += r.questions
        questions, scoring = (
            [self.questions.question(number) for number in mine],
            Scoring(self.pool),
        )

        def finished(row: int, text: str) -> None:
            question = questions[row // r.group]
            scoring.ask(row, self.reward_of(question), question.prompt, text)

        made = self.drawn(
            [self.questions.encoded(question) for question in questions],
            [seed_of(self.recipe.seed, i) for i in mine],
            finished,
        )
        late = [
            rl.overlong(len(completion.output), self.recipe.answer_tokens, r.overlong)
            for completion in made
        ]
        found, rewards = (
            parallel.everyones(made, self.world),
            torch.cat(parallel.everyones([scoring.rewards() + torch.tensor(late)], self.world)),
        )
        check_dropped(rewards, self.recipe.dropped_most, scoring.why)
        return found, rewards

    def share(self) -> range:
        """The numbers of the next prompts that this process asks. Where actors draw, the first
        process asks for all."""
        n = self.recipe.rollout.questions
        if self.recipe.rollout.actors:
            return range(self.asked, self.asked + n * (self.rank == 0))
        return range(
            self.asked + self.rank * n // self.world, self.asked + (self.rank + 1) * n // self.world
        )

    def drawn(
        self, prompts: list[list[int]], seeds: list[int], finished: Callable[[int, str], None]
    ) -> list[Completion]:
        """`group` completions of each prompt, in order; `finished(row, text)` is called as they
        come in."""
        if self.actors or not prompts:
            return self.actors.complete(prompts, seeds, finished) if self.actors else []
        r = self.recipe.rollout

        def told(row: int, request: Request) -> None:
            finished(row, request.text)

        return [
            Completion.of(made)
            for made in complete(
                self.policy, self.tokenizer, prompts, self.params, seeds, r.group, told, r.batch
            )
        ]

    def reward_of(self, question: Question) -> Reward:
        reward = self.reward or question.check
        if reward is None:
            raise DaedalError(
                f"nothing checks an answer to {question.prompt[:40]!r}: give its file an answer column, or data.reward."
            )
        return reward

    def before(self, batch: Batch) -> Batch:
        """What the weights of this moment say: the support of each token, old log-probabilities and
        values, those of the reference."""
        size, rows = len(batch["mask"]) // self.world, self.recipe.micro_rows
        mine = {
            key: value[self.rank * size : (self.rank + 1) * size] for key, value in batch.items()
        }
        found: Batch = {}
        support = support_of(self.policy, mine, self.params, rows)
        if support is not None:
            found["support"] = support
        if self.reference or self.steps > 1:
            found["old"] = scored(self.policy, mine | found, self.params, rows)
        if self.reference:
            found["reference"] = self.reference.logprobs(mine | found, self.params, rows)
        if self.method.advantages == "gae":
            found["values"] = values_of(self.policy, mine, rows)
        return batch | {
            key: torch.cat(parallel.everyones([value], self.world)) for key, value in found.items()
        }

    def advantages(self, batch: Batch, rewards: Tensor) -> Batch:
        """(B, T - 1), and for PPO the returns that values should be."""
        mask, kind, recipe = batch["mask"], self.method.advantages, self.recipe
        kl = (
            rl.k1(batch["old"], batch["reference"]) * mask
            if self.reference
            else torch.zeros(mask.shape)
        )
        per_token = rl.shaped_rewards(rewards.nan_to_num(), kl, mask, self.coefficient)
        if kind == "gae":
            gained = rl.gae(per_token, batch["values"], mask, recipe.gamma, recipe.lam)
            return {"advantages": rl.whitened(gained, mask), "returns": gained + batch["values"]}
        if kind == "returns":
            return {"advantages": rl.whitened(rl.returns_to_go(per_token, mask), mask)}
        scores = rewards - self.coefficient * kl.sum(1) if kind == "rloo" else rewards
        return {
            "advantages": rl.group_advantages(scores, recipe.rollout.group, kind)[:, None] * mask
        }

    def measured(self, requests: list[Completion], rewards: Tensor) -> dict[str, float]:
        kept = rewards[~rewards.isnan()]
        return {
            "reward": kept.mean().item() if len(kept) else math.nan, "reward_spread": kept.std(unbiased=False).item() if len(kept) else math.nan,
            "length": statistics.fmean(len(request.output) for request in requests), "ended": statistics.fmean(request.ended for request in requests),
            "dropped": float(rewards.isnan().sum()), "asked": float(self.asked), "kl_weight": self.coefficient,
        }  # fmt: skip


def kept_where(recipe: RLRecipe) -> str:
    found = checkpoint.checkpoints(Path(recipe.out) / "checkpoints")
    if not found:
        return "No checkpoint was due before; lower checkpoint_every, the rate, or raise kl."
    step = int(found[-1].stem.removeprefix("step-"))
    return f"The last good checkpoint, of step {step}, is kept: the same command with steps={step} makes out/model of it; then try a lower rate or a higher kl."


# ---- the objective -------------------------------------------------------------------------------


def objective_of(recipe: RLRecipe, rollouts: Rollouts) -> Objective:
    """The method's loss, and the step's means of entropy (nats a token) and clipped tokens. The
    divergence (nats a completion) is a rollout's, of the policy that drew it: after the first of
    several steps k3 has a tail that means nothing."""
    method, params, meter = rollouts.method, rollouts.params, defaultdict[str, float](float)
    low, high = recipe.clip or method.low, recipe.clip_high or recipe.clip or method.high
    limit = recipe.answer_tokens

    def loss(network: Decoder, part: Batch) -> Tensor:
        part = trimmed(part)
        mask, (logp, entropy) = part["mask"], score(network, part, params)
        log_ratio = logp - (logp.detach() if rollouts.steps == 1 else part["old"])
        log_ratio = rl.sequence_log_ratio(log_ratio, mask) if method.sequence else log_ratio
        if method.cispo:
            each = rl.cispo_loss(logp, log_ratio, part["advantages"], low, high)
        else:
            each = rl.clipped_loss(log_ratio, part["advantages"], low, high)
        if "reference" in part and rollouts.coefficient and not method.kl_in_rewards:
            each = each + rollouts.coefficient * rl.k3(logp, part["reference"])
        if "values" in part:
            values = values_in(network, part)
            each = each + recipe.value_weight * rl.value_loss(
                values, part["values"], part["returns"], recipe.value_clip
            )
        note(meter, part, entropy, log_ratio.detach(), low, high)
        return rl.summed(each, mask, method.mean)

    def measured() -> dict[str, float]:
        sums = {
            key: parallel.total(float(meter[key]), rollouts.device, rollouts.world) for key in METER
        }
        meter.clear()
        tokens = max(1.0, sums["tokens"])
        return rollouts.metrics | {
            "entropy": sums["entropy"] / tokens,
            "clipped": sums["clipped"] / tokens,
        }

    return Objective(
        loss, lambda batch: rl.counted(batch["mask"], method.mean, limit), measured=measured
    )


METER = ("tokens", "entropy", "clipped")


def note(
    meter: dict[str, float],
    part: Batch,
    entropy: Tensor,
    log_ratio: Tensor,
    low: float,
    high: float,
) -> None:
    """Add a micro-batch's sums."""
    mask, ratio = part["mask"], log_ratio.exp()
    beyond = ((ratio > 1 + high) & (part["advantages"] > 0)) | (
        (ratio < 1 - low) & (part["advantages"] < 0)
    )
    sums = {"tokens": mask.sum(), "entropy": entropy.sum(), "clipped": (beyond & mask).sum()}
    for key, value in sums.items():
        meter[key] += value.item()


# ---- the run -------------------------------------------------------------------------------------


def held_out_questions(recipe: RLRecipe, rollouts: Rollouts) -> list[Question]:
    """Of `data.validation`, each prompt of its files once at most; without it, of the generated
    tasks that training draws from. The prompts of training files are nowhere held out."""
    sources = recipe.data.validation or [source for source in recipe.data.train if source.kinds]
    if not sources:
        return []
    asked = Questions(sources, rollouts.tokenizer, recipe.seed, rollouts.questions.longest)
    whole = all(not source.kinds for source in sources)
    count = (
        min(recipe.evaluate_tasks, sum(map(len, asked.files.values())))
        if whole
        else recipe.evaluate_tasks
    )
    return [asked.question(i, held_out=True) for i in range(count)]


def evaluation(
    recipe: RLRecipe, rollouts: Rollouts
) -> Callable[[Decoder], dict[str, float]] | None:
    """Mean reward of the likeliest answers to held-out questions, by their own check where there is
    one. An answer whose reward fails is dropped and counted, as in training."""
    asked = held_out_questions(recipe, rollouts)
    if not asked:
        if recipe.held_out_drop is not None:
            raise DaedalError(
                f"held_out_drop = {recipe.held_out_drop} has nothing to look at: give data.validation, or leave it out."
            )
        return None
    params = SamplingParams(temperature=0, max_tokens=recipe.answer_tokens)

    def evaluate(network: Decoder) -> dict[str, float]:
        requests = complete(
            network,
            rollouts.tokenizer,
            [rollouts.questions.encoded(q) for q in asked],
            params,
            range(len(asked)),
            1,
        )
        scoring = Scoring(rollouts.pool)
        for row, (question, request) in enumerate(zip(asked, requests, strict=True)):
            scoring.ask(
                row, question.check or rollouts.reward_of(question), question.prompt, request.text
            )
        rewards = scoring.rewards()
        check_dropped(rewards, recipe.dropped_most, scoring.why)
        earned = rewards[~rewards.isnan()].tolist()
        lengths = {
            "held_out_dropped": len(rewards) - len(earned),
            "held_out_length": statistics.fmean(len(r.output) for r in requests),
        }
        if not earned:
            return lengths
        n, mean = len(earned), statistics.fmean(earned)
        rollouts.best = max(rollouts.best, mean)
        if recipe.held_out_drop is not None and mean < rollouts.best - recipe.held_out_drop:
            raise DaedalError(
                f"held-out tasks earn {mean:.3g} by their own check, down from {rollouts.best:.3g}, while the reward is {rollouts.metrics['reward']:.3g}: "
                f"the policy has learned to please the reward. {kept_where(recipe)}"
            )
        return {"held_out": mean, "standard_error": statistics.pstdev(earned) / n**0.5, **lengths}

    return evaluate


def showing(rollouts: Rollouts) -> Callable[[Decoder, int], str]:
    def sample(network: Decoder, step: int) -> str:
        asked = [rollouts.questions.question(i, held_out=True) for i in range(3)]
        prompts = [rollouts.questions.encoded(question) for question in asked]
        requests = complete(
            network, rollouts.tokenizer, prompts, rollouts.params, [step + i for i in range(3)], 1
        )
        return "\n".join(
            f"  | {question.prompt}\n  > {request.text}"
            for question, request in zip(asked, requests, strict=True)
        )

    return sample


def flops_of(recipe: RLRecipe, network: Decoder, length: int = 64) -> float:
    """Of an optimizer step: completions after prompts of about `length` tokens, which run once a
    group, forward and backward."""
    tokens = recipe.answer_tokens + length // recipe.rollout.group
    return (
        recipe.rows
        * tokens
        * network.flops_per_token((length + recipe.answer_tokens) // 2, train=True)
    )


def run(recipe: RLRecipe, reward: Reward | None = None) -> Path:
    """Train, and write `out/model` (of an adapter also `out/adapter`, of PPO `out/value`). `reward`
    stands in for the recipe's."""
    start, tokenizer = begin(cast(Any, recipe)), assistant.tokenizer_of(recipe)
    if recipe.rollout.questions % start.world or recipe.rows % (start.world * recipe.micro_rows):
        raise DaedalError(
            f"{start.world} processes must divide rollout.questions = {recipe.rollout.questions}, and rows = {recipe.rows} into micro_rows."
        )
    network = start.prepared(policy_of(recipe))
    rollouts = Rollouts(recipe, network, tokenizer, reward or reward_named(recipe), start)
    trainer = Trainer(
        recipe, network, lambda: assistant.optimizers(recipe, network, start.dtype), rollouts, objective_of(recipe, rollouts), start=start, unit="completions", units_per_step=recipe.rows, flops_per_step=flops_of(recipe, network),
        evaluate=evaluation(recipe, rollouts), sample=showing(rollouts),
    )  # fmt: skip
    trainer.run()
    trainer.result()
    network = rollouts.whole()
    critic = network._modules.pop("critic", None)
    if critic is not None and start.rank == 0:
        checkpoints.save(cast(ScalarModel, critic), start.out / "value")
        tokenizer.save(start.out / "value")
    folder = assistant.publish(recipe, start, network.eval(), tokenizer, network.state_dict())
    parallel.finish()
    return folder


def reward_named(recipe: RLRecipe) -> Reward | None:
    return None if recipe.data.reward == "check" else named(recipe.data.reward)


def plan(recipe: RLRecipe) -> dict[str, Any]:
    """What a run will take if answers are as long as they may be; trains nothing."""
    device = machine.pick_device(recipe.device)
    dtype = machine.compute_dtype(recipe.dtype, device)
    with torch.device("meta"):
        network = build(
            config_from_dict(checkpoints.read_config(checkpoints.resolve(recipe.start)))
        )
    copies = (2 if recipe.method == "ppo" else 1) * (1 if recipe.adapter else 4) + (
        recipe.adapter is None
    )
    # drawing, and the old and the reference's pass, are forward passes
    flops = flops_of(recipe, network) * recipe.steps * (1 + 1 / recipe.epochs)
    peak = machine.matrix_peak(device, dtype)
    return {
        "parameters": network.parameter_count(), "units": f"{recipe.rows * recipe.steps:,} completions", "flops": flops,
        "dtype": str(dtype).removeprefix("torch."), "device": str(device), "memory_bytes": network.parameter_count() * 4 * copies,
        "measured_peak_flops": peak, "hours_at_full_peak": flops / peak / 3600, "hours_at_60_percent": flops / peak / 0.6 / 3600,
    }  # fmt: skip
