"""Flow matching on captioned clips: a recipe becomes the folder of a media transformer with blocks
over time, from nothing or from one of pictures (`model.start`), whose blocks then see a moment each.

One rule for conditions: tokens that are given are clean and carry no loss. A first picture, a first
and a last, the beginning of a clip, a part of every frame: each is a mask, drawn at random for a
share of the samples.

Legend: B batch, F frames, T tokens, C values of a token."""

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from daedal.data.clips import ClipBatches, Moving
from daedal.data.pictures import Source
from daedal.networks.media import MediaTransformer
from daedal.processes.imaging import pixels
from daedal.processes.noise import noised
from daedal.processes.samplers import sampler_named
from daedal.systems.house_media import PARAMETRISATIONS, encode, flow_levels, paint
from daedal.train import terms
from daedal.train.flow import SKETCH, Flow, given_tokens, kept, outline, sketch_error, times
from daedal.train.pictures import clean, sheet, source_of
from daedal.train.recipe.flow import VideoRecipe
from daedal.train.task import evaluating
from daedal.train.trainer import Batch, Objective
from daedal.worlds import motion

SHOWN = 8  # frames of a clip in a sheet
WORDS = 3000  # captions whose words a model is said to know


def given_moments(count: int, frames: int, side: int) -> Tensor:
    """(B, F * side * side) bool: of each sample the first frame, the first and the last, some first
    frames, or a rectangle (or all but one) of every frame."""
    at, given = torch.arange(frames), torch.zeros(count, frames, side * side, dtype=torch.bool)
    kinds = torch.multinomial(torch.tensor([0.4, 0.15, 0.3, 0.15]), count, replacement=True)
    for i, kind in enumerate(kinds.tolist()):
        if kind == 3:
            given[i] = given_tokens(1, side, 1.0)
            continue
        first = int(torch.randint(2, max(frames - 1, 3), ())) if kind == 2 else 1
        given[i] = ((at < first) | ((kind == 1) & (at == frames - 1)))[:, None]
    return given.flatten(1)


def clip_loss(recipe: VideoRecipe) -> Objective:
    """`daedal.train.flow.flow_loss` over the tokens of clips. `given` is the share of the steps whose
    samples have tokens given: in the others a sample has one level, and its modulation costs no more
    than a picture's."""

    def loss(network: MediaTransformer, part: Batch) -> Tensor:
        clips, codec = clean(part["clips"]), network.codec
        frames, side = clips.shape[1], clips.shape[-1] // codec.side
        x0 = codec.encode(clips)  # (B, T, C)
        positions = codec.positions(*clips[0, :, 0].shape, float(part["rate"][0]), x0.device)
        t = times(len(x0), recipe)  # (B, 1), or with tokens given (B, T)
        if frames > 1 and torch.rand(()) < recipe.given:
            t = t * ~given_moments(len(x0), frames, side)
        t = t[..., None].to(x0.device)
        level, text = terms.flow_level(t), network.encode_text(part["captions"])
        x = noised(x0, torch.randn(x0.shape).to(x0.device), level)
        output = network(x, positions, t[..., 0], text)
        error = PARAMETRISATIONS[network.config.prediction].denoised(output, x, level) - x0
        total = (error.square() * terms.weight(t, recipe.min_snr) * (t > 0)).sum()
        if network.sketch is not None:
            total = total + SKETCH * frames * sketch_error(network, text.pooled, clips.mean(1))
        return total

    return Objective(loss, lambda batch: batch["clips"].numel())


class Video(Flow):
    """A media transformer of clips."""

    recipe_type = VideoRecipe
    unit, unit_label = "clips", "clips"

    def build_objective(self) -> Objective:
        return clip_loss(self.recipe)

    def source(self, listed: Any, side: int) -> Source:
        word, _, only = listed.path.partition(":")
        return Moving(side, only) if word == "motion" else source_of(listed, side)

    def make_batches(self, *what: Any, step: int) -> ClipBatches:
        return ClipBatches(*what, self.recipe.stills, self.recipe.shapes, step)

    def flops_of(self, network: MediaTransformer, tokens: int) -> float:
        frames = network.config.frames
        clips = network.flops(tokens * frames, train=True, moments=frames)
        return clips * (1 - self.recipe.stills * (1 - 1 / frames))

    def tokens_of(self, network: MediaTransformer, side: int) -> int:
        return network.codec.count(1, side, side)

    def painted(self, network: MediaTransformer, prompts: list[str]) -> np.ndarray:
        """Clips (B, F, H, W, 3) uint8, with the recipe's settings."""
        r, c = self.recipe, network.config
        tokens = encode(network, self.tokenizer, prompts)
        nothing = encode(network, self.tokenizer, [""] * len(prompts))
        seeds, levels = list(range(len(prompts))), flow_levels(r.sample_steps, r.sample_shift)
        size = (c.frames, c.sample_size, c.sample_size)
        how = {"guidance_scale": r.guidance_scale, "sampler": sampler_named(self.sampler)}
        with evaluating(network):
            x = paint(
                network, tokens, nothing, seeds, levels, size=size, rate=float(c.frame_rate), **how
            )
        return pixels(x.flatten(0, 1)).reshape(x.shape[0], x.shape[1], *size[1:], 3)

    @torch.no_grad()
    def evaluate(self, network: MediaTransformer) -> dict[str, float]:
        """Shares of clips made right, among pairs of colour and shape that training holds and that it
        does not."""
        result, count = dict[str, float](), self.recipe.evaluate_pictures
        for name, unseen in (("seen", False), ("unseen", True)):
            rng = random.Random(f"evaluate/{name}")
            wanted = [motion.clip(rng, unseen) for _ in range(count)]
            made = [
                clip
                for i in range(0, count, 12)
                for clip in self.painted(network, [w.caption for w in wanted[i : i + 12]])
            ]
            right = [*map(motion.correct, wanted, made)]
            for key in ("objects", "colours", "direction", "speed", "all"):
                result[f"{name}_{key}"] = sum(r[key] for r in right) / count
        return result

    @torch.no_grad()
    def sample(self, network: MediaTransformer, step: int) -> str:
        """A sheet of the recipe's prompts, a row of frames each, in `out/samples`."""
        if not self.recipe.prompts:
            return ""
        clips = self.painted(network, self.recipe.prompts)
        every = max(clips.shape[1] // SHOWN, 1)
        return sheet(self.start.out, step, [clip[::every] for clip in clips])

    def chosen(self) -> dict[str, Any]:
        """With the words that training had, so that others are remarked on."""
        rng, sources = random.Random("words"), [source for source, _ in self.batches.moving]
        said = (rng.choice(sources).sample(rng)[1] for _ in range(WORDS))
        return {"words": sorted({word for caption in said for word in caption.lower().split()})}

    def sample_cost(self) -> tuple[int, float, int]:
        network = outline(self.recipe)
        c = network.config
        tokens = network.codec.count(c.frames, c.sample_size, c.sample_size)
        flops = self.flops_of(network, tokens // c.frames)
        states = tokens * (c.num_hidden_layers + c.time_layers)
        return network.parameter_count(), flops, kept(c, states)
