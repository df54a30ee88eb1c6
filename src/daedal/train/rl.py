"""Reinforcement learning of a language model from a reward: PPO with a value network, REINFORCE++,
RLOO, GRPO, DAPO, Dr. GRPO, GSPO, CISPO.

    daedal train recipes/chat/grpo.yaml

A rollout asks the policy of this moment many questions (daedal.train.rollout), earns rewards
(daedal.train.rewards), and becomes batches for the one trainer, `epochs` times over. Its tensors
are part of a checkpoint, so that a run killed anywhere goes on to the same trajectory. The
objectives are in daedal.train.rl_objectives.

Legend: B completions of a rollout, G of one prompt, T tokens."""

import copy
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from daedal import checkpoints
from daedal.data.tokenizer import Tokenizer
from daedal.engine.request import Request
from daedal.errors import DaedalError
from daedal.networks.decoder import Decoder
from daedal.processes.sampling import SamplingParams
from daedal.train import checkpoint, parallel
from daedal.train import rl_objectives as rl
from daedal.train.actors import Actors
from daedal.train.assistant import PolicyTask, chat_tokenizer
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
from daedal.train.start import Start
from daedal.train.task import Cost, outline
from daedal.train.trainer import Batch, Objective, slice_rows

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
    how = recipe.rollout.model_dump(include={"temperature", "top_k", "top_p", "min_p"})
    return SamplingParams(**how, max_tokens=recipe.answer_tokens)


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
        self.rank, self.world, self.device = start.rank, start.world, start.device
        self.method, self.params = METHODS[recipe.method], sampling_of(recipe)
        longest = network.config.max_position_embeddings - recipe.answer_tokens
        self.questions = Questions(recipe.data.train, tokenizer, recipe.seed, longest)
        wants_reference = recipe.kl or recipe.kl_target or recipe.kl_stop
        self.reference = Reference(network, recipe) if wants_reference else None
        sharded = recipe.parallel == "fsdp" and self.world > 1
        self.policy = copy.deepcopy(network).requires_grad_(False) if sharded else network
        learned = (name for name, p in network.named_parameters() if p.requires_grad)
        self.learned = [name for name in learned if not name.startswith("critic.")]
        r, self.actors = recipe.rollout, None
        if r.actors and self.rank == 0:
            copied = frozen_copy(network)
            self.actors = Actors(r.actors, copied, tokenizer, self.params, r.group, r.batch)
        # best: of held-out tasks so far
        self.asked, self.at, self.coefficient, self.best = 0, 0, recipe.kl, 0.0
        self.kept: dict[str, Tensor] | None = None
        self.metrics: dict[str, float] = {}
        self.pool = ThreadPoolExecutor(8)
        for name, value in (start.data or {}).items():
            setattr(self, name, value)

    def state(self) -> dict[str, Any]:
        names = ("asked", "at", "coefficient", "metrics", "best")
        kept = self.kept if self.at < self.steps else None
        return {name: getattr(self, name) for name in names} | {"kept": kept}

    @property
    def steps(self) -> int:
        """Optimizer steps of one rollout."""
        r = self.recipe
        return r.epochs * r.rollout.questions * r.rollout.group // r.rows

    def __iter__(self) -> Iterator[Batch]:
        while True:
            if self.kept is None or self.at >= self.steps:
                self.kept, self.at = self.rollout(), 0
            rows, size = self.recipe.rows, len(self.kept["mask"])
            epoch, place = divmod(self.at * rows, size)
            shuffled = torch.Generator().manual_seed(self.asked * 1000 + epoch)
            order = torch.randperm(size, generator=shuffled) if epoch else torch.arange(size)
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
            apart = (rl.k3(batch["old"], batch["reference"]) * mask).sum().item()
            self.metrics["kl"] = gap = apart / max(1, int(mask.any(1).sum()))
            weight, target = self.coefficient, self.recipe.kl_target
            self.coefficient = rl.next_kl_coefficient(weight, gap, target, len(mask))
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
            if not r.dynamic or int(rl.informative(rewards, r.group).sum()) >= wanted:
                break
            more, theirs = self.asked_once()
            found, rewards = found + more, torch.cat([rewards, theirs])
        differ = rl.informative(rewards, r.group) if r.dynamic else torch.ones(len(rewards)) > 0
        first = torch.cat([differ.nonzero()[:, 0], (~differ).nonzero()[:, 0]])[:wanted]
        chosen = sorted(first.tolist())
        return [found[i] for i in chosen], rewards[chosen]

    def asked_once(self) -> tuple[list[Completion], Tensor]:
        r, mine = self.recipe.rollout, self.share()
        self.asked += r.questions
        questions, scoring = [*map(self.questions.question, mine)], Scoring(self.pool)

        def finished(row: int, text: str) -> None:
            question = questions[row // r.group]
            scoring.ask(row, self.reward_of(question), question.prompt, text)

        prompts, seed = [*map(self.questions.encoded, questions)], self.recipe.seed
        made = self.drawn(prompts, [seed_of(seed, i) for i in mine], finished)
        limit = self.recipe.answer_tokens
        late = [rl.overlong(len(completion.output), limit, r.overlong) for completion in made]
        found = parallel.everyones(made, self.world)
        own = scoring.rewards() + torch.tensor(late)
        rewards = torch.cat(parallel.everyones([own], self.world))
        check_dropped(rewards, self.recipe.dropped_most, scoring.why)
        return found, rewards

    def share(self) -> range:
        """The numbers of the next prompts that this process asks. Where actors draw, the first
        process asks for all."""
        n = self.recipe.rollout.questions
        if self.recipe.rollout.actors:
            return range(self.asked, self.asked + n * (self.rank == 0))
        first, last = (rank * n // self.world for rank in (self.rank, self.rank + 1))
        return range(self.asked + first, self.asked + last)

    def drawn(
        self, prompts: list[list[int]], seeds: list[int], finished: Callable[[int, str], None]
    ) -> list[Completion]:
        """`group` completions of each prompt, in order; `finished(row, text)` is called as they
        come in."""
        if self.actors or not prompts:
            return self.actors.complete(prompts, seeds, finished) if self.actors else []
        r = self.recipe.rollout

        def ended(row: int, request: Request) -> None:
            finished(row, request.text)

        how = (self.params, seeds, r.group, ended, r.batch)
        return [*map(Completion.of, complete(self.policy, self.tokenizer, prompts, *how))]

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
        mine = slice_rows(batch, self.rank * size, (self.rank + 1) * size)
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
        gathered = {key: parallel.everyones([value], self.world) for key, value in found.items()}
        return batch | {key: torch.cat(values) for key, values in gathered.items()}

    def advantages(self, batch: Batch, rewards: Tensor) -> Batch:
        """(B, T - 1), and for PPO the returns that values should be."""
        mask, kind, recipe = batch["mask"], self.method.advantages, self.recipe
        kl = torch.zeros(mask.shape)
        if self.reference:
            kl = rl.k1(batch["old"], batch["reference"]) * mask
        per_token = rl.shaped_rewards(rewards.nan_to_num(), kl, mask, self.coefficient)
        if kind == "gae":
            gained = rl.gae(per_token, batch["values"], mask, recipe.gamma, recipe.lam)
            return {"advantages": rl.whitened(gained, mask), "returns": gained + batch["values"]}
        if kind == "returns":
            return {"advantages": rl.whitened(rl.returns_to_go(per_token, mask), mask)}
        scores = rewards - self.coefficient * kl.sum(1) if kind == "rloo" else rewards
        gained = rl.group_advantages(scores, recipe.rollout.group, kind)
        return {"advantages": gained[:, None] * mask}

    def measured(self, requests: list[Completion], rewards: Tensor) -> dict[str, float]:
        kept = rewards[~rewards.isnan()]
        return {
            "reward": kept.mean().item(),  # NaN where all are dropped
            "reward_spread": kept.std(unbiased=False).item(),
            "length": statistics.fmean(len(request.output) for request in requests),
            "ended": statistics.fmean(request.ended for request in requests),
            "dropped": float(rewards.isnan().sum()),
            "asked": float(self.asked),
            "kl_weight": self.coefficient,
        }


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
            now, old = values_in(network, part), part["values"]
            error = rl.value_loss(now, old, part["returns"], recipe.value_clip)
            each = each + recipe.value_weight * error
        note(meter, part, entropy, log_ratio.detach(), low, high)
        return rl.summed(each, mask, method.mean)

    def measured() -> dict[str, float]:
        where = rollouts.device, rollouts.world
        tokens, *sums = (parallel.total(float(meter[key]), *where) for key in METER)
        meter.clear()
        means = (value / max(1.0, tokens) for value in sums)
        return rollouts.metrics | dict(zip(METER[1:], means, strict=True))

    def count(batch: Batch) -> int:
        return rl.counted(batch["mask"], method.mean, recipe.answer_tokens)

    return Objective(loss, count, measured=measured)


METER = ("tokens", "entropy", "clipped")
Meter = dict[str, float]


def note(
    meter: Meter, part: Batch, entropy: Tensor, log_ratio: Tensor, low: float, high: float
) -> None:
    """Add a micro-batch's sums."""
    mask, ratio = part["mask"], log_ratio.exp()
    gained = part["advantages"]
    beyond = ((ratio > 1 + high) & (gained > 0)) | ((ratio < 1 - low) & (gained < 0))
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
    count = recipe.evaluate_tasks
    if not any(source.kinds for source in sources):
        count = min(count, sum(map(len, asked.files.values())))
    return [asked.question(i, held_out=True) for i in range(count)]


def flops_of(recipe: RLRecipe, network: Decoder, length: int = 64) -> float:
    """Of an optimizer step: completions after prompts of about `length` tokens, which run once a
    group, forward and backward."""
    tokens = recipe.rows * (recipe.answer_tokens + length // recipe.rollout.group)
    return tokens * network.flops_per_token((length + recipe.answer_tokens) // 2, train=True)


class RL(PolicyTask):
    """A policy from a reward, of PPO also `out/value`. A `reward` stands in for the recipe's."""

    recipe_type = RLRecipe
    unit = unit_label = "completions"
    flops = 0.0

    def __init__(self, recipe: RLRecipe, reward: Reward | None = None) -> None:
        super().__init__(recipe)
        self.reward = reward

    def build(self) -> None:
        r, world = self.recipe, self.start.world
        self.tokenizer = chat_tokenizer(r.start)
        if r.rollout.questions % world or r.rows % (world * r.micro_rows):
            raise DaedalError(
                f"{world} processes must divide rollout.questions = {r.rollout.questions}, and rows = {r.rows} into micro_rows."
            )
        self.network = self.start.prepared(policy_of(r))
        if r.data.reward != "check":
            self.reward = self.reward or named(r.data.reward)
        self.batches = Rollouts(r, self.network, self.tokenizer, self.reward, self.start)
        self.objective = objective_of(r, self.batches)
        self.units, self.flops = r.rows, flops_of(r, self.network)
        self.held_out = held_out_questions(r, self.batches)
        if not self.held_out:
            if r.held_out_drop is not None:
                raise DaedalError(
                    f"held_out_drop = {r.held_out_drop} has nothing to look at: give data.validation, or leave it out."
                )
            self.evaluate = None

    def evaluate(self, network: Decoder) -> dict[str, float]:
        """Mean reward of the likeliest answers to held-out questions, by their own check where
        there is one. An answer whose reward fails is dropped and counted, as in training."""
        r, rollouts, asked = self.recipe, self.batches, self.held_out
        params, n = SamplingParams(temperature=0, max_tokens=r.answer_tokens), len(asked)
        prompts = [*map(rollouts.questions.encoded, asked)]
        requests = complete(network, self.tokenizer, prompts, params, range(n), 1)
        scoring = Scoring(rollouts.pool)
        for row, (question, request) in enumerate(zip(asked, requests, strict=True)):
            check = question.check or rollouts.reward_of(question)
            scoring.ask(row, check, question.prompt, request.text)
        rewards = scoring.rewards()
        check_dropped(rewards, r.dropped_most, scoring.why)
        earned = rewards[~rewards.isnan()].tolist()
        length = statistics.fmean(len(request.output) for request in requests)
        found = {"held_out_dropped": n - len(earned), "held_out_length": length}
        if not earned:
            return found
        mean = statistics.fmean(earned)
        rollouts.best = max(rollouts.best, mean)
        if r.held_out_drop is not None and mean < rollouts.best - r.held_out_drop:
            raise DaedalError(
                f"held-out tasks earn {mean:.3g} by their own check, down from {rollouts.best:.3g}, while the reward is {rollouts.metrics['reward']:.3g}: "
                f"the policy has learned to please the reward. {kept_where(r)}"
            )
        error = statistics.pstdev(earned) / len(earned) ** 0.5
        return {"held_out": mean, "standard_error": error, **found}

    def sample(self, network: Decoder, step: int) -> str:
        """Answers to three held-out questions, drawn as in training."""
        questions = self.batches.questions
        asked = [questions.question(i, held_out=True) for i in range(3)]
        prompts, seeds = [questions.encoded(one) for one in asked], range(step, step + 3)
        made = complete(network, self.tokenizer, prompts, self.batches.params, seeds, 1)
        pairs = zip(asked, made, strict=True)
        return "\n".join(f"  | {question.prompt}\n  > {one.text}" for question, one in pairs)

    def save(self, state: dict[str, Tensor]) -> None:
        critic = self.network._modules.pop("critic", None)
        if critic is not None:
            folder, values = self.start.out / "value", dict[str, Tensor]()
            for name in [name for name in state if name.startswith("critic.")]:
                values[name.removeprefix("critic.")] = state.pop(name)
            checkpoints.save(critic, folder, state=values)
            self.tokenizer.save(folder)
        super().save(state)

    def cost(self, dtype: torch.dtype) -> Cost:
        """If answers are as long as they may be. Drawing, and the old and the reference's pass, are
        forward passes."""
        r = self.recipe
        network = outline(checkpoints.read_config(checkpoints.resolve(r.start)))
        weights, full = network.parameter_count(), r.adapter is None
        copies = (2 if r.method == "ppo" else 1) * (4 if full else 1) + full
        flops = flops_of(r, network) * (1 + 1 / r.epochs)
        return Cost(weights, r.rows, flops, weights * 4 * copies)
