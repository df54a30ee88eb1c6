"""Longer captions: read off the picture for training, or written by a language model when a short
prompt is to be painted.

Networks learn what captions say, so captions should say what there is to see (Betker et al. 2023,
section 2). `described` says in words what any picture's pixels show, without a model: colours,
ground, place, size, symmetry. `Recaptioned` puts that behind a share of a source's captions; the
rest stay short, since people's prompts are. At the other end `expanded` brings a short prompt to
the long form.

Legend: H and W pixels."""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from daedal.data.pictures import Source
from daedal.worlds.scenes import BACKGROUNDS, COLOURS

NAMED = {**COLOURS, **BACKGROUNDS}
APART = 40.0  # how far from the ground, in the root mean square of 0..255, a pixel is drawn on
LEAST = 0.06  # share of what is drawn that a colour must cover to be named
SIZES = ((0.08, "tiny"), (0.2, "small"), (0.5, "half full"), (1.01, "filling the picture"))

TEMPLATE = """Rewrite this prompt for a picture as one sentence that also says the colours, the background, where things are and how large \
they are. Keep every thing that it names, and add no new things.
Prompt: {prompt}
Sentence:"""


@dataclass(frozen=True)
class Facts:
    """What pixels show. `colours` from the most to the least; `place` such as "upper left" or "in
    the middle"; `symmetric` left to right."""

    ground: str
    colours: tuple[str, ...]
    place: str
    size: str
    symmetric: bool

    def __str__(self) -> str:
        if not self.colours:
            return f"nothing but {self.ground}"
        *most, last = self.colours
        said = f"{', '.join(most)} and {last}" if most else last
        return f"{said} on {self.ground}, {self.place}, {self.size}, {'symmetric' if self.symmetric else 'not symmetric'}"


def nearest_names(pixels: np.ndarray) -> np.ndarray:
    """Indices into NAMED (N,) of the nearest colours of pixels (N, 3)."""
    return (
        ((pixels[:, None].astype(np.float32) - np.array(list(NAMED.values()), np.float32)) ** 2)
        .sum(-1)
        .argmin(1)
    )


def read(picture: np.ndarray) -> Facts:
    """The facts of a picture (H, W, 3) uint8. The ground is the median of its border."""
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    ground = np.median(border, 0)
    mask = np.sqrt(((picture - ground) ** 2).mean(-1)) > APART  # (H, W)
    names = list(NAMED)
    if not mask.any():
        return Facts(names[nearest_names(ground[None])[0]], (), "", "", True)
    nearest = nearest_names(picture.reshape(-1, 3)).reshape(mask.shape)
    flat = mask & alike(nearest)
    counts = np.bincount(nearest[flat if flat.any() else mask], minlength=len(names))
    common = [i for i in np.argsort(-counts, kind="stable") if counts[i] > LEAST * counts.sum()]
    size = next(word for most, word in SIZES if mask.mean() < most)
    paper, colours = names[nearest_names(ground[None])[0]], tuple(names[i] for i in common[:4])
    return Facts(paper, colours, place(mask), size, symmetric(mask))


def alike(values: np.ndarray) -> np.ndarray:
    """(H, W) bool: where the four neighbours are the same. The blended edge between two colours may
    look like a third, but it is thin."""
    near = np.pad(values, 1, mode="edge")
    rows = (near[:-2, 1:-1] == values) & (near[2:, 1:-1] == values)
    return rows & (near[1:-1, :-2] == values) & (near[1:-1, 2:] == values)


def place(mask: np.ndarray) -> str:
    """Where the middle of what is drawn lies: within a sixth of a side it is the picture's middle."""
    (y, x), (H, W) = np.argwhere(mask).mean(0) + 0.5, mask.shape
    words = [
        low if at < 1 / 3 else high if at > 2 / 3 else ""
        for at, low, high in ((y / H, "upper", "lower"), (x / W, "left", "right"))
    ]
    both = " ".join(word for word in words if word)
    return "in the middle" if not both else f"at the {both}" if words[1] else f"in the {both} part"


def symmetric(mask: np.ndarray) -> bool:
    """Whether what is drawn, cut to its box, covers nine tenths of its mirror image."""
    rows, columns = np.argwhere(mask.any(1))[:, 0], np.argwhere(mask.any(0))[:, 0]
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return bool((box & box[:, ::-1]).sum() >= 0.9 * (box | box[:, ::-1]).sum())


def described(picture: np.ndarray) -> str:
    """A picture (H, W, 3) uint8 in words: "red and yellow on white, at the left, small, symmetric"."""
    return str(read(picture))


class Recaptioned:
    """A source of which a `share` of captions go on with what the picture shows."""

    def __init__(self, source: Source, share: float) -> None:
        self.source, self.share = source, share

    def sample(self, rng: random.Random) -> tuple[np.ndarray, str]:
        picture, caption = self.source.sample(rng)
        return picture, f"{caption}: {described(picture)}" if rng.random() < self.share else caption


# ---- prompts -------------------------------------------------------------------------------------


def expanded(
    prompt: str, write: Callable[[str], str], template: str = TEMPLATE, longest: int = 60
) -> str:
    """A prompt in the long form that a language model (`write`: text -> text) gives it: the first
    sentence of its answer, at most `longest` words, behind the prompt itself where it left out a
    word of it. A prompt that is already long stays as it is."""
    if len(prompt.split()) >= longest // 2:
        return prompt
    lines = [
        line.strip(" \"'`*-") for line in write(template.format(prompt=prompt)).strip().splitlines()
    ]
    answer = re.split(r"(?<=[.!?])[\"']?\s", next((line for line in lines if line), ""))[0].rstrip(
        ".\"'"
    )
    answer = " ".join(answer.split()[:longest])
    missing = set(words(prompt)) - set(words(answer))
    return f"{prompt}, {answer}" if answer and missing else answer or prompt


def words(text: str) -> list[str]:
    return [word for word in re.findall(r"\w+", text.lower()) if len(word) > 2]
