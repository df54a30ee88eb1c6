"""Sampling pictures: one function for text-to-image, image-to-image and inpainting, of every
diffusion and flow model.

They differ in where the start comes from and in what is given. What a model is asked, and how its
prompts are guided, is a `predict` function; `daedal.systems.house_media` makes one for the house's
transformer, `daedal.systems.system` for open checkpoints.

Seeds: picture i of a batch has its own generator, on the CPU, whatever device computes; so it is
the same picture alone, up to the last bits that a matrix product of another size rounds
differently.

Legend: B batch."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from daedal.errors import DaedalError
from daedal.processes.noise import Level, Levels, noised
from daedal.processes.philox import cuda_normal
from daedal.processes.samplers import Denoise, Noise, OnStep, Sampler, Steps, euler, finished

LIKE = ("diffusers", "webui", "comfy")  # whose noise a seed means


def seeded_noise(
    seeds: Sequence[int],
    shape: tuple[int, ...],
    device: torch.device | str = "cpu",
    like: str = "diffusers",
) -> Noise:
    """A source of standard normals (B, *shape), or of another shape that a call asks for. Row i
    depends on seed i alone, drawn as diffusers does with one CPU generator a picture; `webui` draws
    it as a GPU would; `comfy` draws all rows from the first seed's CPU generator, one after the
    other, so a row depends on its number too."""
    if like == "webui":
        calls = itertools.count()

        def drawn(shape: tuple[int, ...] = shape) -> Tensor:
            call = next(calls)
            return torch.stack([cuda_normal(seed, call, shape) for seed in seeds]).to(device)

        return drawn
    generators = [
        torch.Generator().manual_seed(seed) for seed in (seeds[:1] if like == "comfy" else seeds)
    ]
    rows = len(seeds) // len(generators)

    def each(shape: tuple[int, ...] = shape) -> Tensor:
        return torch.cat([torch.randn((rows, *shape), generator=g) for g in generators]).to(device)

    return each


def pixels(images: Tensor) -> np.ndarray:
    """images (B, C, H, W) in [-1, 1], clipped -> (B, H, W, C) uint8."""
    return (
        ((images.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    )


def from_pixels(picture: np.ndarray) -> Tensor:
    """(H, W, C) uint8 -> (1, C, H, W) in [-1, 1]; `pixels` gives the same bytes back."""
    return (torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1).float() / 127.5 - 1)[
        None
    ]


def edges(images: Tensor, threshold: float = 0.1) -> Tensor:
    """Where colours change: images (B, C, H, W) in [-1, 1] -> (B, 1, H, W) of zeros and ones, from
    Sobel's slopes (a picture drawn from them need not be of the same colours)."""
    along = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=images.device) / 8
    kernels = torch.stack([along, along.mT])[:, None]  # (2, 1, 3, 3)
    flat = F.pad(images.float(), (1, 1, 1, 1), mode="replicate").flatten(0, 1)[:, None]
    slopes = F.conv2d(flat, kernels).square().sum(1).sqrt()  # (B C, H, W)
    return (slopes.unflatten(0, images.shape[:2]).amax(1, keepdim=True) > threshold).float()


@torch.no_grad()
def colour_map(encode: Callable[[Tensor], Tensor], factor: int) -> Tensor:
    """What a codec's latents look like without its decoder: the map from C channels and a one to
    RGB (C + 1, 3) that fits latents of one picture of eight fields, the corners of the colour cube,
    by least squares. `factor`: pixels a side of a latent cell."""
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3).T.reshape(1, 3, 2, 4)
    latents = encode(F.interpolate(corners, scale_factor=8 * factor))  # (1, C, 8 * 2, 8 * 4)
    seen = F.pad(latents[0].float().cpu().flatten(1).T, (0, 1), value=1.0)
    return torch.linalg.lstsq(
        seen, F.interpolate(corners, size=latents.shape[2:])[0].flatten(1).T, driver="gelsd"
    ).solution


def generate(
    predict: Denoise, noise: Noise, levels: Levels, *, on_step: OnStep | None = None, **options: Any
) -> Tensor:
    """`generating` run to its end."""
    return finished(generating(predict, noise, levels, **options), on_step)


@torch.no_grad()
def generating(
    predict: Denoise,
    noise: Noise,
    levels: Levels,
    *,
    sampler: Sampler = euler,
    start: Tensor | None = None,
    kept: Tensor | None = None,
    opening: Callable[[Tensor, Levels], Tensor] | None = None,
) -> Steps:
    """Sample from `predict(x, level) -> x0`. `start` (B, ...) is the picture that the first level
    noises; without one x begins as noise, of the first level's spread or as `opening(noise,
    levels)` makes it (`Schedule.start`); `kept` is a bool mask that broadcasts to it, true where
    the result must be `start` itself. A result that is not a number is an error that names the
    step."""
    eps = noise()
    begin = torch.zeros_like(eps) if start is None else start

    def denoise(x: Tensor, level: Level) -> Tensor:
        if kept is not None:  # what is given, as noisy as the rest
            x = torch.where(kept, noised(begin, eps, level), x)
        x0 = predict(x, level)
        return x0 if kept is None else torch.where(kept, begin, x0)

    x = opening(eps, levels) if opening and start is None else noised(begin, eps, levels[0])
    steps = sampler.steps(denoise, x, levels, noise)
    while True:
        try:
            i, x, x0 = next(steps)  # type: ignore[misc]
        except StopIteration as end:
            x = end.value
            break
        if not torch.isfinite(x).all():
            raise DaedalError(
                f"the picture became NaN or infinite at step {i + 1} of {levels.steps}; try dtype fp32, a lower guidance scale or more steps."
            )
        yield i, x, x0
    return x if kept is None else torch.where(kept, begin, x)
