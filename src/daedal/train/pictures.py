"""What every run on captioned pictures does before and after its loop: device and processes,
batches that know their step, the tokenizer of the captions, pictures held out, what a step costs,
sheets of samples.

Legend: B batch, N pictures, H and W pixels.
"""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from daedal import checkpoints
from daedal import device as machine
from daedal.data.pictures import Folder, Parquet, PictureBatches, Scenes, Source
from daedal.data.recaption import Recaptioned
from daedal.data.tokenizer import Tokenizer
from daedal.train.optim import recipe_optimizers
from daedal.train.recipe.pictures import PictureRun, PictureSource
from daedal.train.start import Start, mark
from daedal.train.trainer import Batches, Objective, Trainer


def fit(
    recipe: PictureRun,
    start: Start,
    network: Any,
    width: int,
    batches: Batches,
    objective: Objective,
    flops: float,
    evaluate: Callable[[Any], dict[str, float]] | None = None,
    sample: Callable[[Any, int], str] | None = None,
) -> None:
    """Train `network` (with `layers` and `compute_dtype`) in place, to the weights to ship. `flops`
    are those of one sample's step, `width` the network's, from which learning rates follow."""
    start.prepared(network)
    trainer = Trainer(
        recipe, network, lambda: recipe_optimizers(recipe.optimizer, network, width, start.dtype), batches, objective, unit="images",
        units_per_step=recipe.rows, flops_per_step=recipe.rows * flops, evaluate=evaluate, sample=sample,
        start=start,
    )  # fmt: skip
    trainer.run()
    trainer.result()
    network.eval()


# ---- data ----------------------------------------------------------------------------------------


class PlainBatches(PictureBatches):
    """Batches without captions: {"images": (B, 3, H, W) uint8, "step": (B,) int64}, so that an
    objective knows when it is."""

    def __init__(
        self, sources: Sequence[tuple[Source, float]], rows: int, seed: int, step: int = 0
    ) -> None:
        self.sources, self.weights = [s for s, _ in sources], [w for _, w in sources]
        self.rows, self.seed, self.step = rows, seed, step

    def batch(self, step: int) -> dict[str, Tensor]:
        rng = random.Random(f"{self.seed}/{step}")
        drawn = [
            source.sample(rng)[0] for source in rng.choices(self.sources, self.weights, k=self.rows)
        ]
        return {
            "images": torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2),
            "step": torch.full((self.rows,), step),
        }


def clean(images: Tensor) -> Tensor:
    """uint8 -> [-1, 1]."""
    return images.float() / 127.5 - 1


def sources(listed: list[PictureSource], side: int) -> list[tuple[Source, float]]:
    """Each source and its weight."""
    return [
        (Recaptioned(source_of(s, side), s.dense) if s.dense else source_of(s, side), s.weight)
        for s in listed
    ]


def source_of(s: PictureSource, side: int) -> Source:
    word, _, only = s.path.partition(":")
    if word == "scenes":
        return Scenes(side, only)
    return (
        Folder(s.path, side, where=s.where)
        if Path(s.path).is_dir()
        else Parquet(s.path, side, s.where, plain=s.plain)
    )


def tokenizer_of(recipe: Any, start: Start, train: list[tuple[Source, float]]) -> Tokenizer:
    """The start's tokenizer, or a byte-level BPE of the captions, kept in the run's folder; the
    first process trains it, the others wait."""
    if recipe.model.start:
        return Tokenizer.load(checkpoints.resolve(recipe.model.start))
    folder = start.out / f"tokenizer-{mark(recipe, 'data', 'seed', 'vocab_size')}"
    if start.rank == 0 and not (folder / "tokenizer.json").exists():
        rng = random.Random(recipe.seed)
        drawn = (
            source.sample(rng)[1].lower()
            for source, _ in rng.choices(train, [w for _, w in train], k=recipe.data.captions)
        )
        Tokenizer.train(drawn, recipe.vocab_size, ["<|end|>", "<|pad|>"], pad="<|pad|>").save(
            folder
        )
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
    return torch.from_numpy(np.stack(list(found.values()))).permute(0, 3, 1, 2), list(found)


def sheet(out: Path, step: int, rows: list[np.ndarray]) -> str:
    """Write rows of pictures (N, H, W, 3) uint8 as one file in `out/samples`; a line that says
    where."""
    from PIL import Image

    path = out / "samples" / f"step-{step:06d}.png"
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.concatenate([np.concatenate(list(row), 1) for row in rows])).save(path)
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
    return (
        weights,
        3.0 * counter.get_total_flops(),
        sum(size for key, size in kept.items() if key not in own),
    )


def planned(recipe: PictureRun, weights: int, flops: float, kept: int) -> dict[str, Any]:
    """What a run will take, from what `cost` counts for one sample."""
    device = machine.pick_device(recipe.device)
    dtype = machine.compute_dtype(recipe.dtype, device)
    total, peak = flops * recipe.rows * recipe.steps, machine.matrix_peak(device, dtype)
    return {
        "parameters": weights, "units": f"{recipe.rows * recipe.steps:,} pictures", "flops": total, "dtype": str(dtype).removeprefix("torch."),
        "device": str(device), "measured_peak_flops": peak,
        "memory_bytes": 4 * weights * (4 + bool(recipe.ema)) + recipe.micro_rows * kept * dtype.itemsize // 4,
        "hours_at_full_peak": total / peak / 3600, "hours_at_60_percent": total / peak / 0.6 / 3600,
    }  # fmt: skip
