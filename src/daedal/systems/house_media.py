"""The house's media transformer, as training and painting both use it: captions become tokens,
tokens and noise become clean tokens, these a picture."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from daedal.data.pictures import encode_captions
from daedal.data.tokenizer import Tokenizer
from daedal.networks.media import MediaTransformer, Text
from daedal.processes.guidance import active, cfg
from daedal.processes.imaging import generating, seeded_noise
from daedal.processes.noise import X0, Flow, Level, Levels, shifted
from daedal.processes.samplers import Denoise, OnStep, Sampler, Steps, euler, finished

PARAMETRISATIONS = {"x0": X0(), "flow": Flow()}


def encode(network: MediaTransformer, tokenizer: Tokenizer, captions: Sequence[str]) -> Tensor:
    """(B, L) int64, as long as the network reads; an empty caption is all padding."""
    return encode_captions(tokenizer, captions, network.config.text_length)


def ask(network: MediaTransformer, x: Tensor, t: Tensor, positions: Tensor, text: Text) -> Tensor:
    """The x0 that a network sees in x (B, T, C) at flow times t (B, 1)."""
    level = Level(1 - t[..., None], t[..., None], t[..., None])
    meaning = PARAMETRISATIONS[network.config.prediction]
    return meaning.denoised(network(x, positions, t, text), x, level)


def flow_levels(steps: int, shift: float = 1.0) -> Levels:
    """`steps` even steps of flow time from noise to picture, moved towards noise by `shift` (Esser
    et al. 2024, eq. 23)."""
    return Levels.flow(shifted(torch.linspace(1, 0, steps + 1, dtype=torch.float64), shift))


def together(cond: Text, uncond: Text) -> Text:
    """Two prompts as one batch: guided sampling asks for both in one pass."""
    kv = [
        (torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]]))
        for a, b in zip(cond.kv, uncond.kv, strict=True)
    ]
    return Text(kv, torch.cat([cond.pooled, uncond.pooled]))


def predictor(
    network: MediaTransformer,
    text: Text,
    positions: Tensor,
    *,
    uncond: Text | None = None,
    guidance_scale: float = 1.0,
    interval: tuple[float, float] = (0.0, float("inf")),
    kept: Tensor | None = None,
    clean: Tensor | None = None,
    control: Tensor | None = None,
) -> Denoise:
    """predict(x (B, T, C), level) -> x0, guided where sigma / alpha lies in `interval`. Tokens that
    are `kept` (1, T, 1) the network sees clean, at level 0; `control` (1, T, control_size) it sees
    beside all."""
    meaning = PARAMETRISATIONS[network.config.prediction]
    both = together(text, uncond) if uncond is not None and guidance_scale > 1 else None

    def ask(x: Tensor, level: Level, text: Text) -> Tensor:
        time = torch.full((len(x), 1), float(level.time), device=x.device)
        if kept is not None and clean is not None:
            time = time * ~kept[..., 0]
            x = torch.where(kept, clean.repeat(len(x) // len(clean), 1, 1), x)
        hint = None if control is None else control.expand(len(x), -1, -1)
        return meaning.denoised(network(x, positions, time, text, hint), x, level)

    def predict(x: Tensor, level: Level) -> Tensor:
        if both is None or not active(level, *interval):
            return ask(x, level, text)
        cond, without = ask(torch.cat([x, x]), level, both).chunk(2)
        return cfg(cond, without, guidance_scale)

    return predict


def paint(*arguments: Any, on_step: OnStep | None = None, **options: Any) -> Tensor:
    """`painting` run to its end."""
    return finished(painting(*arguments, **options), on_step)


@torch.no_grad()
def painting(
    network: MediaTransformer,
    tokens: Tensor,
    negative: Tensor,
    seeds: list[int],
    levels: Levels,
    *,
    guidance_scale: float = 1.0,
    sampler: Sampler = euler,
    size: tuple[int, ...] = (64, 64),
    rate: float | None = None,
    start: Tensor | None = None,
    kept: Tensor | None = None,
    control: Tensor | None = None,
    like: str = "diffusers",
) -> Steps:
    """Pictures (B, C, H, W) in about [-1, 1] of the prompts `tokens` (B, L), away from those of
    `negative`, of `size` (H, W); or clips (B, F, C, H, W) of `size` (F, H, W) at `rate` frames a
    second. `start`, one of these, is noised to the first level; tokens of it marked in `kept`
    (T,) bool are given. `control` (1, 1, H, W) are edges to follow (`imaging.edges`)."""
    device = network.proj_in.weight.device
    when = () if rate is None else (rate,)
    positions = network.codec.positions(*size, *when, device=device)
    shape = (len(positions), network.config.token_size)
    clean = None if start is None else network.codec.encode(start.to(device))
    mask = None if kept is None else kept.to(device)[None, :, None]
    hint = None if control is None else network.codec.hint(control.to(device))
    text, uncond = network.encode_text(tokens.to(device)), network.encode_text(negative.to(device))
    predict = predictor(
        network,
        text,
        positions,
        uncond=uncond,
        guidance_scale=guidance_scale,
        kept=mask,
        clean=clean,
        control=hint,
    )
    yield None  # the prompt is read
    noise = seeded_noise(seeds, shape, device, like)
    x = yield from generating(predict, noise, levels, sampler=sampler, start=clean, kept=mask)
    return network.codec.decode(x, *size)
