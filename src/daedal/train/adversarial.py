"""Two sides in one loss (Goodfellow et al. 2014): a maker and a critic that tells what it made from
what is real.

The trainer runs one module, one loss and one backward pass. So both sides' losses are added, each
made blind to the other's weights: the maker's is judged by a critic held fixed (`frozen`), the
critic's is asked about a picture cut from its maker (`detach`). The gradient of the sum is then
what two alternating steps would compute at the same point.

Legend: B batch, C channels, H and W pixels, h and w patches."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from daedal.nn.conv import Conv2d, GroupNorm, init_


def frozen(module: nn.Module, *inputs: Any) -> Any:
    """`module(*inputs)` with a gradient to its inputs and none to its parameters."""
    return functional_call(
        module, {name: p.detach() for name, p in module.named_parameters()}, inputs
    )


# ---- games ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Game:
    """What each side loses, element by element, given the critic's logits of real and of made
    samples (same shape)."""

    maker: Callable[[Tensor, Tensor], Tensor]
    critic: Callable[[Tensor, Tensor], Tensor]


GAMES = {
    # Goodfellow et al. 2014, section 3, the maker's loss in its non-saturating form
    "logistic": Game(
        lambda real, made: F.softplus(-made),
        lambda real, made: F.softplus(-real) + F.softplus(made),
    ),
    # Lim & Ye 2017
    "hinge": Game(lambda real, made: -made, lambda real, made: F.relu(1 - real) + F.relu(1 + made)),
    # Jolicoeur-Martineau 2018, as R3GAN pairs them (Huang et al. 2024): each made sample against
    # one real one
    "relativistic": Game(
        lambda real, made: F.softplus(real - made), lambda real, made: F.softplus(made - real)
    ),
}


def per_sample(x: Tensor) -> Tensor:
    """The mean of each sample's values (B, ...) -> (B,)."""
    return x.float().flatten(1).mean(1)


def steepness(logits: Tensor, samples: Tensor) -> Tensor:
    """|d logits / d sample|^2 of each sample (B,), exact and differentiable: R1 on real samples, R2 on
    made ones (Mescheder et al. 2018).
    `samples` (B, ...) must require gradients."""
    (slope,) = torch.autograd.grad(logits.sum(), samples, create_graph=True)
    return slope.flatten(1).square().sum(1)


def duel(
    game: Game, critic: nn.Module, real: Tensor, made: Tensor, gamma: float = 0.0
) -> tuple[Tensor, Tensor]:
    """(maker's loss, critic's loss), each (B,), of a critic of samples (B, ...) to logits (B, ...).
    `gamma` / 2 weighs R1 and R2 alike, which with the relativistic game is R3GAN (Huang et al.
    2024)."""
    real, cut = real.detach().requires_grad_(gamma > 0), made.detach().requires_grad_(gamma > 0)
    judged, seen = critic(real), critic(cut)
    maker = game.maker(judged.detach(), frozen(critic, made))
    loss = per_sample(game.critic(judged, seen))
    if gamma:
        loss = loss + gamma / 2 * (steepness(judged, real) + steepness(seen, cut))
    return per_sample(maker), loss


# ---- a critic of pictures ------------------------------------------------------------------------


class PatchGAN(nn.Module):
    """Judges overlapping patches (Isola et al. 2017, section 3.2.2, 70 pixels wide at depth 3): 4 x
    4 convolutions, `depth` of them halving. Group norms in place of batch norms, so that a sample
    is judged alike in any batch."""

    def __init__(self, channels: int = 3, width: int = 32, depth: int = 3) -> None:
        super().__init__()
        sizes = [width * min(2**i, 8) for i in range(depth + 1)]
        strides = [2] * depth + [1]
        self.convs = nn.ModuleList(
            Conv2d(inp, out, 4, stride, padding=1)
            for inp, out, stride in zip([channels, *sizes], sizes, strides, strict=False)
        )
        self.norms = nn.ModuleList(GroupNorm(8, size) for size in sizes[1:])
        self.head = Conv2d(sizes[-1], 1, 4, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """x (B, C, H, W), 32 pixels a side or more -> logits (B, 1, h, w), and what each layer saw
        [(B, C', H', W')]."""
        seen: list[Tensor] = []
        for conv, norm in zip(self.convs, [nn.Identity(), *self.norms], strict=True):
            x = F.leaky_relu(norm(conv(x)), 0.2)
            seen.append(x)
        return self.head(x), seen

    def init_weights(self, seed: int = 0) -> "PatchGAN":
        return init_(self, seed)


def difference(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """How far apart two pictures look to a network (B,): the mean over its layers of the squared
    distance of unit feature vectors (Zhang et al. 2018, eq. 1, without learned weights)."""
    units = ([F.normalize(x.float(), dim=1) for x in pair] for pair in zip(a, b, strict=True))
    return torch.stack([per_sample((x - y).square().sum(1)) for x, y in units]).mean(0)
