"""Tunes engraved: a treble staff as SVG, with clef, key, metre, notes, dots, accidentals, bar lines and
repeats. Four bars a line. Heads and signs are drawn, so that no font of music is needed.

Lengths are in spaces of the staff; a place counts half spaces up from the middle line."""

from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

from daedal.media.score import LETTERS, WHOLE, Bar, Note, Tune, bar_ticks, signature, spelled

SPACE = 8.0  # pixels
BARS = 4  # a line
HEAD, WIDTH, HIGH = 3.2, 112.0, 13.0  # spaces: to the clef, of a line, from line to line
SHARP_PLACES = {"F": 4, "C": 1, "G": 5, "D": 2, "A": -1, "E": 3, "B": 0}
FLAT_PLACES = {"B": 0, "E": 3, "A": -1, "D": 2, "G": -2, "C": 1, "F": -3}
CLEF = "M0 3.4c-.9 0-1-1.2-.1-1.3.9 0 .9 1 .3 1.1.5.3 1.4 0 1.2-1.2L.5-4.6C.3-5.8.8-6.7 1.3-7c.7.8.8 2.2-.1 3.2C.2-2.800-1.300-2-1.300-.5c0 1.300 1 2.100 2.200 2 1.200-.1 1.700-.9 1.600-1.800-.2-1.500-2.300-1.500-2.400-.1 0 .5.3.8.6 1"
WHOLE_NOTE, HALF = WHOLE, WHOLE // 2


@dataclass
class Page:
    """Shapes as they are drawn."""

    shapes: list[str] = field(default_factory=list)

    def line(self, x1: float, y1: float, x2: float, y2: float, width: float = 0.13) -> None:
        a, b, c, d = (round(v * SPACE, 1) for v in (x1, y1, x2, y2))
        self.shapes.append(f'<path d="M{a} {b}L{c} {d}" stroke-width="{width * SPACE:.1f}"/>')

    def path(self, x: float, y: float, data: str, filled: bool = False) -> None:
        fill = ' fill="#000"' if filled else ""
        self.shapes.append(
            f'<path transform="translate({x * SPACE:.1f} {y * SPACE:.1f}) scale({SPACE})" d="{data}" stroke-width=".16"{fill}/>'
        )

    def head(self, x: float, y: float, filled: bool) -> None:
        fill = "#000" if filled else "none"
        self.shapes.append(
            f'<ellipse cx="{x * SPACE:.1f}" cy="{y * SPACE:.1f}" rx="{0.62 * SPACE:.1f}" ry="{0.43 * SPACE:.1f}" transform="rotate(-20 {x * SPACE:.1f} {y * SPACE:.1f})" fill="{fill}" stroke-width="1.2"/>'
        )

    def dot(self, x: float, y: float) -> None:
        self.shapes.append(
            f'<circle cx="{x * SPACE:.1f}" cy="{y * SPACE:.1f}" r="{0.2 * SPACE:.1f}" fill="#000" stroke="none"/>'
        )

    def text(self, x: float, y: float, text: str, size: float, weight: str = "normal") -> None:
        self.shapes.append(
            f'<text x="{x * SPACE:.1f}" y="{y * SPACE:.1f}" font-size="{size * SPACE:.1f}" font-weight="{weight}" font-family="serif" fill="#000" stroke="none">{escape(text)}</text>'
        )


SIGNS = {1: "M-.2-1V1M.2-1.1V.9M-.5-.2L.5-.45M-.5.45L.5.2", -1: "M-.3-1.500V.7C.6.2.5-.6-.3 0", 0: "M-.25-1.300V.5L.25.35M.25 1.300V-.5L-.25-.35"}  # fmt: skip


def engrave(tune: Tune) -> str:
    """The SVG of a tune."""
    page, y = Page(), 7.5
    page.text(2, 2.6, tune.title, 2.2, "bold")
    page.text(
        2, 4.4, f"{tune.rhythm.title()}, {tune.tonic} {tune.mode}, {tune.bpm:g} beats a minute", 1.4
    )
    first = True
    for strain in tune.strains:
        bars = list(strain.bars)
        short = sum(note.ticks for note in bars[0]) < bar_ticks(tune.metre) and len(bars) > 1
        cuts = [0, *range(BARS + short, len(bars), BARS), len(bars)]
        for a, b in pairwise(cuts):
            begins, ends = strain.repeated and a == 0, b == len(bars)
            line(page, tune, bars[a:b], y + 4, first, begins, strain.repeated and ends, ends)
            first, y = False, y + HIGH
    width, height = (WIDTH + 4) * SPACE, (y + 3) * SPACE
    shapes = "".join(page.shapes)
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" fill="none" stroke="#000"><rect width="100%" height="100%" fill="#fff" stroke="none"/>{shapes}</svg>\n'


def line(
    page: Page,
    tune: Tune,
    bars: list[Bar],
    middle: float,
    first: bool,
    opens: bool,
    closes: bool,
    ends: bool,
) -> None:
    """A line of music whose middle staff line is at `middle`."""
    for k in range(-2, 3):
        page.line(2, middle + k, 2 + WIDTH, middle + k)
    page.path(4, middle + 1, CLEF)
    x = head(page, tune, middle, first)
    if opens:
        page.dot(x, middle - 0.5)
        page.dot(x, middle + 0.5)
        x += 1
    notes = sum(len(bar) for bar in bars)
    gap = (WIDTH + 1 - x) / max(1, notes + 0.8 * len(bars))
    for number, bar in enumerate(bars, 1):
        changed = dict[tuple[str, int], int]()
        for note in bar:
            draw(page, tune, note, x + gap * 0.4, middle, changed)
            x += gap
        x += gap * 0.8
        if number < len(bars):
            page.line(x - gap * 0.5, middle - 2, x - gap * 0.5, middle + 2)
    end = 2 + WIDTH
    page.line(end, middle - 2, end, middle + 2, 0.5 if ends else 0.13)
    if closes:
        page.dot(end - 1, middle - 0.5)
        page.dot(end - 1, middle + 0.5)


def head(page: Page, tune: Tune, middle: float, first: bool) -> float:
    """Key signature and, at the beginning, the metre; where the notes begin."""
    x = 2 + HEAD + 2
    for letter, change in signature(tune.tonic, tune.mode).items():
        place = (SHARP_PLACES if change > 0 else FLAT_PLACES)[letter]
        page.path(x, middle - place / 2, SIGNS[change])
        x += 1.1
    if first:
        for text, y in zip(tune.metre, (middle - 0.1, middle + 1.9), strict=True):
            page.text(x, y, str(text), 2.6, "bold")
        x += 2.5
    return x + 0.8


def draw(
    page: Page, tune: Tune, note: Note, x: float, middle: float, changed: dict[tuple[str, int], int]
) -> None:
    """A note or rest, with its accidental, ledger lines, stem, flags and dot."""
    triplet = note.ticks in (4, 8, 16, 32)
    written = note.ticks * 3 // 2 if triplet else note.ticks
    base = max(v for v in (3, 6, 12, 24, 48, 96) if v <= written)
    flags = {12: 1, 6: 2, 3: 3}.get(base, 0)
    if note.pitch is None:
        page.line(x - 0.5, middle, x + 0.5, middle, 0.5)
        return
    letter, change, octave = spelled(note.pitch, tune.tonic, tune.mode)
    place = LETTERS.index(letter) + 7 * octave - 34  # B4 on the middle line
    y = middle - place / 2
    if changed.get((letter, octave), signature(tune.tonic, tune.mode).get(letter, 0)) != change:
        changed[letter, octave] = change
        page.path(x - 1.2, y, SIGNS[change])
    for ledger in [*range(-6, place - 1, -2), *range(6, place + 1, 2)]:
        page.line(x - 0.95, middle - ledger / 2, x + 0.95, middle - ledger / 2)
    page.head(x, y, base < HALF)
    if base < WHOLE_NOTE:
        stem(page, x, y, up=place < 0, flags=flags)
    if written > base:
        page.dot(x + 1.1, y - (0.25 if place % 2 == 0 else 0))
    if triplet:
        page.text(x - 0.3, middle - 4.2 if place < 0 else middle + 4.8, "3", 1.1)


def stem(page: Page, x: float, y: float, up: bool, flags: int) -> None:
    side, way = (0.55, -1) if up else (-0.55, 1)
    page.line(x + side, y, x + side, y + 3.5 * way)
    for k in range(flags):
        top = y + (3.5 - 0.8 * k) * way
        page.line(x + side, top, x + side + 0.9, top - 1.1 * way, 0.3)
