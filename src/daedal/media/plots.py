"""Plots as pictures, drawn with Pillow: bars and lines, each value with its 95 % interval. One
panel a call; `images.grid` puts panels together.

An interval is (value, low, high). Lengths are in points; a panel is drawn at four pixels a point
and halved, which smooths its lines."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from daedal.media.images import Pixels

Interval = tuple[float, float, float]
Point = tuple[float, Interval]  # x and what was measured there

WIDTH, HEIGHT = 460, 300
LEFT, TOP, RIGHT, BOTTOM = 56, 62, 16, 46  # margins of the axes
FINE = 4
COLOURS = ("#2f6db3", "#e0862b", "#3a9a5b", "#b8434e", "#7d5ba6", "#6b6b6b")
INK, GREY, PALE = "#222222", "#777777", "#e4e4e4"


def bars(
    series: Mapping[str, Mapping[str, Interval]], title: str, top: float | None = 1.0
) -> Pixels:
    """For each label a bar of each series, with a whisker over its interval and its value above:
    (H, W, 3). `top` of the axis; None: what fits."""
    panel = Panel(title, list(series))
    labels = list(next(iter(series.values())))
    every = [interval for values in series.values() for interval in values.values()]
    panel.set_y(
        min(0.0, *(low for _, low, _ in every)),
        top or 1.1 * max(0.0, *(high for _, _, high in every)),
    )
    room = (WIDTH - LEFT - RIGHT) / len(labels)
    thick = min(44.0, 0.8 * room / len(series))
    for i, label in enumerate(labels):
        middle = LEFT + (i + 0.5) * room
        panel.text(middle, HEIGHT - BOTTOM + 6, label, anchor="ma")
        for j, (colour, values) in enumerate(zip(panel.colours, series.values(), strict=True)):
            x = middle + (j - (len(series) - 1) / 2) * thick
            value, low, high = values[label]
            panel.box(
                x - 0.45 * thick,
                panel.y(max(value, 0)),
                x + 0.45 * thick,
                panel.y(min(value, 0)),
                colour,
            )
            panel.whisker(x, low, high)
            panel.text(x, panel.y(max(value, high, 0)) - 4, short(value), size=10, anchor="mb")
    return panel.done()


def lines(
    series: Mapping[str, Sequence[Point]], title: str, x: str, top: float | None = None
) -> Pixels:
    """A line through the points of each series, in a band of their intervals: (H, W, 3). `x` names
    the axis; `top` fixes the other to 0..top."""
    panel = Panel(title, list(series))
    every = [point for points in series.values() for point in points]
    bounds = [value for _, (_, low, high) in every for value in (low, high)]
    panel.set_x(min(at for at, _ in every), max(at for at, _ in every), x)
    panel.set_y(*((0.0, top) if top else (min(bounds), max(bounds))))
    for colour, points in zip(panel.colours, series.values(), strict=True):
        panel.band([(at, low, high) for at, (_, low, high) in points], colour)
    for colour, points in zip(panel.colours, series.values(), strict=True):
        panel.line([(at, value) for at, (value, _, _) in points], colour, dots=len(points) <= 30)
    return panel.done()


def short(value: float) -> str:
    """A number for a label: three figures, at most."""
    return f"{value:.2f}" if 0.1 <= abs(value) < 10 else f"{value:.3g}"


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from `low` to `high`: steps of 1, 2 or 5 times a power of ten."""
    rough = max(high - low, 1e-9) / (most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(times for times in (1, 2, 5, 10) if times * power >= rough * 0.999)
    return [
        i * step for i in range(math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6) + 1)
    ]


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(FINE * size)  # type: ignore[return-value]  # the scalable one, since it is asked for a size


class Panel:
    """A white panel with a title, a legend where there is more than one series, and axes."""

    def __init__(self, title: str, names: Sequence[str]) -> None:
        self.image = Image.new("RGB", (WIDTH * FINE, HEIGHT * FINE), "white")
        self.draw = ImageDraw.Draw(self.image)
        self.colours = [COLOURS[i % len(COLOURS)] for i in range(len(names))]
        self.text(LEFT, 26, title, size=15, anchor="ls")
        at = float(LEFT)
        for name, colour in zip(names, self.colours, strict=True) if len(names) > 1 else ():
            self.box(at, 38, at + 10, 48, colour)
            self.text(at + 15, 43, name, size=11, anchor="lm")
            at += 15 + font(11).getlength(name) / FINE + 18

    def set_y(self, low: float, high: float) -> None:
        """The axis of values from a round number below `low` to one above `high`, with its grid."""
        high = high if high > low else low + (abs(low) or 1.0)
        step = np.diff(ticks(low, high)[:2])[0]
        low, high = math.floor(low / step + 1e-6) * step, math.ceil(high / step - 1e-6) * step
        self.y: Callable[[float], float] = lambda value: (
            HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)
        )
        for value in ticks(low, high):
            self.stroke(
                [(LEFT, self.y(value)), (WIDTH - RIGHT, self.y(value))],
                PALE if abs(value) > 1e-9 else GREY,
                1,
            )
            self.text(LEFT - 7, self.y(value), f"{value:.4g}", size=11, colour=GREY, anchor="rm")

    def set_x(self, low: float, high: float, name: str) -> None:
        """The axis below."""
        wide = high - low or 1.0
        self.x: Callable[[float], float] = lambda value: (
            LEFT + 8 + (value - low) / wide * (WIDTH - LEFT - RIGHT - 16)
        )
        for value in ticks(low, high) if high > low else [low]:
            self.text(
                self.x(value),
                HEIGHT - BOTTOM + 6,
                f"{value:,.6g}",
                size=11,
                colour=GREY,
                anchor="ma",
            )
        self.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, name, size=11, anchor="mb")

    def band(self, points: Sequence[tuple[float, float, float]], colour: str) -> None:
        """Pale, between (x, low, high)."""
        if len(points) < 2:
            for at, low, high in points:
                self.whisker(self.x(at), low, high)
            return
        outline = [(self.x(at), self.y(high)) for at, _, high in points] + [
            (self.x(at), self.y(low)) for at, low, _ in reversed(points)
        ]
        mask = Image.new("L", self.image.size)
        ImageDraw.Draw(mask).polygon([(FINE * x, FINE * y) for x, y in outline], fill=46)
        self.image.paste(Image.new("RGB", self.image.size, colour), mask=mask)

    def line(self, points: Sequence[tuple[float, float]], colour: str, dots: bool) -> None:
        placed = [(self.x(at), self.y(value)) for at, value in points]
        self.stroke(placed, colour, 2)
        for x, y in placed if dots else ():
            self.draw.ellipse(
                [FINE * (x - 3), FINE * (y - 3), FINE * (x + 3), FINE * (y + 3)], fill=colour
            )

    def whisker(self, x: float, low: float, high: float) -> None:
        if low < high:
            self.stroke([(x, self.y(low)), (x, self.y(high))], INK, 1)
            for end in (low, high):
                self.stroke([(x - 3, self.y(end)), (x + 3, self.y(end))], INK, 1)

    def box(self, left: float, top: float, right: float, bottom: float, colour: str) -> None:
        self.draw.rectangle([FINE * left, FINE * top, FINE * right, FINE * bottom], fill=colour)

    def stroke(self, points: Sequence[tuple[float, float]], colour: str, width: float) -> None:
        self.draw.line(
            [(FINE * x, FINE * y) for x, y in points],
            fill=colour,
            width=round(FINE * width),
            joint="curve",
        )

    def text(
        self, x: float, y: float, text: str, size: int = 12, colour: str = INK, anchor: str = "ls"
    ) -> None:
        self.draw.text((FINE * x, FINE * y), text, fill=colour, font=font(size), anchor=anchor)

    def done(self) -> Pixels:
        return np.asarray(self.image.reduce(2))
