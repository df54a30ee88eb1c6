"""A preference model of pictures: what people, or a rule, like better of two (Bradley & Terry 1952;
on CLIP: Kirstain et al. 2023, Xu et al. 2023). Its folder is a CLIP model's with a head beside it,
and `prefer` takes it as a reward; so does it a CLIP model without a head, whose opinion is how well
a picture fits its words.

Legend: B pictures, T tokens.
"""

import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from daedal import checkpoints
from daedal.data.pairs import Pair, pairs
from daedal.data.pictures import PictureBatches, encode_captions
from daedal.networks.clip import CLIPModel
from daedal.nn.linear import Linear
from daedal.processes.clip_scorer import ClipScorer, ended
from daedal.train import contrast, parallel
from daedal.train.pictures import clean, cost, fit, planned, tokenizer_of
from daedal.train.recipe.pictures import RateRecipe
from daedal.train.start import begin
from daedal.train.trainer import Batch, Objective

HEAD = "head.safetensors"


class Rater(contrast.Towers):
    """scale * cos(picture, caption) + a linear judgement of the picture alone."""

    def __init__(self, clip: CLIPModel) -> None:
        super().__init__(clip)
        # a bias cancels in every comparison
        self.head = Linear(clip.config.vision.hidden_size, 1, bias=False)
        nn.init.zeros_(self.head.weight)

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        """images (B, 3, H, W) as the tower takes them, tokens (B, T) with ends of text -> (B,). A
        caption of no words has no say."""
        seen = self.clip.vision_model(images.to(self.compute_dtype or torch.float32)).pooled
        picture = F.normalize(self.clip.visual_projection(seen).float(), dim=-1)
        fits = self.clip.scale * (picture * self.clip.embed_text(tokens).float()).sum(-1)
        return self.head(seen.float())[:, 0] + fits * (
            tokens[:, 0] != self.clip.config.text.eos_token_id
        )


class RewardScorer:
    """A rater's folder, ready to reward pictures."""

    def __init__(self, folder: str | Path) -> None:
        self.scorer = ClipScorer.load(folder)
        self.rater = Rater(self.scorer.clip)
        if (file := checkpoints.resolve(str(folder)) / HEAD).is_file():
            self.rater.head.load_state_dict(load_file(file))
        self.rater.eval().requires_grad_(False)

    def __call__(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        """images (B, 3, H, W), cut to [-1, 1] -> (B,). Differentiable."""
        self.rater.to(images.device)
        return self.rater(
            self.scorer.prepared(images.clamp(-1, 1)),
            self.scorer.tokens(captions).to(images.device),
        )


def bradley_terry() -> Objective:
    """-log sigmoid of how much better the chosen one of each pair is rated."""

    def loss(network: Rater, part: Batch) -> Tensor:
        words, c = part["captions"], network.clip.config.text
        tokens = ended(words, c.pad_token_id or 0, c.eos_token_id)
        chosen, rejected = network(
            clean(torch.cat([part["images"], part["rejected"]])), tokens.repeat(2, 1)
        ).chunk(2)
        return -F.logsigmoid(chosen - rejected).sum()

    return Objective(loss, lambda batch: len(batch["images"]))


# ---- the run -------------------------------------------------------------------------------------


class PairBatches(PictureBatches):
    """Batches {"images": chosen (B, 3, H, W) uint8, "rejected", "captions"}."""

    def batch(self, step: int) -> dict[str, Tensor]:
        rng = random.Random(f"{self.seed}/{step}")
        return batch_of(
            [rng.choices(self.sources, self.weights)[0].pair(rng) for _ in range(self.rows)], self
        )  # type: ignore[attr-defined]


def batch_of(drawn: Sequence[Pair], like: PictureBatches) -> dict[str, Tensor]:
    chosen, rejected = (
        torch.from_numpy(np.stack([pair[i] for pair in drawn])).permute(0, 3, 1, 2)
        for i in range(2)
    )
    return {
        "images": chosen,
        "rejected": rejected,
        "captions": encode_captions(like.tokenizer, [pair[2] for pair in drawn], like.length),
    }


def plan(recipe: RateRecipe) -> dict[str, Any]:
    """What a run will take; trains nothing."""
    config = contrast.config_of(recipe, recipe.vocab_size, 1, 0)
    weights, flops, kept = cost(
        lambda: contrast.Towers(CLIPModel(config)), partial(contrast.forward, config)
    )
    return planned(recipe, weights, 2 * flops, 2 * kept)


def run(recipe: RateRecipe) -> Path:
    """Train, and write `out/model`: a CLIP model that transformers opens, and the head. Returns
    that folder."""
    start = begin(recipe)
    train = [(pairs(source.path, recipe.model.side), source.weight) for source in recipe.data.train]
    tokenizer = tokenizer_of(recipe, start, train)
    clip = contrast.network_of(recipe, tokenizer).clip
    c = clip.config
    batches = PairBatches(
        train,
        tokenizer,
        recipe.rows,
        c.text.max_position_embeddings - 1,
        recipe.seed,
        step=start.step,
    )
    flops = 2 * cost(lambda: contrast.Towers(CLIPModel(c)), partial(contrast.forward, c))[1]
    network = Rater(clip)
    fit(
        recipe,
        start,
        network,
        c.text.hidden_size,
        batches,
        bradley_terry(),
        flops,
        evaluation(recipe, batches),
    )
    if start.rank == 0:
        contrast.save(network, tokenizer, start)
        save_file(network.head.state_dict(), start.out / "model" / HEAD)
    parallel.finish()
    return start.out / "model"


def evaluation(recipe: RateRecipe, like: PictureBatches) -> Any:
    """The share of held-out pairs whose order the network finds, or None without validation data."""
    listed = [pairs(source.path, recipe.model.side) for source in recipe.data.validation]
    if not listed:
        return None
    rng = random.Random("held out")
    held = batch_of(
        [listed[i % len(listed)].pair(rng) for i in range(recipe.evaluate_pictures)], like
    )

    @torch.no_grad()
    def evaluate(network: Rater) -> dict[str, float]:
        device, c = network.head.weight.device, network.clip.config.text
        tokens = ended(held["captions"], c.pad_token_id or 0, c.eos_token_id).to(device)
        chosen, rejected = (
            network(clean(held[key].to(device)), tokens) for key in ("images", "rejected")
        )
        return {"accuracy": (chosen > rejected).float().mean().item(), "pairs": len(tokens)}

    return evaluate
