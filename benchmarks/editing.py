"""What guidance, edges, inpainting and image-to-image do on the house image model: numbers, and the
pictures of README and docs.

    python benchmarks/editing.py                          # a few minutes on one core
    python benchmarks/editing.py --pictures docs/images   # readme.png, editing.png, control.png and
    sketch.png

The last line is JSON.
"""

import argparse
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from daedal.media import images
from daedal.pipelines.image import ImagePipeline, load
from daedal.processes.imaging import edges, from_pixels, pixels
from daedal.systems.house_media import encode
from daedal.worlds import scenes

README = [
    "a red circle", "a blue square on a black background", "two green stars", "a yellow heart above a purple square",
    "an orange cross left of a blue circle", "three pink diamonds on a cream background", "red apple, noto emoji", "grinning face, twemoji flat emoji",
    "sailboat, fluent 3d emoji", "pizza, noto emoji", "camera, emojione emoji", "panda, noto emoji",
]  # fmt: skip
SHOWN = [  # the first twelve emoji held out of recipes/image/scenes.yaml
    "giraffe, noto emoji", "anger symbol, fluent 3d emoji", "flag of Honduras, twemoji flat emoji", "fire, noto emoji", "office building, emojione emoji",
    "radio button, firefox emoji", "coral, fluent 3d emoji", "incoming envelope, firefox emoji", "pot of food, fluent 3d emoji",
    "optical disk, firefox emoji", "boar, twemoji flat emoji", "skull and crossbones, fluent 3d emoji",
]  # fmt: skip
RIGHT = np.tile(np.arange(64) >= 32, (64, 1))  # the mask of what is painted anew


def right(wanted: list[scenes.Scene], pictures: list[np.ndarray]) -> float:
    return sum(
        scenes.correct(scene, picture)["all"]
        for scene, picture in zip(wanted, pictures, strict=True)
    ) / len(wanted)


def some(name: str, n: int, unseen: bool) -> list[scenes.Scene]:
    rng = random.Random(name)
    return [scenes.scene(rng, unseen) for _ in range(n)]


def sheet(shown: list[np.ndarray], columns: int, file: Path) -> None:
    """Pictures side by side at twice their size."""
    images.save_image(images.grid(shown, columns=columns, gap=2).repeat(2, 0).repeat(2, 1), file)


def guidance(painter: ImagePipeline) -> dict[str, float]:
    """Share of 100 unseen scenes all right."""
    wanted = some("guidance", 100, True)
    return {
        f"guidance_{scale:g}": right(
            wanted,
            [
                p.pixels
                for p in painter.paint_each(
                    [s.caption for s in wanted], guidance_scale=scale, seed=0
                )
            ],
        )
        for scale in (1.0, 2.0)
    }


def lines(picture: np.ndarray) -> torch.Tensor:
    return edges(from_pixels(picture))[0, 0] > 0


def control(painter: ImagePipeline, folder: Path | None) -> dict[str, float]:
    """Of 60 unseen scenes with and without the true scene's edges: all right, and the overlap of
    the edges painted with those of the scene."""
    wanted, found = some("control", 60, True), dict[str, Any]()
    true = [scenes.draw(scene) for scene in wanted]
    with tempfile.TemporaryDirectory() as scratch:
        for i, picture in enumerate(true):
            images.save_image(picture, Path(scratch) / f"{i}.png")
        for name, given in (("with", True), ("without", False)):
            shown = [
                painter(
                    s.caption,
                    seed=i,
                    **({"control": f"edges-of:{scratch}/{i}.png"} if given else {}),
                ).pixels
                for i, s in enumerate(wanted)
            ]
            pairs = [(lines(a), lines(b)) for a, b in zip(shown, true, strict=True)]
            overlap = sum(
                float((a & b).sum() / (a | b).sum().clamp(min=1)) for a, b in pairs
            ) / len(pairs)
            found |= {f"{name}_edges_right": right(wanted, shown), f"{name}_edges_overlap": overlap}
            if folder and given:
                drawn = [
                    np.repeat((lines(picture).numpy() * 255).astype(np.uint8)[..., None], 3, -1)
                    for picture in true[:8]
                ]
                sheet([*drawn, *shown[:8]], 8, folder / "control.png")
    return found


def inpainting(painter: ImagePipeline) -> dict[str, float]:
    """The right half of 40 scenes painted anew: all right, and the share of pictures whose left
    half is the same to the bit."""
    wanted = some("inpainting", 40, False)
    true = [scenes.draw(scene) for scene in wanted]
    made = [
        painter(s.caption, init=picture, mask=RIGHT, strength=1.0, seed=i).pixels
        for i, (s, picture) in enumerate(zip(wanted, true, strict=True))
    ]
    kept = sum(np.array_equal(a[~RIGHT], b[~RIGHT]) for a, b in zip(made, true, strict=True)) / len(
        wanted
    )
    return {"inpainted_right": right(wanted, made), "inpainted_kept": kept}


def image_to_image(painter: ImagePipeline) -> dict[str, float]:
    """Mean change of 20 scenes from themselves, as a share of full scale."""
    wanted = some("image to image", 20, False)
    true = [scenes.draw(scene) for scene in wanted]

    def change(strength: float) -> float:
        made = [
            painter(s.caption, init=picture, strength=strength, seed=i).pixels
            for i, (s, picture) in enumerate(zip(wanted, true, strict=True))
        ]
        return float(
            np.mean(
                [np.abs(a.astype(int) - b).mean() / 255 for a, b in zip(made, true, strict=True)]
            )
        )

    return {f"changed_at_{strength:g}": change(strength) for strength in (0.3, 0.6, 0.9)}


def pictures(painter: ImagePipeline, folder: Path) -> None:
    """What the README shows; a start edited, and guidance; what the words of a dozen captions tell,
    and below it what is painted."""
    sheet([painter(prompt, seed=1).pixels for prompt in README], 6, folder / "readme.png")
    start = painter("a red circle left of a blue square", seed=1).pixels
    edited = [start, np.where(RIGHT[..., None], 128, start).astype(np.uint8)]
    edited += [
        painter(
            "a red circle left of a green star", init=start, mask=RIGHT, strength=1.0, seed=1
        ).pixels
    ]
    edited += [
        painter("a purple heart", init=start, strength=strength, seed=1).pixels
        for strength in (0.5, 0.75, 0.95)
    ]
    edited += [
        painter("a yellow star on a black background", guidance_scale=scale, seed=1).pixels
        for scale in (1.0, 2.0, 3.0, 6.0)
    ]
    sheet(edited, 10, folder / "editing.png")
    network, tokenizer = painter.painter.network, painter.painter.tokenizer  # type: ignore[attr-defined]
    with torch.no_grad():
        told = network.sketch(network.encode_text(encode(network, tokenizer, SHOWN)).pooled)
    told = pixels(F.interpolate(told, size=(64, 64)))
    sheet(
        [*told, *(made.pixels for made in painter.paint_each(SHOWN, seed=1))],
        len(SHOWN),
        folder / "sketch.png",
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="house/image")
    parser.add_argument("--pictures", type=Path, help="folder for the pictures of README and docs")
    options = parser.parse_args()
    painter, found = load(options.model), dict[str, float]()
    for measure in (
        guidance,
        lambda painter: control(painter, options.pictures),
        inpainting,
        image_to_image,
    ):
        found |= (part := measure(painter))
        for name, value in part.items():
            print(f"{name:<24} {value:.3f}", flush=True)
    if options.pictures:
        pictures(painter, options.pictures)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
