"""What models are made of, each measured by itself: an autoencoder by what it loses of real
pictures, a CLIP by whether it tells them apart, letters to phonemes by a dictionary.

Legend: N pictures."""

import numpy as np
import torch
from torch import nn

from daedal import checkpoints
from daedal.errors import DaedalError
from daedal.evals import phonemes
from daedal.evals.measured import Measured, Report, bootstrap, lines_of, plain
from daedal.evals.pictures import data_of, retrieval
from daedal.media import images
from daedal.pipelines.image_params import PartMeasuring
from daedal.pipelines.place import SPELLERS, TOWERS, located, part_of
from daedal.processes.clip_scorer import ClipScorer
from daedal.processes.imaging import pixels
from daedal.processes.measures import psnr
from daedal.train.autoencode import Autoencoding, rebuilt
from daedal.train.pictures import clean, held_out
from daedal.train.recipe.pictures import PictureSource


def evaluate(name: str, asked: PartMeasuring) -> Report:
    """What `daedal eval` says of a part."""
    if not asked.data:
        raise DaedalError(
            f"{name} is measured on real data; give --data FILE: pictures with captions (and --split NAME for those held out), or a pronouncing dictionary."
        )
    if part_of(name) in SPELLERS:
        return phonemes.evaluate(name, asked.data)
    groups, drawn = report(name, asked.data, asked.split, asked.n)
    if asked.sheet and drawn is not None:
        images.save_image(drawn, asked.sheet)
    return Report(plain(groups), lines_of(groups))


def report(
    name: str, data: str, split: str | None, n: int
) -> tuple[dict[str, dict[str, Measured]], np.ndarray | None]:
    """Measures of an autoencoder or a CLIP on up to `n` pictures of `data`, no caption twice, or of
    those that a recipe (.yaml) holds out; of an autoencoder also a sheet, pictures above what it
    made of them."""
    own = PictureSource(path=data, where={"split": split} if split else {})
    source = data_of(data).validation if data.endswith(".yaml") else [own]
    if part_of(name) in TOWERS:
        scorer = ClipScorer.load(name)
        return recognition(scorer, *held_out(source, scorer.clip.config.vision.image_size, n)), None
    codec = checkpoints.load(located(name), torch.float32)
    return reconstruction(codec, held_out(source, codec.config.sample_size, n)[0])  # type: ignore[union-attr,arg-type]


@torch.no_grad()
def reconstruction(
    codec: nn.Module, pictures: torch.Tensor
) -> tuple[dict[str, dict[str, Measured]], np.ndarray]:
    """Mean PSNR in decibels of pictures (N, 3, H, W) uint8 as they come back, and that of their
    mean squared error, which the worst decide."""
    made, _ = rebuilt(Autoencoding(codec, None), pictures)
    values = psnr(made.clamp(-1, 1), clean(pictures))
    measured = {
        "psnr": bootstrap(lambda x: float(x.mean()), values),
        "psnr_of_mean": bootstrap(lambda x: float(-10 * (10 ** (-x / 10)).mean().log10()), values),
    }
    rows, columns = [np.asarray(pictures.permute(0, 2, 3, 1)), pixels(made)], min(10, len(made))
    bands = [
        row[at : at + columns]
        for at in range(0, min(20, len(made) - columns + 1), columns)
        for row in rows
    ]
    sheet = images.grid(list(np.concatenate(bands)), columns=columns, gap=2)
    return {"rebuilt": measured}, sheet


def recognition(
    scorer: ClipScorer, pictures: torch.Tensor, captions: list[str]
) -> dict[str, dict[str, Measured]]:
    """R@1 among all N: a picture's (N, 3, H, W) uint8 own caption is the nearest, and a caption's
    own picture."""
    seen, said = scorer.pictures(clean(pictures)), scorer.texts(captions)
    return {
        "retrieval": {
            "r1_of_picture": retrieval(seen, said),
            "r1_of_caption": retrieval(said, seen),
        }
    }
