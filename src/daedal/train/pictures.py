"""What the tasks on captioned pictures share: batches that know their step, the tokenizer of the
captions, pictures held out, what a step costs, sheets of samples.

Legend: B batch, N pictures, H and W pixels."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from daedal import checkpoints
from daedal.data.pictures import DrawnBatches, Folder, Parquet, Scenes, Source, Weighted, stacked
from daedal.data.recaption import Recaptioned
from daedal.data.tokenizer import Tokenizer
from daedal.train.recipe.pictures import PictureSource
from daedal.train.start import Start, mark
from daedal.train.task import Cost, Task


class PictureTask(Task):
    """What the tasks on pictures share."""

    unit, unit_label = "images", "pictures"

    def __init__(self, recipe: Any) -> None:
        super().__init__(recipe)
        self.units = recipe.rows

    def sample_cost(self) -> tuple[int, float, int]:
        """Of one sample: (parameters, FLOPs of its step, float32 bytes kept for the backward pass)."""
        raise NotImplementedError

    def cost(self, dtype: torch.dtype) -> Cost:
        r, (weights, flops, kept) = self.recipe, self.sample_cost()
        states = 4 * weights * (4 + bool(r.ema))
        memory = states + r.micro_rows * kept * dtype.itemsize // 4
        return Cost(weights, self.units, flops * self.units, memory)


# ---- data ----------------------------------------------------------------------------------------


class PlainBatches(DrawnBatches):
    """Batches without captions: {"images": (B, 3, H, W) uint8, "step": (B,) int64}, so that an
    objective knows when it is."""

    def batch(self, step: int) -> dict[str, Tensor]:
        rng = random.Random(f"{self.seed}/{step}")
        drawn = rng.choices(self.sources, self.weights, k=self.rows)
        images = stacked([source.sample(rng)[0] for source in drawn])
        return {"images": images, "step": torch.full((self.rows,), step)}


def clean(images: Tensor) -> Tensor:
    """uint8 -> [-1, 1]."""
    return images.float() / 127.5 - 1


def sources(listed: list[PictureSource], side: int) -> list[Weighted]:
    """Each source and its weight."""
    return [(source_of(s, side), s.weight) for s in listed]


def source_of(s: PictureSource, side: int) -> Source:
    word, _, only = s.path.partition(":")
    source: Source
    if word == "scenes":
        source = Scenes(side, only)
    elif Path(s.path).is_dir():
        source = Folder(s.path, side, where=s.where)
    else:
        source = Parquet(s.path, side, s.where, plain=s.plain)
    return Recaptioned(source, s.dense) if s.dense else source


def tokenizer_of(recipe: Any, start: Start, train: list[Weighted]) -> Tokenizer:
    """The start's tokenizer, or a byte-level BPE of the captions, kept in the run's folder; the
    first process trains it, the others wait."""
    if recipe.model.start:
        return Tokenizer.load(checkpoints.resolve(recipe.model.start))
    folder = start.out / f"tokenizer-{mark(recipe, 'data', 'seed', 'vocab_size')}"
    if start.rank == 0 and not (folder / "tokenizer.json").exists():
        rng = random.Random(recipe.seed)
        drawn = rng.choices(train, [w for _, w in train], k=recipe.data.captions)
        captions = (source.sample(rng)[1].lower() for source, _ in drawn)
        special = ["<|end|>", "<|pad|>"]
        Tokenizer.train(captions, recipe.vocab_size, special, pad="<|pad|>").save(folder)
    if start.world > 1:
        torch.distributed.barrier()
    return Tokenizer.load(folder)


def held_out(listed: list[PictureSource], side: int, count: int) -> tuple[Tensor, list[str]]:
    """Up to `count` pictures (N, 3, H, W) uint8 of validation sources and their captions, no
    caption twice, the same ones each time."""
    found: dict[str, np.ndarray] = {}
    made, rng = sources(listed, side), random.Random("held out")
    for source, _ in made:
        share = len(found) + count // len(made)
        if isinstance(source, Parquet | Folder):  # on white, by their first wording
            order = rng.sample(range(len(source)), len(source))
            drawn = ((source.picture(i), source.caption(i)) for i in order)
        else:
            drawn = (source.sample(rng) for _ in range(20 * count))
        for picture, caption in drawn:
            if len(found) == share:
                break
            found.setdefault(caption, picture)
    return stacked(list(found.values())), list(found)


def sheet(out: Path, step: int, rows: list[np.ndarray]) -> str:
    """Write rows of pictures (N, H, W, 3) uint8 as one file in `out/samples`; a line that says
    where."""
    from PIL import Image

    path = out / "samples" / f"step-{step:06d}.png"
    path.parent.mkdir(exist_ok=True)
    drawn = np.concatenate([np.concatenate(list(row), 1) for row in rows])
    Image.fromarray(drawn).save(path)
    return f"pictures: {path}"


# ---- cost ----------------------------------------------------------------------------------------


def cost(network: Callable[[], Any], forward: Callable[[Any], Any]) -> tuple[int, float, int]:
    """(parameters, FLOPs of a forward and backward pass, float32 bytes kept in between) of
    `forward(network())`, counted on the meta device, where nothing is computed."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.device("meta"):
        module = network()
        weights = sum(p.numel() for p in module.parameters())
        with (
            FlopCounterMode(display=False) as counter,
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        ):
            # kept alive, so that no storage is counted under the name of another
            held = forward(module)
    del held
    own = {p.untyped_storage()._cdata for p in module.parameters()}
    bytes_kept = sum(size for key, size in kept.items() if key not in own)
    return weights, 3.0 * counter.get_total_flops(), bytes_kept
