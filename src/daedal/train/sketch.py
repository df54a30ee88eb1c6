"""What names look like, before there is noise: the text encoder of a media transformer learns to
tell a small picture of each caption.

A sample costs a tenth of one of flow matching (`--dry-run` counts), and far fewer are needed to
teach what a name looks like (docs/log.md). What the encoder knows of scenes, which no small picture
shows (who stands where, how many), it keeps with `keep`: its states on their captions are held
where they were. Flow matching goes on from the folder."""

import random
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn

from daedal.data.pictures import encode_captions
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.networks.media import MediaTransformer, TextEncoder
from daedal.train import flow
from daedal.train.pictures import clean
from daedal.train.recipe.flow import SketchRecipe
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
        before = self.text[0].to(captions.device)
        now, then = (encoder(captions, torch.float32) for encoder in (text, before))  # (B, L, D)
        away = (now - then).square().mean()
        return away + (text.gist(now) - before.gist(then)).square().mean()


def sketching(r: SketchRecipe, tokenizer: Tokenizer) -> Objective:
    """The squared error of the small picture, and what keeps the states of scenes; the blocks are
    not run."""
    rng = random.Random(r.seed)
    kinds = (rng.choice(["", "several"]) for _ in range(SCENES if r.keep else 0))
    said = [scenes.scene(rng, kind=kind).caption for kind in kinds]
    adds = flow.additive(r, tokenizer)
    others = encode_captions(tokenizer, said, flow.shape_of(r).text_length)

    def loss(network: MediaTransformer, part: Batch) -> Tensor:
        images = clean(part["images"])
        states = network.text(part["captions"], network.compute_dtype or torch.float32)
        total = flow.sketch_error(network, network.text.gist(states), images)
        if adds:
            total = total + r.additive * adds(network.text, len(images) // 2) * images.numel()
        if r.keep:
            some = others[torch.randint(len(others), (-(-len(images) // 4),))].to(images.device)
            away = network.auxiliary["before"].away(network.text, some)  # type: ignore[operator,index]
            total = total + r.keep * away * images.numel()
        return total

    return Objective(loss, lambda batch: batch["images"].numel())


class Sketch(flow.Flow):
    """The text encoder alone; the blocks of `out/model` are those of the start."""

    recipe_type = SketchRecipe

    def run(self) -> Path:
        if not flow.shape_of(self.recipe).sketch:
            raise DaedalError(
                "A sketch is trained of a model that has one: give model.options.sketch=16, or model.start, the folder of one that does."
            )
        return super().run()

    def build_objective(self) -> Objective:
        return sketching(self.recipe, self.tokenizer)

    def auxiliary(self, network: MediaTransformer) -> nn.ModuleDict:
        """The encoder of the start. What is not learnt here asks for no gradients, so that no
        process waits for them."""
        for name, p in network.named_parameters():
            learns = name.startswith(("text.", "sketch.")) and name != "sketch.proj_out.weight"
            p.requires_grad_(learns)
        return nn.ModuleDict({"before": Before(network)})

    def flops_of(self, network: MediaTransformer, tokens: int) -> float:
        return network.text_flops(train=True)

    def sample_cost(self) -> tuple[int, float, int]:
        weights, flops, _ = super().sample_cost()
        c = flow.shape_of(self.recipe)
        return weights, flops, flow.kept(c, c.text_length * c.text_layers)
