"""Images in a terminal: what each protocol writes is decoded again."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from daedal.errors import DaedalError
from daedal.media.images import open_image, over
from daedal.media.terminal import (
    CHUNK,
    blocks,
    detect,
    fitting,
    iterm2,
    kitty,
    resized,
    show,
    sixel,
)


def picture(height=60, width=80, channels=3):
    return np.random.default_rng(1).integers(0, 256, (height, width, channels), dtype=np.uint8)


def flat(height=13, width=16):
    """Six colours in patches."""
    colours = np.array(
        [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 153, 51), (51, 102, 255), (255, 204, 0)],
        np.uint8,
    )
    return colours[np.arange(height)[:, None] // 3 % 3 + np.arange(width) // 5 % 4]


@pytest.mark.parametrize("channels", [3, 4])
def test_kitty_carries_a_png(channels):
    text = kitty(picture(channels=channels), columns=30)
    sequences = re.findall(r"\x1b_G([^;]*);([A-Za-z0-9+/=]*)\x1b\\", text)
    assert "".join(f"\x1b_G{keys};{data}\x1b\\" for keys, data in sequences) + "\n" == text
    keys = [dict(pair.split("=") for pair in keys.split(",")) for keys, _ in sequences]
    assert keys[0] == {"a": "T", "f": "100", "q": "2", "c": "30", "m": "1"}
    assert [k["m"] for k in keys] == ["1"] * (len(keys) - 1) + ["0"] and all(
        set(k) == {"m"} for k in keys[1:]
    )
    assert len(sequences) > 3 and all(
        len(data) <= CHUNK and len(data) % 4 == 0 for _, data in sequences
    )
    assert np.array_equal(
        open_image(base64.b64decode("".join(data for _, data in sequences))),
        picture(channels=channels),
    )


def test_a_small_kitty_image_is_one_sequence():
    assert kitty(picture(2, 2), 4).count("\x1b_G") == 1 and ",m=0;" in kitty(picture(2, 2), 4)


def test_iterm2_carries_a_png():
    keys, data = re.fullmatch(
        r"\x1b\]1337;File=([^:]*):([^\a]*)\a\n", iterm2(picture(), 30)
    ).groups()
    fields, file = dict(pair.split("=") for pair in keys.split(";")), base64.b64decode(data)
    assert fields["inline"] == "1" and int(fields["size"]) == len(file) and fields["width"] == "30"
    assert np.array_equal(open_image(file), picture())


def decoded(text):
    """A decoder of sixels: registers in percent, "$" to the left edge, "-" to the next band, "!n"
    repeats."""
    height_width, body = re.fullmatch(
        r'\x1bP0;1;0q"1;1;(\d+;\d+)(.*)\x1b\\\n', text, re.DOTALL
    ).groups()
    width, height = map(int, height_width.split(";"))
    image, colours = np.full((height + 5, width, 3), -1.0), {}
    x = y = colour = 0
    position = 0
    while position < len(body):
        if match := re.compile(r"#(\d+);2;(\d+);(\d+);(\d+)").match(body, position):
            colours[int(match[1])] = [int(part) * 2.55 for part in match.groups()[1:]]
        elif match := re.compile(r"#(\d+)").match(body, position):
            colour = int(match[1])
        elif match := re.compile(r"(?:!(\d+))?([?-~])").match(body, position):
            count, bits = int(match[1] or 1), ord(match[2]) - 63
            for row in range(6):
                if bits >> row & 1:
                    image[y + row, x : x + count] = colours[colour]
            x += count
        elif match := re.compile(r"[$-]").match(body, position):
            x, y = 0, y + 6 * (match[0] == "-")
        position = match.end()
    return image[:height]


@pytest.mark.parametrize(
    "pixels",
    [flat(), flat(12, 24), np.dstack([flat(), np.zeros((13, 16), np.uint8)])],
    ids=["13 rows", "12 rows", "clear"],
)
def test_sixel(pixels):
    columns = pixels.shape[1] // 8
    image = decoded(sixel(pixels, columns))
    assert image.shape == (*pixels.shape[:2], 3)
    assert np.abs(image - over(pixels)).max() < 2  # colours are in percent


def test_sixel_of_many_colours_comes_close():
    y, x = np.mgrid[:48, :64]
    gradient = np.stack([x * 4, y * 5, 255 - x * 2], -1).astype(np.uint8)
    image = decoded(sixel(gradient, 8))
    assert (image >= 0).all() and np.abs(image - gradient).mean() < 6


def test_sixel_repeats_are_counted():
    assert len(sixel(np.zeros((600, 800, 3), np.uint8), 100)) < 6000


def read_back(text):
    """Half blocks to pixels; a missing lower row is left out."""
    rows = []
    for line in text.splitlines():
        upper, lower, top, bottom = [], [], None, None
        assert line.endswith("\x1b[0m")
        for code, glyph in re.findall(r"(?:\x1b\[([\d;]*)m)?(▀)?", line.removesuffix("\x1b[0m")):
            if code:
                numbers = [int(n) for n in code.split(";")]
                top, bottom = numbers[2:5], numbers[7:10] if len(numbers) > 5 else None
            if glyph:
                upper.append(top), lower.append(bottom)
        rows += [upper] + ([lower] if lower[0] is not None else [])
    return np.array(rows, np.uint8)


@pytest.mark.parametrize(
    "pixels",
    [picture(10, 12), picture(11, 12), flat(), picture(4, 6, 4)],
    ids=["even", "odd", "flat", "alpha"],
)
def test_half_blocks(pixels):
    assert np.array_equal(read_back(blocks(pixels, pixels.shape[1])), over(pixels))


def test_half_blocks_are_scaled():
    assert np.array_equal(
        read_back(blocks(picture(), 20)),
        np.asarray(Image.fromarray(picture()).resize((20, 15), Image.Resampling.BOX)),
    )
    assert read_back(blocks(flat(4, 4), 16)).shape == (16, 16, 3)
    assert read_back(blocks(np.zeros((2, 100, 3), np.uint8), 10)).shape == (1, 10, 3)
    assert np.array_equal(resized(flat(4, 4), 8, 8), flat(4, 4).repeat(2, 0).repeat(2, 1))


def test_a_colour_is_set_only_where_it_changes():
    assert blocks(np.zeros((2, 50, 3), np.uint8), 50).count("\x1b[") == 2


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "blocks"),
        ({"TERM": "xterm-256color"}, "blocks"),
        ({"TERM": "dumb"}, None),
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM": "xterm-ghostty"}, "kitty"),
        ({"TERM_PROGRAM": "iTerm.app"}, "iterm2"),
        ({"TERM_PROGRAM": "WezTerm"}, "iterm2"),
        ({"LC_TERMINAL": "iTerm2"}, "iterm2"),
        ({"TERM": "foot"}, "sixel"),
        ({"TERM": "tmux-256color", "KITTY_WINDOW_ID": "1"}, "blocks"),
        ({"TMUX": "/tmp/tmux", "TERM_PROGRAM": "iTerm.app"}, "blocks"),
        ({"TERM_PROGRAM": "vscode", "KITTY_WINDOW_ID": "1"}, "blocks"),
        ({"TERM": "xterm-kitty", "DAEDAL_TERMINAL_IMAGES": "sixel"}, "sixel"),
        ({"TERM": "xterm-kitty", "DAEDAL_TERMINAL_IMAGES": "none"}, None),
    ],
)
def test_detection(environ, expected):
    assert detect(environ, tty=True) == expected
    assert detect(environ, tty=False) is None


def test_an_unknown_override_gets_one_sentence():
    with pytest.raises(DaedalError, match="did you mean 'sixel'"):
        detect({"DAEDAL_TERMINAL_IMAGES": "sixels"}, tty=True)


def test_width():
    assert (
        fitting(64, 80) == 24
        and fitting(512, 80) == 64
        and fitting(4096, 80) == 80
        and fitting(64, 10) == 10
    )


def test_show(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("DAEDAL_TERMINAL_IMAGES", "blocks")
    drawn, pipe = Terminal(), io.StringIO()
    show(flat(), columns=16, out=drawn)
    show(flat(), columns=16, out=pipe)
    assert drawn.getvalue() == blocks(flat(), 16) and pipe.getvalue() == ""
