"""`scheduler_config.json` of a diffusers folder, read: what the network's output means, which
levels to visit, which sampler is meant.

    schedule = read(config)                       # the parsed json; `_class_name` says whose keys
    and defaults hold
    levels = schedule.levels(28, tokens=1024)
    x = schedule.start(noise, levels)
    x = sampler_named(schedule.sampler)(denoise, x, levels, draw, on_step)

where denoise(x, level) feeds the network `schedule.parametrisation.scaled(x, level)` and
level.time, makes x0 of its output with `denoised`, guides, and passes the result through
`schedule.limit`. Levels and times are those of diffusers, which runs its Euler and Heun classes on
x / alpha: here they have the same sigma / alpha on variance-preserving levels, and since samplers
do not see the scale, the same images. They differ where diffusers is wrong: DDIM's and PNDM's steps
end at the next time of the list, not at time - N // steps, which for trailing and linspace spacing
is another (diffusers issues 9261, 11347, 12633); DDPM leaves no noise in the image when the last
time is not 0; the third-order DPM-Solver is of third order (see `samplers.extrapolated`). DDIM with
clipping takes eps from the clipped x0.

Keys a class does not know, but another does, are ignored: folders carry them over. A key that none
knows is an error."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from daedal.errors import DaedalError, nearest
from daedal.processes import noise as N
from daedal.processes.guidance import dynamic_threshold
from daedal.processes.noise import DiscreteAxis, Level, Levels, Parametrisation

Config = dict[str, Any]

DISCRETE: Config = dict(num_train_timesteps=1000, prediction_type="epsilon", steps_offset=0)
DISCRETE |= dict(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", trained_betas=None)
CLIP: Config = dict(clip_sample=True, clip_sample_range=1.0)
THRESHOLD: Config = dict(thresholding=False, dynamic_thresholding_ratio=0.995, sample_max_value=1.0)
RESPACED: Config = dict.fromkeys(
    ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"), False
)
LINSPACE: Config = DISCRETE | dict(timestep_spacing="linspace")
LEADING: Config = DISCRETE | dict(timestep_spacing="leading")
ZERO_SNR: Config = dict(rescale_betas_zero_snr=False)
SOLVER: Config = dict(solver_order=2, algorithm_type="dpmsolver++", solver_type="midpoint")
SOLVER |= dict(final_sigmas_type="zero", lower_order_final=True, euler_at_final=False)
FLOW_SIGMAS: Config = dict(use_flow_sigmas=False, flow_shift=1.0, use_dynamic_shifting=False)
FLOW_SIGMAS |= dict(time_shift_type="exponential")
EDM_SIGMAS: Config = dict(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5, rho=7.0)
EDM_SIGMAS |= dict(sigma_schedule="karras", num_train_timesteps=1000, prediction_type="epsilon")
EDM_SIGMAS |= dict(final_sigmas_type="zero")
# Stable Audio's: the levels are EDM's, the time the angle between sound and noise, as on a cosine
# schedule
COSINE: Config = EDM_SIGMAS | SOLVER | dict(sigma_min=0.3, sigma_max=500, sigma_data=1.0)
COSINE |= dict(sigma_schedule="exponential", prediction_type="v_prediction")
COSINE |= dict(algorithm_type="sde-dpmsolver++")
SD_BETAS: Config = dict(beta_start=0.00085, beta_end=0.012)
CONSISTENCY: Config = dict(clip_sample=False, beta_schedule="scaled_linear", set_alpha_to_one=True)
CONSISTENCY |= dict(original_inference_steps=50, timestep_scaling=10.0)
EULER: Config = dict(sigma_min=None, sigma_max=None, final_sigmas_type="zero")
EULER |= dict(timestep_type="discrete", interpolation_type="linear")
MULTISTEP = LINSPACE | RESPACED | ZERO_SNR | THRESHOLD | FLOW_SIGMAS
LAMBDAS: Config = dict(use_lu_lambdas=False, lambda_min_clipped=-math.inf, variance_type=None)
COG: Config = ZERO_SNR | SD_BETAS | dict(beta_schedule="scaled_linear", set_alpha_to_one=True)
COG |= CLIP | dict(snr_shift_scale=3.0, sample_max_value=1.0)
UNIPC: Config = dict(solver_order=2, solver_type="bh2", final_sigmas_type="zero")
UNIPC |= dict(predict_x0=True, lower_order_final=True, disable_corrector=[], solver_p=None)
UNIPC |= dict(sigma_min=None, sigma_max=None, shift_terminal=None)
FLOW_MATCH: Config = dict(num_train_timesteps=1000, shift=1.0, use_dynamic_shifting=False)
FLOW_MATCH |= dict(base_shift=0.5, max_shift=1.15, base_image_seq_len=256, max_image_seq_len=4096)
FLOW_MATCH |= dict(invert_sigmas=False, shift_terminal=None, stochastic_sampling=False)
FLOW_MATCH |= dict(time_shift_type="exponential")

DEFAULTS: dict[str, Config] = {  # a key left out of the file means the default of its class
    "DDIMScheduler": LEADING | CLIP | THRESHOLD | ZERO_SNR | dict(set_alpha_to_one=True),
    "DDPMScheduler": LEADING | CLIP | THRESHOLD | ZERO_SNR | dict(variance_type="fixed_small"),
    **dict.fromkeys(("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"), LEADING | COG),
    "PNDMScheduler": LEADING | dict(set_alpha_to_one=False, skip_prk_steps=False),
    "LCMScheduler": LEADING | CLIP | THRESHOLD | ZERO_SNR | SD_BETAS | CONSISTENCY,
    "EulerDiscreteScheduler": LINSPACE | RESPACED | ZERO_SNR | EULER,
    "EulerAncestralDiscreteScheduler": LINSPACE | ZERO_SNR,
    "HeunDiscreteScheduler": LINSPACE | RESPACED | (CLIP | dict(clip_sample=False)) | SD_BETAS,
    "DPMSolverSDEScheduler": LINSPACE | RESPACED | SD_BETAS | dict(noise_sampler_seed=None),
    "DPMSolverMultistepScheduler": MULTISTEP | SOLVER | LAMBDAS,
    "UniPCMultistepScheduler": MULTISTEP | UNIPC,
    "FlowMatchEulerDiscreteScheduler": RESPACED | FLOW_MATCH,
    "EDMEulerScheduler": EDM_SIGMAS,
    "EDMDPMSolverMultistepScheduler": EDM_SIGMAS | SOLVER | THRESHOLD,
    "CosineDPMSolverMultistepScheduler": COSINE,
}

# Classes with the levels of another, and the sampler here that solves the same equation.
EQUIVALENT: dict[str, tuple[str, str]] = {
    "DDIMParallelScheduler": ("DDIMScheduler", "ddim"),
    "DDPMParallelScheduler": ("DDPMScheduler", "ddpm"),
    "DEISMultistepScheduler": ("DPMSolverMultistepScheduler", "dpmpp_2m"),
    "DPMSolverSinglestepScheduler": ("DPMSolverMultistepScheduler", "dpmpp_2m"),
    "LMSDiscreteScheduler": ("EulerDiscreteScheduler", "dpmpp_2m"),
    "KDPM2DiscreteScheduler": ("HeunDiscreteScheduler", "heun"),
    "KDPM2AncestralDiscreteScheduler": ("EulerAncestralDiscreteScheduler", "euler_ancestral"),
    "FlowMatchHeunDiscreteScheduler": ("FlowMatchEulerDiscreteScheduler", "heun"),
}
EXPLODING = ("EDM", "CosineDPM")  # classes on variance-exploding levels begin so
ENDS_EARLY = ("DEISMultistepScheduler",)  # at the least noise trained on, not at none
SOLVER_TYPES = ("midpoint", "logrho", "bh1", "bh2")
OWN = ("algorithm_type", "solver_type", "disable_corrector")  # of these classes, to themselves
# keys whose other values nothing here computes
ONLY: Config = dict(interpolation_type="linear", invert_sigmas=False, predict_x0=True)
ONLY |= dict(disable_corrector=[], solver_p=None)

PARAMETRISATIONS: dict[str, Callable[[], Parametrisation]] = {
    "epsilon": N.Eps,
    "v_prediction": N.V,
    "sample": N.X0,
    "flow_prediction": N.Flow,
}


@dataclass(frozen=True)
class Schedule:
    """A scheduler config with every key filled in. `defaulted` names those the file did not give."""

    name: str
    config: Config
    defaulted: tuple[str, ...]
    parametrisation: Parametrisation
    sampler: str  # a name in samplers.SAMPLERS

    def levels(
        self,
        steps: int,
        *,
        tokens: int | None = None,
        mu: float | None = None,
        evenly_spaced: bool = False,
    ) -> Levels:
        """The levels of a run of so many steps. A flow model with dynamic shifting asks for the
        image's `tokens`, or their `mu` outright. `evenly_spaced` starts a flow model's times from
        1, (steps - 1) / steps, ..., 1 / steps, as the pipelines of FLUX do, not from the trained
        ones."""
        count = self.config["num_train_timesteps"]
        if not 1 <= steps <= count:
            raise DaedalError(
                f"steps={steps} must be from 1 to {count}, the times the model was trained at."
            )
        if self.name.startswith("FlowMatch"):
            return flow_levels(self.config, steps, tokens, mu, evenly_spaced)
        if self.config.get("use_flow_sigmas"):
            return solver_flow_levels(self.config, steps, mu)
        levels = LEVELS[self.name](self.config, steps)
        if isinstance(self.parametrisation, N.Eps) and not levels.alpha[0]:
            raise DaedalError(
                "a network that predicts noise (prediction_type epsilon) cannot start from pure noise (rescale_betas_zero_snr)."
            )
        return levels

    def start(self, noise: Tensor, levels: Levels) -> Tensor:
        """Noise at the first level, when there is no image: of the spread diffusers gives it."""
        first = levels[0]
        if self.name.startswith(EXPLODING):
            return noise * (first.sigma**2 + 1) ** 0.5
        if LEVELS.get(self.name) is euler_levels and self.config["timestep_spacing"] != "leading":
            return noise * first.sigma
        return noise

    def limit(self, x0: Tensor, x: Tensor, level: Level) -> Tensor:
        """What the config wants done to a (guided) x0: thresholded, clipped, or held to x near
        clean as consistency models are."""
        c = self.config
        if c.get("thresholding"):
            x0 = dynamic_threshold(x0, c["dynamic_thresholding_ratio"], c["sample_max_value"])
        elif c.get("clip_sample") and "snr_shift_scale" not in c:  # CogVideoX's do not
            x0 = x0.clamp(-c["clip_sample_range"], c["clip_sample_range"])
        if "timestep_scaling" in c:  # Luo et al. 2023, section 4.1, with sigma_data 1/2
            scaled = 2 * level.time * c["timestep_scaling"]
            x0 = (x + scaled * (scaled**2 + 1) ** 0.5 * x0) / (scaled**2 + 1)
        return x0

    @property
    def learned_variance(self) -> bool:
        """Whether the network's second half of channels is where `samplers.ddpm` puts its variance,
        from -1 to 1."""
        return self.config.get("variance_type") in ("learned", "learned_range")


def read(raw: Config) -> Schedule:
    """The schedule of a parsed scheduler_config.json."""
    name = str(raw.get("_class_name"))
    if name in EQUIVALENT:
        name, sampler = EQUIVALENT[name]
        own = {key: value for key, value in raw.items() if key not in OWN}
        last = {"final_sigmas_type": "sigma_min"} if raw["_class_name"] in ENDS_EARLY else {}
        return replace(read({**own, **last, "_class_name": name}), sampler=sampler)
    if name not in DEFAULTS:
        raise DaedalError(
            f"scheduler {name!r} is not known{nearest(name, list(DEFAULTS))}; known are {', '.join(DEFAULTS)}."
        )
    given = {key: value for key, value in raw.items() if not key.startswith("_")}
    known = sorted(set().union(*DEFAULTS.values()))
    if unknown := [key for key in given if key not in known]:
        raise DaedalError(
            f"scheduler_config.json has a key {unknown[0]!r} that no scheduler knows{nearest(unknown[0], known)}."
        )
    config = {key: given.get(key, default) for key, default in DEFAULTS[name].items()}
    for key, value in ONLY.items():
        if key in config and config[key] != value:
            raise DaedalError(
                f"{name} with {key}={config[key]!r} is not supported, only {value!r}."
            )
    defaulted = tuple(key for key in config if key not in given)
    return Schedule(name, config, defaulted, parametrisation(name, config), SAMPLER[name](config))


def parametrisation(name: str, c: Config) -> Parametrisation:
    if name.startswith("FlowMatch"):
        return N.Flow()
    if name.startswith(EXPLODING):
        sign = pick(c, "prediction_type", {"epsilon": 1.0, "v_prediction": -1.0})
        return N.EDM(c["sigma_data"], sign)
    return pick(c, "prediction_type", PARAMETRISATIONS)()


def pick(c: Config, key: str, table: dict[Any, Any]) -> Any:
    """The entry of a table for the value a config gives to a key."""
    if c[key] not in table:
        known = [str(value) for value in table]
        raise DaedalError(
            f"{key}={c[key]!r} is not known{nearest(str(c[key]), known)}; known are {', '.join(known)}."
        )
    return table[c[key]]


# -- the sampler a class stands for ----------------------------------------------------------------


def dpm_sampler(c: Config) -> str:
    """The eps form of DPM-Solver solves the same ODE to the same order, and is run in the x0 form."""
    plain = dict.fromkeys(("dpmsolver++", "dpmsolver", "deis"), "")
    noisy = dict.fromkeys(("sde-dpmsolver++", "sde-dpmsolver"), "_sde")
    sde = pick(c, "algorithm_type", plain | noisy)
    # other values of solver_type come from other classes
    form = pick(c, "solver_type", dict.fromkeys(SOLVER_TYPES, "") | {"heun": "_heun"})
    first = "euler_ancestral" if sde else "euler"
    return pick(c, "solver_order", {1: first, 2: f"dpmpp_2m{sde}{form}", 3: f"dpmpp_3m{sde}"})


def unipc_sampler(c: Config) -> str:
    pick(c, "solver_type", dict.fromkeys(("bh2", "midpoint", "heun", "logrho")))
    return pick(c, "solver_order", {2: "unipc", 3: "unipc_3"})


def ddpm_sampler(c: Config) -> str:
    small = dict.fromkeys(("fixed_small", "fixed_small_log", "learned_range"), "ddpm")
    return pick(c, "variance_type", small | {"fixed_large": "ddpm_large"})


SAMPLER: dict[str, Callable[[Config], str]] = {
    "DDIMScheduler": lambda c: "ddim",
    "DDPMScheduler": ddpm_sampler,
    "CogVideoXDDIMScheduler": lambda c: "ddim",
    "CogVideoXDPMScheduler": lambda c: "dpmpp_2m_sde",
    # PNDM is a multistep method of old; this one needs no warm-up
    "PNDMScheduler": lambda c: "dpmpp_2m",
    "LCMScheduler": lambda c: "lcm",
    "EulerDiscreteScheduler": lambda c: "euler",
    "EulerAncestralDiscreteScheduler": lambda c: "euler_ancestral",
    "HeunDiscreteScheduler": lambda c: "heun",
    # one denoising a step, not two, and no Brownian tree
    "DPMSolverSDEScheduler": lambda c: "dpmpp_2m_sde",
    "DPMSolverMultistepScheduler": dpm_sampler,
    "UniPCMultistepScheduler": unipc_sampler,
    "FlowMatchEulerDiscreteScheduler": lambda c: "lcm" if c["stochastic_sampling"] else "euler",
    "EDMEulerScheduler": lambda c: "euler",
    "EDMDPMSolverMultistepScheduler": dpm_sampler,
    "CosineDPMSolverMultistepScheduler": dpm_sampler,
}


# -- the levels of a class -------------------------------------------------------------------------


def trained_axis(c: Config, finite: bool = False) -> DiscreteAxis:
    """The axis of the betas. With zero terminal SNR the last ratio is infinite or, `finite`, the
    2^12 that diffusers puts in its place. Products are taken in float32 as diffusers takes them:
    near clean, 1 - alpha_bar keeps four digits of it, and times cut off after the point would come
    out one off elsewise."""
    if c["trained_betas"] is not None:
        betas = torch.tensor(c["trained_betas"], dtype=torch.float64)
    else:
        ends, count = (c["beta_start"], c["beta_end"]), c["num_train_timesteps"]
        betas = N.betas_named(c["beta_schedule"], *ends, count)
    alpha_bar = (1 - betas.float()).cumprod(0)
    if (scale := c.get("snr_shift_scale")) is not None:  # Esser et al. 2024, section 5.3.2
        alpha_bar = alpha_bar / (scale + (1 - scale) * alpha_bar)
    if c.get("rescale_betas_zero_snr"):
        alpha_bar = N.zero_terminal_snr(alpha_bar).clamp(min=2.0**-24 if finite else 0)
    return DiscreteAxis.from_alpha_bar(alpha_bar)


def extended(values: Tensor, last: float | Tensor) -> Tensor:
    """Values (S,) and one more."""
    return torch.cat([values, torch.as_tensor(last, dtype=torch.float64).reshape(1)])


def respaced(c: Config, high: float, low: float, steps: int) -> Tensor | None:
    """Sigmas (S,) between two if the config asks for them to be spaced anew."""
    high, low = c.get("sigma_max") or high, c.get("sigma_min") or low
    if c.get("use_karras_sigmas"):
        return N.karras(high, low, steps)
    # Lu et al.'s even lambdas are even log-sigmas
    if c.get("use_exponential_sigmas") or c.get("use_lu_lambdas"):
        return N.exponential(high, low, steps)
    return N.beta(high, low, steps) if c.get("use_beta_sigmas") else None


def spaced(c: Config, steps: int, *rest: int) -> Tensor:
    """`noise.spaced` times (S,) as the config says."""
    count = c["num_train_timesteps"]
    return N.spaced(c["timestep_spacing"], steps, count, c["steps_offset"], *rest)


def ddim_levels(c: Config, steps: int) -> Levels:
    """DDIM, DDPM, PNDM: whole times, then clean or, with set_alpha_to_one off, the level of time 0."""
    axis = trained_axis(c)
    times = spaced(c, steps).round()
    last = 0.0 if c.get("set_alpha_to_one", True) else axis.ratio[0]
    return Levels.vp(extended(axis.ratio_at(times), last), extended(times, 0))


def lcm_levels(c: Config, steps: int) -> Levels:
    """A part of the times that the consistency model was distilled at, and clean."""
    distilled = c["original_inference_steps"]
    if steps > distilled:
        raise DaedalError(
            f"steps={steps} is more than the {distilled} that this consistency model was distilled at (original_inference_steps)."
        )
    kept = distilled - torch.arange(steps) * distilled // steps
    times = (kept * (c["num_train_timesteps"] // distilled) - 1).double()
    return Levels.vp(extended(trained_axis(c).ratio_at(times), 0.0), extended(times, 0))


def euler_levels(c: Config, steps: int) -> Levels:
    """Euler, Euler ancestral, Heun: times between whole ones too; sigmas spaced anew within the
    ones that the spacing gave."""
    axis = trained_axis(c, finite=True)
    times = spaced(c, steps)
    ratio = axis.ratio_at(times)
    if (anew := respaced(c, float(ratio[0]), float(ratio[-1]), steps)) is not None:
        ratio, times = anew, axis.time_of(anew)
    if c.get("timestep_type") == "continuous" and c["prediction_type"] == "v_prediction":
        times = ratio.log() / 4
    last = axis.ratio[0] if c.get("final_sigmas_type") == "sigma_min" else 0.0
    return Levels.vp(extended(ratio, last), extended(times, 0))


def solver_levels(c: Config, steps: int, whole: bool) -> Levels:
    """DPM-Solver and UniPC: whole times out of steps + 1, the cleanest left out, or sigmas spaced
    anew within all the trained ones. Their times are then rounded (Karras; not for DPM-Solver's
    cosine schedule, where `whole` is off) or cut off after the point."""
    axis = trained_axis(c, finite=True)
    ratio = respaced(c, float(axis.ratio[-1]), float(axis.ratio[0]), steps)
    last = axis.ratio[0] if ratio is None else ratio[-1]
    if ratio is None:
        above = int((axis.ratio.log() > -c.get("lambda_min_clipped", -math.inf)).sum())
        extra, count = int(c["timestep_spacing"] != "trailing"), c["num_train_timesteps"]
        times = spaced(c, steps, extra, count - above).round()
        ratio = axis.ratio_at(times)
    else:
        rounded = (c["use_karras_sigmas"] or c.get("use_lu_lambdas")) and (
            whole or c["beta_schedule"] != "squaredcos_cap_v2"
        )
        times = axis.time_of(ratio).round() if rounded else axis.time_of(ratio).trunc()
    end = last if c["final_sigmas_type"] == "sigma_min" else 0.0
    return Levels.vp(extended(ratio, end), extended(times, 0))


def edm_levels(c: Config, steps: int) -> Levels:
    if pick(c, "sigma_schedule", {"karras": True, "exponential": False}):
        sigma = N.karras(c["sigma_max"], c["sigma_min"], steps, c["rho"])
    else:
        sigma = N.exponential(c["sigma_max"], c["sigma_min"], steps)
    return Levels.ve(extended(sigma, sigma[-1] if c["final_sigmas_type"] == "sigma_min" else 0.0))


def cosine_levels(c: Config, steps: int) -> Levels:
    levels = edm_levels(c, steps)
    return Levels.ve(levels.sigma, levels.sigma.atan() / (math.pi / 2))


def flow_shift(c: Config, static: float, tokens: int | None, mu: float | None) -> float:
    """The factor of `noise.shifted`: the config's, or with dynamic shifting that of mu."""
    if not c["use_dynamic_shifting"]:
        return static
    if mu is None and tokens is not None and "base_shift" in c:
        sizes = (c["base_image_seq_len"], c["max_image_seq_len"])
        mu = N.resolution_mu(tokens, *sizes, c["base_shift"], c["max_shift"])
    if mu is None:
        raise DaedalError(
            "use_dynamic_shifting is on, so levels() needs the number of tokens of the image, tokens=..., or its mu=...."
        )
    return pick(c, "time_shift_type", {"exponential": math.exp(mu), "linear": mu})


def flow_levels(
    c: Config, steps: int, tokens: int | None, mu: float | None, evenly_spaced: bool
) -> Levels:
    """Flow models. The trained times end where the *shifted* training grid does, and the times
    between are then shifted once more: a static shift so reaches a cleaner last level than one
    would think. It is what diffusers does, and what SD3 was released with."""
    shift, count = flow_shift(c, c["shift"], tokens, mu), c["num_train_timesteps"]
    if evenly_spaced:
        least = 1 / steps
    else:
        first = torch.tensor(1 / count, dtype=torch.float64)
        least = float(N.shifted(first, 1.0 if c["use_dynamic_shifting"] else shift))
    t = N.shifted(torch.linspace(1, least, steps, dtype=torch.float64), shift)
    t = N.stretched(t, c["shift_terminal"]) if c["shift_terminal"] else t
    if (anew := respaced(c, float(t[0]), float(t[-1]), steps)) is not None:
        t = anew
    return Levels.flow(extended(t, 0.0))


def solver_flow_levels(c: Config, steps: int, mu: float | None) -> Levels:
    """DPM-Solver and UniPC on a flow model (use_flow_sigmas): times out of steps + 1, told to the
    network in whole thousandths."""
    shift = flow_shift(c, c["flow_shift"], None, mu)
    count = c["num_train_timesteps"]
    unipc = "predict_x0" in c
    axis = trained_axis(c)
    if (ratio := respaced(c, float(axis.ratio[-1]), float(axis.ratio[0]), steps)) is not None:
        t = ratio / (1 + ratio)
    else:
        high, low = (1.0, 1 / count) if unipc else (1 - 1 / count, 0.0)
        t = N.shifted(torch.linspace(high, low, steps + 1, dtype=torch.float64)[:-1], shift)
        t = N.stretched(t, c["shift_terminal"]) if c.get("shift_terminal") else t
    t[0] = min(float(t[0]), 1 - 1e-6)
    end = t[-1] if c["final_sigmas_type"] == "sigma_min" else 0.0
    return Levels.flow(extended(t, end), extended((t * count).trunc() / count, 0))


LEVELS: dict[str, Callable[[Config, int], Levels]] = {
    **dict.fromkeys(("DDIMScheduler", "DDPMScheduler", "PNDMScheduler"), ddim_levels),
    **dict.fromkeys(("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"), ddim_levels),
    "LCMScheduler": lcm_levels,
    "EulerDiscreteScheduler": euler_levels,
    "EulerAncestralDiscreteScheduler": euler_levels,
    "HeunDiscreteScheduler": euler_levels,
    "DPMSolverSDEScheduler": euler_levels,
    "DPMSolverMultistepScheduler": partial(solver_levels, whole=False),
    "UniPCMultistepScheduler": partial(solver_levels, whole=True),
    **dict.fromkeys(("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"), edm_levels),
    "CosineDPMSolverMultistepScheduler": cosine_levels,
}
