"""Samplers, tested by mathematics: Gaussian data has an exact denoiser, so every trajectory, mean
and variance is known."""

import math

import pytest
import torch
from torch import Tensor

from daedal.errors import DaedalError
from daedal.processes import samplers as S
from daedal.processes.noise import Level, Levels, karras, noised
from daedal.processes.samplers import SAMPLERS, sampler_named

MEAN, STD = 0.7, 0.4
KINDS = ["vp", "flow", "ve"]
DETERMINISTIC = [
    "ddim",
    "euler",
    "heun",
    "dpmpp_2m",
    "dpmpp_2m_heun",
    "dpmpp_3m",
    "unipc",
    "unipc_3",
]
STOCHASTIC = sorted(set(SAMPLERS) - set(DETERMINISTIC))


def levels_of(kind: str, ratio: Tensor) -> Levels:
    return (
        Levels.flow(1 / (1 + 1 / ratio))
        if kind == "flow"
        else Levels.vp(ratio, ratio)
        if kind == "vp"
        else Levels.ve(ratio)
    )


def grid(
    kind: str, steps: int, high: float = 80.0, low: float = 0.02, clean: bool = False
) -> Levels:
    """`steps` smooth steps, the last into clean if asked."""
    ratio = karras(high, low, steps if clean else steps + 1)
    return levels_of(
        kind, torch.cat([ratio, torch.zeros(1, dtype=torch.float64)]) if clean else ratio
    )


def exact(x: Tensor, level: Level) -> Tensor:
    """E[x0 | x] for data N(MEAN, STD^2)."""
    gain = level.alpha * STD**2 / (level.alpha**2 * STD**2 + level.sigma**2)
    return MEAN + gain * (x - level.alpha * MEAN)


def marginal(z: Tensor, level: Level) -> Tensor:
    """Where the probability-flow ODE takes the point that is z standard deviations off the mean."""
    return level.alpha * MEAN + (level.alpha**2 * STD**2 + level.sigma**2) ** 0.5 * z


def no_noise() -> Tensor:
    raise AssertionError("a deterministic sampler drew noise")


Z = torch.tensor([-1.3, 0.2, 1.1], dtype=torch.float64)


def error(name: str, kind: str, steps: int) -> float:
    """How far the trajectory is from the exact one near its end. The last three steps are left out:
    there some samplers lower their order."""
    levels, trajectory = grid(kind, steps), []
    sampler_named(name)(
        exact, marginal(Z, levels[0]), levels, no_noise, lambda i, x, x0: trajectory.append(x)
    )
    assert len(trajectory) == steps
    return float((trajectory[steps - 4] - marginal(Z, levels[steps - 3])).abs().max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("euler", 1),
        ("ddim", 1),
        ("heun", 2),
        ("dpmpp_2m", 2),
        ("dpmpp_2m_heun", 2),
        ("dpmpp_3m", 3),
        ("unipc", 3),
        ("unipc_3", 4),
    ],
)
def test_order_of_convergence(name: str, order: int, kind: str) -> None:
    """UniPC's corrector adds one to the order of its predictor. DPM++ 3M as published is of order
    2: see `samplers.extrapolated`."""
    errors = [error(name, kind, steps) for steps in (128, 256)]
    assert abs(math.log2(errors[0] / errors[1]) - order) < 0.15
    assert errors[1] < 0.06 * 0.1**order


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_ode_does_not_depend_on_the_path(name: str) -> None:
    """x / alpha at equal sigma / alpha is the same in all families: exactly so where the method is
    written in lambda."""
    ends = {}
    for kind in KINDS:
        levels = grid(kind, 24, clean=True)
        ends[kind] = sampler_named(name)(exact, marginal(Z, levels[0]), levels, no_noise)
    for kind in KINDS[:2]:
        torch.testing.assert_close(
            ends[kind], ends["ve"], rtol=0, atol=0.05 if name == "heun" else 0.002
        )


@pytest.mark.parametrize("kind", KINDS)
# which do not sample the data's distribution, by design
@pytest.mark.parametrize("name", sorted(set(SAMPLERS) - {"lcm", "ddpm_large"}))
def test_moments_of_many_samples(name: str, kind: str) -> None:
    """Mean and standard deviation of what comes out, within four standard errors and the bias that
    is left at this many steps."""
    count, steps = 10_000, 400 if name in ("euler", "ddim", "ddpm", "euler_ancestral") else 100
    g = torch.Generator().manual_seed(1)

    def noise() -> Tensor:
        return torch.randn(count, generator=g, dtype=torch.float64)

    levels = grid(kind, steps, low=0.002, clean=True)
    x = sampler_named(name)(exact, marginal(noise(), levels[0]), levels, noise)
    assert abs(float(x.mean()) - MEAN) < 4 * STD / count**0.5
    assert abs(float(x.std()) / STD - 1) < 4 / (2 * count) ** 0.5 + 0.012


def test_the_bias_of_ancestral_sampling_falls_with_the_steps() -> None:
    """The variance of a linear recursion is known without drawing: push the noise of a step through
    as an independent coordinate."""

    def spread(name: str, steps: int) -> float:
        levels, drawn = grid("vp", steps, low=0.002, clean=True), [0]

        def noise() -> Tensor:
            drawn[0] += 1
            return torch.eye(steps + 1, dtype=torch.float64)[drawn[0]]

        x = marginal(torch.eye(steps + 1, dtype=torch.float64)[0], levels[0])
        return float((sampler_named(name)(exact, x, levels, noise) - MEAN).norm()) / STD

    assert (
        abs(spread("euler_ancestral", 50) - 1) > 1.8 * abs(spread("euler_ancestral", 100) - 1) > 0
    )
    for name in ("dpmpp_2m_sde", "dpmpp_3m_sde", "dpmpp_2m_sde_heun"):
        assert abs(spread(name, 100) - 1) < 0.5 * abs(spread("euler_ancestral", 100) - 1)
    # fixed_large is the upper bound of the reverse variance
    assert spread("ddpm_large", 100) > spread("ddpm", 100)


@pytest.mark.parametrize("kind", KINDS)
def test_lcm_samples_the_posterior_mean_renoised(kind: str) -> None:
    levels, g = grid(kind, 1, clean=True), torch.Generator().manual_seed(0)
    x = marginal(Z, levels[0])
    torch.testing.assert_close(
        sampler_named("lcm")(exact, x, levels, no_noise), exact(x, levels[0])
    )
    levels = grid(kind, 3, clean=True)
    draws = [torch.randn(3, generator=g, dtype=torch.float64) for _ in range(2)]
    want = exact(x, levels[0])
    for i, eps in enumerate(draws, 1):
        want = exact(noised(want, eps, levels[i]), levels[i])
    torch.testing.assert_close(sampler_named("lcm")(exact, x, levels, iter(draws).__next__), want)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_finite_from_pure_noise_to_clean(name: str, steps: int) -> None:
    g = torch.Generator().manual_seed(0)
    ratio = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    ratio = ratio / (1 - ratio)  # inf ... 0
    for kind in ("flow", "vp"):
        levels = levels_of(kind, ratio)
        assert levels[0].alpha == 0 and levels[-1].sigma == 0
        x = torch.randn(4, 3, 2, 2, generator=g)
        x = sampler_named(name)(exact, x, levels, lambda: torch.randn(4, 3, 2, 2, generator=g))
        assert torch.isfinite(x).all() and x.dtype == torch.float32
    if steps == 1:
        torch.testing.assert_close(x, torch.full_like(x, MEAN))  # nothing is known but the mean


# whose corrector makes use of it
@pytest.mark.parametrize("name", [name for name in DETERMINISTIC if "unipc" not in name])
def test_a_repeated_level_changes_nothing(name: str) -> None:
    """final_sigmas_type sigma_min ends with a step of length 0."""
    levels = grid("ve", 20)
    doubled = Levels.ve(torch.cat([levels.sigma, levels.sigma[-1:]]))
    x = marginal(Z, levels[0])
    trajectory: list[Tensor] = []
    end = sampler_named(name)(exact, x, doubled, no_noise, lambda i, x, x0: trajectory.append(x))
    torch.testing.assert_close(end, trajectory[-2])


def test_stochastic_samplers_without_noise_are_deterministic() -> None:
    levels = grid("vp", 12, clean=True)
    x = marginal(Z, levels[0])
    euler = S.euler(exact, x, levels, no_noise)
    torch.testing.assert_close(S.euler_ancestral(exact, x, levels, no_noise, eta=0.0), euler)
    torch.testing.assert_close(S.multistep(exact, x, levels, no_noise, order=1), euler)
    torch.testing.assert_close(
        S.dpmpp_2m(exact, x, levels, no_noise, eta=0.0),
        S.multistep(exact, x, levels, no_noise, order=2),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_one_ancestral_step_has_many_names(kind: str) -> None:
    """DDIM at eta 1, DDPM, Euler ancestral and the first-order SDE solver are one and the same."""

    def run(sampler, **options) -> Tensor:
        g = torch.Generator().manual_seed(0)
        levels = grid(kind, 12, clean=True)
        return sampler(
            exact,
            marginal(Z, levels[0]),
            levels,
            lambda: torch.randn(3, generator=g, dtype=torch.float64),
            **options,
        )

    want = run(S.ddpm)
    for sampler, options in (
        (S.ddim, {"eta": 1.0}),
        (S.euler_ancestral, {}),
        (S.multistep, {"order": 1, "eta": 1.0}),
    ):
        torch.testing.assert_close(run(sampler, **options), want)


def test_learned_variance_lies_between_small_and_large() -> None:
    levels, x = grid("vp", 12, clean=True), marginal(Z, grid("vp", 12)[0])

    def run(large) -> Tensor:
        g = torch.Generator().manual_seed(0)
        return S.ddpm(
            exact, x, levels, lambda: torch.randn(3, generator=g, dtype=torch.float64), large=large
        )

    torch.testing.assert_close(
        run(lambda: torch.tensor([0.0, 1.0, 0.5])),
        torch.stack([run(0.0)[0], run(1.0)[1], run(0.5)[2]]),
    )


@pytest.mark.parametrize("name", SAMPLERS)
def test_noise_is_drawn_only_where_it_is_used(name: str) -> None:
    levels, drawn = grid("vp", 9, clean=True), [0]

    def noise() -> Tensor:
        drawn[0] += 1
        return torch.zeros(3, dtype=torch.float64)

    sampler_named(name)(exact, marginal(Z, levels[0]), levels, noise)
    # none into the clean level
    assert drawn[0] == (0 if name in DETERMINISTIC else 2 if name == "restart" else 8)


@pytest.mark.parametrize("name", SAMPLERS)
def test_on_step_hears_every_step_and_cancels(name: str) -> None:
    class Cancelled(Exception):
        pass

    levels, heard = grid("flow", 9, clean=True), []

    def on_step(i: int, x: Tensor, x0: Tensor) -> None:
        heard.append(i)
        assert x.shape == x0.shape == Z.shape
        if i == stop:
            raise Cancelled

    stop = -1
    end = sampler_named(name)(
        exact, marginal(Z, levels[0]), levels, lambda: torch.zeros_like(Z), on_step
    )
    assert heard == list(range(len(heard))) and len(heard) >= 9 and torch.isfinite(end).all()
    heard, stop = [], 4
    with pytest.raises(Cancelled):
        sampler_named(name)(
            exact, marginal(Z, levels[0]), levels, lambda: torch.zeros_like(Z), on_step
        )
    assert heard == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", SAMPLERS)
def test_each_image_of_a_batch_is_the_image_alone(name: str) -> None:
    levels = grid("flow", 10, clean=True)
    draws = torch.randn(40, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def run(columns: list[int]) -> Tensor:
        noise = iter(draws[1:, columns]).__next__
        return sampler_named(name)(exact, draws[0, columns], levels, noise)

    assert torch.equal(run([0, 1, 2, 3, 4])[[1, 3]], run([1, 3]))


@pytest.mark.parametrize("kind", KINDS)
def test_image_to_image_starts_at_a_later_level(kind: str) -> None:
    """At strength 1 it is text-to-image from noise (but for the trace of the image that alpha lets
    through); at less, the image shows."""
    levels, image = grid(kind, 40, clean=True), torch.tensor([0.1, 0.5, 1.2], dtype=torch.float64)
    eps = torch.tensor([0.3, -1.0, 0.4], dtype=torch.float64)
    whole = S.heun(exact, noised(image, eps, levels[0]), levels, no_noise)
    torch.testing.assert_close(whole, MEAN + STD * eps, atol=0.02, rtol=0)
    part = levels.tail(0.25)
    start = noised(image, eps, part[0])
    z = (start - part[0].alpha * MEAN) / (part[0].alpha ** 2 * STD**2 + part[0].sigma ** 2) ** 0.5
    end = S.heun(exact, start, part, no_noise)
    torch.testing.assert_close(end, marginal(z, levels[-1]), atol=0.02, rtol=0)
    assert (end - image).abs().max() < (whole - image).abs().max()


def test_flow_euler_and_heun_are_the_textbook_ones() -> None:
    """x + dt v, and its trapezium rule, with v = eps - x0."""
    levels = Levels.flow(torch.linspace(1, 0, 9, dtype=torch.float64))

    def velocity(x: Tensor, t: float) -> Tensor:
        return (x - exact(x, Level(1 - t, t, t))) / t

    euler = heun = Z.clone()
    for now, after in zip(levels.sigma.tolist(), levels.sigma.tolist()[1:], strict=False):
        euler = euler + (after - now) * velocity(euler, now)
        there = heun + (after - now) * velocity(heun, now)
        heun = (
            heun + (after - now) / 2 * (velocity(heun, now) + velocity(there, after))
            if after
            else there
        )
    torch.testing.assert_close(S.euler(exact, Z, levels, no_noise), euler)
    torch.testing.assert_close(S.heun(exact, Z, levels, no_noise), heun)


def test_restart_mends_what_the_solver_got_wrong() -> None:
    """A start with the wrong spread: noise contracts the error, more with every restart (Xu et al.
    2023, theorem 1)."""
    g = torch.Generator().manual_seed(0)
    levels = grid("ve", 60, low=0.002, clean=True)
    x = marginal(2 * torch.randn(20_000, generator=g, dtype=torch.float64), levels[0])

    def run(times: int) -> float:
        x1 = S.restart(
            exact,
            x,
            levels,
            lambda: torch.randn(20_000, generator=g, dtype=torch.float64),
            times=times,
        )
        return abs(float(x1.std()) / STD - 1)

    errors = [run(times) for times in (0, 1, 2)]
    assert errors[0] > 0.9 and errors[1] < 0.2 * errors[0] and errors[2] < 0.5 * errors[1] + 0.01


def test_renoising_follows_the_forward_process() -> None:
    g = torch.Generator().manual_seed(0)

    def noise() -> Tensor:
        return torch.randn(50_000, generator=g, dtype=torch.float64)

    for kind in KINDS:
        levels = grid(kind, 10, high=3.0)
        x = S.renoised(marginal(noise(), levels[3]), levels[3], levels[1], noise)
        z = (x - levels[1].alpha * MEAN) / (
            levels[1].alpha ** 2 * STD**2 + levels[1].sigma ** 2
        ) ** 0.5
        assert abs(float(z.mean())) < 0.02 and abs(float(z.std()) - 1) < 0.02


def test_names() -> None:
    assert sampler_named("heun") is S.heun
    with pytest.raises(DaedalError, match="did you mean 'dpmpp_2m'"):
        sampler_named("dpmp_2m")
