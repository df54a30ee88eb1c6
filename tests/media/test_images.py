"""Image files: round trips in every format, orientation, what a bad file says, recipes, contact
sheets, masks and sizes."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from daedal.errors import DaedalError
from daedal.media import images
from daedal.media.images import (
    encode,
    grid,
    open_image,
    open_mask,
    over,
    parse_size,
    recipe_of,
    save_image,
)

RECIPE = {
    "model": "house/image",
    "prompt": 'a "café" at night 🌙\n',
    "seed": 2**53,
    "settings": {"guidance_scale": 4.5, "loras": []},
}


def noise(height=12, width=20, channels=3):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def smooth(height=48, width=64):
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 3, y * 4, (x + y) * 2], -1).astype(np.uint8)


def file_of(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def test_no_torch_is_imported():
    code = (
        "import sys, daedal.media.images, daedal.media.terminal; assert 'torch' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("name", ["a.png", "a.webp", "A.PNG"])
def test_exact_formats_give_the_same_pixels_and_recipe(tmp_path, channels, name):
    pixels = noise(channels=channels)
    path = save_image(pixels, tmp_path / "new" / name, RECIPE, quality=100)
    assert np.array_equal(open_image(path), pixels) and np.array_equal(
        open_image(path.read_bytes()), pixels
    )
    assert recipe_of(path) == RECIPE == recipe_of(str(path)) == recipe_of(path.read_bytes())


@pytest.mark.parametrize("name", ["a.jpg", "a.jpeg", "a.webp"])
def test_other_formats_come_close(tmp_path, name):
    path = save_image(smooth(), tmp_path / name, RECIPE, quality=90)
    assert np.abs(open_image(path).astype(int) - smooth()).mean() < 2
    assert recipe_of(path) == RECIPE
    format = "WEBP" if name == "a.webp" else "JPEG"
    assert len(encode(noise(64, 64), format, quality=50)) < len(
        encode(noise(64, 64), format, quality=90)
    )


def test_the_recipe_is_where_other_tools_look(tmp_path):
    png, jpeg = (save_image(noise(), tmp_path / name, RECIPE) for name in ("a.png", "a.jpg"))
    assert json.loads(Image.open(png).text["daedal"]) == RECIPE
    assert json.loads(Image.open(jpeg).getexif().get_ifd(0x8769)[0x9286][8:]) == RECIPE


def test_pictures_of_others_have_no_recipe(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0holidays"
    assert recipe_of(file_of(Image.new("RGB", (2, 2)), "JPEG", exif=exif)) is None
    assert [recipe_of(encode(noise(), format)) for format in ("PNG", "WEBP", "JPEG")] == [None] * 3


@given(
    st.dictionaries(
        st.text(),
        st.one_of(
            st.text(), st.integers(), st.floats(allow_nan=False), st.none(), st.lists(st.text())
        ),
    )
)
@settings(max_examples=25, deadline=None)
def test_any_recipe_survives(recipe):
    for format in ("PNG", "WEBP", "JPEG"):
        assert recipe_of(encode(np.zeros((1, 1, 3), np.uint8), format, recipe)) == recipe


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation):
    exif, upright = Image.Exif(), noise()
    exif[0x0112] = orientation
    undo = {
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.swapaxes(0, 1),
        6: np.rot90,
    }
    undo |= {7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: lambda a: np.rot90(a, 3)}
    stored = np.ascontiguousarray(undo.get(orientation, lambda a: a)(upright))
    assert np.array_equal(open_image(file_of(Image.fromarray(stored), exif=exif)), upright)


def test_every_mode_becomes_rgb_or_rgba():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    three = np.repeat(grey[..., None], 3, -1)
    assert np.array_equal(open_image(file_of(Image.fromarray(grey))), three)
    # 16 bits
    assert np.array_equal(open_image(file_of(Image.fromarray(grey.astype(np.uint16) * 257))), three)
    assert np.array_equal(open_image(file_of(Image.fromarray(three).quantize(256))), three)
    assert open_image(file_of(Image.fromarray(three).convert("CMYK"), "TIFF")).shape == three.shape
    assert open_image(file_of(Image.fromarray(grey).convert("LA"))).shape == (16, 16, 4)
    assert open_image(file_of(Image.fromarray(three).quantize(256), transparency=0)).shape == (
        16,
        16,
        4,
    )
    frames = [Image.fromarray(noise(4, 4)).quantize() for _ in range(2)]
    assert open_image(file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])).shape[
        :2
    ] == (4, 4)


def huge(tmp_path):
    """A PNG whose header claims 60 000 x 60 000 pixels."""
    data = bytearray(encode(noise()))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return written(tmp_path, bytes(data))


def written(tmp_path, data):
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: p / "absent.png", "is not a file"),
        (lambda p: p, "is not a file"),
        (lambda p: written(p, b""), "is empty"),
        (lambda p: written(p, b"<svg/>" * 9), "is not an image in a format that can be read"),
        (lambda p: written(p, encode(noise(64, 64))[:2000]), "truncated or damaged"),
        (lambda p: written(p, encode(noise(64, 64), "JPEG")[:2000]), "truncated or damaged"),
        (lambda p: written(p, encode(noise())[:20]), "truncated or damaged|is not an image"),
        (huge, "too large to open"),
        (lambda p: written(p, file_of(Image.new("F", (2, 2)), "TIFF")), "32-bit numbers"),
    ],
)
def test_a_bad_file_gets_one_sentence(tmp_path, make, words):
    with pytest.raises(DaedalError, match=words):
        open_image(make(tmp_path))


def test_a_large_picture_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    with pytest.raises(DaedalError, match="20x12 pixels, more than 100"):
        open_image(encode(noise()))


@pytest.mark.parametrize(
    ("pixels", "name", "words"),
    [
        (noise(channels=4), "a.jpg", "JPEG has no transparency"),
        (noise()[..., :2], "a.png", r"not \(12, 20, 2\)"),
        (noise()[..., 0], "a.png", r"not \(12, 20\)"),
        (noise()[:0], "a.png", r"not \(0, 20, 3\)"),
        (noise() / 255, "a.png", "not float64"),
        (noise(), "a.pgn", "did you mean '.png'"),
        (noise(), "a", "does not end in an image format"),
    ],
)
def test_what_cannot_be_saved(tmp_path, pixels, name, words):
    with pytest.raises(DaedalError, match=words):
        save_image(pixels, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_too_long_for_the_format(tmp_path):
    with pytest.raises(DaedalError, match=r"JPEG file cannot hold .*; save as \.png"):
        save_image(noise(), tmp_path / "a.jpg", {"prompt": "x" * 70_000})
    assert recipe_of(save_image(noise(), tmp_path / "a.png", {"prompt": "x" * 70_000}))


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = save_image(noise(), tmp_path / "a.png")
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_image(smooth(), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_contact_sheet():
    a, b, c = (np.full((4, 6, 3), shade, np.uint8) for shade in (10, 20, 30))
    sheet = grid([a, b, c], columns=2, gap=1)
    assert sheet.shape == (9, 13, 3)
    assert (
        (sheet[:4, :6] == 10).all() and (sheet[:4, 7:] == 20).all() and (sheet[5:, :6] == 30).all()
    )
    assert (sheet[4] == 255).all() and (sheet[5:, 6:] == 255).all()
    assert grid([a] * 5).shape == (8, 18, 3) and grid([a], columns=4).shape == a.shape
    mixed = grid([a, noise(2, 2, 4)])
    assert (
        mixed.shape == (4, 12, 4)
        and (mixed[:, :6, 3] == 255).all()
        and np.array_equal(mixed[1:3, 8:10], noise(2, 2, 4))
    )
    with pytest.raises(DaedalError, match="at least one"):
        grid([])


def test_masks():
    picture, hole = smooth(), np.zeros((48, 64), np.uint8)
    hole[10:20, 5:9] = 255
    white = encode(np.repeat(hole[..., None], 3, -1))
    clear = encode(np.dstack([picture, 255 - hole]))
    painted = encode(np.dstack([np.repeat(hole[..., None], 3, -1), np.full_like(hole, 255)]))
    strokes = encode(np.dstack([hole] * 4))  # white on a transparent ground
    nearly = encode(np.dstack([hole] * 3 + [np.where(hole, 255, 254)]).astype(np.uint8))
    black = encode(np.dstack([np.zeros_like(picture), 255 - hole]))
    for file, by_hole in (
        (white, False), (painted, False), (strokes, False), (nearly, False), (clear, True), (black, True),
    ):  # fmt: skip
        mask, transparent = open_mask(file)
        assert mask.dtype == np.float32 and np.array_equal(mask, hole / 255)
        assert transparent == by_hole


def test_transparency_is_laid_on_a_colour():
    pixels = np.dstack([noise(), np.full((12, 20), 255, np.uint8)])
    assert np.array_equal(over(pixels), pixels[..., :3]) and over(noise()) is not None
    pixels[..., 3] = 0
    assert (over(pixels, (1, 2, 3)) == (1, 2, 3)).all()


@pytest.mark.parametrize(
    ("text", "multiple", "expected"),
    [
        ("512x512", 8, (512, 512)), (" 640X480 ", 8, (640, 480)), ("512", 64, (512, 512)), ("1024×768", 64, (1024, 768)),
        ("515x508", 8, (512, 512)), ("516x1", 8, (520, 8)), ("100x100", 64, (128, 128)),
    ],
)  # fmt: skip
def test_sizes(text, multiple, expected):
    *size, said = parse_size(text, multiple)
    assert tuple(size) == expected
    unchanged = (
        f"{expected[0]}x{expected[1]}" in text.strip().lower().replace("×", "x") or text == "512"
    )
    assert (said == "") == unchanged
    assert unchanged or f"made {expected[0]}x{expected[1]}" in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("big", "not WIDTHxHEIGHT"),
        ("512x", "not WIDTHxHEIGHT"),
        ("-8x8", "not WIDTHxHEIGHT"),
        ("0x512", "outside 1 to"),
        ("99999x8", "outside 1 to"),
        ("9999999x8", "not WIDTHxHEIGHT"),
    ],
)
def test_a_bad_size_gets_one_sentence(text, words):
    with pytest.raises(DaedalError, match=words):
        parse_size(text)
