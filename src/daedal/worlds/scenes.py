"""Scenes: pictures of coloured shapes with exact captions, drawn from a random number, and read
back from pixels.

A scene is a background and one to three groups: "a red circle", "three small green stars", "a
striped blue square left of a yellow heart on a black background". `draw` renders it, `caption` says
it, `read` finds the objects of any picture again (whoever made it), and `correct` compares the two:
the GenEval idea (Ghosh et al. 2023) without a detector's errors.

Some pairs of colour and shape (`HELD_OUT`) never occur in training scenes, so that a test can ask
for combinations that nobody has seen."""

import random
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

SIDE = 64
COLOURS = {
    "red": (214, 39, 40), "orange": (255, 140, 20), "yellow": (250, 215, 40), "green": (44, 160, 60), "blue": (35, 90, 210),
    "purple": (140, 60, 180), "pink": (255, 130, 190), "brown": (130, 80, 45), "gray": (130, 130, 130),
}  # fmt: skip
BACKGROUNDS = {
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "light blue": (190, 225, 250),
    "cream": (250, 235, 205),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond", "cross", "ring")
COUNTS = ("", "a", "two", "three")
SIZES = {"small": 0.75, "": 1.0}
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
# one shape of every colour
HELD_OUT = frozenset((colour, SHAPES[5 * i % len(SHAPES)]) for i, colour in enumerate(COLOURS))


@dataclass(frozen=True)
class Thing:
    """One object: what it is, and where (centre and radius in pixels of a 64-pixel picture)."""

    colour: str
    shape: str
    x: float = 0
    y: float = 0
    radius: float = 0
    striped: bool = False


@dataclass(frozen=True)
class Scene:
    background: str
    things: tuple[Thing, ...]
    caption: str
    relation: str | None = None  # between the first thing and the second


# ---- making --------------------------------------------------------------------------------------


def scene(rng: random.Random, unseen: bool = False, kind: str | None = None) -> Scene:
    """A random scene: one object (30 %), several alike (25 %), two with a relation (45 %), or of
    the `kind` that is given, one of KINDS. `unseen` asks for at least one pair of colour and shape
    out of HELD_OUT; without it there is none."""
    background = rng.choice(("white", "white", *BACKGROUNDS))
    drawn = rng.random()
    things, words, relation = KINDS[
        kind or ("alone" if drawn < 0.30 else "several" if drawn < 0.55 else "related")
    ](rng, unseen)
    shown = background != "white" or rng.random() < 0.3
    return Scene(
        background, things, words + (f" on a {background} background" if shown else ""), relation
    )


def pick(rng: random.Random, unseen: bool) -> tuple[str, str]:
    """A colour and a shape, out of HELD_OUT or not."""
    if unseen:
        return rng.choice(sorted(HELD_OUT))
    while (pair := (rng.choice(tuple(COLOURS)), rng.choice(SHAPES))) in HELD_OUT:
        pass
    return pair


def phrase(count: int, size: str, striped: bool, colour: str, shape: str) -> str:
    first = size or ("striped" if striped else colour)
    article = ("an" if first[0] in "aeiou" else "a") if count == 1 else COUNTS[count]
    plural = "" if count == 1 else "es" if shape == "cross" else "s"
    words = (article, size, "striped" if striped else "", colour, shape + plural)
    return " ".join(filter(None, words))


def alone(rng: random.Random, unseen: bool) -> tuple[tuple[Thing, ...], str, None]:
    colour, shape = pick(rng, unseen)
    size, striped = rng.choice(("", "", "small")), rng.random() < 0.2
    radius = SIZES[size] * rng.uniform(15, 18)
    x, y = (rng.uniform(radius + 2, 62 - radius) for _ in range(2))
    thing = Thing(colour, shape, x, y, radius, striped)
    return (thing,), phrase(1, size, striped, colour, shape), None


def several(rng: random.Random, unseen: bool) -> tuple[tuple[Thing, ...], str, None]:
    count = rng.choice((2, 3))
    (colour, shape), striped = pick(rng, unseen), rng.random() < 0.15
    radius = rng.uniform(8.5, 10.5)
    places = apart(rng, count, radius)
    things = tuple(Thing(colour, shape, x, y, radius, striped) for x, y in places)
    return things, phrase(count, "", striped, colour, shape), None


def apart(rng: random.Random, count: int, radius: float) -> list[tuple[float, float]]:
    """Centres that keep three pixels between objects."""
    while True:
        points = [
            (rng.uniform(radius + 2, 62 - radius), rng.uniform(radius + 2, 62 - radius))
            for _ in range(count)
        ]
        if all(
            max(abs(a[0] - b[0]), abs(a[1] - b[1])) > 2 * radius + 3
            for i, a in enumerate(points)
            for b in points[:i]
        ):
            return points


def related(rng: random.Random, unseen: bool) -> tuple[tuple[Thing, ...], str, str]:
    first = pick(rng, unseen)
    while (second := pick(rng, unseen and rng.random() < 0.3)) == first:
        pass
    relation = rng.choice(tuple(RELATIONS))
    dx, dy = RELATIONS[relation]
    radius = rng.uniform(11, 13.5)
    along = 16 + rng.uniform(-1.5, 1.5)  # from the middle of the picture
    off = rng.uniform(-8, 8)
    places = [
        (32 + sign * dx * along + (dy and off), 32 + sign * dy * along + (dx and off))
        for sign in (1, -1)
    ]
    striped = (rng.random() < 0.1, rng.random() < 0.1)
    things = tuple(
        Thing(*what, *place, radius, s)
        for what, place, s in zip((first, second), places, striped, strict=True)
    )
    words = [phrase(1, "", s, *what) for what, s in zip((first, second), striped, strict=True)]
    return things, f"{words[0]} {relation} {words[1]}", relation


KINDS = {"alone": alone, "several": several, "related": related}


def kind_of(scene: Scene) -> str:
    """Which of KINDS a scene is."""
    return "related" if scene.relation else "several" if len(scene.things) > 1 else "alone"


# ---- drawing -------------------------------------------------------------------------------------


def inside(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Which points (u right, v down, in radii) a shape of radius one covers."""
    if shape == "circle":
        return u**2 + v**2 < 1
    if shape == "ring":
        return (u**2 + v**2 < 1) & (u**2 + v**2 > 0.3)
    if shape == "square":
        return np.maximum(abs(u), abs(v)) < 0.88
    if shape == "diamond":
        return abs(u) * 1.25 + abs(v) < 1
    if shape == "triangle":
        return (v < 0.75) & (v > 1.9 * abs(u) - 0.95)
    if shape == "cross":
        return (np.minimum(abs(u), abs(v)) < 0.3) & (np.maximum(abs(u), abs(v)) < 0.95)
    if shape == "heart":
        u, v = u * 1.15, -v * 1.15 + 0.12
        return (u**2 + v**2 - 0.75) ** 3 < u**2 * v**3 * 1.3
    angle, distance = np.arctan2(u, -v), 1.2 * np.hypot(u, v)  # a star of five points
    turn = np.abs((angle / (2 * np.pi / 5) + 0.5) % 1 - 0.5) * 2 * np.pi / 5
    return distance * np.cos(np.pi / 5 - turn + 0.62) < 0.43


def draw(scene: Scene, side: int = SIDE, samples: int = 3) -> np.ndarray:
    """The picture (side, side, 3) uint8, with `samples` x `samples` points a pixel."""
    fine = side * samples
    at = (np.arange(fine) + 0.5) * SIDE / fine
    canvas = np.empty((fine, fine, 3), np.float32)
    canvas[:] = BACKGROUNDS[scene.background]
    for thing in scene.things:
        rows, columns = (
            slice(*np.searchsorted(at, (middle - thing.radius, middle + thing.radius)))
            for middle in (thing.y, thing.x)
        )
        x, y = np.meshgrid(at[columns] - thing.x, at[rows] - thing.y)
        mask = inside(thing.shape, x / thing.radius, y / thing.radius)
        colour = np.array(COLOURS[thing.colour], np.float32)
        dark = mask & (y % 6 < 3) if thing.striped else np.zeros_like(mask)
        canvas[rows, columns][mask] = colour
        canvas[rows, columns][dark] = shade(colour)
    return canvas.reshape(side, samples, side, samples, 3).mean((1, 3)).round().astype(np.uint8)


def shade(colour: np.ndarray) -> np.ndarray:
    """The dark stripes of a colour."""
    return colour * 0.62


# ---- reading back --------------------------------------------------------------------------------


@lru_cache
def palette() -> tuple[list[tuple[str, bool]], np.ndarray]:
    """(name, dark) of every colour that a pixel can have, and their values; backgrounds have
    dark=False and come last."""
    names = [(name, dark) for name in COLOURS for dark in (False, True)]
    names += [(name, False) for name in BACKGROUNDS]
    plain = [np.array((COLOURS | BACKGROUNDS)[name], np.float32) for name, _ in names]
    pairs = zip(names, plain, strict=True)
    return names, np.stack([shade(value) if dark else value for (_, dark), value in pairs])


def read(picture: np.ndarray) -> tuple[str, list[Thing]]:
    """(background, objects from left to right) of a picture (H, W, 3) uint8. Pixels take the
    nearest colour of the palette; connected regions of one colour, light or dark, are objects; a
    region's shape is the template that overlaps it best."""
    names, values = palette()
    nearest = ((picture[:, :, None].astype(np.float32) - values) ** 2).sum(-1).argmin(-1)  # (H, W)
    border = np.concatenate([nearest[0], nearest[-1], nearest[:, 0], nearest[:, -1]])
    ground = [i for i in range(len(names)) if names[i][0] in BACKGROUNDS]
    background = names[max(ground, key=lambda i: (border == i).sum())][0]
    scale = SIDE / picture.shape[0]
    things = []
    for index, colour in enumerate(COLOURS):
        mask = (nearest == 2 * index) | (nearest == 2 * index + 1)
        for region in regions(mask):
            if inner(region) * scale**2 < 8:
                # the blended edge between two colours may look like a third, but it is thin
                continue
            dark = np.mean(nearest[region[:, 0], region[:, 1]] == 2 * index + 1)
            things.append(classify(region, picture.shape[0], colour, bool(0.2 < dark < 0.8)))
    return background, sorted(things, key=lambda thing: thing.x)


def regions(mask: np.ndarray) -> list[np.ndarray]:
    """Connected regions (8 neighbours) of a mask, each (n, 2) of row and column."""
    left, found = mask.copy(), []
    for start in np.argwhere(mask):
        if not left[tuple(start)]:
            continue
        left[tuple(start)] = False
        stack, region = [tuple(start)], []
        while stack:
            i, j = stack.pop()
            region.append((i, j))
            for a in range(max(i - 1, 0), min(i + 2, mask.shape[0])):
                for b in range(max(j - 1, 0), min(j + 2, mask.shape[1])):
                    if left[a, b]:
                        left[a, b] = False
                        stack.append((a, b))
        found.append(np.array(region))
    return found


def inner(region: np.ndarray) -> int:
    """How many pixels of a region (n, 2) have their four neighbours in it."""
    box = np.pad(np.zeros(np.ptp(region, 0) + 1, bool), 1)
    box[tuple((region - region.min(0) + 1).T)] = True
    return int(
        (box[1:-1, 1:-1] & box[:-2, 1:-1] & box[2:, 1:-1] & box[1:-1, :-2] & box[1:-1, 2:]).sum()
    )


@lru_cache
def templates(side: int = 24) -> dict[str, np.ndarray]:
    """Every shape, cut to its bounding box and stretched to side x side: what remains is form."""
    at = np.linspace(-1.2, 1.2, 240)
    u, v = np.meshgrid(at, at)
    return {shape: stretched(np.argwhere(inside(shape, u, v)), side) for shape in SHAPES}


def stretched(points: np.ndarray, side: int = 24) -> np.ndarray:
    """A region (n, 2) as a mask of its bounding box, (side, side) bool."""
    low, high = points.min(0), points.max(0)
    box = np.zeros(high - low + 1, bool)
    box[tuple((points - low).T)] = True
    rows, columns = (((np.arange(side) + 0.5) * length / side).astype(int) for length in box.shape)
    return box[rows][:, columns]


def classify(region: np.ndarray, side: int, colour: str, striped: bool) -> Thing:
    form = stretched(region)
    overlap = {
        shape: (form & template).sum() / (form | template).sum()
        for shape, template in templates().items()
    }
    low, high = region.min(0), region.max(0) + 1
    (y, x), scale = (low + high) / 2, SIDE / side
    shape: str = max(overlap, key=overlap.get)  # type: ignore[arg-type]
    radius = float((high - low).max()) * scale / 2
    return Thing(colour, shape, x * scale, y * scale, radius, striped)


def correct(scene: Scene, picture: np.ndarray) -> dict[str, bool]:
    """What a picture got right of a scene: `objects` (how many of each shape), `colours` (each with
    its shape), `relation` (who is where; true where the caption says nothing), `background` (where
    the caption names it), and `all` of them."""
    background, things = read(picture)
    want, got = sorted(t.shape for t in scene.things), sorted(t.shape for t in things)
    asked, there = (sorted((t.shape, t.colour) for t in some) for some in (scene.things, things))
    paired = asked == there
    result = {"objects": want == got, "colours": paired, "relation": scene.relation is None}
    if scene.relation and paired:
        first, second = (
            next(t for t in things if (t.shape, t.colour) == (s.shape, s.colour))
            for s in scene.things[:2]
        )
        dx, dy = RELATIONS[scene.relation]
        result["relation"] = dx * (first.x - second.x) + dy * (first.y - second.y) > 4
    result["background"] = "background" not in scene.caption or background == scene.background
    return {**result, "all": all(result.values())}
