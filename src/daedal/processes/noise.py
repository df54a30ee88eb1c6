"""One noise axis for every diffusion model: a noisy image is x = alpha x0 + sigma eps, and a level
is (alpha, sigma, time).

Three families differ only in the path (alpha, sigma) takes: variance preserving, alpha^2 + sigma^2
= 1 (DDPM, Stable Diffusion); flow, alpha = 1 - t and sigma = t (SD3, FLUX); variance exploding,
alpha = 1 (EDM). What a network is told and what it answers is its parametrisation, a class of three
formulas. Samplers see neither: they ask for x0 at a level. `ratio` is sigma / alpha, the sigma of
Karras et al. 2022 and of most tools, and lambda = -log(ratio) is half the log signal-to-noise ratio
(Kingma et al. 2021).

Legend: B batch, C channels, S steps, N training times."""

import math
from dataclasses import dataclass
from typing import Protocol, overload

import numpy as np
import torch
from torch import Tensor

from daedal.errors import DaedalError, nearest

Number = float | Tensor


@dataclass(frozen=True)
class Level:
    """One level of noise. Floats when sampling; in training tensors that broadcast against x, (B,
    1, 1, 1) or one a token, in x's dtype."""

    alpha: Number
    sigma: Number
    # what the network is told: 0..N-1 for discrete-time models, t in [0, 1] for flow, log(sigma) /
    # 4 for EDM
    time: Number


@dataclass(frozen=True, eq=False)
class Levels:
    """The levels a sampler visits, noisiest first: float64 tensors (S+1,). S steps lead from each
    to the next; the last is clean unless the model's schedule ends early. `levels[i]` is a Level,
    `levels[k:]` the Levels from k on, which is where an image-to-image run starts."""

    alpha: Tensor
    sigma: Tensor
    time: Tensor

    @classmethod
    def vp(cls, ratio: Tensor, time: Tensor) -> "Levels":
        """Variance preserving, from sigma / alpha; infinity is pure noise (alpha 0)."""
        return cls((1 + ratio**2) ** -0.5, (1 + ratio**-2.0) ** -0.5, time)

    @classmethod
    def flow(cls, t: Tensor, time: Tensor | None = None) -> "Levels":
        """Flow: x is the straight line from the image (t = 0) to noise (t = 1) (Liu et al. 2022,
        Lipman et al. 2022)."""
        return cls(1 - t, t, t if time is None else time)

    @classmethod
    def ve(cls, sigma: Tensor, time: Tensor | None = None) -> "Levels":
        """Variance exploding; if not given with the time that EDM networks are told (Karras et al.
        2022, Table 1: c_noise)."""
        return cls(torch.ones_like(sigma), sigma, sigma.log() / 4 if time is None else time)

    @property
    def steps(self) -> int:
        return len(self.sigma) - 1

    @property
    def lam(self) -> Tensor:
        """log(alpha / sigma), (S+1,), rising: -inf where alpha is 0, +inf where sigma is 0."""
        return self.alpha.log() - self.sigma.log()

    def tail(self, strength: float) -> "Levels":
        """The last `strength` of the steps, at least one: image-to-image noises its image to the
        first of these levels."""
        if not 0 < strength <= 1:
            raise DaedalError(
                f"strength={strength} must be above 0 (the image as it is) and at most 1 (all steps, from noise)."
            )
        return self[self.steps - max(1, int(self.steps * strength)) :]

    @overload
    def __getitem__(self, i: int) -> Level: ...
    @overload
    def __getitem__(self, i: slice) -> "Levels": ...
    def __getitem__(self, i: int | slice) -> "Level | Levels":
        if isinstance(i, slice):
            return Levels(self.alpha[i], self.sigma[i], self.time[i])
        return Level(float(self.alpha[i]), float(self.sigma[i]), float(self.time[i]))

    def __len__(self) -> int:
        return len(self.sigma)


def noised(x0: Tensor, eps: Tensor, level: Level) -> Tensor:
    """x0 with the noise of a level, in the shape of both."""
    return level.alpha * x0 + level.sigma * eps


# -- what the network's output means ---------------------------------------------------------------


class Parametrisation(Protocol):
    """Three formulas, all elementwise and of x's shape."""

    def scaled(self, x: Tensor, level: Level) -> Tensor:
        """What the network sees of x."""
        ...

    def denoised(self, output: Tensor, x: Tensor, level: Level) -> Tensor:
        """The x0 that the output of the network means."""
        ...

    def target(self, x0: Tensor, eps: Tensor, level: Level) -> Tensor:
        """The output it is trained towards."""
        ...


class Unscaled(Parametrisation):
    """Networks that see x itself."""

    def scaled(self, x: Tensor, level: Level) -> Tensor:
        return x


class Eps(Unscaled):
    """The network predicts the noise (Ho et al. 2020). It says nothing about x0 where alpha is 0."""

    def denoised(self, output: Tensor, x: Tensor, level: Level) -> Tensor:
        return (x - level.sigma * output) / level.alpha

    def target(self, x0: Tensor, eps: Tensor, level: Level) -> Tensor:
        return eps


class V(Unscaled):
    """v = alpha eps - sigma x0 on variance-preserving levels (Salimans & Ho 2022, section 4):
    well-posed from pure noise to clean."""

    def denoised(self, output: Tensor, x: Tensor, level: Level) -> Tensor:
        return level.alpha * x - level.sigma * output

    def target(self, x0: Tensor, eps: Tensor, level: Level) -> Tensor:
        return level.alpha * eps - level.sigma * x0


class X0(Unscaled):
    """The network predicts the image."""

    def denoised(self, output: Tensor, x: Tensor, level: Level) -> Tensor:
        return output

    def target(self, x0: Tensor, eps: Tensor, level: Level) -> Tensor:
        return x0


class Flow(Unscaled):
    """The velocity eps - x0 of the straight line (Liu et al. 2022; its sign here is that of SD3 and
    FLUX, towards noise)."""

    def denoised(self, output: Tensor, x: Tensor, level: Level) -> Tensor:
        return (x - level.sigma * output) / (level.alpha + level.sigma)

    def target(self, x0: Tensor, eps: Tensor, level: Level) -> Tensor:
        return eps - x0


@dataclass(frozen=True)
class EDM:
    """The network sees, and is asked for, unit variance at every level (Karras et al. 2022, Table
    1), on variance-exploding levels. `sign` -1 is what diffusers calls v_prediction: the output
    negated."""

    sigma_data: float = 0.5
    sign: float = 1.0

    def scaled(self, x: Tensor, level: Level) -> Tensor:
        return x / self._norm(level)  # c_in

    def denoised(self, output: Tensor, x: Tensor, level: Level) -> Tensor:
        return self._skip(level) * x + self._out(level) * output

    def target(self, x0: Tensor, eps: Tensor, level: Level) -> Tensor:
        return (x0 - self._skip(level) * noised(x0, eps, level)) / self._out(level)

    def _norm(self, level: Level) -> Number:
        return (level.sigma**2 + self.sigma_data**2) ** 0.5

    def _skip(self, level: Level) -> Number:
        return (self.sigma_data / self._norm(level)) ** 2

    def _out(self, level: Level) -> Number:
        return self.sign * self.sigma_data * level.sigma / self._norm(level)


# -- discrete-time models: betas, and the axis between their times ---------------------------------


def linear(start: float, end: float, count: int) -> Tensor:
    """Ho et al. 2020."""
    return torch.linspace(start, end, count, dtype=torch.float64)


def scaled_linear(start: float, end: float, count: int) -> Tensor:
    """Linear in the square root (Rombach et al. 2022)."""
    return linear(start**0.5, end**0.5, count) ** 2


def squaredcos_cap_v2(start: float, end: float, count: int) -> Tensor:
    """The cosine schedule, betas at most 0.999 (Nichol & Dhariwal 2021, eq. 17). It has no start
    and end."""
    t = torch.arange(count + 1, dtype=torch.float64) / count
    bar = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - bar[1:] / bar[:-1]).clamp(max=0.999)


BETAS = {f.__name__: f for f in (linear, scaled_linear, squaredcos_cap_v2)}


def betas_named(schedule: str, start: float, end: float, count: int) -> Tensor:
    """The betas (N,) of a `beta_schedule`."""
    if schedule not in BETAS:
        raise DaedalError(
            f"beta_schedule {schedule!r} is not known{nearest(schedule, list(BETAS))}; known are {', '.join(BETAS)}."
        )
    return BETAS[schedule](start, end, count)


def zero_terminal_snr(alpha_bar: Tensor) -> Tensor:
    """Shift and scale sqrt(alpha_bar) so that the last is 0 and the first stays (Lin et al. 2024,
    algorithm 1)."""
    root = alpha_bar.sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


@dataclass(frozen=True)
class DiscreteAxis:
    """The axis of a model trained at times 0..N-1: `ratio` is sigma / alpha at each, float64 (N,),
    rising. Between them it is interpolated."""

    ratio: Tensor

    @classmethod
    def from_alpha_bar(cls, alpha_bar: Tensor) -> "DiscreteAxis":
        """From the products of 1 - beta."""
        return cls(((1 - alpha_bar) / alpha_bar).sqrt().double())

    def ratio_at(self, time: Tensor) -> Tensor:
        """sigma / alpha at times that need not be whole, linear between the trained ones."""
        trained = np.arange(len(self.ratio))
        return torch.from_numpy(np.interp(time.numpy(), trained, self.ratio.numpy()))

    def time_of(self, ratio: Tensor) -> Tensor:
        """The inverse as k-diffusion defined it: linear in log(ratio), and clipped to the trained
        times."""
        logs, trained = self.ratio.log().numpy(), np.arange(len(self.ratio), dtype=float)
        return torch.from_numpy(np.interp(ratio.log().numpy(), logs, trained))

    def at(self, time: Tensor) -> Levels:
        """The variance-preserving levels of times, in their shape and order."""
        return Levels.vp(self.ratio_at(time), time)


def spaced(
    spacing: str, steps: int, count: int, offset: int = 0, extra: int = 0, last: int | None = None
) -> Tensor:
    """`steps` of the times 0..count-1, falling, float64 (Lin et al. 2024, Table 2). Only linspace
    may fall between whole times.

    `extra` times are laid out and left off at the clean end (DPM-Solver lays out 1), and none is at
    or above `last`."""
    last = count if last is None else last
    if spacing == "linspace":
        times = np.linspace(0, last - 1, steps + extra)[::-1][:steps]
    elif spacing == "leading":
        times = np.arange(steps + extra, dtype=float)[::-1][:steps]
        times = times * (last // (steps + extra)) + offset
    elif spacing == "trailing":
        # arange may run one too far: at 61 of 1000 it ends at time -1
        times = np.arange(last, 0, -count / steps)[:steps].round() - 1
    else:
        raise DaedalError(
            f"timestep_spacing {spacing!r} is not known; it is leading, trailing or linspace."
        )
    return torch.from_numpy(times.copy())


# -- sigma lists -----------------------------------------------------------------------------------


def karras(high: float, low: float, steps: int, rho: float = 7.0) -> Tensor:
    """From high to low, evenly in sigma^(1/rho) (Karras et al. 2022, eq. 5)."""
    return torch.linspace(high ** (1 / rho), low ** (1 / rho), steps, dtype=torch.float64) ** rho


def exponential(high: float, low: float, steps: int) -> Tensor:
    """From high to low, evenly in log(sigma)."""
    return torch.linspace(math.log(high), math.log(low), steps, dtype=torch.float64).exp()


def beta(high: float, low: float, steps: int) -> Tensor:
    """From high to low by quantiles of Beta(0.6, 0.6), dense at both ends (Lee et al. 2024, section
    3.3)."""
    return low + (high - low) * symmetric_beta_quantile(
        1 - torch.linspace(0, 1, steps, dtype=torch.float64)
    )


def symmetric_beta_quantile(p: Tensor, a: float = 0.6) -> Tensor:
    """Where the Beta(a, a) distribution function is p. In y = x^a its density, (1 - x)^(a - 1), is
    smooth on the lower half."""
    y = torch.linspace(0, 0.5**a, 8193, dtype=torch.float64)
    mass = torch.cumulative_trapezoid((1 - y ** (1 / a)) ** (a - 1), y)
    mass = torch.cat([y[:1], mass / (2 * mass[-1])])
    x = torch.from_numpy(np.interp(torch.minimum(p, 1 - p).numpy(), mass.numpy(), y.numpy())) ** (
        1 / a
    )
    return torch.where(p < 0.5, x, 1 - x)


def shifted(t: Tensor, shift: float) -> Tensor:
    """Flow times moved towards noise, as more pixels need (Esser et al. 2024, eq. 23)."""
    return shift * t / (1 + (shift - 1) * t)


def stretched(t: Tensor, terminal: float) -> Tensor:
    """Flow times stretched away from noise, so that the last is `terminal` (LTX-Video)."""
    return t if t[-1] == 1 else 1 - (1 - t) * (1 - terminal) / (1 - t[-1])


def resolution_mu(
    tokens: int, base_len: int, max_len: int, base_shift: float, max_shift: float
) -> float:
    """FLUX's shift for an image of so many tokens: a line through (base_len, base_shift) and
    (max_len, max_shift), without bounds."""
    return base_shift + (max_shift - base_shift) * (tokens - base_len) / (max_len - base_len)
