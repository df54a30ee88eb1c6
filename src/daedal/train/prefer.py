"""Teaching a media transformer what is better: from pairs (Diffusion-DPO, Wallace et al. 2023),
from a reward (Flow-GRPO, Liu et al. 2025), from a reward without a path to remember (DiffusionNFT,
Zheng et al. 2025), or from a reward's slope (ReFL, Xu et al. 2023).

All start from a trained model and stay near it. On generated scenes a pair is the right picture and
one of another scene under the same caption, and the reward is what `scenes.correct` reads off the
pixels; elsewhere the reward is a rater's (daedal.train.rate) or a CLIP model's.

Legend: B pictures, G pictures of one prompt, T tokens, C values of a token."""

import math
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.data.pictures import PictureBatches, encode_captions, stacked
from daedal.data.tokenizer import Tokenizer
from daedal.networks.media import MediaTransformer, Text
from daedal.processes.imaging import pixels
from daedal.processes.noise import Level, noised
from daedal.processes.samplers import euler
from daedal.systems.house_media import ask, flow_levels, predictor
from daedal.train import flow
from daedal.train.rate import RewardScorer
from daedal.train.recipe.flow import PreferRecipe
from daedal.train.rl_objectives import clipped_loss
from daedal.train.terms import CLOSEST, EmaCopy, flow_level, follow, latents, noisy, weight
from daedal.train.trainer import Batch, Objective
from daedal.worlds import scenes

PARTS = ("objects", "colours", "relation", "background")


class ScenePairs(PictureBatches):
    """Batches with `rejected`, a picture that the caption is wrong for, and `seeds`, from which
    `scene_of` makes the scene again."""

    def batch(self, step: int) -> dict[str, Tensor]:
        rng = random.Random(f"{self.seed}/{step}")
        seeds = [rng.randrange(2**31) for _ in range(self.rows)]
        wanted = [scene_of(seed) for seed in seeds]
        wrong = [corrupted(scene, rng) for scene in wanted]
        captions = encode_captions(self.tokenizer, [scene.caption for scene in wanted], self.length)
        return {
            "images": stacked([*map(scenes.draw, wanted)]),
            "rejected": stacked([*map(scenes.draw, wrong)]),
            "captions": captions,
            "seeds": torch.tensor(seeds),
        }


def scene_of(seed: int) -> scenes.Scene:
    return scenes.scene(random.Random(seed))


def corrupted(scene: scenes.Scene, rng: random.Random) -> scenes.Scene:
    """The same layout with one thing wrong: another colour, another shape, or a thing too few or in
    the other's place."""
    things, i = list(scene.things), rng.randrange(len(scene.things))
    colour = rng.choice([x for x in scenes.COLOURS if x != things[i].colour])
    shape = rng.choice([x for x in scenes.SHAPES if x != things[i].shape])
    kind = rng.randrange(3)
    if kind == 2 and len(things) > 1:
        things.pop(i)
    else:
        things[i] = replace(things[i], **({"colour": colour} if kind else {"shape": shape}))
    return replace(scene, things=tuple(things))


def frozen_start(recipe: PreferRecipe) -> MediaTransformer:
    return flow.started(recipe).requires_grad_(False)


def alongside(reference: MediaTransformer, network: MediaTransformer) -> MediaTransformer:
    """The reference on the network's device, in its dtype and mode, so that equal weights give
    equal outputs."""
    reference.compute_dtype = network.compute_dtype
    return reference.to(network.proj_in.weight.device).train(network.training)


# ---- pairs ---------------------------------------------------------------------------------------


def dpo(r: PreferRecipe, tokenizer: Tokenizer, start: MediaTransformer | None = None) -> Objective:
    """-log sigmoid(-beta ((e_w - e_w') - (e_l - e_l'))): the error on the chosen picture must fall
    against the start's (e') more than on the rejected one, at the same level and noise (Wallace et
    al. 2023, eq. 14, with velocity errors)."""
    reference = start or frozen_start(r)

    def loss(network: MediaTransformer, part: Batch) -> Tensor:
        images = torch.cat([part["images"], part["rejected"]])
        both, positions = latents(network, images)  # (2B, T, C)
        words, device = part["captions"].repeat(2, 1), both.device
        t = flow.times(len(part["images"]), r).to(device).clamp(min=CLOSEST).repeat(2, 1)
        eps = torch.randn(both.shape[0] // 2, *both.shape[1:]).to(device).repeat(2, 1, 1)
        x = noised(both, eps, flow_level(t[..., None]))

        def errors(network: MediaTransformer) -> Tensor:  # of the velocity, (2B,)
            x0 = ask(network, x, t, positions, network.encode_text(words))
            return ((x0 - both) / t[..., None]).square().mean((1, 2))

        with torch.no_grad():
            before = errors(alongside(reference, network))
        chosen, rejected = (errors(network) - before).chunk(2)
        return -F.logsigmoid(-r.beta * (chosen - rejected)).sum()

    return Objective(loss, lambda batch: len(batch["images"]))


# ---- reward --------------------------------------------------------------------------------------


def scene_reward(seeds: Tensor, images: Tensor) -> Tensor:
    """(B,): the mean of what is right of each scene's objects, colours, relation and background."""
    wanted = [scene_of(seed) for seed in seeds.tolist()]
    right = [*map(scenes.correct, wanted, pixels(images))]
    return torch.tensor([sum(r[part] for part in PARTS) / len(PARTS) for r in right])


Reward = Callable[[Batch, Tensor], Tensor]  # (part (B, ...), images (B, C, H, W)) -> (B,)


class Prompts:
    """The captions of a part, each `group` times, for pictures of the size of the part's."""

    def __init__(self, network: MediaTransformer, part: Batch, group: int = 1) -> None:
        self.words = part["captions"].repeat_interleave(group, 0)  # (B G, L)
        self.device, self.size = self.words.device, tuple(part["images"].shape[-2:])
        self.positions = network.codec.positions(*self.size, self.device)
        self.shape = (len(self.words), len(self.positions), network.config.token_size)

    def noise(self) -> Tensor:
        """(B G, T, C)."""
        return torch.randn(self.shape).to(self.device)

    def times(self, level: Level) -> Tensor:
        """(B G, 1)."""
        return torch.full((len(self.words), 1), float(level.time), device=self.device)


def reward_of(recipe: PreferRecipe, tokenizer: Tokenizer) -> Reward:
    """What the recipe rewards. A rater reads a caption as its own tokenizer splits it."""
    if recipe.reward == "scenes":
        return lambda part, images: scene_reward(part["seeds"], images)
    reward_scorer = RewardScorer(recipe.reward)
    return lambda part, images: reward_scorer(
        images, [tokenizer.decode(row) for row in part["captions"].tolist()]
    )


def repeated(part: Batch, group: int) -> Batch:
    """Every sample `group` times."""
    known = [key for key in ("captions", "seeds") if key in part]
    return {key: part[key].repeat_interleave(group, 0) for key in known}


def advantages(rewards: Tensor, group: int) -> Tensor:
    """Rewards (B,) in groups of one prompt -> how many standard deviations above the group's mean
    (Shao et al. 2024)."""
    grouped = rewards.view(-1, group)
    away = grouped - grouped.mean(1, keepdim=True)
    return (away / (grouped.std(1, keepdim=True) + 1e-4)).flatten()


def mean_reward(seen: list[Tensor]) -> dict[str, float]:
    """Of the pictures since it was last asked."""
    found = torch.cat(seen).mean().item()
    seen.clear()
    return {"reward": found}


def stochastic_step(
    x: Tensor, x0: Tensor, level: Level, after: Level, eta: float
) -> tuple[Tensor, float]:
    """Mean (B, T, C) and spread of the next x: the reverse step that keeps the marginals, `eta` of
    DDPM's noise (Song et al. 2020, eq. 12)."""
    ratios = [float(each.alpha) / float(each.sigma) for each in (level, after)]
    lam = [math.log(ratio) if ratio else -math.inf for ratio in ratios]
    fresh = eta * float(after.sigma) * math.sqrt(1 - math.exp(-2 * (lam[1] - lam[0])))
    eps = (x - level.alpha * x0) / level.sigma
    return after.alpha * x0 + (float(after.sigma) ** 2 - fresh**2) ** 0.5 * eps, fresh


def grpo(r: PreferRecipe, tokenizer: Tokenizer, start: MediaTransformer | None = None) -> Objective:
    """Paint each prompt `group` times with a stochastic sampler; every step is an action, whose
    probability rises with its picture's advantage in the group (PPO's clipped ratio) less a pull
    towards the start (Liu et al. 2025, eq. 4 and 10)."""
    reference, levels = start or frozen_start(r), flow_levels(r.rollout_steps)
    # the last step, into the picture, draws nothing
    steps = [i for i in range(levels.steps) if levels[i + 1].sigma]
    reward, seen_rewards = reward_of(r, tokenizer), list[Tensor]()

    def policy(
        network: MediaTransformer, x: Tensor, i: int, asked: Prompts, text: Text
    ) -> tuple[Tensor, float]:
        x0 = ask(network, x, asked.times(levels[i]), asked.positions, text)
        return stochastic_step(x, x0, levels[i], levels[i + 1], r.noise)

    @torch.no_grad()
    def painted(network: MediaTransformer, asked: Prompts) -> tuple[list[Tensor], Tensor]:
        """The way from noise, and the picture at its end."""
        path, text = [asked.noise()], network.encode_text(asked.words)
        for i in steps:
            mean, spread = policy(network, path[-1], i, asked, text)
            path.append(mean + spread * torch.randn(mean.shape).to(asked.device))
        last = asked.times(levels[levels.steps - 1])
        x0 = ask(network, path[-1], last, asked.positions, text)
        return path, network.codec.decode(x0, *asked.size)

    def loss(network: MediaTransformer, part: Batch) -> Tensor:
        asked = Prompts(network, part, r.group)
        path, made = painted(network, asked)
        with torch.no_grad():
            earned = reward(repeated(part, r.group), made)
            text_at_start = alongside(reference, network).encode_text(asked.words)
        gain = advantages(earned, r.group).to(asked.device)  # (B G,)
        seen_rewards.append(earned)
        text, total = network.encode_text(asked.words), torch.zeros((), device=asked.device)
        for i in steps:
            mean, spread = policy(network, path[i], i, asked, text)
            with torch.no_grad():
                at_start, _ = policy(reference, path[i], i, asked, text_at_start)
            logp = -(mean - path[i + 1]).square().mean((1, 2)) / (2 * spread**2)
            # one update a rollout: the old policy is this one, and the ratio starts at 1
            lost = clipped_loss(logp - logp.detach(), gain, r.clip, r.clip)
            pull = (mean - at_start).square().mean((1, 2)) / (2 * spread**2)
            total = total + (r.kl * pull + lost).sum() / len(steps) / r.group
        return total

    return Objective(
        loss, lambda batch: len(batch["captions"]), measured=partial(mean_reward, seen_rewards)
    )


# ---- reward on the forward process ---------------------------------------------------------------


def rated(rewards: Tensor, group: int) -> Tensor:
    """Rewards (B,) in groups of one prompt -> how good (B,), from 0 to 1: the distance from the
    group's mean over the spread of all, cut at one."""
    away = rewards.view(-1, group) - rewards.view(-1, group).mean(1, keepdim=True)
    return 0.5 + 0.5 * (away / (rewards.std() + 1e-4)).clamp(-1, 1).flatten()


def nft(r: PreferRecipe, tokenizer: Tokenizer) -> Objective:
    """Paint each prompt `group` times with the old policy, which follows slowly, and noise the
    pictures anew: where one is good the network should name it, where it is bad the network's
    mirror image in the old one should (Zheng et al. 2025, eq. 5, beta 1). No path is kept, any
    sampler paints."""
    old, levels = frozen_start(r), flow_levels(r.rollout_steps)
    reward, seen_rewards = reward_of(r, tokenizer), list[Tensor]()

    def loss(network: MediaTransformer, part: Batch) -> Tensor:
        asked = Prompts(network, part, r.group)
        device, positions = asked.device, asked.positions
        alongside(old, network).load_state_dict(network.auxiliary["old"].weights())  # type: ignore[operator,union-attr,index]
        with torch.no_grad():
            text_then = old.encode_text(asked.words)
            x = euler(predictor(old, text_then, positions), asked.noise(), levels, torch.randn)
            earned = reward(repeated(part, r.group), network.codec.decode(x, *asked.size))
        good = rated(earned, r.group).to(device)[:, None, None]
        seen_rewards.append(earned)
        text, total = network.encode_text(asked.words), torch.zeros((), device=device)
        for _ in range(r.levels):
            # (B G, 1), alike in a group
            t = flow.times(len(part["captions"]), r).to(device).repeat_interleave(r.group, 0)
            seen = noisy(x, t)
            with torch.no_grad():
                before = ask(old, seen, t, positions, text_then)
            now = ask(network, seen, t, positions, text)
            error = good * (now - x).square() + (1 - good) * (2 * before - now - x).square()
            total = total + (error * weight(t[..., None], None)).mean((1, 2)).sum()
        return total / r.levels / r.group

    return Objective(
        loss, lambda batch: len(batch["captions"]), follow, partial(mean_reward, seen_rewards)
    )


# ---- slope of a reward ---------------------------------------------------------------------------


def refl(r: PreferRecipe, tokenizer: Tokenizer, start: MediaTransformer | None = None) -> Objective:
    """Go without gradient from noise to a step of the last third, name the picture from there, and
    follow the reward's slope through that one answer (Xu et al. 2023, algorithm 1), less a pull
    towards the picture that the start names."""
    reference, levels = start or frozen_start(r), flow_levels(r.rollout_steps)
    reward = reward_of(r, tokenizer)

    def loss(network: MediaTransformer, part: Batch) -> Tensor:
        asked = Prompts(network, part)
        stop = int(torch.randint(2 * levels.steps // 3, levels.steps, ()))
        x, words, places = asked.noise(), asked.words, asked.positions
        with torch.no_grad():
            text = network.encode_text(words)
            for i in range(stop):
                x0 = ask(network, x, asked.times(levels[i]), places, text)
                x, _ = stochastic_step(x, x0, levels[i], levels[i + 1], eta=0.0)
            now, frozen = asked.times(levels[stop]), alongside(reference, network)
            at_start = ask(frozen, x, now, places, frozen.encode_text(words))
        made = ask(network, x, now, places, network.encode_text(words))
        pull = (made - at_start).square().mean((1, 2))
        return (r.kl * pull - reward(part, network.codec.decode(made, *asked.size))).sum()

    return Objective(loss, lambda batch: len(batch["captions"]))


METHODS = {"dpo": dpo, "grpo": grpo, "nft": nft, "refl": refl}


class Prefer(flow.Flow):
    """A media transformer taught what is better."""

    recipe_type = PreferRecipe

    def build_objective(self) -> Objective:
        return METHODS[self.recipe.method](self.recipe, self.tokenizer)

    def auxiliary(self, network: MediaTransformer) -> nn.ModuleDict:
        """The old policy, where the method has one."""
        old = self.recipe.method == "nft"
        return nn.ModuleDict({"old": EmaCopy(network, self.recipe.follow)} if old else {})

    def batch_type(self) -> type[PictureBatches]:
        scenes_only = self.recipe.method == "dpo" or self.recipe.reward == "scenes"
        return ScenePairs if scenes_only else PictureBatches
