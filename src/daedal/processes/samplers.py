"""Samplers: from noise to an image, as pure functions of (denoise, x, levels, noise).

    x = sampler(denoise, x, levels, noise, on_step)

`denoise(x, level)` estimates x0, in x's shape. `noise()` is a fresh standard normal of that shape;
only stochastic samplers call it, and only where its weight is not 0. `on_step(i, x, x0)` hears of
every step and may raise to cancel; `sampler.steps(denoise, x, levels, noise)` is the same as a
generator, for a caller that does other work between two steps. All are written in alpha, sigma and
lambda, so each runs on variance-preserving, flow and variance-exploding levels alike, from pure
noise (alpha 0) to clean (sigma 0): "flow Euler" and "flow Heun" are `euler` and `heun` on flow
levels. One step, exact when x0 does not change within it (Lu et al. 2022, DPM-Solver++), is `step`;
the multistep samplers put into it an x0 extrapolated from the steps before."""

import itertools
import math
from collections.abc import Callable, Generator, Iterator
from functools import partial, update_wrapper
from typing import Any

import torch
from torch import Tensor

from daedal.errors import DaedalError, nearest
from daedal.processes.noise import Level, Levels

Denoise = Callable[[Tensor, Level], Tensor]
Noise = Callable[..., Tensor]
OnStep = Callable[[int, Tensor, Tensor], object]
# (i, x, x0) after a step, None after other work; returns the end
Steps = Generator[tuple[int, Tensor, Tensor] | None, None, Tensor]
Past = list[tuple[float, Tensor]]  # (lambda, x0) of the steps so far, newest first


def finished(steps: Steps, on_step: OnStep | None = None) -> Tensor:
    """Run a generator of steps to its end and return what it returns."""
    while True:
        try:
            state = next(steps)
        except StopIteration as end:
            return end.value
        if on_step and state is not None:
            on_step(*state)


class Sampler:
    """A sampler: called, it runs to the end; `steps` takes the same arguments and yields (i, x, x0)
    after each step."""

    def __init__(self, steps: Callable[..., Steps]) -> None:
        self.steps = steps
        update_wrapper(self, steps)

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        levels: Levels,
        noise: Noise,
        on_step: OnStep | None = None,
        **options: Any,
    ) -> Tensor:
        return finished(self.steps(denoise, x, levels, noise, **options), on_step)

    def set(self, **options: Any) -> "Sampler":
        """The same sampler with options fixed."""
        return Sampler(partial(self.steps, **options))


def pairs(levels: Levels) -> Iterator[tuple[Level, Level, float]]:
    """(level, the one after, the gain h in lambda) for each step. h is inf out of pure noise and
    into a clean image."""
    lam = levels.lam.tolist()
    for i in range(levels.steps):
        yield levels[i], levels[i + 1], lam[i + 1] - lam[i]


def step(
    x: Tensor, x0: Tensor, level: Level, after: Level, h: float, eta: float, noise: Noise
) -> Tensor:
    """From a level to the one after, for a constant x0: the probability-flow ODE at eta 0, the
    reverse SDE at eta 1 (its mean and spread are those of DDPM's posterior). Both have the same
    marginals, as has every eta between."""
    decay = math.exp(-eta * h) if eta else 1.0
    x = after.sigma / level.sigma * decay * x + after.alpha * (1 - math.exp(-h) * decay) * x0
    fresh = after.sigma * math.sqrt(1 - decay**2)
    return x + fresh * noise() if fresh else x


# -- first order -----------------------------------------------------------------------------------


@Sampler
def ddim(denoise: Denoise, x: Tensor, levels: Levels, noise: Noise, eta: float = 0.0) -> Steps:
    """DDIM (Song et al. 2020, eq. 12 and 16): keep the predicted eps but for a part of it, `eta` of
    DDPM's, that is drawn anew."""
    for i, (level, after, h) in enumerate(pairs(levels)):
        x0 = denoise(x, level)
        eps = (x - level.alpha * x0) / level.sigma
        fresh = eta * after.sigma * math.sqrt(1 - math.exp(-2 * h))
        x = after.alpha * x0 + (after.sigma**2 - fresh**2) ** 0.5 * eps
        x = x + fresh * noise() if fresh else x
        yield i, x, x0
    return x


@Sampler
def euler(denoise: Denoise, x: Tensor, levels: Levels, noise: Noise) -> Steps:
    """Euler's method on the probability-flow ODE. In x / alpha over sigma / alpha (Karras et al.
    2022) as in t on flow levels, it is DDIM."""
    return ddim.steps(denoise, x, levels, noise)


@Sampler
def euler_ancestral(
    denoise: Denoise, x: Tensor, levels: Levels, noise: Noise, eta: float = 1.0
) -> Steps:
    """Euler to a level below, then noise up to the one wanted (Crowson, k-diffusion). That too is
    DDIM, here with eta 1, also on flow levels."""
    return ddim.steps(denoise, x, levels, noise, eta)


@Sampler
def ddpm(
    denoise: Denoise,
    x: Tensor,
    levels: Levels,
    noise: Noise,
    large: float | Callable[[], Tensor] = 0.0,
) -> Steps:
    """Ancestral sampling with DDPM's posterior (Ho et al. 2020, eq. 7). The log-variance lies at
    `large` between the posterior's own (0: fixed_small) and beta (1: fixed_large); a network that
    learned where (Nichol & Dhariwal 2021, eq. 15) gives `large` as a function, called after each
    denoise, of values that broadcast against x."""
    for i, (level, after, h) in enumerate(pairs(levels)):
        x0 = denoise(x, level)
        x = after.sigma / level.sigma * math.exp(-h) * x - after.alpha * math.expm1(-2 * h) * x0
        if after.sigma:
            part = large() if callable(large) else large
            least = after.sigma * math.sqrt(-math.expm1(-2 * h))
            x = x + (level.sigma / after.sigma) ** part * least * noise()
        yield i, x, x0
    return x


@Sampler
def lcm(denoise: Denoise, x: Tensor, levels: Levels, noise: Noise) -> Steps:
    """Multistep consistency sampling (Song et al. 2023, algorithm 1; Luo et al. 2023): trust x0,
    and noise it anew to the level after."""
    for i, (level, after, _) in enumerate(pairs(levels)):
        x0 = denoise(x, level)
        x = after.alpha * x0
        x = x + after.sigma * noise() if after.sigma else x
        yield i, x, x0
    return x


# -- higher order ----------------------------------------------------------------------------------


@Sampler
def heun(denoise: Denoise, x: Tensor, levels: Levels, noise: Noise) -> Steps:
    """Heun's second-order method, two denoisings a step but the last into clean (Karras et al.
    2022, algorithm 1 without churn).

    The ODE d(x/w) = x0 d(alpha/w) + eps d(sigma/w) holds for every weight w, and the trapezium rule
    is right for any; `straight` picks it."""
    for i, (level, after, _) in enumerate(pairs(levels)):
        x0 = denoise(x, level)
        eps = (x - level.alpha * x0) / level.sigma
        old, new, there = straight(level), straight(after), after.alpha * x0 + after.sigma * eps
        if after.sigma:
            x0_there = denoise(there, after)
            eps_there = (there - after.alpha * x0_there) / after.sigma
            signal = after.alpha / new - level.alpha / old
            spread = after.sigma / new - level.sigma / old
            there = new * (x / old + signal / 2 * (x0 + x0_there) + spread / 2 * (eps + eps_there))
        x = there
        yield i, x, x0
    return x


def straight(level: Level) -> float:
    """The weight w that makes the path of x / w nearly a line: alpha for variance-preserving levels
    (Karras et al. 2022, section 3), 1 for flow and variance-exploding ones, where x itself takes
    it, and for alpha 0."""
    alpha, sigma = float(level.alpha), float(level.sigma)
    return alpha if alpha and math.isclose(alpha**2 + sigma**2, 1) else 1.0


@Sampler
def multistep(
    denoise: Denoise,
    x: Tensor,
    levels: Levels,
    noise: Noise,
    *,
    order: int,
    eta: float = 0.0,
    exact: bool = False,
    corrected: bool = False,
) -> Steps:
    """The loop behind the DPM++ and UniPC samplers: `step` with an x0 extrapolated from the last
    `order` denoisings; `corrected` repeats the step before, an ODE's, with the new x0 among them,
    which costs no denoising. Near the end the order falls where few steps remain (as diffusers does
    below 15 steps, and always for UniPC)."""
    past: Past = []
    start, before, gain = x, levels[0], 0.0  # of the step before
    lam, taper = levels.lam.tolist(), corrected or levels.steps < 15
    for i, (level, after, h) in enumerate(pairs(levels)):
        x0 = denoise(x, level)
        if corrected and past:
            x = step(start, extrapolated(gain, past, ahead=x0), before, level, gain, 0.0, noise)
        past = [(lam[i], x0), *past][: min(order, levels.steps - i) if taper else order]
        start, before, gain = x, level, h
        x = step(x, extrapolated(h, past, eta, exact), level, after, h, eta, noise)
        yield i, x, x0
    return x


def extrapolated(
    h: float, past: Past, eta: float = 0.0, exact: bool = False, ahead: Tensor | None = None
) -> Tensor:
    """The constant x0 that takes `step` where the polynomial in lambda through the `past` x0s (and
    the one `ahead`) would.

    With r the place of a past x0 on the step, 0 its start and 1 its end, the weights w solve sum_k
    w_k r_k^n = E[r^n], n = 1, 2, ..., where E averages over the step by H exp(-H (1 - r)), H = (1 +
    eta) h. For two x0s unless `exact`, E[r] is taken as 1/2: the midpoint form of DPM++ 2M, B(h) =
    exp(h) - 1 in UniPC. The published third-order formula has half of the r^2 term, and so is of
    second order; this has all of it."""
    lam, x0 = past[0]
    if not h:  # a level repeated, as final_sigmas_type sigma_min does
        return x0
    known = [((other - lam) / h, value) for other, value in past[1:]]
    known += [(1.0, ahead)] if ahead is not None else []
    # h or lambda may be infinite, at noise and at clean
    known = [(r, value) for r, value in known if r and math.isfinite(r)]
    if len(known) == 1 and not exact:
        return x0 + (known[0][1] - x0) / (2 * known[0][0])
    if not known:
        return x0
    r = torch.tensor([r for r, _ in known], dtype=torch.float64)
    powers = torch.stack([r**n for n in range(1, len(r) + 1)])
    means = torch.tensor(moments((1 + eta) * h, len(r)), dtype=torch.float64)
    weights = torch.linalg.solve(powers, means).tolist()
    terms = (w * (value - x0) for w, (_, value) in zip(weights, known, strict=True))
    return x0 + sum(terms, torch.zeros_like(x0))


def moments(H: float, count: int) -> list[float]:
    """E[r^n], n = 1..count, for the density of r on [0, 1] proportional to exp(H r)."""
    mass = -math.expm1(-H)
    values = [mass]
    for n in range(1, count + 1):
        values.append(1 - n / H * values[-1])
    return [value / mass for value in values[1:]]


@Sampler
def dpmpp_2m(denoise: Denoise, x: Tensor, levels: Levels, noise: Noise, eta: float = 0.0) -> Steps:
    """DPM-Solver++(2M), midpoint form (Lu et al. 2022, algorithm 2); with eta 1 its SDE form
    (appendix of the same)."""
    return multistep.steps(denoise, x, levels, noise, order=2, eta=eta)


@Sampler
def dpmpp_3m(denoise: Denoise, x: Tensor, levels: Levels, noise: Noise, eta: float = 0.0) -> Steps:
    """DPM-Solver++(3M); with eta 1 the 3M SDE of k-diffusion (Crowson). Both with the full
    second-derivative term: see `extrapolated`."""
    return multistep.steps(denoise, x, levels, noise, order=3, eta=eta, exact=True)


@Sampler
def unipc(denoise: Denoise, x: Tensor, levels: Levels, noise: Noise, order: int = 2) -> Steps:
    """UniPC-bh2: a predictor of the given order and the corrector that adds one (Zhao et al. 2023,
    algorithms 1 and 2, x0 form)."""
    return multistep.steps(denoise, x, levels, noise, order=order, corrected=True)


# -- restart ---------------------------------------------------------------------------------------


@Sampler
def restart(
    denoise: Denoise,
    x: Tensor,
    levels: Levels,
    noise: Noise,
    *,
    low: float = 0.1,
    high: float = 2.0,
    times: int = 2,
    solver: Sampler = heun,
) -> Steps:
    """Restart (Xu et al. 2023, algorithm 1): having come down to `low`, noise up to `high` and come
    down again, `times` over. Noise makes good what the ODE solver got wrong. Both are sigma /
    alpha, moved to the nearest level; the defaults are what tools take for Stable Diffusion."""
    distance = [(levels.lam[1:-1] + math.log(ratio)).abs() for ratio in (high, low)]
    top, bottom = [int(d.argmin()) + 1 if len(d) else 0 for d in distance]
    number = itertools.count()

    def run(x: Tensor, part: Levels) -> Steps:
        steps = solver.steps(denoise, x, part, noise)
        while True:
            try:
                _, x, x0 = next(steps)  # type: ignore[misc]
            except StopIteration as end:
                return end.value
            yield next(number), x, x0

    x = yield from run(x, levels[: bottom + 1])
    for _ in range(times if top < bottom else 0):
        x = yield from run(
            renoised(x, levels[bottom], levels[top], noise), levels[top : bottom + 1]
        )
    return (yield from run(x, levels[bottom:]))


def renoised(x: Tensor, level: Level, noisier: Level, noise: Noise) -> Tensor:
    """x at a level, taken up to a noisier one."""
    keep = noisier.alpha / level.alpha
    return keep * x + (noisier.sigma**2 - (keep * level.sigma) ** 2) ** 0.5 * noise()


SAMPLERS: dict[str, Sampler] = {
    "ddim": ddim,
    "ddpm": ddpm,
    "ddpm_large": ddpm.set(large=1.0),
    "euler": euler,
    "euler_ancestral": euler_ancestral,
    "heun": heun,
    "lcm": lcm,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_heun": multistep.set(order=2, exact=True),
    "dpmpp_2m_sde": dpmpp_2m.set(eta=1.0),
    "dpmpp_2m_sde_heun": multistep.set(order=2, eta=1.0, exact=True),
    "dpmpp_3m": dpmpp_3m,
    "dpmpp_3m_sde": dpmpp_3m.set(eta=1.0),
    "unipc": unipc,
    "unipc_3": unipc.set(order=3),
    "restart": restart,
}


def sampler_named(name: str) -> Sampler:
    """The sampler of a name in SAMPLERS."""
    if name not in SAMPLERS:
        raise DaedalError(
            f"sampler {name!r} is not known{nearest(name, list(SAMPLERS))}; known are {', '.join(SAMPLERS)}."
        )
    return SAMPLERS[name]
