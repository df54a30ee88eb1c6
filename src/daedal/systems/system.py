"""What a diffusion system is, for training and painting alike: how prompts become what the network
is told, what the network predicts of noisy latents, and between which codec and schedule it stands.

    system = system_of(parts)                                    # daedal.systems; parts as
    checkpoints.load_parts gives them
    told = system.encode(["a cat", ""])                          # one row a prompt
    prepared = system.prepare(told, Conditions((512, 512), negatives=1))
    predict = denoiser(system, prepared, guidance_scale=7.5)     # (x, level) -> x0, for any sampler

Legend: B rows, C channels, h and w latent cells, H and W pixels."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from daedal.errors import DaedalError
from daedal.processes import schedulers
from daedal.processes.guidance import cfg
from daedal.processes.imaging import generate, seeded_noise
from daedal.processes.noise import Flow, Level, shifted
from daedal.processes.samplers import Denoise, Noise, sampler_named
from daedal.systems.conditions import Conditions
from daedal.systems.text import Clip

Conditioning = dict[str, Tensor]  # what a network is told of prompts, one row each
Prepared = dict[str, Any]  # the same with all that stays as it is from step to step
Prepare = Callable[[Conditioning, "Conditions"], Prepared]


class Pixels:
    """The codec of systems without one."""

    factor = 1

    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(self, images: Tensor) -> Tensor:
        return images


class System:
    """What the systems share, and what each says of itself."""

    role = "transformer"  # what the network is called in a folder
    patch = 1  # latent cells a side of one token
    evenly_spaced = False  # see Schedule.levels
    distilled = False  # the network is told the guidance scale, and asked once a step
    extra = 0  # channels that the network reads beside the latents:
    inpaints = False  # picture and mask,
    upscales = False  # or a smaller picture,
    scale: int | None = None  # so many times smaller; None: of any size
    # the noise of what stands beside the latents is drawn before theirs
    conditioning_noise_first = False
    trainable = True  # as it is; not one of a base model's children
    takes = frozenset({"lora", "then"})  # what may be given beside a prompt
    controls = frozenset[str]()  # class names of the control networks that fit
    defaults: dict[str, Any]  # width, height, steps, guidance_scale

    def __init__(self, parts: dict[str, Any]) -> None:
        self.network, self.index = parts[self.role], parts.get("model_index", {})
        self.config = self.network.config
        self.codec: Any = parts.get("vae") or Pixels()
        self.channels: int = self.config.in_channels  # of the latents
        self.schedule = schedulers.read(parts["scheduler"])
        # what the network computes in
        self.dtype = next(p.dtype for p in self.network.parameters())
        self.towers: list[Clip] = []
        self.t5: Any = None  # a T5, where there is one

    def encode(self, prompts: list[str], cut: bool = False) -> Conditioning:
        """What the network is told of prompts, one row each and as long for all. Long prompts are
        read to their end, or `cut` to the length that the network was trained with."""
        raise NotImplementedError

    def prepare(self, conditioning: Conditioning, conditions: Conditions) -> Prepared:
        """What can be computed once for all steps."""
        raise NotImplementedError

    def predict(self, x: Tensor, time: Tensor, prepared: Prepared) -> Tensor:
        """The network's output (B, C or more, h, w), in its own parametrisation, for latents and
        what stands beside them x (B, channels + extra, h, w) at times (B,)."""
        raise NotImplementedError

    def channel_conditioning(
        self,
        conditions: Conditions,
        rows: int,
        init: Tensor | None,
        mask: Tensor | None,
        noise: Noise,
    ) -> Tensor:
        """What the network reads beside the latents (B or 1, extra, h, w), of a picture (1, 3, H,
        W) and a mask (1, 1, H, W)."""
        raise NotImplementedError("no published model of this system reads more than latents")

    @property
    def device(self) -> torch.device:
        return next(iter(self.network.parameters())).device

    def training_level(self, rows: int, cells: int) -> Level:
        """Levels to train at, (B, 1, 1, 1) float32: a time of 0..N-1 drawn evenly, or for flow
        models logit-normal (Esser et al. 2024, eq. 19) and shifted as the schedule shifts the times
        of a picture of so many cells."""
        c = self.schedule.config
        if isinstance(self.schedule.parametrisation, Flow):
            wanted = c["shift"] if "shift" in c else c["flow_shift"]
            shift = schedulers.flow_shift(c, wanted, cells // self.patch**2, None)
            t = shifted(torch.randn(rows).sigmoid(), shift)
            found = (1 - t, t, t)
        else:
            levels = schedulers.trained_axis(c).at(
                torch.randint(c["num_train_timesteps"], (rows,)).double()
            )
            found = (levels.alpha, levels.sigma, levels.time)
        return Level(*(value.float().view(-1, 1, 1, 1).to(self.device) for value in found))

    def size_of(self, x: Tensor) -> tuple[int, int]:
        """H, W of the pictures whose latents (B, C, h, w) these are."""
        return x.shape[2] * self.codec.factor, x.shape[3] * self.codec.factor


def square(side: int, **settings: Any) -> dict[str, Any]:
    return {"width": side, "height": side, **settings}


def stacked(conditioning: list[Conditioning], device: torch.device) -> Conditioning:
    """Rows of several prompts as one batch."""
    return {
        key: torch.cat([each[key] for each in conditioning]).to(device) for key in conditioning[0]
    }


def denoiser(
    system: System,
    prepared: Prepared,
    *,
    guidance_scale: float = 1.0,
    dtype: torch.dtype | None = None,
    channel_conditioning: Tensor | None = None,
    learned: list[Tensor] | None = None,
) -> Denoise:
    """predict(x, level) -> x0: both prompts in one pass, guidance on x0, then what the schedule's
    config asks for. `channel_conditioning` goes to the network with x; of a network that learned
    its variance `learned` gets that of the prompt."""
    meaning, schedule = system.schedule.parametrisation, system.schedule
    C, guided = system.channels, guided_by(system, guidance_scale)

    def predict(x: Tensor, level: Level) -> Tensor:
        seen = meaning.scaled(x, level).to(dtype or system.dtype)
        if channel_conditioning is None:
            seen = seen
        else:
            beside = channel_conditioning.expand(len(x), *channel_conditioning.shape[1:])
            seen = torch.cat([seen, beside], 1)
        seen = torch.cat([seen, seen]) if guided else seen
        time = torch.full((len(seen),), float(level.time), device=x.device)
        output = system.predict(seen, time, prepared).float()
        if learned is not None:
            learned[:] = [(output[: len(x), C:] + 1) / 2]
        x0 = meaning.denoised(output[: len(x), :C], x, level)
        if guided:
            x0 = cfg(x0, meaning.denoised(output[len(x) :, :C], x, level), guidance_scale)
        return schedule.limit(x0, x, level)

    return predict


def guided_by(system: System, guidance_scale: float) -> bool:
    """Whether the network is asked about negative prompts too: not at 1 or below, which is no
    guidance in every tool."""
    return guidance_scale > 1 and not system.distilled


@torch.no_grad()
def paint(
    system: System,
    prompts: list[str],
    seeds: list[int],
    *,
    side: int,
    steps: int,
    guidance_scale: float,
    prepare: Prepare | None = None,
) -> Tensor:
    """Pictures (B, 3, side, side) in [-1, 1], one a prompt and seed, of a system in training.
    `prepare` stands in for the system's own."""
    cells, negatives = side // system.codec.factor, len(prompts) * guided_by(system, guidance_scale)
    conditioning = stacked(
        [system.encode([prompt], cut=True) for prompt in [*prompts, *([""] * negatives)]],
        system.device,
    )
    prepared = (prepare or system.prepare)(
        conditioning, Conditions((side, side), guidance_scale, negatives)
    )
    predict = denoiser(system, prepared, guidance_scale=guidance_scale)
    noise = seeded_noise(seeds, (system.channels, cells, cells), system.device)
    levels = system.schedule.levels(
        steps, tokens=cells**2 // system.patch**2, evenly_spaced=system.evenly_spaced
    )
    sampler = sampler_named(system.schedule.sampler)
    x = generate(predict, noise, levels, sampler=sampler, opening=system.schedule.start)
    return system.codec.decode(x.to(next(system.codec.parameters()).dtype)).float()


def wanted_picture(init: Tensor | None) -> Tensor:
    """What a model that enlarges must be given."""
    if init is None:
        raise DaedalError(
            "this model enlarges a picture; give init= (--init), or let it follow a smaller model: then= (--then).",
        )
    return init
