"""The bundled CLIP: present, small, licensed; it tells apart things it was never shown drawn this
way."""

import math

import pytest
import torch

from daedal.checkpoints.resolve import HOUSE
from daedal.networks.clip import CLIPModel
from daedal.processes.clip_scorer import ClipScorer
from daedal.processes.measures import first_hits
from daedal.train.pictures import clean
from daedal.worlds.scenes import Scene, Thing, draw

FOLDER = HOUSE / "clip"
THINGS = [
    (colour, shape)
    for shape in ("circle", "heart", "square")
    for colour in ("red", "green", "blue", "yellow", "orange")
]


@pytest.fixture(scope="module")
def scorer() -> ClipScorer:
    return ClipScorer.load("house/clip")


def pictures() -> torch.Tensor:
    """(15, 3, 64, 64) in [-1, 1]: each thing alone on white, large, as emoji are."""
    drawn = [
        draw(Scene("white", (Thing(colour, shape, 32, 32, 28),), "")) for colour, shape in THINGS
    ]
    return clean(torch.stack([torch.from_numpy(picture) for picture in drawn]).permute(0, 3, 1, 2))


def hits(scorer: ClipScorer) -> float:
    return (
        first_hits(
            scorer.pictures(pictures()),
            scorer.texts([f"{colour} {shape}" for colour, shape in THINGS]),
        )
        .float()
        .mean()
        .item()
    )


def test_files() -> None:
    weights = list(FOLDER.glob("*.safetensors"))
    assert weights and all(file.stat().st_size <= 6e6 for file in weights)
    card = (FOLDER / "README.md").read_text()
    assert all(
        word in card
        for word in (
            "Licence",
            "Limits",
            "FLOPs",
            "R@1",
            "recipes/image/clip.yaml",
            "Noto",
            "Streamline",
        )
    )


def test_it_knows_things_by_name(scorer: ClipScorer) -> None:
    untrained = ClipScorer(
        CLIPModel(scorer.clip.config).init_weights(0), scorer.tokenizer, scorer.mean, scorer.std
    )
    assert hits(scorer) > 0.5 > 3 * hits(untrained)


def test_it_reads_small_and_large_pictures(scorer: ClipScorer) -> None:
    """Whatever their size, pictures are brought to the tower's; vectors are of length one."""
    vector = scorer.pictures(pictures())
    twice = scorer.pictures(
        torch.nn.functional.interpolate(pictures(), scale_factor=2, mode="nearest")
    )
    assert (vector * twice).sum(1).min() > 0.95 and math.isclose(
        vector[0].norm().item(), 1, rel_tol=1e-4
    )
