"""The bundled image model: present, small, licensed, deterministic, and better than chance at what
its card says."""

import numpy as np
import pytest

import daedal
from daedal.checkpoints.resolve import HOUSE
from daedal.evals.pictures import scene_probe

FOLDER = HOUSE / "image"


@pytest.fixture(scope="module")
def painter():
    return daedal.load("house/image", device="cpu")


def test_files():
    weights = list(FOLDER.glob("*.safetensors"))
    assert weights and all(file.stat().st_size <= 15e6 for file in weights)
    card = (FOLDER / "README.md").read_text()
    assert all(
        word in card
        for word in ("Licence", "Limits", "FLOPs", "unseen", "recipes/image/scenes.yaml")
    )


@pytest.mark.dtype
def test_same_seed_same_picture(painter):
    one, two = (painter("a red circle", seed=3, steps=4).pixels for _ in range(2))
    assert np.array_equal(one, two)


@pytest.mark.dtype
def test_paints_the_colour_that_is_asked_for(painter):
    def distance(asked: str, colour: tuple[int, int, int]) -> float:
        pixels = (
            painter(f"a {asked} square on a white background", seed=1, steps=12)
            .pixels.reshape(-1, 3)
            .astype(float)
        )
        painted = pixels[np.abs(pixels - 255).sum(1) > 120]
        return float(np.abs(painted.mean(0) - colour).sum()) if len(painted) else 765.0

    red, blue = (214, 39, 40), (35, 90, 210)
    assert distance("red", red) < distance("blue", red) and distance("blue", blue) < distance(
        "red", blue
    )


def test_backgrounds_are_those_of_the_prompt(painter):
    def paint(captions: list[str], seed: int) -> np.ndarray:
        return np.stack(
            [picture.pixels for picture in painter.paint_each(captions, seed=seed, steps=12)]
        )

    right, _ = scene_probe(paint, 16, unseen=False)
    assert right["background"].value > 0.7


def test_the_fast_model_needs_four_passes_and_paints_scenes_right(painter):
    fast = daedal.load("house/image-fast", device="cpu")
    steps: list[tuple[int, int]] = []
    fast("a red circle", seed=1, on_progress=lambda i, count: steps.append((i, count)))
    assert (
        steps == [(i, 4) for i in range(1, 5)]
        and "teacher" in (HOUSE / "image-fast" / "README.md").read_text()
    )

    def paint(captions: list[str], seed: int) -> np.ndarray:
        return np.stack([picture.pixels for picture in fast.paint_each(captions, seed=seed)])

    right, _ = scene_probe(paint, 32, unseen=False)
    assert right["background"].value > 0.9 and right["all"].value > 0.3


def test_a_mask_is_all_that_changes(painter):
    start = painter("a green circle on a white background", seed=2, steps=8).pixels
    mask = np.zeros((64, 64), bool)
    mask[32:] = True
    made = painter("a blue square", init=start, mask=mask, seed=1, steps=8, strength=1.0).pixels
    assert np.array_equal(made[:32], start[:32]) and not np.array_equal(made[32:], start[32:])
