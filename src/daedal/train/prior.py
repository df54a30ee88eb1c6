"""A text-to-picture decoder over the codes of a VQ autoencoder (Ramesh et al. 2021, section 2;
Esser et al. 2021, section 3.2): the house's language model, whose later words are cells of a
picture.

Legend: B batch, L caption tokens, N codes of a picture, D width."""

import json
import math
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from daedal import checkpoints
from daedal.data.pictures import PictureBatches
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.networks import build, config_from_dict
from daedal.networks.decoder import Decoder
from daedal.networks.vq import VQModel
from daedal.processes.imaging import pixels
from daedal.processes.sampling import SamplingParams
from daedal.systems.vq_prior import encode, paint_codes, with_start
from daedal.train.objectives import linear_cross_entropy
from daedal.train.pictures import PictureTask, clean, held_out, sheet, sources, tokenizer_of
from daedal.train.recipe.pictures import PriorRecipe
from daedal.train.task import activations, evaluating, outline
from daedal.train.trainer import Batch, Objective

NAT = 1 / math.log(2)  # bits


def code_loss(network: Decoder, prompts: Tensor, codes: Tensor, count: int) -> Tensor:
    """Nats to say codes (B, N), of `count` there are, after prompts (B, L + 1): a sum, among the
    codes' own logits only. The last token of a prompt foretells the first code."""
    offset = network.config.vocab_size - count
    tokens = torch.cat([prompts, codes + offset], 1)
    hidden = network.hidden(tokens[:, :-1])[:, -codes.shape[1] :]  # (B, N, D)
    return linear_cross_entropy(
        hidden, network.lm_head.weight[offset:], codes, softcap=network.softcap
    )


def next_code(codec: VQModel, eos: int, cells: int) -> Objective:
    """Sum of next-code losses over pictures of `cells` codes; the codec is held fixed."""

    def loss(network: Decoder, part: Batch) -> Tensor:
        codes, prompts = tokens_of(codec, part["images"]), with_start(part["captions"], eos)
        return code_loss(network, prompts, codes, codec.config.num_vq_embeddings)

    return Objective(loss, lambda batch: len(batch["images"]) * cells)


@torch.no_grad()
def tokens_of(codec: VQModel, images: Tensor) -> Tensor:
    """images (B, 3, H, W) uint8 -> codes (B, N), row by row."""
    return codec.to(images.device).tokens(clean(images)).flatten(1)


# ---- the run -------------------------------------------------------------------------------------


def codec_of(recipe: PriorRecipe) -> VQModel:
    codec = checkpoints.load(checkpoints.resolve(recipe.codec), torch.float32)
    if not isinstance(codec, VQModel):
        raise DaedalError(
            f"codec = {recipe.codec} is no VQModel but {type(codec).__name__}; give the folder that recipes/image/vq.yaml makes."
        )
    return codec.requires_grad_(False)


def side_of(codec: VQModel) -> int:
    """Pixels a side that the codec was trained at."""
    return cast(int, codec.config.sample_size)


def shape_of(recipe: PriorRecipe, codec: VQModel, vocab_size: int, eos: int) -> dict[str, Any]:
    """config.json: text and codes in one vocabulary, a caption, an end of text and a picture in one
    context."""
    if recipe.model.start:
        return checkpoints.read_config(checkpoints.resolve(recipe.model.start))
    size = recipe.text_length + 1 + (side_of(codec) // codec.factor) ** 2
    raw = recipe.model.config(vocab_size + codec.config.num_vq_embeddings, eos, eos)
    return raw | {"max_position_embeddings": size}


def network_of(recipe: PriorRecipe, codec: VQModel, tokenizer: Tokenizer) -> Decoder:
    if recipe.model.start:
        return checkpoints.load(checkpoints.resolve(recipe.model.start), dtype=torch.float32)
    raw = shape_of(recipe, codec, tokenizer.vocab_size, tokenizer.eos_ids[0])
    return build(config_from_dict(raw)).init_weights(recipe.seed)


def flops_of(recipe: PriorRecipe, codec: VQModel, network: Decoder) -> float:
    """Floating-point operations of a training step of one sample: the decoder's, and the codec's
    once to say the codes."""
    side = side_of(codec)
    tokens = recipe.text_length + (side // codec.factor) ** 2
    encoding = codec.flops(side, side)["encode"]
    return tokens * network.flops_per_token(tokens // 2, train=True) + encoding


class Prior(PictureTask):
    """`out/model` is the decoder's folder, with its tokenizer, and the codec in `codec`."""

    recipe_type = PriorRecipe

    def build(self) -> None:
        self.codec, r = codec_of(self.recipe), self.recipe
        side = side_of(self.codec)
        train = sources(r.data.train, side)
        self.tokenizer = tokenizer_of(r, self.start, train)
        self.network = network_of(r, self.codec, self.tokenizer)
        self.batches = PictureBatches(
            train, self.tokenizer, r.rows, r.text_length, r.seed, r.drop_caption, self.start.step
        )
        cells = (side // self.codec.factor) ** 2
        self.objective = next_code(self.codec, self.tokenizer.eos_ids[0], cells)
        self.flops = r.rows * flops_of(r, self.codec, self.network)
        if r.data.validation:
            images, self.captions = held_out(r.data.validation, side, r.evaluate_pictures)
            self.codes = tokens_of(self.codec, images)
        else:
            self.evaluate = None

    @torch.no_grad()
    def evaluate(self, network: Decoder) -> dict[str, float]:
        """Bits a code of pictures held out, with their captions and with none."""
        device, count = network.lm_head.weight.device, self.codec.config.num_vq_embeddings

        def bits(said: list[str]) -> float:
            prompts = encode(self.tokenizer, said, self.recipe.text_length).to(device)
            pairs = zip(prompts.split(25), self.codes.to(device).split(25), strict=True)
            total = sum(code_loss(network, *pair, count).item() for pair in pairs)
            return total / self.codes.numel() * NAT

        nothing = [""] * len(self.captions)
        return {"bits_per_code": bits(self.captions), "bits_without_caption": bits(nothing)}

    def sample(self, network: Decoder, step: int) -> str:
        """A row of pictures of the recipe's prompts."""
        if not self.recipe.prompts:
            return ""
        with evaluating(network):
            row = painted(self.recipe, self.codec, self.tokenizer, network, self.recipe.prompts)
        return sheet(self.start.out, step, [row])

    def save(self, state: dict[str, Tensor]) -> None:
        checkpoints.save(self.network, self.folder)
        self.tokenizer.save(self.folder)
        checkpoints.save(self.codec.cpu(), self.folder / "codec")
        keys = ("text_length", "temperature", "top_k", "guidance_scale")
        settings = {key: getattr(self.recipe, key) for key in keys}
        (self.folder / "picture.json").write_text(json.dumps(settings, indent=2) + "\n")

    def sample_cost(self) -> tuple[int, float, int]:
        codec = codec_of(self.recipe)
        network = outline(shape_of(self.recipe, codec, self.recipe.vocab_size, 0))
        kept = 4 * activations(network.config, network.config.max_position_embeddings)
        return network.parameter_count(), flops_of(self.recipe, codec, network), kept


def painted(
    recipe: PriorRecipe, codec: VQModel, tokenizer: Tokenizer, network: Decoder, prompts: list[str]
) -> np.ndarray:
    """Pictures (B, H, W, 3) uint8 of these captions, with the recipe's settings and seed."""
    asked = encode(tokenizer, [*prompts, ""], recipe.text_length)
    params = SamplingParams(temperature=recipe.temperature, top_k=recipe.top_k, seed=recipe.seed)
    side, scale = side_of(codec), recipe.guidance_scale
    return pixels(paint_codes(network, codec, asked[:-1], asked[-1], side, params, scale))
