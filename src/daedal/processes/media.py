"""Pictures from the media transformer: seeds and a prompt in, pixels out. One function for text-to-image, image-to-image and inpainting:
they differ in the noise level they start from and in which tokens are given.

Seeds: picture i of a batch has its own generator, on the CPU, whatever device computes; so it is the same picture alone, up to the
last bits that a matrix product of another size rounds differently.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from daedal.networks.media import MediaTransformer, Text, grid_positions, patchify, unpatchify
from daedal.processes.guidance import cfg
from daedal.processes.noise import X0, Flow, Level, Levels, noised, shifted
from daedal.processes.samplers import Noise, OnStep, Sampler, euler

PARAMETRISATIONS = {"x0": X0(), "flow": Flow()}


def flow_levels(steps: int, shift: float = 1.0) -> Levels:
    """`steps` even steps of flow time from noise to picture, moved towards noise by `shift` (Esser et al. 2024, eq. 23)."""
    return Levels.flow(shifted(torch.linspace(1, 0, steps + 1, dtype=torch.float64), shift))


def seeded_noise(seeds: Sequence[int], shape: tuple[int, ...], device: torch.device | str = "cpu") -> Noise:
    """A source of standard normals (B, *shape); row i depends on seed i alone."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return lambda: torch.stack([torch.randn(shape, generator=g) for g in generators]).to(device)


def together(cond: Text, uncond: Text) -> Text:
    """Two prompts as one batch: guided sampling asks for both in one pass."""
    kv = [(torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]])) for a, b in zip(cond.kv, uncond.kv, strict=True)]
    return Text(kv, torch.cat([cond.pooled, uncond.pooled]))


@torch.no_grad()
def generate(
    network: MediaTransformer,
    text: Text,
    seeds: Sequence[int],
    levels: Levels,
    *,
    uncond: Text | None = None,
    guidance_scale: float = 1.0,
    sampler: Sampler = euler,
    height: int = 64,
    width: int = 64,
    start: Tensor | None = None,
    given: Tensor | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Pictures (B, C, H, W) in about [-1, 1] for the B prompts of `text`. `start` (B, C, H, W) is what the first level noises (none: the
    levels start at pure noise); `given` (H/patch * W/patch) bool marks tokens of `start` that are kept clean. Guidance needs `uncond`."""
    c = network.config
    device = network.proj_in.weight.device
    shape = (height // c.patch_size * (width // c.patch_size), c.token_size)
    noise, positions = seeded_noise(seeds, shape, device), grid_positions(height, width, c.patch_size).to(device)
    clean = None if start is None else patchify(start, c.patch_size)
    kept = None if given is None else given.to(device)[None, :, None]  # (1, T, 1)
    guided = uncond is not None and guidance_scale != 1
    both = together(text, uncond) if guided and uncond is not None else text
    meaning = PARAMETRISATIONS[c.prediction]

    def predict(x: Tensor, level: Level, text: Text) -> Tensor:
        time = torch.full((len(x), 1), float(level.time), device=device)
        if kept is not None:
            time = time.expand(-1, x.shape[1]) * ~kept[..., 0]
        return meaning.denoised(network(x, positions, time, text), x, level)

    def denoise(x: Tensor, level: Level) -> Tensor:
        if kept is not None and clean is not None:
            x = torch.where(kept, clean, x)
        if guided:
            cond, without = predict(torch.cat([x, x]), level, both).chunk(2)
            x0 = cfg(cond, without, guidance_scale)
        else:
            x0 = predict(x, level, text)
        return x0 if kept is None or clean is None else torch.where(kept, clean, x0)

    x = noise()
    if clean is not None:
        x = noised(clean, x, levels[0])
    x = sampler(denoise, x, levels, noise, on_step)
    if kept is not None and clean is not None:
        x = torch.where(kept, clean, x)
    return unpatchify(x, c.patch_size, height, width)
