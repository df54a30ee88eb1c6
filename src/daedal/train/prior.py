"""A text-to-picture decoder over the codes of a VQ autoencoder (Ramesh et al. 2021, section 2;
Esser et al. 2021, section 3.2): the house's language model, whose later words are cells of a
picture.

Legend: B batch, L caption tokens, N codes of a picture, D width.
"""

import json
import math
from functools import partial
from pathlib import Path
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
from daedal.systems.vq_prior import begun, encode, paint_codes
from daedal.train import parallel
from daedal.train.objectives import linear_cross_entropy
from daedal.train.pictures import clean, fit, held_out, planned, sheet, sources, tokenizer_of
from daedal.train.recipe.pictures import PriorRecipe
from daedal.train.start import Start, begin
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
        codes = tokens_of(codec, part["images"])
        return code_loss(
            network, begun(part["captions"], eos), codes, codec.config.num_vq_embeddings
        )

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
    return build(
        config_from_dict(shape_of(recipe, codec, tokenizer.vocab_size, tokenizer.eos_ids[0]))
    ).init_weights(recipe.seed)


def flops_of(recipe: PriorRecipe, codec: VQModel, network: Decoder) -> float:
    """Floating-point operations of a training step of one sample: the decoder's, and the codec's
    once to say the codes."""
    tokens = recipe.text_length + (side_of(codec) // codec.factor) ** 2
    return (
        tokens * network.flops_per_token(tokens // 2, train=True)
        + codec.flops(side_of(codec), side_of(codec))["encode"]
    )


def plan(recipe: PriorRecipe) -> dict[str, Any]:
    """What a run will take; trains nothing."""
    codec = codec_of(recipe)
    with torch.device("meta"):
        network = build(config_from_dict(shape_of(recipe, codec, recipe.vocab_size, 0)))
    c = network.config
    # Kept for backward: about 16 activations of width D and 3 of the feed-forward a layer and
    # token, as in pretrain.
    kept = (
        4
        * c.max_position_embeddings
        * c.num_hidden_layers
        * (16 * c.hidden_size + 3 * c.intermediate_size)
    )
    return planned(recipe, network.parameter_count(), flops_of(recipe, codec, network), kept)


def run(recipe: PriorRecipe) -> Path:
    """Train, and write `out/model`: the decoder's folder, its tokenizer, and the codec in `codec`.
    Returns that folder."""
    start, codec = begin(recipe), codec_of(recipe)
    side, count = side_of(codec), (side_of(codec) // codec.factor) ** 2
    train = sources(recipe.data.train, side)
    tokenizer = tokenizer_of(recipe, start, train)
    eos, network = tokenizer.eos_ids[0], network_of(recipe, codec, tokenizer)
    batches = PictureBatches(
        train,
        tokenizer,
        recipe.rows,
        recipe.text_length,
        recipe.seed,
        recipe.drop_caption,
        step=start.step,
    )
    fit(
        recipe, start, network, network.config.hidden_size, batches, next_code(codec, eos, count), flops_of(recipe, codec, network), evaluation(recipe, codec, tokenizer),
        partial(sample, recipe, codec, tokenizer) if recipe.prompts else None,
    )  # fmt: skip
    if start.rank == 0:
        save(recipe, network, codec, tokenizer, start)
    parallel.finish()
    return start.out / "model"


def evaluation(recipe: PriorRecipe, codec: VQModel, tokenizer: Tokenizer) -> Any:
    """Bits a code of pictures held out, with their captions and with none, or None without
    validation data."""
    if not recipe.data.validation:
        return None
    images, captions = held_out(recipe.data.validation, side_of(codec), recipe.evaluate_pictures)
    tokens = tokens_of(codec, images)

    @torch.no_grad()
    def evaluate(network: Decoder) -> dict[str, float]:
        device = network.lm_head.weight.device

        def bits(said: list[str]) -> float:
            prompts = encode(tokenizer, said, recipe.text_length)
            pairs = zip(prompts.split(25), tokens.split(25), strict=True)
            total = sum(
                code_loss(
                    network, p.to(device), t.to(device), codec.config.num_vq_embeddings
                ).item()
                for p, t in pairs
            )
            return total / tokens.numel() * NAT

        return {"bits_per_code": bits(captions), "bits_without_caption": bits([""] * len(captions))}

    return evaluate


def painted(
    recipe: PriorRecipe, codec: VQModel, tokenizer: Tokenizer, network: Decoder, prompts: list[str]
) -> np.ndarray:
    """Pictures (B, H, W, 3) uint8 of these captions, with the recipe's settings and seed."""
    asked = encode(tokenizer, [*prompts, ""], recipe.text_length)
    params = SamplingParams(temperature=recipe.temperature, top_k=recipe.top_k, seed=recipe.seed)
    return pixels(
        paint_codes(
            network, codec, asked[:-1], asked[-1], side_of(codec), params, recipe.guidance_scale
        )
    )


def sample(
    recipe: PriorRecipe, codec: VQModel, tokenizer: Tokenizer, network: Decoder, step: int
) -> str:
    """A row of pictures of the recipe's prompts."""
    network.eval()
    row = painted(recipe, codec, tokenizer, network, recipe.prompts)
    network.train()
    return sheet(Path(recipe.out), step, [row])


def save(
    recipe: PriorRecipe, network: Decoder, codec: VQModel, tokenizer: Tokenizer, start: Start
) -> None:
    folder = start.out / "model"
    checkpoints.save(network, folder)
    tokenizer.save(folder)
    checkpoints.save(codec.cpu(), folder / "codec")
    settings = {
        "text_length": recipe.text_length,
        "temperature": recipe.temperature,
        "top_k": recipe.top_k,
        "guidance_scale": recipe.guidance_scale,
    }
    (folder / "picture.json").write_text(json.dumps(settings, indent=2) + "\n")
