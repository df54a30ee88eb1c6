"""What names look like, before there is noise: the text encoder of a media transformer learns to
tell a small picture of each caption.

A sample costs a tenth of one of flow matching (`--dry-run` counts), and far fewer are needed to
teach what a name looks like (docs/log.md). What the encoder knows of scenes, which no small picture
shows (who stands where, how many), it keeps with `keep`: its states on their captions are held
where they were. Flow matching goes on from the folder.
"""

import random
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from daedal.data.pictures import encode_captions
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.networks.media import MediaTransformer, TextEncoder
from daedal.train import flow
from daedal.train.pictures import clean, planned
from daedal.train.recipe.flow import FlowRecipe, SketchRecipe
from daedal.train.terms import Additive
from daedal.train.trainer import Batch, Objective
from daedal.worlds import scenes

SCENES = 6000  # captions of scenes that are drawn from


class Before(nn.Module):
    """The text encoder as it was at the start."""

    def __init__(self, network: MediaTransformer) -> None:
        super().__init__()
        # in a list: no part of what is trained or kept
        self.text = [deepcopy(network.text).eval().requires_grad_(False)]

    def away(self, text: TextEncoder, captions: Tensor) -> Tensor:
        """Mean squared distance of the states that `text` gives captions (B, L) from those of the
        start, and of their pooled vectors."""
        # (B, L, D)
        now, then = (
            encoder(captions, torch.float32) for encoder in (text, self.text[0].to(captions.device))
        )
        return (now - then).square().mean() + (
            text.gist(now) - self.text[0].gist(then)
        ).square().mean()


def sketching(recipe: FlowRecipe, tokenizer: Tokenizer) -> Objective:
    """The squared error of the small picture, and what keeps the states of scenes; the blocks are
    not run."""
    r, rng = cast(SketchRecipe, recipe), random.Random(recipe.seed)
    said = (
        [scenes.scene(rng, kind=rng.choice(["", "several"])).caption for _ in range(SCENES)]
        if r.keep
        else []
    )
    adds = Additive(recipe, tokenizer, flow.shape_of(recipe).text_length) if r.additive else None
    others = encode_captions(tokenizer, said, flow.shape_of(recipe).text_length)

    def loss(network: MediaTransformer, part: Batch) -> Tensor:
        images = clean(part["images"])
        states = network.text(part["captions"], network.compute_dtype or torch.float32)
        total = flow.sketch_error(network, network.text.gist(states), images)
        if adds:
            total = total + r.additive * adds(network.text, len(images) // 2) * images.numel()
        if r.keep:
            some = others[torch.randint(len(others), (-(-len(images) // 4),))].to(images.device)
            total = (
                total
                + r.keep * network.auxiliary["before"].away(network.text, some) * images.numel()
            )  # type: ignore[operator,index]
        return total

    return Objective(loss, lambda batch: batch["images"].numel())


def auxiliary(recipe: FlowRecipe, network: MediaTransformer) -> nn.ModuleDict:
    """The encoder of the start. What is not learnt here asks for no gradients, so that no process
    waits for them."""
    for name, p in network.named_parameters():
        p.requires_grad_(name.startswith(("text.", "sketch.")) and name != "sketch.proj_out.weight")
    return nn.ModuleDict({"before": Before(network)})


def run(recipe: SketchRecipe) -> Path:
    """Train, and write `out/model`, whose blocks are those of the start."""
    if not flow.shape_of(recipe).sketch:
        raise DaedalError(
            "A sketch is trained of a model that has one: give model.options.sketch=16, or model.start, the folder of one that does."
        )
    return flow.run(
        recipe,
        sketching,
        auxiliary=auxiliary,
        flops=partial(MediaTransformer.text_flops, train=True),
    )


def plan(recipe: SketchRecipe) -> dict[str, Any]:
    """What a run will take; trains nothing."""
    network = flow.outline(recipe)
    c = network.config
    return planned(
        recipe,
        network.parameter_count(),
        network.text_flops(train=True),
        flow.kept(c, c.text_length * c.text_layers),
    )
