"""Clips: coloured shapes that move, with exact captions, drawn from a random number and read back
from frames. The moving world beside `daedal.worlds.scenes`, whose things, colours and held-out pairs
these are.

A clip is a background and one or two movers: "a red circle moves slowly to the left", "a green star
grows", "a blue square moves right and bounces off a yellow heart". `frames` renders it, `caption`
says it, `track` finds a thing in any frames again, and `correct` compares what was asked with what
is seen: direction, speed, size, and for two things each and in order.

Legend: F frames of a clip; lengths are pixels of a 64-pixel picture, times seconds."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from daedal.worlds import scenes
from daedal.worlds.scenes import BACKGROUNDS, SIDE, Scene, Thing, phrase, pick

RATE = 8.0  # frames a second
FRAMES = 16
SECONDS = (FRAMES - 1) / RATE  # from the first frame to the last
# pixels a second
SPEEDS = {"slowly": 7.0, "": 14.0, "quickly": 21.0}
BETWEEN = (10.0, 17.5)  # where one speed ends and the next begins
# (right, down)
DIRECTIONS = {
    "right": (1.0, 0.0), "left": (-1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0),
    "up and to the right": (0.7071, -0.7071), "up and to the left": (-0.7071, -0.7071),
    "down and to the right": (0.7071, 0.7071), "down and to the left": (-0.7071, 0.7071),
}  # fmt: skip
VERBS = ("moves", "moves", "goes", "slides")
GROWTH = {"grows": 1.8, "shrinks": 1 / 1.8}  # over a whole clip
STILL = 3.0  # pixels a second that do not count


@dataclass(frozen=True)
class Mover:
    """A thing, where it is at second 0, and how it goes on. `motion` is one of "moves", "grows",
    "shrinks", "stays", "bounces"; `turn` is when it bounces."""

    thing: Thing
    motion: str = "stays"
    direction: str = ""
    speed: str = ""
    turn: float = math.inf

    def at(self, second: float) -> Thing:
        """The thing at a time."""
        if self.motion in GROWTH:
            share = min(max(second / SECONDS, 0.0), 1.0)
            grown = 1 + share * (GROWTH[self.motion] - 1)
            return replace(self.thing, radius=self.thing.radius * grown)
        if not self.direction:
            return self.thing
        dx, dy = DIRECTIONS[self.direction]
        gone = SPEEDS[self.speed] * (min(second, self.turn) - max(second - self.turn, 0.0))
        return replace(self.thing, x=self.thing.x + dx * gone, y=self.thing.y + dy * gone)


@dataclass(frozen=True)
class Clip:
    """Movers, the nearest last; what is said of them; which of KINDS it is."""

    background: str
    movers: tuple[Mover, ...]
    caption: str
    kind: str

    def scene(self, second: float) -> Scene:
        return Scene(self.background, tuple(m.at(second) for m in self.movers), self.caption)


# ---- making --------------------------------------------------------------------------------------


def clip(rng: random.Random, unseen: bool = False, kind: str | None = None) -> Clip:
    """A random clip, or of the `kind` that is given. `unseen` asks for pairs of colour and shape that
    training never has."""
    background = rng.choice(("white", "white", *BACKGROUNDS))
    kind = kind or rng.choices(tuple(KINDS), WEIGHTS)[0]
    movers, words = KINDS[kind](rng, unseen)
    shown = background != "white" or rng.random() < 0.3
    return Clip(
        background, movers, words + (f" on a {background} background" if shown else ""), kind
    )


def said(rng: random.Random, direction: str, speed: str) -> str:
    """ "moves slowly to the left"."""
    simple = direction in ("right", "left")
    where = f"to the {direction}" if simple and rng.random() < 0.4 else direction
    adverb = "fast" if speed == "quickly" and rng.random() < 0.3 else speed
    if adverb == "fast":
        return f"{rng.choice(VERBS)} {where} fast"
    return " ".join(filter(None, (rng.choice(VERBS), adverb, where)))


def start(
    rng: random.Random, radius: float, direction: str, speed: str, lane: tuple[float, float]
) -> tuple[float, float]:
    """Where a thing begins that stays within the picture, and within `lane` (least and most down, of
    its middle) at all times."""
    way = SPEEDS[speed] * SECONDS
    places = []
    for step, least, most in zip(
        DIRECTIONS[direction], (radius + 1, lane[0]), (SIDE - 1 - radius, lane[1]), strict=True
    ):
        low, high = least - min(step, 0) * way, most - max(step, 0) * way
        places.append(rng.uniform(low, max(high, low)))
    return places[0], places[1]


def moving(
    rng: random.Random, unseen: bool, lane: tuple[float, float] | None = None, radius: float = 0.0
) -> tuple[Mover, str]:
    """A mover in a lane (the whole picture), and its words."""
    colour, shape = pick(rng, unseen)
    radius = radius or rng.uniform(8, 11)
    directions = tuple(DIRECTIONS) if lane is None else ("right", "left")
    direction, speed = rng.choice(directions), rng.choice(tuple(SPEEDS))
    x, y = start(rng, radius, direction, speed, lane or (radius + 1, SIDE - 1 - radius))
    mover = Mover(Thing(colour, shape, x, y, radius), "moves", direction, speed)
    return mover, f"{phrase(1, '', False, colour, shape)} {said(rng, direction, speed)}"


def alone(rng: random.Random, unseen: bool) -> tuple[tuple[Mover, ...], str]:
    mover, words = moving(rng, unseen)
    return (mover,), words


def sized(rng: random.Random, unseen: bool) -> tuple[tuple[Mover, ...], str]:
    colour, shape = pick(rng, unseen)
    motion = rng.choice(tuple(GROWTH))
    radius = rng.uniform(8, 10) if motion == "grows" else rng.uniform(15, 18)
    most = radius * max(GROWTH[motion], 1)
    x, y = (rng.uniform(most + 1, SIDE - 1 - most) for _ in range(2))
    mover = Mover(Thing(colour, shape, x, y, radius), motion)
    return (mover,), f"{phrase(1, '', False, colour, shape)} {motion}"


def still(rng: random.Random, unseen: bool) -> tuple[tuple[Mover, ...], str]:
    """A scene in which nothing moves, told as a picture's, or with the words for it."""
    made = scenes.scene(rng, unseen)
    movers = tuple(Mover(thing) for thing in made.things)
    words = made.caption.partition(" on a ")[0] if "background" in made.caption else made.caption
    if len(movers) == 1 and rng.random() < 0.5:
        words += rng.choice((" stays still", " does not move"))
    return movers, words


def pair(rng: random.Random, unseen: bool) -> tuple[tuple[Mover, ...], str]:
    """Two things, each in its half, each with its motion: across, or none."""
    made = []
    radius = rng.uniform(8, 10)
    for lane in ((radius + 1, 31 - radius), (33 + radius, SIDE - 1 - radius)):
        mover, words = moving(rng, unseen and not made, lane, radius)
        if rng.random() < 0.2:
            mover = replace(mover, motion="stays", direction="", speed="")
            words = phrase(1, "", False, mover.thing.colour, mover.thing.shape) + " stays still"
        made.append((mover, words))
    (first, one), (second, two) = made
    if (first.thing.colour, first.thing.shape) == (second.thing.colour, second.thing.shape):
        return pair(rng, unseen)
    if rng.random() < 0.5:
        first, second, one, two = second, first, two, one
    return (first, second), f"{one} and {two}"


def bouncing(rng: random.Random, unseen: bool) -> tuple[tuple[Mover, ...], str]:
    """Something moves, bounces off something that stands, or off the edge, and comes back."""
    colour, shape = pick(rng, unseen)
    direction, speed = rng.choice(("right", "left", "up", "down")), rng.choice(("", "quickly"))
    radius, turn = rng.uniform(7.5, 8.5), rng.uniform(0.8, 1.1)
    (dx, dy), way = DIRECTIONS[direction], SPEEDS[speed] * turn
    across = rng.uniform(radius + 3, SIDE - 3 - radius)
    wall = rng.random() < 0.4
    meet = (
        SIDE / 2 - radius if wall else rng.uniform(1.0, 29.0 - 3 * radius)
    )  # from the middle, where it turns
    along = (meet - way) * (1 if dx + dy > 0 else -1)
    x, y = (32 + along, across) if dx else (across, 32 + along)
    mover = Mover(Thing(colour, shape, x, y, radius), "bounces", direction, speed, turn)
    words = f"{phrase(1, '', False, colour, shape)} {said(rng, direction, speed)} and bounces"
    if wall:
        return (mover,), words + rng.choice((" back", " off the edge"))
    while (other := pick(rng, False)) == (colour, shape):
        pass
    beyond = (meet + 2 * radius + 1.5) * (1 if dx + dy > 0 else -1)
    x, y = (32 + beyond, across) if dx else (across, 32 + beyond)
    target = Mover(Thing(*other, x, y, radius))
    return (mover, target), f"{words} off {phrase(1, '', False, *other)}"


def hidden(rng: random.Random, unseen: bool) -> tuple[tuple[Mover, ...], str]:
    """Something passes behind something larger that stands."""
    colour, shape = pick(rng, unseen)
    while (other := pick(rng, False))[0] == colour or other[1] == "ring":
        pass
    radius, direction = rng.uniform(7, 8.5), rng.choice(("right", "left"))
    across = rng.uniform(20, 44)
    half = SPEEDS["quickly"] * SECONDS / 2
    sign = DIRECTIONS[direction][0]
    thing = Thing(colour, shape, 32 - sign * half, across, radius)
    mover = Mover(thing, "moves", direction, "quickly")
    front = Mover(Thing(*other, 32 + rng.uniform(-3, 3), across, rng.uniform(10.5, 12)))
    verb = said(rng, direction, "quickly")
    words = phrase(1, "", False, colour, shape), phrase(1, "", False, *other)
    return (mover, front), f"{words[0]} {verb} behind {words[1]}"


KINDS: dict[str, Callable[[random.Random, bool], tuple[tuple[Mover, ...], str]]] = {
    "alone": alone, "sized": sized, "still": still, "pair": pair, "bouncing": bouncing, "hidden": hidden,
}  # fmt: skip
WEIGHTS = (0.4, 0.1, 0.1, 0.2, 0.14, 0.06)


# ---- drawing -------------------------------------------------------------------------------------


def frames(made: Clip, count: int = FRAMES, rate: float = RATE, side: int = SIDE) -> np.ndarray:
    """The clip as (F, side, side, 3) uint8."""
    return np.stack([scenes.draw(made.scene(i / rate), side, 2) for i in range(count)])


# ---- reading back --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """What became of a thing: its places and radii (F, 3), not-a-number where it is not seen, and the
    share of the frames with it in which its shape and colour are right."""

    places: np.ndarray
    kept: float

    def velocity(self, first: float = 0.0, last: float = 1.0, rate: float = RATE) -> np.ndarray:
        """(right, down) pixels a second of a straight line through a part of the frames."""
        here = slice(
            round(first * (len(self.places) - 1)), round(last * (len(self.places) - 1)) + 1
        )
        part = self.places[here, :2]
        there = np.isfinite(part[:, 0])
        if there.sum() < 3:
            return np.full(2, np.nan)
        return np.polyfit(np.flatnonzero(there) / rate, part[there], 1)[0]

    @property
    def jitter(self) -> float:
        """Pixels, root mean square, off the straight line."""
        there = np.isfinite(self.places[:, 0])
        at, part = np.flatnonzero(there), self.places[there, :2]
        if len(at) < 3:
            return math.nan
        line = np.polyfit(at, part, 1)
        return float(np.sqrt(((part - (at[:, None] * line[0] + line[1])) ** 2).sum(1).mean()))


def track(clip: np.ndarray, thing: Thing) -> Seen:
    """Where a thing of this colour and shape is in each frame (F, H, W, 3) uint8."""
    places, right = np.full((len(clip), 3), np.nan), 0
    there = 0
    for i, frame in enumerate(clip):
        found = [t for t in scenes.read(frame)[1] if t.colour == thing.colour]
        same = [t for t in found if t.shape == thing.shape]
        best = max(same or found, key=lambda t: t.radius, default=None)
        if best is None:
            continue
        places[i], there = (best.x, best.y, best.radius), there + 1
        right += best.shape == thing.shape
    return Seen(places, right / there if there else 0.0)


def direction_of(velocity: np.ndarray) -> str:
    """The nearest of DIRECTIONS, or none for what hardly moves."""
    if not np.isfinite(velocity).all() or np.hypot(*velocity) < STILL:
        return ""
    return max(DIRECTIONS, key=lambda name: float(velocity @ np.array(DIRECTIONS[name])))


def speed_of(velocity: np.ndarray) -> str:
    pace = float(np.hypot(*velocity))
    return "slowly" if pace < BETWEEN[0] else "" if pace < BETWEEN[1] else "quickly"


def followed(mover: Mover, seen: Seen, shown: float) -> dict[str, bool]:
    """`object`, `colour`, `direction` and `speed` of one mover: whether they are as asked, and it is
    there in a share `shown` of the frames."""
    there = bool(np.isfinite(seen.places[:, 0]).mean() > shown)
    result = {"colour": there, "object": there and seen.kept > shown - 0.05}
    if mover.motion in GROWTH:
        sizes = seen.places[np.isfinite(seen.places[:, 2]), 2]
        ratio = sizes[-3:].mean() / sizes[:3].mean() if len(sizes) else 1.0
        grown = ratio > 1.25 if mover.motion == "grows" else ratio < 0.8
        steady = not direction_of(seen.velocity())
        return result | {"direction": bool(grown and steady), "speed": True}
    if mover.motion == "bounces":
        share = mover.turn / SECONDS
        before, after = seen.velocity(0, share * 0.9), seen.velocity(min(share * 1.15, 0.85), 1)
        way = np.array(DIRECTIONS[mover.direction])
        back = direction_of(before) == mover.direction and float(after @ way) < -STILL
        return result | {"direction": bool(back), "speed": speed_of(before) == mover.speed}
    velocity = seen.velocity()
    wanted = mover.direction if mover.motion == "moves" else ""
    right = direction_of(velocity) == wanted and np.isfinite(velocity).all()
    paced = wanted == "" or speed_of(velocity) == mover.speed
    return result | {"direction": bool(right), "speed": bool(right and paced)}


def correct(made: Clip, clip: np.ndarray) -> dict[str, bool]:
    """What frames (F, H, W, 3) uint8 at RATE got right of a clip: `objects`, `colours`, `direction`,
    `speed`, each of all movers, and `all` of them."""
    shown = 0.35 if made.kind == "hidden" else 0.6  # share of the frames with a thing
    each = [followed(mover, track(clip, mover.thing), shown) for mover in made.movers]
    result = {
        "objects": all(e["object"] for e in each),
        "colours": all(e["colour"] for e in each),
        "direction": all(e["direction"] for e in each),
        "speed": all(e["speed"] for e in each),
    }
    return {**result, "all": all(result.values())}
