"""The noise axis: parametrisations invert their targets, schedules equal the published ones, and
levels go from pure noise to clean."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from daedal.errors import DaedalError
from daedal.processes import noise as N
from daedal.processes.noise import EDM, X0, DiscreteAxis, Eps, Flow, Level, Levels, V

RATIO = torch.tensor([80.0, 3.0, 1.0, 0.2, 0.01], dtype=torch.float64)
KINDS = {
    "vp": Levels.vp(RATIO, RATIO),
    "flow": Levels.flow(RATIO / (1 + RATIO)),
    "ve": Levels.ve(RATIO),
}
FITS = [
    (Eps(), "vp"),
    (Eps(), "flow"),
    (Eps(), "ve"),
    (V(), "vp"),
    (X0(), "vp"),
    (X0(), "flow"),
    (Flow(), "flow"),
    (Flow(), "vp"),
]
FITS += [(EDM(), "ve"), (EDM(0.7, -1.0), "ve")]


def pair(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(5, 3, 2, 2, generator=g, dtype=torch.float64), torch.randn(
        5, 3, 2, 2, generator=g, dtype=torch.float64
    )


@pytest.mark.parametrize(("parametrisation", "kind"), FITS)
def test_the_training_target_means_x0(parametrisation: N.Parametrisation, kind: str) -> None:
    x0, eps = pair()
    for i in range(len(RATIO)):
        level = KINDS[kind][i]
        x = N.noised(x0, eps, level)
        torch.testing.assert_close(
            parametrisation.denoised(parametrisation.target(x0, eps, level), x, level),
            x0,
            rtol=1e-9,
            atol=1e-9,
        )


@pytest.mark.parametrize(("parametrisation", "kind"), FITS)
def test_a_level_a_sample_is_the_same_as_one_by_one(
    parametrisation: N.Parametrisation, kind: str
) -> None:
    x0, eps = pair()
    levels = KINDS[kind]
    # (B, 1, 1, 1)
    batch = Level(
        *(values[:, None, None, None] for values in (levels.alpha, levels.sigma, levels.time))
    )
    x = N.noised(x0, eps, batch)
    for i in range(len(levels)):
        one = levels[i]
        torch.testing.assert_close(x[i], N.noised(x0[i], eps[i], one))
        torch.testing.assert_close(
            parametrisation.scaled(x, batch)[i], parametrisation.scaled(x[i], one)
        )
        torch.testing.assert_close(
            parametrisation.target(x0, eps, batch)[i], parametrisation.target(x0[i], eps[i], one)
        )
        torch.testing.assert_close(
            parametrisation.denoised(eps, x, batch)[i], parametrisation.denoised(eps[i], x[i], one)
        )


def test_edm_asks_for_unit_variance_of_unit_variance() -> None:
    g = torch.Generator().manual_seed(0)
    x0, eps = (torch.randn(200_000, generator=g, dtype=torch.float64) * s for s in (0.5, 1.0))
    for i in range(len(RATIO)):
        level = KINDS["ve"][i]
        seen, asked = EDM().scaled(N.noised(x0, eps, level), level), EDM().target(x0, eps, level)
        assert abs(float(seen.var()) - 1) < 0.02 and abs(float(asked.var()) - 1) < 0.02


def test_zero_snr_is_finite_for_all_but_eps() -> None:
    level = Levels.vp(torch.tensor([math.inf, 0.0]), torch.zeros(2))
    assert (level[0].alpha, level[0].sigma, level[1].alpha, level[1].sigma) == (0, 1, 1, 0)
    assert level.lam.tolist() == [-math.inf, math.inf]
    x0, eps = pair()
    torch.testing.assert_close(V().denoised(-x0, eps, level[0]), x0)
    torch.testing.assert_close(Flow().denoised(eps - x0, eps, level[0]), x0)


def test_families_are_what_they_say() -> None:
    vp, flow, ve = KINDS["vp"], KINDS["flow"], KINDS["ve"]
    torch.testing.assert_close(vp.alpha**2 + vp.sigma**2, torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(flow.alpha + flow.sigma, torch.ones(5, dtype=torch.float64))
    for levels in (vp, flow, ve):
        torch.testing.assert_close(levels.sigma / levels.alpha, RATIO)
        torch.testing.assert_close(levels.lam, -RATIO.log())
        assert levels.sigma.dtype == torch.float64 and len(levels) == 5 and levels.steps == 4
    assert ve[1].time == pytest.approx(math.log(3) / 4)


def test_a_tail_is_a_slice() -> None:
    levels = Levels.flow(torch.linspace(1, 0, 51, dtype=torch.float64))
    assert (
        levels.tail(1.0).steps == 50
        and levels.tail(0.6).steps == 30
        and levels.tail(0.001).steps == 1
    )
    assert levels.tail(0.6)[0] == levels[20] and levels.tail(0.6)[-1] == levels[-1] == Level(
        1.0, 0.0, 0.0
    )
    for bad in (0.0, 1.5, -1.0):
        with pytest.raises(DaedalError, match="strength"):
            levels.tail(bad)


# -- betas and the discrete axis -------------------------------------------------------------------


@pytest.mark.parametrize("schedule", N.BETAS)
@pytest.mark.parametrize("zero", [False, True])
def test_betas_equal_diffusers(schedule: str, zero: bool) -> None:
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDIMScheduler(
        beta_schedule=schedule, beta_start=0.00085, beta_end=0.012, rescale_betas_zero_snr=zero
    ).alphas_cumprod
    ours = (1 - N.betas_named(schedule, 0.00085, 0.012, 1000)).cumprod(0)
    ours = N.zero_terminal_snr(ours) if zero else ours
    torch.testing.assert_close(ours, theirs.double(), rtol=1e-4, atol=1e-7)
    assert (ours[-1] == 0) == zero and ours[0] == pytest.approx(
        float(1 - N.betas_named(schedule, 0.00085, 0.012, 1000)[0])
    )


def test_unknown_betas_name_the_nearest() -> None:
    with pytest.raises(DaedalError, match="'scaled_linear'"):
        N.betas_named("scaled_liner", 0.1, 0.2, 10)


AXIS = DiscreteAxis.from_alpha_bar((1 - N.scaled_linear(0.00085, 0.012, 1000)).cumprod(0))


@given(st.floats(0, 999))
@settings(max_examples=50, deadline=None)
def test_time_to_ratio_and_back(time: float) -> None:
    there = AXIS.ratio_at(torch.tensor([time], dtype=torch.float64))
    back = float(AXIS.time_of(there))
    # one way is linear in the ratio, the other in its log: they agree at whole times
    assert abs(back - time) < 0.06
    assert (
        abs(
            float(AXIS.time_of(AXIS.ratio_at(torch.tensor([float(round(time))]).double())))
            - round(time)
        )
        < 1e-9
    )


def test_the_axis_at_whole_times_and_beyond() -> None:
    times = torch.tensor([999.0, 500.0, 0.0], dtype=torch.float64)
    levels = AXIS.at(times)
    torch.testing.assert_close(
        levels.alpha**2, (1 - N.scaled_linear(0.00085, 0.012, 1000)).cumprod(0)[times.long()]
    )
    assert AXIS.time_of(torch.tensor([1e9, 1e-9]).double()).tolist() == [999.0, 0.0]
    zero = DiscreteAxis.from_alpha_bar(
        N.zero_terminal_snr((1 - N.linear(1e-4, 0.02, 1000)).cumprod(0))
    )
    assert (
        zero.at(times).alpha[0] == 0
        and torch.isfinite(zero.at(times).alpha).all()
        and torch.isfinite(zero.at(times).sigma).all()
    )


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_spacings_fall_and_fit(spacing: str) -> None:
    for steps in range(1, 200):
        times = N.spaced(spacing, steps, 1000)
        assert (
            len(times) == steps and (times.diff() < 0).all() and times[0] <= 999 and times[-1] >= 0
        )
    assert N.spaced(spacing, 1000, 1000).tolist() == list(range(999, -1, -1))
    assert N.spaced("trailing", 4, 1000).tolist() == [999, 749, 499, 249]
    assert N.spaced("leading", 4, 1000, offset=1).tolist() == [751, 501, 251, 1]
    assert N.spaced("linspace", 4, 1000).tolist() == [999, 666, 333, 0]
    with pytest.raises(DaedalError, match="leading, trailing or linspace"):
        N.spaced("karras", 4, 1000)


# -- sigma lists -----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [N.karras, N.exponential, N.beta])
def test_sigma_lists_run_from_high_to_low(make) -> None:
    for steps in (2, 7, 40):
        sigmas = make(80.0, 0.002, steps)
        assert len(sigmas) == steps and (sigmas.diff() < 0).all()
        assert float(sigmas[0]) == pytest.approx(80.0) and float(sigmas[-1]) == pytest.approx(0.002)
    assert make(80.0, 0.002, 1).tolist() == pytest.approx([80.0])


def test_karras_is_even_in_the_root() -> None:
    torch.testing.assert_close(
        (N.karras(80.0, 0.002, 9, rho=5.0) ** 0.2).diff().std(),
        torch.tensor(0.0).double(),
        atol=1e-12,
        rtol=0,
    )


def test_beta_quantiles_equal_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    p = torch.linspace(0, 1, 201, dtype=torch.float64)
    torch.testing.assert_close(
        N.symmetric_beta_quantile(p),
        torch.from_numpy(stats.beta.ppf(p.numpy(), 0.6, 0.6)),
        atol=1e-6,
        rtol=0,
    )


@given(st.floats(0.01, 0.99), st.floats(0.1, 10), st.floats(0.1, 10))
@settings(max_examples=50, deadline=None)
def test_shifts_compose_by_product(t: float, a: float, b: float) -> None:
    x = torch.tensor(t, dtype=torch.float64)
    torch.testing.assert_close(N.shifted(N.shifted(x, a), b), N.shifted(x, a * b))
    # the ratio is multiplied
    torch.testing.assert_close(N.shifted(x, a) / (1 - N.shifted(x, a)), a * x / (1 - x))


def test_stretched_and_mu() -> None:
    t = torch.linspace(1, 0.05, 9, dtype=torch.float64)
    assert N.stretched(t, 0.1)[0] == 1 and N.stretched(t, 0.1)[-1] == pytest.approx(0.1)
    assert N.stretched(t[:1], 0.1).tolist() == [1.0]
    assert [N.resolution_mu(count, 256, 4096, 0.5, 1.15) for count in (256, 4096)] == pytest.approx(
        [0.5, 1.15]
    )
