"""Teaching a media transformer what is better: from pairs (Diffusion-DPO, Wallace et al. 2023),
from a reward (Flow-GRPO, Liu et al. 2025), from a reward without a path to remember (DiffusionNFT,
Zheng et al. 2025), or from a reward's slope (ReFL, Xu et al. 2023).

All start from a trained model and stay near it. On generated scenes a pair is the right picture and
one of another scene under the same caption, and the reward is what `scenes.correct` reads off the
pixels; elsewhere the reward is a rater's (daedal.train.rate) or a CLIP model's.

Legend: B pictures, G pictures of one prompt, T tokens, C values of a token.
"""

import math
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal import checkpoints
from daedal.data.pictures import PictureBatches, encode_captions
from daedal.data.tokenizer import Tokenizer
from daedal.networks.media import MediaTransformer, Text
from daedal.processes.imaging import pixels
from daedal.processes.noise import Level, noised
from daedal.processes.samplers import euler
from daedal.systems.house_media import ask, flow_levels, predictor
from daedal.train import flow
from daedal.train.pictures import clean
from daedal.train.rate import RewardScorer
from daedal.train.recipe.flow import FlowRecipe, PreferRecipe
from daedal.train.terms import CLOSEST, EmaCopy, follow, weight
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
        chosen, rejected = (
            [scenes.draw(scene) for scene in some]
            for some in (wanted, [corrupted(scene, rng) for scene in wanted])
        )
        captions = encode_captions(self.tokenizer, [scene.caption for scene in wanted], self.length)
        stacked = {"images": chosen, "rejected": rejected}
        tensors = {
            key: torch.from_numpy(np.stack(values)).permute(0, 3, 1, 2)
            for key, values in stacked.items()
        }
        return {**tensors, "captions": captions, "seeds": torch.tensor(seeds)}


def scene_of(seed: int) -> scenes.Scene:
    return scenes.scene(random.Random(seed))


def corrupted(scene: scenes.Scene, rng: random.Random) -> scenes.Scene:
    """The same layout with one thing wrong: another colour, another shape, or a thing too few or in
    the other's place."""
    things, i = list(scene.things), rng.randrange(len(scene.things))
    colour, shape = (
        rng.choice([x for x in some if x != old])
        for some, old in ((scenes.COLOURS, things[i].colour), (scenes.SHAPES, things[i].shape))
    )
    kind = rng.randrange(3)
    if kind == 2 and len(things) > 1:
        things.pop(i)
    else:
        t = things[i]
        things[i] = scenes.Thing(
            colour if kind else t.colour, t.shape if kind else shape, t.x, t.y, t.radius, t.striped
        )
    return scenes.Scene(scene.background, tuple(things), scene.caption, scene.relation)


def frozen_start(recipe: PreferRecipe) -> MediaTransformer:
    network = checkpoints.load(
        checkpoints.resolve(str(recipe.model.start)), dtype=torch.float32, kind=MediaTransformer
    )
    return network.requires_grad_(False)


def alongside(reference: MediaTransformer, network: MediaTransformer) -> MediaTransformer:
    """The reference on the network's device, in its dtype and mode, so that equal weights give
    equal outputs."""
    reference.compute_dtype = network.compute_dtype
    return reference.to(network.proj_in.weight.device).train(network.training)


# ---- pairs ---------------------------------------------------------------------------------------


def dpo(
    recipe: FlowRecipe, tokenizer: Tokenizer, start: MediaTransformer | None = None
) -> Objective:
    """-log sigmoid(-beta ((e_w - e_w') - (e_l - e_l'))): the error on the chosen picture must fall
    against the start's (e') more than on the rejected one, at the same level and noise (Wallace et
    al. 2023, eq. 14, with velocity errors)."""
    r = cast(PreferRecipe, recipe)
    reference = start or frozen_start(r)

    def loss(network: MediaTransformer, part: Batch) -> Tensor:
        device, positions = (
            part["images"].device,
            network.codec.positions(*part["images"].shape[-2:], device=part["images"].device),
        )
        # (2B, T, C)
        both, words = (
            network.codec.encode(clean(torch.cat([part["images"], part["rejected"]]))),
            part["captions"].repeat(2, 1),
        )
        t = flow.times(len(part["images"]), r).to(device).clamp(min=CLOSEST).repeat(2, 1)
        eps = torch.randn(both.shape[0] // 2, *both.shape[1:]).to(device).repeat(2, 1, 1)
        x = noised(both, eps, Level(1 - t[..., None], t[..., None], t[..., None]))

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
    right = [
        scenes.correct(scene_of(int(seed)), picture)
        for seed, picture in zip(seeds, pixels(images), strict=True)
    ]
    return torch.tensor([sum(r[part] for part in PARTS) / len(PARTS) for r in right])


Reward = Callable[[Batch, Tensor], Tensor]  # (part (B, ...), images (B, C, H, W)) -> (B,)


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
    return {
        key: value.repeat_interleave(group, 0)
        for key, value in part.items()
        if key in ("captions", "seeds")
    }


def advantages(rewards: Tensor, group: int) -> Tensor:
    """Rewards (B,) in groups of one prompt -> how many standard deviations above the group's mean
    (Shao et al. 2024)."""
    grouped = rewards.view(-1, group)
    return (
        (grouped - grouped.mean(1, keepdim=True)) / (grouped.std(1, keepdim=True) + 1e-4)
    ).flatten()


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
    lam = [
        math.log(float(at.alpha) / float(at.sigma)) if at.alpha else -math.inf
        for at in (level, after)
    ]
    fresh = eta * float(after.sigma) * math.sqrt(1 - math.exp(-2 * (lam[1] - lam[0])))
    eps = (x - level.alpha * x0) / level.sigma
    return after.alpha * x0 + (float(after.sigma) ** 2 - fresh**2) ** 0.5 * eps, fresh


def grpo(
    recipe: FlowRecipe, tokenizer: Tokenizer, start: MediaTransformer | None = None
) -> Objective:
    """Paint each prompt `group` times with a stochastic sampler; every step is an action, whose
    probability rises with its picture's advantage in the group (PPO's clipped ratio) less a pull
    towards the start (Liu et al. 2025, eq. 4 and 10)."""
    r = cast(PreferRecipe, recipe)
    reference, levels = start or frozen_start(r), flow_levels(r.rollout_steps)
    # the last step, into the picture, draws nothing
    steps = [i for i in range(levels.steps) if levels[i + 1].sigma]
    reward, seen_rewards = reward_of(r, tokenizer), list[Tensor]()

    def policy(
        network: MediaTransformer, x: Tensor, i: int, positions: Tensor, text: Text
    ) -> tuple[Tensor, float]:
        time = torch.full((len(x), 1), float(levels[i].time), device=x.device)
        x0 = ask(network, x, time, positions, text)
        return stochastic_step(x, x0, levels[i], levels[i + 1], r.noise)

    def loss(network: MediaTransformer, part: Batch) -> Tensor:
        c, device = network.config, part["captions"].device
        height, width = part["images"].shape[-2:]
        positions = network.codec.positions(height, width, device)
        words = part["captions"].repeat_interleave(r.group, 0)
        path = [torch.randn(len(words), len(positions), c.token_size).to(device)]
        with torch.no_grad():
            text = network.encode_text(words)
            for i in steps:
                mean, spread = policy(network, path[-1], i, positions, text)
                path.append(mean + spread * torch.randn(mean.shape).to(device))
            last = torch.full((len(words), 1), float(levels[levels.steps - 1].time), device=device)
            made = network.codec.decode(
                ask(network, path[-1], last, positions, text), height, width
            )
            earned = reward(repeated(part, r.group), made)
        gain = advantages(earned, r.group).to(device)  # (B G,)
        seen_rewards.append(earned)
        with torch.no_grad():
            text_at_start = alongside(reference, network).encode_text(words)
        text, total = network.encode_text(words), torch.zeros((), device=device)
        for i in steps:
            mean, spread = policy(network, path[i], i, positions, text)
            with torch.no_grad():
                at_start, _ = policy(reference, path[i], i, positions, text_at_start)
            logp = -(mean - path[i + 1]).square().mean((1, 2)) / (2 * spread**2)
            # one update a rollout: the old policy is this one, and the ratio starts at 1
            ratio = (logp - logp.detach()).exp()
            gained = torch.minimum(ratio * gain, ratio.clamp(1 - r.clip, 1 + r.clip) * gain)
            pull = (mean - at_start).square().mean((1, 2)) / (2 * spread**2)
            total = total + (r.kl * pull - gained).sum() / len(steps) / r.group
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


def nft(recipe: FlowRecipe, tokenizer: Tokenizer) -> Objective:
    """Paint each prompt `group` times with the old policy, which follows slowly, and noise the
    pictures anew: where one is good the network should name it, where it is bad the network's
    mirror image in the old one should (Zheng et al. 2025, eq. 5, beta 1). No path is kept, any
    sampler paints."""
    r = cast(PreferRecipe, recipe)
    old, levels, reward, seen_rewards = (
        frozen_start(r),
        flow_levels(r.rollout_steps),
        reward_of(r, tokenizer),
        list[Tensor](),
    )

    def loss(network: MediaTransformer, part: Batch) -> Tensor:
        c, device = network.config, part["captions"].device
        height, width = part["images"].shape[-2:]
        positions = network.codec.positions(height, width, device)
        words = part["captions"].repeat_interleave(r.group, 0)
        alongside(old, network).load_state_dict(network.auxiliary["old"].weights())  # type: ignore[operator,union-attr,index]
        with torch.no_grad():
            text_then = old.encode_text(words)
            x = euler(
                predictor(old, text_then, positions),
                torch.randn(len(words), len(positions), c.token_size).to(device),
                levels,
                torch.randn,
            )
            earned = reward(repeated(part, r.group), network.codec.decode(x, height, width))
        good = rated(earned, r.group).to(device)[:, None, None]
        seen_rewards.append(earned)
        text, total = network.encode_text(words), torch.zeros((), device=device)
        for _ in range(r.levels):
            # (B G, 1), alike in a group
            t = flow.times(len(part["captions"]), r).to(device).repeat_interleave(r.group, 0)
            seen = noised(
                x,
                torch.randn(x.shape).to(device),
                Level(1 - t[..., None], t[..., None], t[..., None]),
            )
            with torch.no_grad():
                before = ask(old, seen, t, positions, text_then)
            now = ask(network, seen, t, positions, text)
            error = good * (now - x).square() + (1 - good) * (2 * before - now - x).square()
            total = total + (error * weight(t[..., None], None)).mean((1, 2)).sum()
        return total / r.levels / r.group

    return Objective(
        loss, lambda batch: len(batch["captions"]), follow, partial(mean_reward, seen_rewards)
    )


def auxiliary(recipe: FlowRecipe, network: MediaTransformer) -> nn.ModuleDict:
    """The old policy, where the method has one."""
    r = cast(PreferRecipe, recipe)
    return nn.ModuleDict({"old": EmaCopy(network, r.follow)} if r.method == "nft" else {})


# ---- slope of a reward ---------------------------------------------------------------------------


def refl(
    recipe: FlowRecipe, tokenizer: Tokenizer, start: MediaTransformer | None = None
) -> Objective:
    """Go without gradient from noise to a step of the last third, name the picture from there, and
    follow the reward's slope through that one answer (Xu et al. 2023, algorithm 1), less a pull
    towards the picture that the start names."""
    r = cast(PreferRecipe, recipe)
    reference, levels, reward = (
        start or frozen_start(r),
        flow_levels(r.rollout_steps),
        reward_of(r, tokenizer),
    )

    def loss(network: MediaTransformer, part: Batch) -> Tensor:
        c, words, device = network.config, part["captions"], part["captions"].device
        height, width = part["images"].shape[-2:]
        positions, stop = (
            network.codec.positions(height, width, device),
            int(torch.randint(2 * levels.steps // 3, levels.steps, ())),
        )
        x = torch.randn(len(words), len(positions), c.token_size).to(device)
        time = lambda i: torch.full((len(x), 1), float(levels[i].time), device=device)  # noqa: E731
        with torch.no_grad():
            text = network.encode_text(words)
            for i in range(stop):
                x = stochastic_step(
                    x, ask(network, x, time(i), positions, text), levels[i], levels[i + 1], eta=0.0
                )[0]
            at_start = ask(
                alongside(reference, network),
                x,
                time(stop),
                positions,
                reference.encode_text(words),
            )
        made = ask(network, x, time(stop), positions, network.encode_text(words))
        pull = (made - at_start).square().mean((1, 2))
        return (r.kl * pull - reward(part, network.codec.decode(made, height, width))).sum()

    return Objective(loss, lambda batch: len(batch["captions"]))


METHODS = {"dpo": dpo, "grpo": grpo, "nft": nft, "refl": refl}


def run(recipe: PreferRecipe) -> Path:
    """Teach, and write `out/model`."""
    scenes_only = recipe.method == "dpo" or recipe.reward == "scenes"
    return flow.run(
        recipe,
        METHODS[recipe.method],
        batches_of=ScenePairs if scenes_only else PictureBatches,
        auxiliary=auxiliary,
    )


plan = flow.plan
