"""Scheduler configs: the levels and times of diffusers for every class and spacing, its
trajectories step for step where nothing is drawn (and where something is, with the same draws), and
the right predecessors where it has wrong ones."""

import inspect
import math
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from daedal.errors import DaedalError
from daedal.processes import noise as N
from daedal.processes.noise import Level, Levels, noised
from daedal.processes.samplers import finished, sampler_named
from daedal.processes.schedulers import DEFAULTS, EQUIVALENT, Schedule, read

SD = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
PLAIN = {key: value for key, value in SD.items() if key != "steps_offset"}
STEPS = (4, 13, 28, 50)
SPACINGS = ("leading", "trailing", "linspace")
RESPACED = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")


def oracle(name: str) -> Any:
    """A class of diffusers, which is imported by the tests that need it."""
    return getattr(pytest.importorskip("diffusers"), name)


def ours(name: str, **config: Any) -> Schedule:
    return read({"_class_name": name, "_diffusers_version": "0.39.0", **config})


def theirs(name: str, steps: int, config: dict[str, Any], **how: Any) -> Any:
    scheduler = oracle(name)(**config)
    scheduler.set_timesteps(steps, **how)
    return scheduler


def their_levels(name: str, scheduler: Any) -> tuple[Tensor, Tensor]:
    """(sigma / alpha, or flow's sigma, (S+1,); times (S,)) of a diffusers scheduler, once a step."""
    times = torch.as_tensor(scheduler.timesteps).double()
    if name == "HeunDiscreteScheduler":  # two entries a step after the first
        return torch.cat([scheduler.sigmas[:1], scheduler.sigmas[1::2]]).double(), torch.cat(
            [times[:1], times[1::2]]
        )
    if hasattr(scheduler, "sigmas"):
        return scheduler.sigmas.double(), times
    times = torch.tensor(list(dict.fromkeys(times.tolist())))  # PNDM visits one twice
    last = (
        scheduler.final_alpha_cumprod
        if name in ("DDIMScheduler", "PNDMScheduler")
        else torch.tensor(1.0)
    )
    bar = torch.cat([scheduler.alphas_cumprod[times.long()], last.reshape(1)])
    return (((1 - bar) / bar) ** 0.5).double(), times.double()


def assert_levels(name: str, config: dict[str, Any], *counts: int) -> None:
    schedule, scheduler = ours(name, **config), oracle(name)(**config)
    # exponential and beta sigmas of solvers: times are cut off after the point, and at the first
    # diffusers finds 998.99 for 999
    off = name in ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler") and bool(
        {*RESPACED, "use_lu_lambdas"} & {*config}
    )
    for steps in counts:
        scheduler.set_timesteps(steps)
        levels, (ratio, times) = schedule.levels(steps), their_levels(name, scheduler)
        torch.testing.assert_close(levels.sigma / levels.alpha, ratio, rtol=1e-5, atol=0)
        torch.testing.assert_close(levels.time[int(off) : -1], times[int(off) :], rtol=0, atol=1e-3)
        assert (
            abs(float(levels.time[0] - times[0])) <= (1 if off else 1e-3) and levels.time[-1] == 0
        )


CASES: list[tuple[str, dict[str, Any]]] = [
    ("DDIMScheduler", {}),
    ("DDIMScheduler", dict(set_alpha_to_one=False)),
    ("DDPMScheduler", {}),
    ("PNDMScheduler", dict(skip_prk_steps=True)),
    ("PNDMScheduler", dict(skip_prk_steps=True, set_alpha_to_one=True)),
    ("EulerAncestralDiscreteScheduler", {}),
    ("DPMSolverMultistepScheduler", dict(use_lu_lambdas=True)),
    ("DPMSolverMultistepScheduler", dict(lambda_min_clipped=-1.5)),
]
for _name in (
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
):
    for _config in ({}, *({key: True} for key in RESPACED)):
        CASES.append(
            (_name, _config if "Heun" in _name else dict(_config, final_sigmas_type="sigma_min"))
        )
CASES += [
    (_name, {})
    for _name in (
        "EulerDiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "UniPCMultistepScheduler",
    )
]


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(("name", "config"), CASES)
def test_levels_equal_diffusers(name: str, config: dict[str, Any], spacing: str) -> None:
    assert_levels(name, dict(SD, timestep_spacing=spacing, **config), *STEPS)


@pytest.mark.parametrize(
    "betas",
    [
        {},
        dict(beta_schedule="squaredcos_cap_v2"),
        dict(trained_betas=[0.001 * (i + 1) for i in range(60)]),
    ],
)
def test_levels_of_other_betas_and_class_defaults(betas: dict[str, Any]) -> None:
    config = dict(betas, num_train_timesteps=60) if "trained_betas" in betas else betas
    for name, options in CASES:
        assert_levels(name, {**config, **options}, 13)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(
    "name",
    [
        "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "UniPCMultistepScheduler",
    ],
)
def test_zero_snr_levels(name: str, spacing: str) -> None:
    assert_levels(
        name,
        dict(
            SD,
            timestep_spacing=spacing,
            rescale_betas_zero_snr=True,
            prediction_type="v_prediction",
        ),
        *STEPS,
    )


def test_zero_snr_ddim_starts_from_pure_noise() -> None:
    config = dict(SD, rescale_betas_zero_snr=True, timestep_spacing="trailing")
    levels = ours("DDIMScheduler", **config, prediction_type="v_prediction").levels(4)
    assert levels.alpha[0] == 0 and levels.sigma[0] == 1
    with pytest.raises(DaedalError, match="prediction_type epsilon"):
        ours("DDIMScheduler", **config).levels(4)


@pytest.mark.parametrize("steps", (1, 2, 4, 8, 28, 50))
def test_lcm_levels(steps: int) -> None:
    for config in ({}, dict(original_inference_steps=100)):
        ratio, times = their_levels("LCMScheduler", theirs("LCMScheduler", steps, config))
        levels = ours("LCMScheduler", **config).levels(steps)
        torch.testing.assert_close(levels.sigma / levels.alpha, ratio, rtol=2e-6, atol=0)
        assert levels.time[:-1].tolist() == times.tolist()
    with pytest.raises(DaedalError, match="distilled"):
        ours("LCMScheduler").levels(51)


FLOW = [
    {},
    dict(shift=3.0),
    dict(shift=3.0, shift_terminal=0.1),
    dict(shift=3.0, use_karras_sigmas=True),
    dict(use_exponential_sigmas=True),
    dict(use_beta_sigmas=True),
    dict(use_dynamic_shifting=True),
    dict(use_dynamic_shifting=True, time_shift_type="linear", shift_terminal=0.02),
]


@pytest.mark.parametrize("config", FLOW)
def test_flow_levels_equal_diffusers(config: dict[str, Any]) -> None:
    name = "FlowMatchEulerDiscreteScheduler"
    how = dict(mu=0.8) if config.get("use_dynamic_shifting") else {}
    for steps in STEPS:
        for evenly_spaced in (False, True):
            sigmas = dict(sigmas=[1 - i / steps for i in range(steps)]) if evenly_spaced else {}
            scheduler = theirs(name, steps, config, **how, **sigmas)
            levels = ours(name, **config).levels(steps, evenly_spaced=evenly_spaced, **how)
            torch.testing.assert_close(levels.sigma, scheduler.sigmas.double(), rtol=0, atol=1e-6)
            torch.testing.assert_close(
                levels.time[:-1] * 1000, scheduler.timesteps.double(), rtol=0, atol=1e-3
            )
            torch.testing.assert_close(levels.alpha, 1 - levels.sigma)


def test_the_static_shift_is_applied_twice_at_the_clean_end() -> None:
    """The trap of notes 5.2: the last level is shift of (the least trained time, shifted), not
    shift of the least trained time."""
    levels = ours("FlowMatchEulerDiscreteScheduler", shift=3.0).levels(28)
    once = N.shifted(torch.tensor(0.001).double(), 3.0)
    torch.testing.assert_close(levels.sigma[-2], N.shifted(once, 3.0))
    torch.testing.assert_close(levels.sigma[1], N.shifted(1 - (1 - once) / 27, 3.0))


def test_dynamic_shift_wants_tokens() -> None:
    schedule = ours("FlowMatchEulerDiscreteScheduler", use_dynamic_shifting=True)
    for tokens in (256, 1024, 4096):
        mu = 0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256)
        assert torch.equal(
            schedule.levels(28, tokens=tokens).sigma, schedule.levels(28, mu=mu).sigma
        )
    with pytest.raises(DaedalError, match="tokens"):
        schedule.levels(28)


@pytest.mark.parametrize("name", ["UniPCMultistepScheduler", "DPMSolverMultistepScheduler"])
@pytest.mark.parametrize("config", [{}, dict(flow_shift=3.0), dict(use_dynamic_shifting=True)])
def test_solver_flow_levels_equal_diffusers(name: str, config: dict[str, Any]) -> None:
    config = dict(config, use_flow_sigmas=True, prediction_type="flow_prediction")
    how = dict(mu=0.8) if config.get("use_dynamic_shifting") else {}
    for steps in STEPS:
        scheduler = theirs(name, steps, config, **how)
        levels = ours(name, **config).levels(steps, **how)
        torch.testing.assert_close(levels.sigma, scheduler.sigmas.double(), rtol=0, atol=1e-6)
        assert (levels.time[:-1] * 1000).round().tolist() == scheduler.timesteps.tolist()


def test_unipc_flow_karras_and_terminal() -> None:
    for options in (
        dict(use_karras_sigmas=True, sigma_max=200.0, sigma_min=0.01),
        dict(shift_terminal=0.1),
        dict(final_sigmas_type="sigma_min"),
    ):
        config = dict(options, use_flow_sigmas=True, prediction_type="flow_prediction")
        scheduler, levels = (
            theirs("UniPCMultistepScheduler", 13, config),
            ours("UniPCMultistepScheduler", **config).levels(13),
        )
        torch.testing.assert_close(levels.sigma, scheduler.sigmas.double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
@pytest.mark.parametrize(
    "config",
    [
        {},
        dict(sigma_schedule="exponential"),
        dict(rho=5.0, sigma_max=20.0, final_sigmas_type="sigma_min"),
    ],
)
def test_edm_levels(name: str, config: dict[str, Any]) -> None:
    for steps in STEPS:
        scheduler, levels = theirs(name, steps, config), ours(name, **config).levels(steps)
        torch.testing.assert_close(levels.sigma, scheduler.sigmas.double(), rtol=1e-4, atol=0)
        torch.testing.assert_close(
            levels.time[:-1], scheduler.timesteps.double(), rtol=1e-4, atol=1e-5
        )
        assert (levels.alpha == 1).all()


def test_continuous_times() -> None:
    """Stable Video Diffusion: EDM's times and sigmas on a v network."""
    config = dict(
        SD,
        timestep_type="continuous",
        prediction_type="v_prediction",
        use_karras_sigmas=True,
        sigma_min=0.002,
        sigma_max=700.0,
    )
    scheduler, levels = (
        theirs("EulerDiscreteScheduler", 25, config),
        ours("EulerDiscreteScheduler", **config).levels(25),
    )
    torch.testing.assert_close(
        levels.sigma / levels.alpha, scheduler.sigmas.double(), rtol=1e-5, atol=0
    )
    torch.testing.assert_close(levels.time[:-1], scheduler.timesteps.double(), rtol=1e-5, atol=1e-6)


# -- trajectories ----------------------------------------------------------------------------------


def network(x: Tensor, time: float) -> Tensor:
    return torch.tanh(0.8 * x.flip(-1) + math.sin(time)) + 0.1 * x


def draws(seed: int = 0) -> Any:
    g = torch.Generator().manual_seed(seed)
    return g, lambda: torch.randn(2, 3, 4, 4, generator=g)


def our_run(name: str, steps: int, config: dict[str, Any], told: float = 1.0, **how: Any) -> Tensor:
    schedule = ours(name, **config)
    levels, (_, draw) = schedule.levels(steps, **how), draws(1)

    def denoise(x: Tensor, level: Level) -> Tensor:
        output = network(schedule.parametrisation.scaled(x, level), float(level.time) * told)
        return schedule.limit(schedule.parametrisation.denoised(output, x, level), x, level)

    return sampler_named(schedule.sampler)(
        denoise, schedule.start(draws(0)[1](), levels), levels, draw
    )


def their_run(
    name: str, steps: int, config: dict[str, Any], how: dict[str, Any] | None = None, **options: Any
) -> Tensor:
    scheduler, (g, _) = theirs(name, steps, config, **(how or {})), draws(1)
    x = draws(0)[1]() * getattr(scheduler, "init_noise_sigma", 1.0)
    if "generator" in scheduler.step.__code__.co_varnames:
        options["generator"] = g
    for time in scheduler.timesteps:
        seen = (
            scheduler.scale_model_input(x, time) if hasattr(scheduler, "scale_model_input") else x
        )
        x = scheduler.step(network(seen, float(time)), time, x, **options).prev_sample
    return x


V = dict(prediction_type="v_prediction")
RUNS: list[tuple[str, dict[str, Any]]] = [
    ("DDIMScheduler", dict(SD, clip_sample=False)),
    ("DDIMScheduler", dict(SD, **V, clip_sample=False, set_alpha_to_one=False)),
    ("DDPMScheduler", dict(SD, clip_sample=False)),
    ("DDPMScheduler", dict(SD, clip_sample=True, variance_type="fixed_large")),
    ("DDPMScheduler", dict(SD, thresholding=True, sample_max_value=1.5, clip_sample=True)),
    ("EulerDiscreteScheduler", dict(SD, timestep_spacing="leading")),
    ("EulerDiscreteScheduler", dict(SD, **V, use_karras_sigmas=True)),
    ("EulerAncestralDiscreteScheduler", dict(SD, timestep_spacing="trailing")),
    ("HeunDiscreteScheduler", dict(SD, clip_sample=True, clip_sample_range=2.0)),
    ("HeunDiscreteScheduler", dict(SD, **V, use_karras_sigmas=True)),
    ("DPMSolverMultistepScheduler", dict(SD)),
    ("DPMSolverMultistepScheduler", dict(SD, **V, use_karras_sigmas=True)),
    ("DPMSolverMultistepScheduler", dict(SD, thresholding=True, prediction_type="sample")),
    ("DPMSolverMultistepScheduler", dict(SD, solver_type="heun", timestep_spacing="trailing")),
    # below 15 steps, the last is of first order
    ("DPMSolverMultistepScheduler", dict(SD, final_sigmas_type="sigma_min")),
    ("DPMSolverMultistepScheduler", dict(SD, solver_order=1)),
    ("DPMSolverMultistepScheduler", dict(SD, algorithm_type="sde-dpmsolver++")),
    ("DPMSolverMultistepScheduler", dict(SD, algorithm_type="sde-dpmsolver++", solver_type="heun")),
    ("DPMSolverMultistepScheduler", dict(SD, algorithm_type="sde-dpmsolver++", solver_order=1)),
    ("UniPCMultistepScheduler", dict(SD)),
    (
        "UniPCMultistepScheduler",
        dict(SD, **V, solver_order=3, use_karras_sigmas=True, final_sigmas_type="sigma_min"),
    ),
    ("LCMScheduler", {}),
    ("LCMScheduler", dict(timestep_scaling=0.01, clip_sample=True)),
    ("EDMEulerScheduler", {}),
    ("EDMEulerScheduler", dict(**V, sigma_data=0.8)),
    ("EDMDPMSolverMultistepScheduler", {}),
    ("EDMDPMSolverMultistepScheduler", dict(algorithm_type="sde-dpmsolver++")),
]


@pytest.mark.parametrize("steps", [4, 20])
@pytest.mark.parametrize(("name", "config"), RUNS)
def test_trajectories_equal_diffusers(name: str, config: dict[str, Any], steps: int) -> None:
    # which in diffusers leaves noise in the image where the last time is not 0
    if name == "DDPMScheduler":
        config = dict(config, timestep_spacing="linspace")
    torch.testing.assert_close(
        our_run(name, steps, config), their_run(name, steps, config), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize(
    "config", [{}, dict(shift=3.0), dict(stochastic_sampling=True), dict(use_dynamic_shifting=True)]
)
def test_flow_trajectories_equal_diffusers(config: dict[str, Any]) -> None:
    name, how = (
        "FlowMatchEulerDiscreteScheduler",
        dict(mu=0.7) if "use_dynamic_shifting" in config else {},
    )
    torch.testing.assert_close(
        our_run(name, 9, config, told=1000, **how),
        their_run(name, 9, config, how),
        rtol=1e-3,
        atol=1e-3,
    )


@pytest.mark.parametrize("name", ["UniPCMultistepScheduler", "DPMSolverMultistepScheduler"])
def test_solver_flow_trajectories_equal_diffusers(name: str) -> None:
    config = dict(use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction")
    torch.testing.assert_close(
        our_run(name, 9, config, told=1000), their_run(name, 9, config), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
def test_ddim_steps_end_at_the_next_level(spacing: str) -> None:
    """diffusers' DDIM steps to time - 1000 // steps instead (issues 9261, 11347, 12633); its Euler
    class, which is the same method, does not."""
    config = dict(SD, timestep_spacing=spacing)
    # where linspace times are whole, or nearly
    for steps in (4, 13) if spacing == "trailing" else (4, 10, 28):
        mine, wrong = (
            our_run("DDIMScheduler", steps, dict(config, clip_sample=False)),
            their_run("DDIMScheduler", steps, dict(config, clip_sample=False)),
        )
        schedule = ours("DDIMScheduler", **config, clip_sample=False)
        times = schedule.levels(steps).time[:-1]
        euler = oracle("EulerDiscreteScheduler")(**config)
        euler.set_timesteps(timesteps=times.tolist())
        x = draws(0)[1]() * float((1 + euler.sigmas[0] ** 2) ** 0.5)
        for time in euler.timesteps:
            x = euler.step(
                network(euler.scale_model_input(x, time), float(time)), time, x
            ).prev_sample
        torch.testing.assert_close(mine, x, rtol=1e-3, atol=1e-3)
        if steps != 4 or spacing != "trailing":  # 250 divides 1000: there alone it was right
            assert (wrong - x).abs().max() > 5e-3


def test_clipped_ddim_takes_its_noise_from_the_clipped_image() -> None:
    config = dict(SD, clip_sample=True)
    want = their_run("DDIMScheduler", 20, config, use_clipped_model_output=True)
    torch.testing.assert_close(our_run("DDIMScheduler", 20, config), want, rtol=1e-3, atol=1e-3)


def test_learned_variance_equals_diffusers() -> None:
    """DeepFloyd IF: the network's second half of channels places the log-variance."""
    config = dict(
        beta_schedule="squaredcos_cap_v2",
        variance_type="learned_range",
        thresholding=True,
        sample_max_value=1.5,
    )
    schedule, scheduler, (g, _) = (
        ours("DDPMScheduler", **config),
        theirs("DDPMScheduler", 10, config),
        draws(1),
    )
    assert schedule.learned_variance and schedule.sampler == "ddpm"

    def both(x: Tensor, time: float) -> Tensor:
        return torch.cat([network(x, time), torch.cos(x + time)], 1)

    x = draws(0)[1]()
    for time in scheduler.timesteps:
        x = scheduler.step(both(x, float(time)), int(time), x, generator=g).prev_sample
    part = torch.zeros(())

    def denoise(x: Tensor, level: Level) -> Tensor:
        nonlocal part
        output, variance = both(x, float(level.time)).chunk(2, 1)
        part = (variance + 1) / 2
        return schedule.limit(schedule.parametrisation.denoised(output, x, level), x, level)

    mine = sampler_named("ddpm")(
        denoise, draws(0)[1](), schedule.levels(10), draws(1)[1], large=lambda: part
    )
    torch.testing.assert_close(mine, x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "name",
    [
        "DDIMScheduler",
        "EulerDiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "FlowMatchEulerDiscreteScheduler",
    ],
)
def test_image_to_image_noise_equals_diffusers(name: str) -> None:
    """Noised at the first of the last levels, up to the scale that diffusers' Euler classes give x."""
    scheduler, levels = theirs(name, 20, {}), ours(name).levels(20).tail(0.6)
    x0, eps = draws(0)[1](), draws(1)[1]()
    time = scheduler.timesteps[8:9]
    want = (
        scheduler.scale_noise(x0, time, eps)
        if name.startswith("Flow")
        else scheduler.add_noise(x0, eps, time)
    )
    scale = levels[0].alpha if name.startswith("Euler") else 1
    torch.testing.assert_close(noised(x0, eps, levels[0]), want * scale, rtol=1e-4, atol=1e-4)


# -- reading ---------------------------------------------------------------------------------------


def test_the_file_of_stable_diffusion() -> None:
    """Keys of other classes stand in it, and are ignored; what it leaves out is listed."""
    raw = dict(
        _class_name="PNDMScheduler", _diffusers_version="0.6.0", beta_end=0.012, beta_schedule="scaled_linear", beta_start=0.00085, clip_sample=False,
        num_train_timesteps=1000, set_alpha_to_one=False, skip_prk_steps=True, steps_offset=1, trained_betas=None,
    )  # fmt: skip
    schedule = read(raw)
    assert (
        schedule.sampler == "dpmpp_2m"
        and isinstance(schedule.parametrisation, N.Eps)
        and "clip_sample" not in schedule.config
    )
    assert sorted(schedule.defaulted) == ["prediction_type", "timestep_spacing"]
    assert (
        schedule.levels(4).time.tolist() == [751, 501, 251, 1, 0]
        and 0 < schedule.levels(4).sigma[-1] < 0.03
    )


def test_every_class_has_the_defaults_of_diffusers() -> None:
    for name, config in DEFAULTS.items():
        parameters = inspect.signature(oracle(name).__init__).parameters
        # a stand-in for a class whose own dependency is not installed
        if "kwargs" not in parameters:
            assert config == {key: p.default for key, p in parameters.items() if key != "self"}, (
                name
            )


def test_every_class_gives_levels_and_a_sampler() -> None:
    for name in DEFAULTS:
        schedule = ours(name)
        levels = schedule.levels(7)
        assert (
            levels.steps == 7 and sampler_named(schedule.sampler) and (levels.lam.diff() >= 0).all()
        )
        assert schedule.start(torch.ones(2, 1, 2, 2), levels).shape == (2, 1, 2, 2)


def test_classes_that_are_another_by_equivalence() -> None:
    """Every key that diffusers writes for them is read, and the levels are those of the other."""
    for name, (other, sampler) in EQUIVALENT.items():
        schedule = read({**oracle(name)().config, "_class_name": name})
        assert schedule.name == other and schedule.sampler == sampler and sampler_named(sampler)
        assert schedule.levels(7).steps == 7
    for name in ("LMSDiscreteScheduler", "DEISMultistepScheduler", "DPMSolverSinglestepScheduler"):
        sigmas, times = their_levels(name, theirs(name, 9, SD if "LMS" in name else PLAIN))
        levels = ours(name, **(SD if "LMS" in name else PLAIN)).levels(9)
        torch.testing.assert_close(levels.sigma / levels.alpha, sigmas, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(levels.time[:-1].round(), times.round(), rtol=0, atol=1)


def test_mistakes_are_named() -> None:
    with pytest.raises(DaedalError, match="did you mean 'DDIMScheduler'"):
        read({"_class_name": "DDIMSheduler"})
    with pytest.raises(DaedalError, match="did you mean 'steps_offset'"):
        ours("DDIMScheduler", step_offset=1)
    with pytest.raises(DaedalError, match="invert_sigmas=True is not supported"):
        ours("FlowMatchEulerDiscreteScheduler", invert_sigmas=True)
    with pytest.raises(DaedalError, match="did you mean 'v_prediction'"):
        ours("DDIMScheduler", prediction_type="v_predict")
    with pytest.raises(DaedalError, match="solver_order=4"):
        ours("DPMSolverMultistepScheduler", solver_order=4)
    with pytest.raises(DaedalError, match="from 1 to 1000"):
        ours("DDIMScheduler").levels(0)


def test_starting_noise_has_the_spread_diffusers_gives_it() -> None:
    for name, config in [
        ("DDIMScheduler", {}),
        ("EulerDiscreteScheduler", {}),
        ("EulerDiscreteScheduler", dict(timestep_spacing="leading")),
    ]:
        schedule, scheduler = ours(name, **SD, **config), theirs(name, 13, dict(SD, **config))
        levels: Levels = schedule.levels(13)
        alpha = levels[0].alpha if name.startswith("Euler") else 1.0
        assert float(schedule.start(torch.ones(1), levels)) == pytest.approx(
            float(scheduler.init_noise_sigma) * alpha, rel=1e-5
        )


@pytest.mark.parametrize("kind", ["DDIM", "DPM"])
def test_cogvideox_is_stepped_as_in_diffusers_but_for_its_noise(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"CogVideoX{kind}Scheduler"
    config = dict(prediction_type="v_prediction", timestep_spacing="trailing")
    config |= dict(rescale_betas_zero_snr=True)
    schedule, stepper = ours(name, **config), theirs(name, 10, config)
    torch.manual_seed(0)
    matrix, x = (torch.randn(16, 16, dtype=torch.float64) * scale for scale in (0.3, 1))

    def network(x: Tensor, time: Any) -> Tensor:
        return torch.tanh(x @ matrix + time / 1000)

    module = sys.modules[type(stepper).__module__]
    monkeypatch.setattr(
        module, "randn_tensor", lambda shape, **_: torch.zeros(shape).double(), raising=False
    )
    wanted, old, before = x, None, None
    for time in stepper.timesteps:
        output = network(wanted, time)
        if kind == "DPM":
            wanted, old = stepper.step(output, old, time, before, wanted)
        else:
            wanted = stepper.step(output, time, wanted).prev_sample
        before = time

    def denoise(x: Tensor, level: Level) -> Tensor:
        return schedule.parametrisation.denoised(network(x, level.time), x, level)

    sampler, levels = sampler_named(schedule.sampler), schedule.levels(10)
    made = finished(sampler.steps(denoise, x, levels, lambda: torch.zeros_like(x)), None)
    assert (made - wanted).abs().max() < 1e-5
