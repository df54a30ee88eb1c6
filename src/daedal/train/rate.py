"""A preference model of pictures: what people, or a rule, like better of two (Bradley & Terry 1952;
on CLIP: Kirstain et al. 2023, Xu et al. 2023). Its folder is a CLIP model's with a head beside it,
and `prefer` takes it as a reward; so does it a CLIP model without a head, whose opinion is how well
a picture fits its words.

Legend: B pictures, T tokens."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from daedal import checkpoints
from daedal.data.pairs import Pair, pairs
from daedal.data.pictures import PictureBatches, encode_captions, stacked
from daedal.networks.clip import CLIPModel
from daedal.nn.linear import Linear
from daedal.processes.clip_scorer import ClipScorer, ended
from daedal.train.contrast import Towers, TowersTask
from daedal.train.pair_objectives import bradley_terry
from daedal.train.pictures import clean
from daedal.train.recipe.pictures import RateRecipe
from daedal.train.trainer import Batch, Objective, to_device

HEAD = "head.safetensors"


class Rater(Towers):
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
        tokens = self.scorer.tokens(captions).to(images.device)
        return self.rater(self.scorer.prepared(images.clamp(-1, 1)), tokens)


def comparing(network: Rater, part: Batch) -> Tensor:
    """-log sigmoid of how much better the chosen one of each pair is rated, a sum."""
    images = torch.cat([part["images"], part["rejected"]])
    tokens = words_of(network, part["captions"]).repeat(2, 1)
    return bradley_terry(*network(clean(images), tokens).chunk(2)).sum()


def words_of(network: Rater, captions: Tensor) -> Tensor:
    c = network.clip.config.text
    return ended(captions, c.pad_token_id or 0, c.eos_token_id)


# ---- the run -------------------------------------------------------------------------------------


class PairBatches(PictureBatches):
    """Batches {"images": chosen (B, 3, H, W) uint8, "rejected", "captions"}."""

    def batch(self, step: int) -> dict[str, Tensor]:
        rng = random.Random(f"{self.seed}/{step}")
        drawn = [rng.choices(self.sources, self.weights)[0].pair(rng) for _ in range(self.rows)]  # type: ignore[attr-defined]
        return self.batch_of(drawn)

    def batch_of(self, drawn: Sequence[Pair]) -> dict[str, Tensor]:
        chosen, rejected, captions = zip(*drawn, strict=True)
        tokens = encode_captions(self.tokenizer, captions, self.length)
        return {"images": stacked(chosen), "rejected": stacked(rejected), "captions": tokens}


class Rate(TowersTask):
    """`out/model` is a CLIP model that transformers opens, and the head."""

    recipe_type, batch_type, wrap, pictures = RateRecipe, PairBatches, Rater, 2
    objective = Objective(comparing, lambda batch: len(batch["images"]))

    def sources(self) -> list[Any]:
        side = self.recipe.model.side
        return [(pairs(source.path, side), source.weight) for source in self.recipe.data.train]

    def build(self) -> None:
        super().build()
        r, rng = self.recipe, random.Random("held out")
        listed = [pairs(source.path, r.model.side) for source in r.data.validation]
        if listed:
            drawn = [listed[i % len(listed)].pair(rng) for i in range(r.evaluate_pictures)]
            self.held_out = self.batches.batch_of(drawn)

    @torch.no_grad()
    def evaluate(self, network: Rater) -> dict[str, float]:
        """The share of held-out pairs whose order the network finds."""
        held = to_device(self.held_out, network.head.weight.device)
        tokens = words_of(network, held["captions"])
        chosen, rejected = (network(clean(held[key]), tokens) for key in ("images", "rejected"))
        return {"accuracy": (chosen > rejected).float().mean().item(), "pairs": len(tokens)}

    def save(self, state: dict[str, Tensor]) -> None:
        super().save(state)
        save_file(self.network.head.state_dict(), self.folder / HEAD)
