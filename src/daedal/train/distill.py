"""Students of the media transformer: of one pass a step by guidance distillation (Meng et al. 2023,
stage one), of few steps by progressive distillation (Salimans & Ho 2022) or by consistency (Song et
al. 2023, latent form with guidance: Luo et al. 2023).

A progressive student goes in one step where its guided teacher goes in several. For consistency the
teacher walks one guided Euler step from a noise level to the next. The student must name the same
picture from both ends, so that in the end it names it from pure noise at once: one to four steps
with the `lcm` sampler, and no second pass for guidance. Consistency alone blurs what few steps
cannot decide; `adversarial` adds a critic that reads the teacher's own blocks (Sauer et al. 2024).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.data.tokenizer import Tokenizer
from daedal.networks.media import MediaTransformer, Text
from daedal.processes.guidance import cfg
from daedal.processes.noise import noised
from daedal.systems.house_media import ask, encode
from daedal.train import flow, terms
from daedal.train.adversarial import GAMES, duel
from daedal.train.recipe.flow import DistillRecipe
from daedal.train.trainer import Batch, Objective


def pseudo_huber(difference: Tensor) -> Tensor:
    """sqrt(d^2 + c^2) - c of each sample, summed over its values (Song & Dhariwal 2023, eq. 7), c
    growing with the root of their number."""
    d = difference.flatten(1)
    c = 0.00054 * d.shape[1] ** 0.5
    return ((d.square().sum(1) + c * c).sqrt() - c) * d.shape[1] ** 0.5


class Heads(nn.Module):
    """A linear judgement of each block's tokens: states [(B, T, D)] -> logits (B, T, layers), zero
    at first."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(layers, width))
        self.bias = nn.Parameter(torch.zeros(layers))

    def forward(self, states: list[Tensor]) -> Tensor:
        normed = F.layer_norm(torch.stack(states, 2).float(), self.weight.shape[-1:])
        return (normed * self.weight).sum(-1) + self.bias


class Critic(nn.Module):
    """Heads on what a frozen network makes of pictures (B, T, C): `look(pictures)` -> its states."""

    def __init__(self, heads: Heads, look: Callable[[Tensor], list[Tensor]]) -> None:
        super().__init__()
        self.heads, self.look = heads, look

    def forward(self, x: Tensor) -> Tensor:
        return self.heads(self.look(x))


def looking(
    guide: MediaTransformer, like: Tensor, positions: Tensor, text: Text, t: Tensor
) -> Callable[[Tensor], list[Tensor]]:
    """What each block of `guide` sees in pictures noised to times t (B, 1), with one noise for all
    pictures that are compared."""
    eps, level = torch.randn(like.shape).to(like), terms.flow_level(t[..., None])

    def look(x0: Tensor) -> list[Tensor]:
        states: list[Tensor] = []
        guide(noised(x0, eps, level), positions, t, text, None, states)
        return states

    return look


class Teacher:
    """What a recipe's `model.start`, or another network, sees with guidance."""

    def __init__(
        self, recipe: DistillRecipe, tokenizer: Tokenizer, network: MediaTransformer | None = None
    ) -> None:
        self.network = network or flow.started(recipe)
        self.tokenizer, self.scale = tokenizer, recipe.teacher_guidance

    def read(self, captions: Tensor) -> tuple[Text, Text]:
        """Captions (B, L), and no words."""
        self.network.to(captions.device)
        nothing = encode(self.network, self.tokenizer, [""] * len(captions)).to(captions.device)
        return self.network.encode_text(captions), self.network.encode_text(nothing)

    def sees(self, x: Tensor, t: Tensor, positions: Tensor, texts: tuple[Text, Text]) -> Tensor:
        """The picture (B, T, C) in x (B, T, C) at times t (B, 1)."""
        cond, without = (ask(self.network, x, t, positions, text) for text in texts)
        return cfg(cond, without, self.scale)


def towards(picture: Tensor, x: Tensor, t: Tensor, after: Tensor) -> Tensor:
    """Euler from times t (B, 1) to `after`, on the straight path through x and the picture seen in
    it."""
    return picture + (after / t)[..., None] * (x - picture)


def guidance(
    r: DistillRecipe, tokenizer: Tokenizer, teacher: MediaTransformer | None = None
) -> Objective:
    """The student names without guidance what its teacher names with it, at every level: one pass
    instead of two."""
    guide = Teacher(r, tokenizer, teacher)

    def loss(student: MediaTransformer, part: Batch) -> Tensor:
        x0, positions = terms.latents(student, part["images"])
        t = flow.times(len(x0), r).to(x0.device)
        x = terms.noisy(x0, t)
        with torch.no_grad():
            wanted = guide.sees(x, t, positions, guide.read(part["captions"]))
        error = ask(student, x, t, positions, student.encode_text(part["captions"])) - wanted
        return (error.square() * terms.weight(t[..., None], None)).sum()

    return Objective(loss, lambda batch: batch["images"].numel())


def progressive(
    r: DistillRecipe, tokenizer: Tokenizer, teacher: MediaTransformer | None = None
) -> Objective:
    """The picture that takes the student in one step to where its teacher comes in several
    (Salimans & Ho 2022, section 3, with guidance)."""
    guide, stride = Teacher(r, tokenizer, teacher), r.levels // r.sample_steps
    times = flow.flow_levels(r.levels, r.sample_shift).time.float()

    def loss(student: MediaTransformer, part: Batch) -> Tensor:
        x0, positions = terms.latents(student, part["images"])
        at, device = stride * torch.randint(r.sample_steps, (len(x0), 1)), x0.device
        t, end = times[at].to(device), times[at + stride].to(device)  # (B, 1)
        x = terms.noisy(x0, t)
        with torch.no_grad():
            y, texts = x, guide.read(part["captions"])
            for k in range(stride):
                now, after = times[at + k].to(device), times[at + k + 1].to(device)
                y = towards(guide.sees(y, now, positions, texts), y, now, after)
            left = (end / t)[..., None]
            wanted = (y - left * x) / (1 - left)
        made = ask(student, x, t, positions, student.encode_text(part["captions"]))
        return (made - wanted).square().sum()

    return Objective(loss, lambda batch: batch["images"].numel())


def consistency(
    r: DistillRecipe, tokenizer: Tokenizer, teacher: MediaTransformer | None = None
) -> Objective:
    """The student's answer at a level against its own at the teacher's next level, where it is held
    fixed; at the last, against the picture."""
    guide = Teacher(r, tokenizer, teacher)
    times = flow.flow_levels(r.levels, r.sample_shift).time.float()  # 1 ... 0
    if r.adversarial:
        guide.network.requires_grad_(False)

    def loss(student: MediaTransformer, part: Batch) -> Tensor:
        x0, positions = terms.latents(student, part["images"])  # (B, T, C)
        at, device = torch.randint(r.levels, (len(x0), 1)), x0.device
        t, after = times[at].to(device), times[at + 1].to(device)  # (B, 1)
        x = terms.noisy(x0, t)
        with torch.no_grad():
            texts = guide.read(part["captions"])
            moved = towards(guide.sees(x, t, positions, texts), x, t, after)
        text = student.encode_text(part["captions"])
        with torch.no_grad():
            there = ask(student, moved, after.clamp(min=1e-3), positions, text)
            target = torch.where((after > 0)[..., None], there, moved)
        made = ask(student, x, t, positions, text)
        total = pseudo_huber(made - target).sum()
        if r.adversarial:
            level = flow.times(len(x0), r).to(device)
            look = looking(guide.network, x0, positions, texts[0], level)
            critic = Critic(student.auxiliary["heads"], look)  # type: ignore[index]
            fooled, caught = duel(GAMES["hinge"], critic, x0, made)
            total = total + (r.adversarial * fooled + caught).sum() * x0[0].numel()
        return total

    return Objective(loss, lambda batch: batch["images"].numel())


METHODS = {"guidance": guidance, "progressive": progressive, "consistency": consistency}


class Distill(flow.Flow):
    """A student, to be sampled without guidance, one of few steps with `lcm`."""

    recipe_type = DistillRecipe

    @property
    def sampler(self) -> str:  # type: ignore[override]
        return "lcm" if self.recipe.method == "consistency" else "euler"

    def build_objective(self) -> Objective:
        return METHODS[self.recipe.method](self.recipe, self.tokenizer)

    def auxiliary(self, network: MediaTransformer) -> nn.ModuleDict:
        """The heads that judge, where the recipe asks for them."""
        c = network.config
        judged = self.recipe.adversarial
        return nn.ModuleDict({"heads": Heads(c.hidden_size, c.num_hidden_layers)} if judged else {})
