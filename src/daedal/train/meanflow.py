"""MeanFlow: pictures in one step, learnt without a teacher (Geng et al. 2025a; with the loss of its
improved form, Geng et al. 2025b).

The network names u(x, t, r), the average velocity on the way from flow time t down to r, so x - t
u(x, t, 0) is the picture. Its derivative along the path makes from it the velocity at t, v = u + (t
- r) du/dt, and that is regressed on noise minus clean as in flow matching.

Legend: B batch, T tokens, C values of a token."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from daedal.data.tokenizer import Tokenizer
from daedal.networks.media import MediaTransformer, Text
from daedal.processes.noise import noised
from daedal.systems.house_media import encode
from daedal.train import flow
from daedal.train.distill import pseudo_huber
from daedal.train.recipe.flow import MeanFlowRecipe
from daedal.train.terms import CLOSEST, flow_level, latents
from daedal.train.trainer import Batch, Objective

# u(x (B, ...), t, r), times that broadcast to x
Average = Callable[[Tensor, Tensor, Tensor], Tensor]


def velocity(average: Average, x: Tensor, t: Tensor, r: Tensor, along: Tensor) -> Tensor:
    """u + (t - r) du/dt, the velocity at t that an average velocity implies, where x moves `along`;
    no gradient goes through the derivative (Geng et al. 2025b, eq. 12)."""
    with sdpa_kernel(SDPBackend.MATH):  # the only attention with a forward derivative
        u, slope = jvp(average, (x, t, r), (along, torch.ones_like(t), torch.zeros_like(r)))
    return u + (t - r) * slope.detach()


def spans(count: int, recipe: MeanFlowRecipe) -> tuple[Tensor, Tensor]:
    """Flow times t and r <= t, (B, 1, 1) each; but for a share of the samples r = t, where u is the
    velocity itself."""
    both = torch.cat([flow.times(count, recipe), flow.times(count, recipe)], 1)
    low, high = both.sort(1).values[..., None].unbind(1)
    t = high.clamp(min=CLOSEST)[:, None]
    return t, torch.where(torch.rand(count, 1, 1) < recipe.spans, low[:, None], t).minimum(t)


def averaging(network: MediaTransformer, positions: Tensor, text: Text) -> Average:
    """The network as u(x, t, r), whatever it predicts."""

    def average(x: Tensor, t: Tensor, r: Tensor) -> Tensor:
        out = network(x, positions, t[..., 0], text, until=r[..., 0])
        return out if network.config.prediction == "flow" else (x - out) / t

    return average


def mean_flow(r: MeanFlowRecipe, tokenizer: Tokenizer) -> Objective:
    """The distance of the implied velocity from noise minus clean, guided where `guidance` is not
    1: then one step needs no second pass (Geng et al. 2025a, eq. 19)."""

    def loss(network: MediaTransformer, part: Batch) -> Tensor:
        device, captions = part["images"].device, part["captions"]
        x0, positions = latents(network, part["images"])  # (B, T, C)
        t, until = (time.to(device) for time in spans(len(x0), r))
        eps = torch.randn(x0.shape).to(device)
        x, wanted = noised(x0, eps, flow_level(t)), eps - x0
        average = averaging(network, positions, network.encode_text(captions))
        with torch.no_grad():
            along = average(x, t, t)
            if r.guidance != 1:
                nothing = encode(network, tokenizer, [""]).to(device).expand(len(x0), -1)
                without = averaging(network, positions, network.encode_text(nothing))(x, t, t)
                said = (captions != nothing).any(1)[:, None, None]
                wanted = torch.where(said, r.guidance * wanted + (1 - r.guidance) * without, wanted)
        return pseudo_huber(velocity(average, x, t, until, along) - wanted).sum()

    return Objective(loss, lambda batch: batch["images"].numel())


class MeanFlow(flow.Flow):
    """A network of one step (or a few: `lcm`), without guidance."""

    recipe_type, sampler = MeanFlowRecipe, "lcm"

    def build_objective(self) -> Objective:
        return mean_flow(self.recipe, self.tokenizer)
