"""Flow matching on captioned pictures: a recipe becomes a media transformer's folder."""

import json
import random
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal import checkpoints
from daedal.data.pictures import DrawnBatches, PictureBatches, Source
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.networks.autoencoder import AutoencoderKL
from daedal.networks.config import parse
from daedal.networks.media import MediaConfig, MediaTransformer
from daedal.processes.imaging import edges, pixels
from daedal.processes.noise import noised
from daedal.processes.samplers import sampler_named
from daedal.systems.house_media import PARAMETRISATIONS, encode, flow_levels, paint
from daedal.train import terms
from daedal.train.pictures import PictureTask, clean, sheet, source_of, tokenizer_of
from daedal.train.recipe.flow import FlowRecipe
from daedal.train.recipe.pictures import PictureSource
from daedal.train.task import evaluating
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
    small = network.sketch(pooled)  # type: ignore[misc]
    error = (small - F.interpolate(images, size=small.shape[2:], mode="area")).square()
    return error.mean((1, 2, 3)).sum() * images[0].numel()


def flow_loss(recipe: FlowRecipe, tokenizer: Tokenizer) -> Objective:
    """Sum over token values of the squared error of the velocity (noise minus clean), whatever the
    network predicts; given tokens are clean and cost nothing (Lipman et al. 2022, eq. 14;
    x-prediction with v-loss: Li & He 2025). With what daedal.train.terms adds."""

    adds = additive(recipe, tokenizer)

    def loss(network: MediaTransformer, part: Batch) -> Tensor:
        c, images = network.config, clean(part["images"])
        x0, positions = terms.latents(network, part["images"])  # (B, T, C)
        side = images.shape[-1] // network.codec.side
        free = ~given_tokens(len(x0), side, recipe.given).to(x0.device)  # (B, T)
        t = (times(len(x0), recipe).to(x0.device) * free)[..., None]  # (B, T, 1)
        eps = terms.offset(x0.shape, recipe.offset_noise, c.channels).to(x0.device)
        level = terms.flow_level(t)
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


def additive(recipe: FlowRecipe, tokenizer: Tokenizer) -> terms.Additive | None:
    if not recipe.additive:
        return None
    return terms.Additive(recipe, tokenizer, shape_of(recipe).text_length)


def network_of(recipe: FlowRecipe, vocab_size: int) -> MediaTransformer:
    if recipe.model.start:
        start = started(recipe)
        wanted = replace(start.config, **recipe.model.options)
        if wanted == start.config:
            return start.train()
        # with a control input, say, which starts at zero
        grown, had = MediaTransformer(wanted).init_weights(recipe.seed), start.state_dict()
        if (text := "text.position") in had:  # a longer text ends as the shorter one did
            more = wanted.text_length - len(had[text])
            had[text] = torch.cat([had[text], had[text][-1:].expand(max(more, 0), -1)])
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
        codec = checkpoints.load(checkpoints.resolve(recipe.model.codec), dtype=torch.float32)
        network.codec.autoencoder.load_state_dict(codec.state_dict())
    return network.train()


def started(recipe: FlowRecipe) -> MediaTransformer:
    """The network of `model.start`, as it is."""
    folder = checkpoints.resolve(str(recipe.model.start))
    return checkpoints.load(folder, dtype=torch.float32, kind=MediaTransformer)


def new_config(recipe: FlowRecipe, vocab_size: int) -> MediaConfig:
    folder = recipe.model.codec
    codec = checkpoints.read_config(checkpoints.resolve(folder)) if folder else None
    if codec and codec.get("_class_name") != AutoencoderKL.class_name:
        raise DaedalError(
            f"model.codec = {recipe.model.codec} holds a {codec.get('_class_name')}; give the folder of an {AutoencoderKL.class_name}."
        )
    return MediaConfig(**recipe.model.config(vocab_size, codec))


def shape_of(recipe: FlowRecipe) -> MediaConfig:
    if not recipe.model.start:
        return new_config(recipe, recipe.vocab_size)
    raw = checkpoints.read_config(checkpoints.resolve(recipe.model.start))
    return replace(parse(MediaConfig, raw), **recipe.model.options)


def outline(recipe: FlowRecipe) -> MediaTransformer:
    """The network without weights, on the meta device."""
    with torch.device("meta"):
        return MediaTransformer(shape_of(recipe))


def kept(c: MediaConfig, states: int) -> int:
    """Bytes of activations for the backward pass, as float32, of so many states in blocks (tokens
    times blocks)."""
    return 4 * states * (20 * c.hidden_size + 3 * c.intermediate_size)


class Flow(PictureTask):
    """A media transformer. Tasks on the same network have another objective, `auxiliary` modules, or
    batches, and say which `sampler` their result paints with."""

    recipe_type, sampler = FlowRecipe, "euler"

    def build_objective(self) -> Objective:
        return flow_loss(self.recipe, self.tokenizer)

    def auxiliary(self, network: MediaTransformer) -> nn.ModuleDict:
        """What is trained or kept beside the network, and not shipped."""
        return terms.auxiliary(self.recipe, network)

    def batch_type(self) -> type[PictureBatches]:
        return PictureBatches

    def source(self, listed: PictureSource, side: int) -> Source:
        return source_of(listed, side)

    def make_batches(self, *what: Any, step: int) -> DrawnBatches:
        return self.batch_type()(*what, step=step)

    def tokens_of(self, network: MediaTransformer, side: int) -> int:
        """Of a picture, or of a moment."""
        return network.codec.count(side, side)

    def flops_of(self, network: MediaTransformer, tokens: int) -> float:
        return network.flops(tokens, train=True)

    def build(self) -> None:
        r, side = self.recipe, self.recipe.model.options.get("sample_size", 64)
        train = [(self.source(s, side), s.weight) for s in r.data.train]
        self.tokenizer = tokenizer_of(r, self.start, train)
        self.network = network_of(r, self.tokenizer.vocab_size)
        self.network.auxiliary = self.auxiliary(self.network)
        length = self.network.config.text_length
        what = (train, self.tokenizer, r.rows, length, r.seed, r.drop_caption)
        self.batches = self.make_batches(*what, step=self.start.step)
        self.objective = self.build_objective()
        tokens = self.tokens_of(self.network, side)
        self.flops = r.rows * self.flops_of(self.network, tokens)

    def painted(self, network: MediaTransformer, prompts: list[str]) -> np.ndarray:
        """Pictures (B, H, W, 3) uint8, with the recipe's settings."""
        r, c = self.recipe, network.config
        tokens = encode(network, self.tokenizer, prompts)
        nothing = encode(network, self.tokenizer, [""] * len(prompts))
        seeds, levels = list(range(len(prompts))), flow_levels(r.sample_steps, r.sample_shift)
        size = {"size": (c.sample_size, c.sample_size)}
        how = {"guidance_scale": r.guidance_scale, "sampler": sampler_named(self.sampler)}
        with evaluating(network):
            x = paint(network, tokens, nothing, seeds, levels, **how, **size)
        return pixels(x)

    @torch.no_grad()
    def evaluate(self, network: MediaTransformer) -> dict[str, float]:
        """Shares of scenes painted right, among pairs of colour and shape that training holds and
        that it does not."""
        result, count = dict[str, float](), self.recipe.evaluate_pictures
        for name, unseen in (("seen", False), ("unseen", True)):
            rng = random.Random(f"evaluate/{name}")
            wanted = [scenes.scene(rng, unseen) for _ in range(count)]
            pictures = self.painted(network, [scene.caption for scene in wanted])
            right = [*map(scenes.correct, wanted, pictures)]
            for key in ("objects", "colours", "all"):
                result[f"{name}_{key}"] = sum(r[key] for r in right) / count
        return result

    @torch.no_grad()
    def sample(self, network: MediaTransformer, step: int) -> str:
        """A row of pictures of the recipe's prompts, in `out/samples`; below them what their text
        alone tells."""
        prompts, size = self.recipe.prompts, (network.config.sample_size,) * 2
        if not prompts:
            return ""
        rows = [self.painted(network, prompts)]
        if network.sketch is not None:
            tokens = encode(network, self.tokenizer, prompts).to(network.proj_in.weight.device)
            small = network.sketch(network.encode_text(tokens).pooled)
            rows.append(pixels(F.interpolate(small, size=size)))
        return sheet(self.start.out, step, rows)

    def save(self, state: dict[str, Tensor]) -> None:
        del self.network.auxiliary
        checkpoints.save(self.network, self.folder)
        self.tokenizer.save(self.folder)
        r = self.recipe
        settings = {"steps": r.sample_steps, "shift": r.sample_shift}
        settings |= {"guidance_scale": r.guidance_scale, "sampler": self.sampler} | self.chosen()
        (self.folder / "generation_config.json").write_text(json.dumps(settings) + "\n")

    def chosen(self) -> dict[str, Any]:
        """What else the model chooses where nothing is asked for."""
        return {}

    def sample_cost(self) -> tuple[int, float, int]:
        network = outline(self.recipe)
        c = network.config
        tokens = network.codec.count(c.sample_size, c.sample_size)
        flops = self.flops_of(network, tokens)
        return network.parameter_count(), flops, kept(c, tokens * c.num_hidden_layers)
