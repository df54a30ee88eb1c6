"""Flow matching on captioned pictures: a recipe becomes a media transformer's folder."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from daedal import checkpoints
from daedal import device as machine
from daedal.checkpoints.components import load_component, save_component
from daedal.data.pictures import Parquet, PictureBatches, Scenes, Source, encode_captions
from daedal.data.tokenizer import Tokenizer
from daedal.data.worlds import scenes
from daedal.networks.media import MediaConfig, MediaTransformer, grid_positions, patchify
from daedal.processes.imaging import edges, pixels
from daedal.processes.media import PARAMETRISATIONS, flow_levels, paint
from daedal.processes.noise import Level, noised
from daedal.processes.samplers import sampler_named
from daedal.train import checkpoint, parallel
from daedal.train.optim import recipe_optimizers
from daedal.train.recipe import FlowRecipe, PictureSource
from daedal.train.trainer import Batch, Objective, Trainer

CLOSEST = 0.05  # flow time below which the weight of an x0 error grows no more (Li & He 2025)


def times(count: int, recipe: FlowRecipe) -> Tensor:
    """Noise levels (B, 1): logit-normal, a share of them uniform."""
    t = (recipe.time_mean + recipe.time_std * torch.randn(count, 1)).sigmoid()
    return torch.where(torch.rand(count, 1) < recipe.uniform, torch.rand(count, 1), t)


def given_tokens(count: int, side: int, share: float) -> Tensor:
    """(B, side * side) bool: for a share of the samples a rectangle of tokens, or all but a rectangle."""
    low, high = torch.rand(2, count, 2).sort(0).values  # corners
    at = (torch.arange(side) + 0.5) / side
    rows, columns = ((at >= low[:, i, None]) & (at <= high[:, i, None]) for i in range(2))
    mask = (rows[:, :, None] & columns[:, None]).flatten(1) ^ (torch.rand(count, 1) < 0.5)
    return mask & (torch.rand(count, 1) < share)


def flow_loss(recipe: FlowRecipe) -> Objective:
    """Sum over token values of the squared error of the velocity (noise minus clean), whatever the network predicts; given tokens are
    clean and cost nothing. (Lipman et al. 2022, eq. 14; x-prediction with v-loss: Li & He 2025.)"""

    def loss(network: MediaTransformer, part: Batch) -> Tensor:
        c = network.config
        x0 = patchify(part["images"].float() / 127.5 - 1, c.patch_size)  # (B, T, C)
        side = part["images"].shape[-1] // c.patch_size
        free = ~given_tokens(len(x0), side, recipe.given).to(x0.device)  # (B, T)
        t = (times(len(x0), recipe).to(x0.device) * free)[..., None]  # (B, T, 1)
        level = Level(1 - t, t, t)
        x = noised(x0, torch.randn(x0.shape).to(x0.device), level)
        positions = grid_positions(side * c.patch_size, side * c.patch_size, c.patch_size).to(x.device)
        control = None
        if c.control_size:
            shown = (torch.rand(len(x0), 1, 1) < recipe.control).to(x.device)
            control = patchify(edges(part["images"].float() / 127.5 - 1), c.patch_size) * shown
        output = network(x, positions, t[..., 0], network.encode_text(part["captions"]), control)
        error = PARAMETRISATIONS[c.prediction].denoised(output, x, level) - x0
        return ((error / t.clamp(min=CLOSEST)).square() * free[..., None]).sum()

    return Objective(loss, lambda batch: batch["images"].numel())


def sources(listed: list[PictureSource], side: int) -> list[tuple[Source, float]]:
    return [
        (Scenes(side, unseen=s.path == "scenes:unseen") if s.path.startswith("scenes") else Parquet(s.path, side, s.where), s.weight) for s in listed
    ]  # fmt: skip


def tokenizer_of(recipe: FlowRecipe, out: Path, train: list[tuple[Source, float]]) -> Tokenizer:
    """A byte-level BPE of the captions, kept in `out/tokenizer`."""
    if recipe.model.start:
        return Tokenizer.load(checkpoints.resolve(recipe.model.start))
    if not (out / "tokenizer" / "tokenizer.json").exists():
        rng = random.Random(recipe.seed)
        drawn = (source.sample(rng)[1].lower() for source, _ in rng.choices(train, [w for _, w in train], k=recipe.data.captions))
        Tokenizer.train(drawn, recipe.vocab_size, ["<|end|>", "<|pad|>"], pad="<|pad|>").save(out / "tokenizer")
    return Tokenizer.load(out / "tokenizer")


def network_of(recipe: FlowRecipe, vocab_size: int) -> MediaTransformer:
    if recipe.model.start:
        start = cast(MediaTransformer, load_component(checkpoints.resolve(recipe.model.start), dtype=torch.float32))
        wanted = replace(start.config, **recipe.model.options)
        if wanted == start.config:
            return start.train()
        grown = MediaTransformer(wanted).init_weights(recipe.seed)  # with a control input, say, which starts at zero
        grown.load_state_dict(start.state_dict(), strict=False)
        return grown.train()
    return MediaTransformer(MediaConfig(**recipe.model.config(vocab_size))).init_weights(recipe.seed).train()


def plan(recipe: FlowRecipe) -> dict[str, Any]:
    """What a run will take; trains nothing."""
    device = machine.pick_device(recipe.device)
    dtype = machine.compute_dtype(recipe.dtype, device)
    with torch.device("meta"):
        network = MediaTransformer(MediaConfig(**recipe.model.config(recipe.vocab_size)))
    c, peak = network.config, machine.matrix_peak(device, dtype)
    tokens = (c.sample_size // c.patch_size) ** 2
    flops = network.flops(tokens, train=True) * recipe.rows * recipe.steps
    activations = recipe.micro_rows * tokens * c.num_hidden_layers * (20 * c.hidden_size + 3 * c.intermediate_size) * dtype.itemsize
    return {
        "parameters": network.parameter_count(), "units": f"{recipe.rows * recipe.steps:,} pictures", "flops": flops,
        "dtype": str(dtype).removeprefix("torch."), "device": str(device), "measured_peak_flops": peak,
        "memory_bytes": network.parameter_count() * 4 * (4 + bool(recipe.ema)) + activations,
        "hours_at_full_peak": flops / peak / 3600, "hours_at_60_percent": flops / peak / 0.6 / 3600,
    }  # fmt: skip


def run(
    recipe: FlowRecipe,
    objective: Callable[[FlowRecipe, Tokenizer], Objective] | None = None,
    sampler: str = "euler",
    batches_of: Callable[..., PictureBatches] = PictureBatches,
) -> Path:
    """Train, and write `out/model`. Returns that folder. Other objectives on the same network pass theirs, and their batches."""
    device, out = machine.pick_device(recipe.device), Path(recipe.out)
    rank, world = parallel.start(device)
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed + rank)
    resume = checkpoint.newest(out / "checkpoints")
    side = recipe.model.options.get("sample_size", 64)
    train = sources(recipe.data.train, side)
    tokenizer = tokenizer_of(recipe, out, train)
    network = network_of(recipe, tokenizer.vocab_size).to(device)
    dtype = machine.compute_dtype(recipe.dtype, device)
    network.compute_dtype = None if dtype == torch.float32 else dtype
    (out / "recipe.json").write_text(recipe.model_dump_json(indent=2) + "\n")
    length = network.config.text_length
    batches = batches_of(train, tokenizer, recipe.rows, length, recipe.seed, recipe.drop_caption, step=resume["data"]["step"] if resume else 0)
    trainer = Trainer(
        recipe, network, lambda: recipe_optimizers(recipe.optimizer, network, network.config.hidden_size, dtype), batches,
        objective(recipe, tokenizer) if objective else flow_loss(recipe),
        unit="images", units_per_step=recipe.rows, flops_per_step=recipe.rows * network.flops((side // network.config.patch_size) ** 2, train=True),
        evaluate=partial(evaluate, recipe, tokenizer, sampler), sample=partial(sample, recipe, tokenizer, sampler), rank=rank, world=world, device=device, resume=resume,
    )  # fmt: skip
    trainer.run()
    trainer.result()
    if rank == 0:
        save_component(network, out / "model")
        tokenizer.save(out / "model")
        settings = {"steps": recipe.sample_steps, "guidance_scale": recipe.guidance_scale, "sampler": sampler}
        (out / "model" / "generation_config.json").write_text(json.dumps(settings) + "\n")
    parallel.finish()
    return out / "model"


def painted(
    recipe: FlowRecipe, network: MediaTransformer, tokenizer: Tokenizer, prompts: list[str], sampler: str = "euler", seed: int = 0
) -> np.ndarray:
    """Pictures (B, H, W, 3) uint8 of a network in training."""
    c = network.config
    tokens, nothing = (encode_captions(tokenizer, p, c.text_length) for p in (prompts, [""] * len(prompts)))
    seeds, levels = list(range(seed, seed + len(prompts))), flow_levels(recipe.sample_steps)
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
def evaluate(recipe: FlowRecipe, tokenizer: Tokenizer, sampler: str, network: MediaTransformer) -> dict[str, float]:
    """Shares of scenes painted right, among pairs of colour and shape that training holds and that it does not."""
    result: dict[str, float] = {}
    count = recipe.evaluate_pictures
    for name, unseen in (("seen", False), ("unseen", True)):
        rng = random.Random(f"evaluate/{name}")
        wanted = [scenes.scene(rng, unseen) for _ in range(count)]
        pictures = painted(recipe, network, tokenizer, [s.caption for s in wanted], sampler)
        right = [scenes.correct(s, picture) for s, picture in zip(wanted, pictures, strict=True)]
        result |= {f"{name}_{key}": sum(r[key] for r in right) / count for key in ("objects", "colours", "all")}
    return result


@torch.no_grad()
def sample(recipe: FlowRecipe, tokenizer: Tokenizer, sampler: str, network: MediaTransformer, step: int) -> str:
    """A row of pictures of the recipe's prompts, in `out/samples`."""
    from PIL import Image

    if not recipe.prompts:
        return ""
    path = Path(recipe.out) / "samples" / f"step-{step:06d}.png"
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.concatenate(list(painted(recipe, network, tokenizer, recipe.prompts, sampler)), 1)).save(path)
    return f"pictures: {path}"
