"""CLIP from captioned pictures (Radford et al. 2021, section 2.3): two towers that put a picture
and its caption at one place.

A sample's negatives are all others of the global batch, whichever process holds them, so any number
of processes computes what one would, but for the ways in which pictures move.

Legend: B pictures of this process, W processes, T tokens, P width of the shared space, N pictures
held out."""

import json
import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal import checkpoints
from daedal.data.pictures import PictureBatches, encode_captions
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.networks.clip import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig
from daedal.networks.config import parse
from daedal.processes.clip_scorer import ended
from daedal.processes.measures import first_hits
from daedal.train import parallel
from daedal.train.pictures import PictureTask, clean, cost, held_out, sources, tokenizer_of
from daedal.train.recipe.pictures import ContrastRecipe
from daedal.train.trainer import Batch, Objective

SHARPEST = math.log(100)  # bound of the logit scale


class Towers(nn.Module):
    """A CLIP model as the trainer wants it."""

    def __init__(self, clip: CLIPModel) -> None:
        super().__init__()
        self.clip = clip

    @property
    def layers(self) -> nn.ModuleList:
        text, vision = self.clip.text_model.encoder, self.clip.vision_model.encoder
        return nn.ModuleList([*text.layers, *vision.layers])

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
        pictures = self.clip.embed_images(images.to(self.compute_dtype or torch.float32))
        return pictures.float(), self.clip.embed_text(captions).float()


def contrastive(pictures: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """This process's share of the symmetric cross-entropy, a sum: of its B pictures over all texts
    and of its B texts over all pictures, halved (Radford et al. 2021, figure 3). Unit vectors (B,
    P). Both kinds travel together, one exchange a step."""
    mine = torch.cat([pictures, texts], 1)  # (B, 2 P)
    all_pictures, all_texts = parallel.gathered(mine).chunk(2, 1)  # (W B, P)
    own = torch.arange(len(mine), device=mine.device) + parallel.rank() * len(mine)
    # (B, W B)
    to_text, to_picture = scale * pictures @ all_texts.mT, scale * texts @ all_pictures.mT
    both = [F.cross_entropy(logits, own, reduction="sum") for logits in (to_text, to_picture)]
    return (both[0] + both[1]) / 2


def moved(images: Tensor, by: float) -> Tensor:
    """Pictures (B, 3, H, W), each shifted and scaled by up to the share `by` of its side and turned
    by up to `by` radians; what comes in is its edge."""
    B = len(images)
    along, down, scale, turn = (torch.rand(4, B, device=images.device) * 2 - 1) * by
    cos, sin = (1 + scale) * turn.cos(), (1 + scale) * turn.sin()
    # a side is 2 long
    places = torch.stack([cos, -sin, 2 * along, sin, cos, 2 * down], 1).view(B, 2, 3)
    grid = F.affine_grid(places, list(images.shape), False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


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
    towers = parse(CLIPTextConfig, text | ids), parse(CLIPVisionConfig, vision)
    return CLIPConfig.of(*towers, r.model.width)


def network_of(r: ContrastRecipe, tokenizer: Tokenizer) -> CLIPModel:
    if r.model.start:
        folder = checkpoints.resolve(r.model.start)
        return checkpoints.load(folder, torch.float32, kind=CLIPModel)
    config = config_of(r, tokenizer.vocab_size, tokenizer.pad_id, tokenizer.eos_ids[0])
    return CLIPModel(config).init_weights(r.seed)


def pair_cost(config: CLIPConfig) -> tuple[int, float, int]:
    """What training computes of one pair of picture and caption, and keeps."""
    side, length = config.vision.image_size, config.text.max_position_embeddings

    def forward(network: Towers) -> Any:
        tokens = torch.zeros(1, length, dtype=torch.long)
        return network.clip(torch.empty(1, 3, side, side), tokens)

    return cost(lambda: Towers(CLIPModel(config)), forward)


class TowersTask(PictureTask):
    """What the tasks on two towers share. `sources()` are what is drawn from, `wrap` makes of a CLIP
    model what is trained, and a sample is so many `pictures`."""

    batch_type: type[PictureBatches] = PictureBatches
    wrap: type[Towers] = Towers
    pictures = 1

    def sources(self) -> list[Any]:
        raise NotImplementedError

    def build(self) -> None:
        r, train = self.recipe, self.sources()
        self.tokenizer = tokenizer_of(r, self.start, train)
        clip = network_of(r, self.tokenizer)
        self.length = clip.config.text.max_position_embeddings - 1
        self.batches = self.batch_type(
            train, self.tokenizer, r.rows, self.length, r.seed, step=self.start.step
        )
        self.flops = r.rows * self.pictures * pair_cost(clip.config)[1]
        self.network = self.wrap(clip)
        if not r.data.validation:
            self.evaluate = None

    @property
    def width(self) -> int:
        return self.network.clip.config.text.hidden_size

    def sample_cost(self) -> tuple[int, float, int]:
        weights, flops, kept = pair_cost(config_of(self.recipe, self.recipe.vocab_size, 1, 0))
        return weights, self.pictures * flops, self.pictures * kept

    def save(self, state: dict[str, Tensor]) -> None:
        """The model, its tokenizer, and how pictures are brought to it."""
        clip = self.network.clip
        with torch.no_grad():
            clip.logit_scale.clamp_(max=SHARPEST)
        checkpoints.save(clip, self.folder)
        self.tokenizer.save(self.folder)
        side = clip.config.vision.image_size
        sizes = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
        prepared = PREPROCESSOR | sizes
        (self.folder / "preprocessor_config.json").write_text(json.dumps(prepared, indent=2) + "\n")


PREPROCESSOR = {
    "image_processor_type": "CLIPImageProcessor", "do_resize": True, "size": {}, "do_center_crop": True,
    "crop_size": {}, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
    "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_convert_rgb": True,
}  # fmt: skip


class Contrast(TowersTask):
    """`out/model` is a CLIPModel that transformers opens."""

    recipe_type = ContrastRecipe

    def sources(self) -> list[Any]:
        return sources(self.recipe.data.train, self.recipe.model.side)

    def build(self) -> None:
        r, world = self.recipe, self.start.world
        if r.micro_rows * world < r.rows:
            raise DaedalError(
                f"micro_rows = {r.micro_rows} would hide most of the {r.rows} rows from each other; give micro_rows={r.rows // world}."
            )
        super().build()
        self.objective = contrast(r.jitter)
        if r.data.validation:
            self.images, captions = held_out(r.data.validation, r.model.side, r.evaluate_pictures)
            self.tokens = encode_captions(self.tokenizer, captions, self.length)

    @torch.no_grad()
    def evaluate(self, network: Towers) -> dict[str, float]:
        """R@1 among pictures held out (100 by default), both ways."""
        device = network.clip.logit_scale.device
        pictures, texts = network.embed(clean(self.images.to(device)), self.tokens.to(device))
        return {
            "text_of_picture_r1": first_hits(pictures, texts).float().mean().item(),
            "picture_of_text_r1": first_hits(texts, pictures).float().mean().item(),
            "among": len(self.images),
            "scale": network.clip.scale.item(),
        }
