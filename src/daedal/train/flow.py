"""Flow matching on captioned pictures: a recipe becomes a media transformer's folder."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal import checkpoints
from daedal.data.pictures import PictureBatches
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.networks.autoencoder import AutoencoderKL
from daedal.networks.config import parse
from daedal.networks.media import MediaConfig, MediaTransformer
from daedal.processes.imaging import edges, pixels
from daedal.processes.noise import Level, noised
from daedal.processes.samplers import sampler_named
from daedal.systems.house_media import PARAMETRISATIONS, encode, flow_levels, paint
from daedal.train import parallel, terms
from daedal.train.pictures import clean, fit, planned, sheet, sources, tokenizer_of
from daedal.train.recipe.flow import FlowRecipe
from daedal.train.start import Start, begin
from daedal.train.trainer import Batch, Objective
from daedal.worlds import scenes

SKETCH = 0.5  # weight of the error of the small picture that the text alone tells


def times(count: int, recipe: FlowRecipe) -> Tensor:
    """Noise levels (B, 1): logit-normal, a share of them uniform."""
    t = (recipe.time_mean + recipe.time_std * torch.randn(count, 1)).sigmoid()
    return torch.where(torch.rand(count, 1) < recipe.uniform, torch.rand(count, 1), t)


def given_tokens(count: int, side: int, share: float) -> Tensor:
    """(B, side * side) bool: for a share of the samples a rectangle of tokens, or all but a
    rectangle."""
    low, high = torch.rand(2, count, 2).sort(0).values  # corners
    at = (torch.arange(side) + 0.5) / side
    rows, columns = ((at >= low[:, i, None]) & (at <= high[:, i, None]) for i in range(2))
    mask = (rows[:, :, None] & columns[:, None]).flatten(1) ^ (torch.rand(count, 1) < 0.5)
    return mask & (torch.rand(count, 1) < share)


def sketch_error(network: MediaTransformer, pooled: Tensor, images: Tensor) -> Tensor:
    """Squared error of the small picture that the text tells, from its pooled vectors (B, D), for
    images (B, 3, H, W) in [-1, 1]; a sum over samples, each worth as many values as its picture
    has."""
    told = network.sketch(pooled)  # type: ignore[misc]
    return (told - F.interpolate(images, size=told.shape[2:], mode="area")).square().mean(
        (1, 2, 3)
    ).sum() * images[0].numel()


def flow_loss(recipe: FlowRecipe, tokenizer: Tokenizer) -> Objective:
    """Sum over token values of the squared error of the velocity (noise minus clean), whatever the
    network predicts; given tokens are clean and cost nothing (Lipman et al. 2022, eq. 14;
    x-prediction with v-loss: Li & He 2025). With what daedal.train.terms adds."""

    adds = (
        terms.Additive(recipe, tokenizer, shape_of(recipe).text_length) if recipe.additive else None
    )

    def loss(network: MediaTransformer, part: Batch) -> Tensor:
        c, images = network.config, clean(part["images"])
        # (B, T, C)
        x0, positions = (
            network.codec.encode(images),
            network.codec.positions(*images.shape[-2:], device=images.device),
        )
        # (B, T)
        free = ~given_tokens(len(x0), images.shape[-1] // network.codec.side, recipe.given).to(
            x0.device
        )
        t = (times(len(x0), recipe).to(x0.device) * free)[..., None]  # (B, T, 1)
        eps = terms.offset(x0.shape, recipe.offset_noise, c.channels).to(x0.device)
        level = Level(1 - t, t, t)
        x = noised(x0, eps, level)
        control = None
        if c.control_size:
            shown = (torch.rand(len(x0), 1, 1) < recipe.control).to(x.device)
            control = network.codec.hint(edges(images)) * shown
        text, states = network.encode_text(part["captions"]), [] if recipe.align else None
        output = network(x, positions, t[..., 0], text, control, states)
        error = PARAMETRISATIONS[c.prediction].denoised(output, x, level) - x0
        value = error.square() * terms.weight(t, recipe.min_snr)
        if recipe.uncertainty:
            u = network.auxiliary["uncertainty"](t)  # type: ignore[operator,index]
            value = value / u.exp() + u
        total = (value * free[..., None]).sum()
        if recipe.align:
            align = network.auxiliary["align"]  # type: ignore[index]
            away = align(states, align.wanted(network, images, x0, eps, t, positions, text))  # type: ignore[operator]
            total = total + recipe.align * (away * free).sum() * c.token_size
        if c.sketch:
            total = total + SKETCH * sketch_error(network, text.pooled, images)
        if adds:
            total = total + recipe.additive * adds(network.text, len(images) // 2) * images.numel()
        return total

    return Objective(
        loss,
        lambda batch: batch["images"].numel(),
        terms.follow if recipe.align_to == "self" and recipe.align else None,
    )


def network_of(recipe: FlowRecipe, vocab_size: int) -> MediaTransformer:
    if recipe.model.start:
        start = checkpoints.load(
            checkpoints.resolve(recipe.model.start), dtype=torch.float32, kind=MediaTransformer
        )
        wanted = replace(start.config, **recipe.model.options)
        if wanted == start.config:
            return start.train()
        # with a control input, say, which starts at zero
        grown, had = MediaTransformer(wanted).init_weights(recipe.seed), start.state_dict()
        for name, p in grown.state_dict().items():
            if name in had and p.shape != had[name].shape:
                sizes = f"{tuple(had[name].shape)} and not {tuple(p.shape)}"
                raise DaedalError(
                    f"{recipe.model.start} has {name} of {sizes}, as model.options would have it: leave that option out, or start anew."
                )
        grown.load_state_dict(had, strict=False)
        return grown.train()
    network = MediaTransformer(new_config(recipe, vocab_size)).init_weights(recipe.seed)
    if recipe.model.codec:
        network.codec.autoencoder.load_state_dict(
            checkpoints.load(
                checkpoints.resolve(str(recipe.model.codec)), dtype=torch.float32
            ).state_dict()
        )
    return network.train()


def new_config(recipe: FlowRecipe, vocab_size: int) -> MediaConfig:
    codec = (
        checkpoints.read_config(checkpoints.resolve(recipe.model.codec))
        if recipe.model.codec
        else None
    )
    if codec and codec.get("_class_name") != AutoencoderKL.class_name:
        raise DaedalError(
            f"model.codec = {recipe.model.codec} holds a {codec.get('_class_name')}; give the folder of an {AutoencoderKL.class_name}."
        )
    return MediaConfig(**recipe.model.config(vocab_size, codec))


def shape_of(recipe: FlowRecipe) -> MediaConfig:
    if not recipe.model.start:
        return new_config(recipe, recipe.vocab_size)
    return replace(
        parse(MediaConfig, checkpoints.read_config(checkpoints.resolve(recipe.model.start))),
        **recipe.model.options,
    )


def outline(recipe: FlowRecipe) -> MediaTransformer:
    """The network without weights, on the meta device."""
    with torch.device("meta"):
        return MediaTransformer(shape_of(recipe))


def kept(c: MediaConfig, states: int) -> int:
    """Bytes of activations for the backward pass, as float32, of so many states in blocks (tokens
    times blocks)."""
    return 4 * states * (20 * c.hidden_size + 3 * c.intermediate_size)


def plan(recipe: FlowRecipe) -> dict[str, Any]:
    """What a run will take; trains nothing."""
    network = outline(recipe)
    c, tokens = (
        network.config,
        network.codec.count(network.config.sample_size, network.config.sample_size),
    )
    return planned(
        recipe,
        network.parameter_count(),
        network.flops(tokens, train=True),
        kept(c, tokens * c.num_hidden_layers),
    )


def run(
    recipe: FlowRecipe,
    objective: Callable[[FlowRecipe, Tokenizer], Objective] | None = None,
    sampler: str = "euler",
    batches_of: Callable[..., PictureBatches] = PictureBatches,
    auxiliary: Callable[[FlowRecipe, MediaTransformer], nn.ModuleDict] = terms.auxiliary,
    flops: Callable[[MediaTransformer], float] | None = None,
) -> Path:
    """Train, and write `out/model`. Returns that folder. Other objectives on the same network pass
    theirs, their batches, what they keep beside it, and what a sample costs them."""
    start, side = begin(recipe), recipe.model.options.get("sample_size", 64)
    train = sources(recipe.data.train, side)
    tokenizer = tokenizer_of(recipe, start, train)
    network = network_of(recipe, tokenizer.vocab_size)
    c, network.auxiliary = network.config, auxiliary(recipe, network)
    batches = batches_of(
        train,
        tokenizer,
        recipe.rows,
        c.text_length,
        recipe.seed,
        recipe.drop_caption,
        step=start.step,
    )
    fit(
        recipe, start, network, c.hidden_size, batches, (objective or flow_loss)(recipe, tokenizer),
        flops(network) if flops else network.flops(network.codec.count(side, side), train=True), partial(evaluate, recipe, tokenizer, sampler), partial(sample, recipe, tokenizer, sampler),
    )  # fmt: skip
    del network.auxiliary
    if start.rank == 0:
        save(recipe, network, tokenizer, sampler, start)
    parallel.finish()
    return start.out / "model"


def save(
    recipe: FlowRecipe, network: MediaTransformer, tokenizer: Tokenizer, sampler: str, start: Start
) -> None:
    checkpoints.save(network, start.out / "model")
    tokenizer.save(start.out / "model")
    settings = {
        "steps": recipe.sample_steps,
        "shift": recipe.sample_shift,
        "guidance_scale": recipe.guidance_scale,
        "sampler": sampler,
    }
    (start.out / "model" / "generation_config.json").write_text(json.dumps(settings) + "\n")


def painted(
    recipe: FlowRecipe,
    network: MediaTransformer,
    tokenizer: Tokenizer,
    prompts: list[str],
    sampler: str = "euler",
    seed: int = 0,
) -> np.ndarray:
    """Pictures (B, H, W, 3) uint8 of a network in training."""
    c = network.config
    tokens, nothing = (encode(network, tokenizer, p) for p in (prompts, [""] * len(prompts)))
    seeds, levels = (
        list(range(seed, seed + len(prompts))),
        flow_levels(recipe.sample_steps, recipe.sample_shift),
    )
    network.eval()
    x = paint(
        network,
        tokens,
        nothing,
        seeds,
        levels,
        guidance_scale=recipe.guidance_scale,
        sampler=sampler_named(sampler),
        height=c.sample_size,
        width=c.sample_size,
    )
    network.train()
    return pixels(x)


@torch.no_grad()
def evaluate(
    recipe: FlowRecipe, tokenizer: Tokenizer, sampler: str, network: MediaTransformer
) -> dict[str, float]:
    """Shares of scenes painted right, among pairs of colour and shape that training holds and that
    it does not."""
    result: dict[str, float] = {}
    count = recipe.evaluate_pictures
    for name, unseen in (("seen", False), ("unseen", True)):
        rng = random.Random(f"evaluate/{name}")
        wanted = [scenes.scene(rng, unseen) for _ in range(count)]
        pictures = painted(recipe, network, tokenizer, [s.caption for s in wanted], sampler)
        right = [scenes.correct(s, picture) for s, picture in zip(wanted, pictures, strict=True)]
        result |= {
            f"{name}_{key}": sum(r[key] for r in right) / count
            for key in ("objects", "colours", "all")
        }
    return result


@torch.no_grad()
def sample(
    recipe: FlowRecipe, tokenizer: Tokenizer, sampler: str, network: MediaTransformer, step: int
) -> str:
    """A row of pictures of the recipe's prompts, in `out/samples`; below them what their text alone
    tells."""
    if not recipe.prompts:
        return ""
    c, rows = network.config, [painted(recipe, network, tokenizer, recipe.prompts, sampler)]
    if network.sketch is not None:
        told = network.sketch(
            network.encode_text(
                encode(network, tokenizer, recipe.prompts).to(network.proj_in.weight.device)
            ).pooled
        )
        rows.append(pixels(F.interpolate(told, size=(c.sample_size, c.sample_size))))
    return sheet(Path(recipe.out), step, rows)
