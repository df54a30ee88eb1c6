"""Images in a terminal: kitty's graphics protocol, iTerm2's inline images, sixel (DEC, 1984), and
half blocks in 24-bit colour for the rest.

    show(pixels)          # writes to stdout in the best way the terminal is known to have; nothing
    where stdout is no terminal

The terminal is told from its environment alone, nothing is asked of it.
DAEDAL_TERMINAL_IMAGES=kitty, iterm2, sixel, blocks or none overrides. Legend: H height, W width."""

import base64
import os
import shutil
import sys
from collections.abc import Mapping
from typing import TextIO

import numpy as np
from PIL import Image

from daedal.errors import DaedalError, nearest
from daedal.media.images import Pixels, encode, over

OVERRIDE = "DAEDAL_TERMINAL_IMAGES"
CHUNK = 4096  # bytes of base64 in one kitty sequence
CELL = 8  # pixels that a character cell is taken to be wide, where the terminal counts in pixels
COLOURS = 256  # of a sixel image
RESET = "\x1b[0m"


def show(pixels: Pixels, columns: int | None = None, out: TextIO | None = None) -> None:
    """Draw (H, W, 3 or 4) uint8 `columns` character cells wide (None: what suits the image and
    fits)."""
    out = out or sys.stdout
    protocol = detect(os.environ, out.isatty())
    if protocol is None:
        return
    columns = columns or fitting(pixels.shape[1], shutil.get_terminal_size().columns)
    out.write(PROTOCOLS[protocol](pixels, columns))
    out.flush()


def fitting(width: int, terminal: int) -> int:
    """Cells for an image so many pixels wide: its own size, but not tiny, in the terminal's
    columns."""
    return max(1, min(terminal, max(24, width // CELL)))


def detect(environ: Mapping[str, str], tty: bool) -> str | None:
    """One of "kitty", "iterm2", "sixel" and "blocks", or None where nothing should be drawn."""
    chosen = environ.get(OVERRIDE)
    term = environ.get("TERM", "")
    program = environ.get("TERM_PROGRAM", "")
    if chosen is not None and chosen not in (*PROTOCOLS, "none"):
        raise DaedalError(
            f"{OVERRIDE}={chosen!r} is not one of {', '.join(PROTOCOLS)}, none{nearest(chosen, list(PROTOCOLS))}."
        )
    if chosen == "none" or not tty or term == "dumb":
        return None
    if chosen:
        return chosen
    # swallows what it does not know
    multiplexed = "TMUX" in environ or "ZELLIJ" in environ or term.startswith(("tmux", "screen"))
    if multiplexed or program == "vscode":
        return "blocks"
    if "KITTY_WINDOW_ID" in environ or "kitty" in term or "ghostty" in term or program == "ghostty":
        return "kitty"
    if program in ("iTerm.app", "WezTerm", "mintty") or environ.get("LC_TERMINAL") == "iTerm2":
        return "iterm2"
    return "sixel" if term.startswith(("foot", "mlterm", "yaft", "contour")) else "blocks"


def kitty(pixels: Pixels, columns: int) -> str:
    """PNG in base64, in pieces; the terminal scales it to `columns` cells and answers nothing
    (kitty graphics protocol, transmit and display)."""
    data = base64.standard_b64encode(encode(pixels)).decode("ascii")
    pieces = [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)]
    keys = [f"a=T,f=100,q=2,c={columns}," if index == 0 else "" for index in range(len(pieces))]
    more = [1] * (len(pieces) - 1) + [0]
    each = zip(keys, more, pieces, strict=True)
    return "".join(f"\x1b_G{key}m={m};{piece}\x1b\\" for key, m, piece in each) + "\n"


def iterm2(pixels: Pixels, columns: int) -> str:
    """A PNG file in base64, shown `columns` cells wide (iTerm2's OSC 1337)."""
    data = encode(pixels)
    keys = f"inline=1;size={len(data)};width={columns};height=auto;preserveAspectRatio=1"
    return f"\x1b]1337;File={keys}:{base64.standard_b64encode(data).decode('ascii')}\a\n"


def sixel(pixels: Pixels, columns: int) -> str:
    """Bands of six rows, each colour of a band drawn over it in one run-length coded line.
    Transparency becomes white; 256 colours."""
    width = columns * CELL
    height = max(1, round(pixels.shape[0] * width / pixels.shape[1]))
    image = Image.fromarray(resized(over(pixels), width, height))
    chosen = image.quantize(COLOURS, dither=Image.Dither.NONE)
    palette = np.asarray(chosen.getpalette()).reshape(-1, 3)
    # percent
    registers = "".join(
        f"#{i};2;" + ";".join(str(round(int(v) * 100 / 255)) for v in colour)
        for i, colour in enumerate(palette)
    )
    index = np.asarray(chosen)  # (H, W)
    bands = "-".join(band(index[top : top + 6]) for top in range(0, len(index), 6))
    return f'\x1bP0;1;0q"1;1;{image.width};{image.height}{registers}{bands}\x1b\\\n'


def band(index: np.ndarray) -> str:
    """Up to six rows of colour numbers (6, W) -> a line a colour, "$" going back to the left edge."""
    weights = 1 << np.arange(len(index))[:, None]
    return "$".join(
        f"#{colour}{runs(((index == colour) * weights).sum(0))}" for colour in np.unique(index)
    )


def runs(bits: np.ndarray) -> str:
    """(W,) of the six pixels below one another as bits -> sixel characters, repeats counted."""
    starts = np.flatnonzero(np.diff(bits, prepend=-1))
    counts = np.diff(starts, append=len(bits))
    return "".join(
        f"!{n}{chr(63 + bits[i])}" if n > 3 else chr(63 + bits[i]) * n
        for i, n in zip(starts, counts, strict=True)
    )


def blocks(pixels: Pixels, columns: int) -> str:
    """Two pixels a character: the upper is the colour of a half block, the lower its background.
    Transparency becomes white."""
    rows = max(1, round(pixels.shape[0] * columns / pixels.shape[1]))
    image = resized(over(pixels), columns, rows)
    return "".join(
        line(image[row], image[row + 1] if row + 1 < rows else None) for row in range(0, rows, 2)
    )


def line(upper: np.ndarray, lower: np.ndarray | None) -> str:
    """Two rows of pixels (W, 3), the lower perhaps missing -> a line of text. A colour is set only
    where it changes."""
    text, last = "", ""
    for column, pixel in enumerate(upper.tolist()):
        colours = "38;2;{};{};{}".format(*pixel)
        colours += "" if lower is None else ";48;2;{};{};{}".format(*lower[column].tolist())
        text += ("" if colours == last else f"\x1b[{colours}m") + "▀"
        last = colours
    return f"{text}{RESET}\n"


def resized(pixels: Pixels, width: int, height: int) -> Pixels:
    """Smaller by area, larger by whole pixels, so that icons stay sharp."""
    if pixels.shape[:2] == (height, width):
        return pixels
    method = Image.Resampling.NEAREST if width > pixels.shape[1] else Image.Resampling.BOX
    return np.asarray(Image.fromarray(pixels).resize((width, height), method))


PROTOCOLS = {"kitty": kitty, "iterm2": iterm2, "sixel": sixel, "blocks": blocks}
