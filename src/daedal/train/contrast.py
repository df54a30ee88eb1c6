"""CLIP from captioned pictures (Radford et al. 2021, section 2.3): two towers that put a picture
and its caption at one place.

A sample's negatives are all others of the global batch, whichever process holds them, so any number
of processes computes what one would, but for the ways in which pictures move.

Legend: B pictures of this process, W processes, T tokens, P width of the shared space, N pictures
held out.
"""

import json
import math
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from daedal import checkpoints
from daedal.data.pictures import PictureBatches, encode_captions
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.networks.clip import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig
from daedal.networks.config import parse
from daedal.processes.clip_scorer import ended
from daedal.processes.measures import first_hits
from daedal.train import parallel
from daedal.train.pictures import clean, cost, fit, held_out, planned, sources, tokenizer_of
from daedal.train.recipe.pictures import ContrastRecipe
from daedal.train.start import Start, begin
from daedal.train.trainer import Batch, Objective

SHARPEST = math.log(100)  # bound of the logit scale


class Towers(nn.Module):
    """A CLIP model as the trainer wants it."""

    def __init__(self, clip: CLIPModel) -> None:
        super().__init__()
        self.clip = clip

    @property
    def layers(self) -> nn.ModuleList:
        return nn.ModuleList(
            [*self.clip.text_model.encoder.layers, *self.clip.vision_model.encoder.layers]
        )  # type: ignore[list-item]

    @property
    def compute_dtype(self) -> torch.dtype | None:
        return self.clip.text_model.compute_dtype

    @compute_dtype.setter
    def compute_dtype(self, dtype: torch.dtype | None) -> None:
        self.clip.text_model.compute_dtype = dtype

    def embed(self, images: Tensor, captions: Tensor) -> tuple[Tensor, Tensor]:
        """images (B, 3, H, W) in [-1, 1] and captions (B, T), padded -> unit vectors (B, P) float32
        of both."""
        c = self.clip.config.text
        captions = ended(captions, cast(int, c.pad_token_id), c.eos_token_id)
        return self.clip.embed_images(
            images.to(self.compute_dtype or torch.float32)
        ).float(), self.clip.embed_text(captions).float()


class Gather(Function):
    """(B, ...) of each process -> (W * B, ...) of all, in order of rank. The gradient of a row is
    the sum of all processes' gradients of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad.chunk(dist.get_world_size())[dist.get_rank()]


def contrastive(pictures: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """This process's share of the symmetric cross-entropy, a sum: of its B pictures over all texts
    and of its B texts over all pictures, halved (Radford et al. 2021, figure 3). Unit vectors (B,
    P). Both kinds travel together, one exchange a step."""
    mine = torch.cat([pictures, texts], 1)  # (B, 2 P)
    everyone, rank = (Gather.apply(mine), dist.get_rank()) if dist.is_initialized() else (mine, 0)
    all_pictures, all_texts = everyone.chunk(2, 1)  # (W B, P)
    own = torch.arange(len(mine), device=mine.device) + rank * len(mine)
    # (B, W B)
    to_text, to_picture = scale * pictures @ all_texts.mT, scale * texts @ all_pictures.mT
    return (
        F.cross_entropy(to_text, own, reduction="sum")
        + F.cross_entropy(to_picture, own, reduction="sum")
    ) / 2


def moved(images: Tensor, by: float) -> Tensor:
    """Pictures (B, 3, H, W), each shifted and scaled by up to the share `by` of its side and turned
    by up to `by` radians; what comes in is its edge."""
    B = len(images)
    along, down, scale, turn = (torch.rand(4, B, device=images.device) * 2 - 1) * by
    cos, sin = (1 + scale) * turn.cos(), (1 + scale) * turn.sin()
    # a side is 2 long
    places = torch.stack([cos, -sin, 2 * along, sin, cos, 2 * down], 1).view(B, 2, 3)
    return F.grid_sample(
        images,
        F.affine_grid(places, list(images.shape), False),
        padding_mode="border",
        align_corners=False,
    )


def contrast(jitter: float = 0.0) -> Objective:
    def loss(network: Towers, part: Batch) -> Tensor:
        with torch.no_grad():
            network.clip.logit_scale.clamp_(max=SHARPEST)
        images = moved(clean(part["images"]), jitter) if jitter else clean(part["images"])
        return contrastive(*network.embed(images, part["captions"]), network.clip.scale)

    return Objective(loss, lambda batch: len(batch["images"]))


# ---- the run -------------------------------------------------------------------------------------


def config_of(r: ContrastRecipe, vocab_size: int, pad: int, eos: int) -> CLIPConfig:
    if r.model.start:
        return parse(CLIPConfig, checkpoints.read_config(checkpoints.resolve(r.model.start)))
    text, vision = r.model.config()
    ids = {"vocab_size": vocab_size, "pad_token_id": pad, "eos_token_id": eos, "bos_token_id": None}
    return CLIPConfig.of(
        parse(CLIPTextConfig, text | ids), parse(CLIPVisionConfig, vision), r.model.width
    )


def network_of(r: ContrastRecipe, tokenizer: Tokenizer) -> Towers:
    if r.model.start:
        return Towers(
            checkpoints.load(checkpoints.resolve(r.model.start), torch.float32, kind=CLIPModel)
        )
    return Towers(
        CLIPModel(
            config_of(r, tokenizer.vocab_size, tokenizer.pad_id, tokenizer.eos_ids[0])
        ).init_weights(r.seed)
    )


def forward(config: CLIPConfig, network: Towers) -> Any:
    """What training computes of one sample, for its cost."""
    images = torch.empty(1, 3, config.vision.image_size, config.vision.image_size)
    return network.clip(
        images, torch.zeros(1, config.text.max_position_embeddings, dtype=torch.long)
    )


def plan(recipe: ContrastRecipe) -> dict[str, Any]:
    """What a run will take; trains nothing."""
    config = config_of(recipe, recipe.vocab_size, 1, 0)
    return planned(recipe, *cost(lambda: Towers(CLIPModel(config)), partial(forward, config)))


def run(recipe: ContrastRecipe) -> Path:
    """Train, and write `out/model`, a CLIPModel that transformers opens. Returns that folder."""
    start = begin(recipe)
    if recipe.micro_rows * start.world < recipe.rows:
        raise DaedalError(
            f"micro_rows = {recipe.micro_rows} would hide most of the {recipe.rows} rows from each other; give micro_rows={recipe.rows // start.world}."
        )
    train = sources(recipe.data.train, recipe.model.side)
    tokenizer = tokenizer_of(recipe, start, train)
    network = network_of(recipe, tokenizer)
    c = network.clip.config
    batches = PictureBatches(
        train,
        tokenizer,
        recipe.rows,
        c.text.max_position_embeddings - 1,
        recipe.seed,
        step=start.step,
    )
    flops = cost(lambda: Towers(CLIPModel(c)), partial(forward, c))[1]
    evaluate = evaluation(recipe, tokenizer, c.text.max_position_embeddings - 1)
    fit(
        recipe,
        start,
        network,
        c.text.hidden_size,
        batches,
        contrast(recipe.jitter),
        flops,
        evaluate,
    )
    if start.rank == 0:
        save(network, tokenizer, start)
    parallel.finish()
    return start.out / "model"


def evaluation(recipe: ContrastRecipe, tokenizer: Tokenizer, length: int) -> Any:
    """R@1 among pictures held out (100 by default), both ways, or None without validation data."""
    if not recipe.data.validation:
        return None
    images, captions = held_out(recipe.data.validation, recipe.model.side, recipe.evaluate_pictures)
    tokens = encode_captions(tokenizer, captions, length)

    @torch.no_grad()
    def evaluate(network: Towers) -> dict[str, float]:
        device = network.clip.logit_scale.device
        pictures, texts = network.embed(clean(images.to(device)), tokens.to(device))
        hits = {
            "text_of_picture": first_hits(pictures, texts),
            "picture_of_text": first_hits(texts, pictures),
        }
        return {f"{name}_r1": hit.float().mean().item() for name, hit in hits.items()} | {
            "among": len(images),
            "scale": network.clip.scale.item(),
        }

    return evaluate


def save(network: Towers, tokenizer: Tokenizer, start: Start) -> None:
    """The model, its tokenizer, and how pictures are brought to it."""
    with torch.no_grad():
        network.clip.logit_scale.clamp_(max=SHARPEST)
    checkpoints.save(network.clip, start.out / "model")
    tokenizer.save(start.out / "model")
    side = network.clip.config.vision.image_size
    prepared = {
        "image_processor_type": "CLIPImageProcessor", "do_resize": True, "size": {"shortest_edge": side}, "do_center_crop": True,
        "crop_size": {"height": side, "width": side}, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_convert_rgb": True,
    }  # fmt: skip
    (start.out / "model" / "preprocessor_config.json").write_text(
        json.dumps(prepared, indent=2) + "\n"
    )
