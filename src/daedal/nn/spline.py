"""Monotonic rational-quadratic splines (Durkan et al. 2019, "Neural spline flows"): an invertible map
of [-bound, bound] onto itself, the identity outside of it."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST = 1e-3  # width, height and slope that a bin keeps


def knots(logits: Tensor, bound: float) -> Tensor:
    """(..., bins) -> (..., bins + 1): where bins begin and end."""
    sizes = LEAST + (1 - LEAST * logits.shape[-1]) * logits.softmax(-1)
    inner = 2 * bound * sizes.cumsum(-1)[..., :-1] - bound
    ends = torch.full_like(inner[..., :1], bound)
    return torch.cat([-ends, inner, ends], -1)


def spline(
    x: Tensor, widths: Tensor, heights: Tensor, slopes: Tensor, bound: float, inverse: bool = False
) -> tuple[Tensor, Tensor]:
    """x (...) through the spline of its logits (..., bins), (..., bins), (..., bins - 1) at the
    inner knots: its value, and the logarithm of the slope there."""
    inside = (x >= -bound) & (x <= bound)
    at = x.clamp(-bound, bound)
    across, up = knots(widths, bound), knots(heights, bound)
    # slopes of 1 at both ends join the identity smoothly
    edge = slopes.new_full((*slopes.shape[:-1], 1), math.log(math.exp(1 - LEAST) - 1))
    slope = LEAST + F.softplus(torch.cat([edge, slopes, edge], -1))
    bins = ((up if inverse else across)[..., 1:-1] <= at[..., None]).sum(-1, keepdim=True)

    def of(values: Tensor, offset: int = 0) -> Tensor:
        return values.gather(-1, bins + offset)[..., 0]

    left, low, d0, d1 = of(across), of(up), of(slope), of(slope, 1)
    width, height = of(across, 1) - left, of(up, 1) - low
    mean = height / width
    bend = d0 + d1 - 2 * mean
    part = _solved(at - low, height, mean, d0, bend) if inverse else (at - left) / width
    both = part * (1 - part)
    below = mean + bend * both
    value = low + height * (mean * part**2 + d0 * both) / below
    value = left + part * width if inverse else value
    steep = mean**2 * (d1 * part**2 + 2 * mean * both + d0 * (1 - part) ** 2)
    log_slope = steep.log() - 2 * below.log()
    log_slope = -log_slope if inverse else log_slope
    return torch.where(inside, value, x), torch.where(inside, log_slope, 0.0)


def _solved(above: Tensor, height: Tensor, mean: Tensor, d0: Tensor, bend: Tensor) -> Tensor:
    """Where in its bin the quadratic reaches `above` the bin's floor (Durkan et al., eq. 6 to 8)."""
    a = height * (mean - d0) + above * bend
    b = height * d0 - above * bend
    c = -mean * above
    return 2 * c / (-b - (b**2 - 4 * a * c).clamp(min=0).sqrt())
