"""What names look like, before there is noise: the text encoder of a media transformer learns to tell a small picture of each caption.

That costs a tenth of a step of flow matching, and teaches what a name looks like from a tenth of the samples (docs/log.md). Flow matching goes on
from the folder.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.networks.media import MediaTransformer
from daedal.train import flow
from daedal.train.pictures import clean, planned
from daedal.train.recipe.flow import FlowRecipe, SketchRecipe
from daedal.train.trainer import Batch, Objective


def sketching(recipe: FlowRecipe, tokenizer: Tokenizer) -> Objective:
    """The squared error of the small picture; the blocks are not run."""

    def loss(network: MediaTransformer, part: Batch) -> Tensor:
        return flow.sketch_error(network, network.encode_text(part["captions"]).pooled, clean(part["images"]))

    return Objective(loss, lambda batch: batch["images"].numel())


def run(recipe: SketchRecipe) -> Path:
    """Train, and write `out/model`, whose blocks are those of the start."""
    if not flow.shape_of(recipe).sketch:
        raise DaedalError("A sketch is trained of a model that has one: give model.options.sketch=16, or model.start, the folder of one that does.")
    return flow.run(recipe, sketching, flops=partial(MediaTransformer.text_flops, train=True))


def plan(recipe: SketchRecipe) -> dict[str, Any]:
    """What a run will take; trains nothing."""
    with torch.device("meta"):
        network = MediaTransformer(flow.shape_of(recipe))
    c = network.config
    kept = 4 * c.text_length * c.text_layers * (20 * c.hidden_size + 3 * c.intermediate_size)
    return planned(recipe, network.parameter_count(), network.text_flops(train=True), kept)
