"""Image files: opened upright as RGB or RGBA arrays, saved whole or not at all with the recipe that
made them in their metadata, and what stands around that: contact sheets, masks, sizes.

    pixels = open_image("cat.jpg")                            # (H, W, 3) or (H, W, 4) uint8
    save_image(pixels, "out.png", recipe={"seed": 1})
    recipe_of("out.png")                                      # {"seed": 1}

Legend: H height, W width, C channels (3 RGB, 4 RGB and alpha)."""

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from daedal.errors import DaedalError, nearest
from daedal.files import write_whole

Pixels = np.ndarray  # (H, W, C) uint8

MAX_PIXELS = 89_478_485  # 256 MiB as RGB; Pillow itself warns from here on
MAX_SIDE = 16_384  # of an image to make
FORMATS = {".png": "PNG", ".webp": "WEBP", ".jpg": "JPEG", ".jpeg": "JPEG"}
KEY = "daedal"  # of the PNG text chunk that holds the recipe
# where WebP and JPEG hold it (Exif 2.3, section 4.6.5)
EXIF_IFD, USER_COMMENT, CHARSET = 0x8769, 0x9286, b"ASCII\0\0\0"


def open_image(file: str | Path | bytes) -> Pixels:
    """(H, W, 3) uint8, or (H, W, 4) where the file has transparency; turned as its EXIF orientation
    says. Of an animation, the first frame. Grey, palette, CMYK and 16-bit files become RGB. `file`
    is a path, or the bytes of a file."""
    with _opened(file) as image:
        try:
            image.load()
        except (OSError, SyntaxError, ValueError) as error:
            raise DaedalError(
                f"{_named(file)} is truncated or damaged ({error}); copy or download it again."
            ) from None
        return _as_array(ImageOps.exif_transpose(image))


def encode(
    pixels: Pixels, format: str = "PNG", recipe: dict[str, Any] | None = None, quality: int = 95
) -> bytes:
    """The bytes of a PNG, WEBP or JPEG file of (H, W, 3 or 4) uint8. `quality` (1 to 100) is that
    of WEBP and JPEG; WEBP at 100 is exact."""
    image = _as_image(pixels)
    if format == "JPEG" and pixels.shape[2] == 4:
        raise DaedalError(
            "JPEG has no transparency; save as .png or .webp, or lay the picture on a colour first."
        )
    options: dict[str, Any] = (
        {}
        if format == "PNG"
        else {"quality": quality, "lossless": quality == 100, "exact": True, "subsampling": 0}
    )
    if recipe is not None:
        options |= _metadata(json.dumps(recipe), format)
    buffer = io.BytesIO()
    try:
        image.save(buffer, format, **options)
    # the recipe is longer than the format's metadata, or the picture larger than its limit
    except ValueError as error:
        raise DaedalError(
            f"a {format} file cannot hold this picture and its recipe ({error}); save as .png."
        ) from None
    return buffer.getvalue()


def save_image(
    pixels: Pixels, path: str | Path, recipe: dict[str, Any] | None = None, quality: int = 95
) -> Path:
    """Write (H, W, 3 or 4) uint8 in the format of the suffix (.png, .webp, .jpg), with the recipe
    that made it. The file appears whole or not at all."""
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise DaedalError(
            f"{path.name!r} does not end in an image format{nearest(path.suffix, list(FORMATS))}; use {', '.join(FORMATS)}."
        )
    write_whole(path, encode(pixels, FORMATS[path.suffix.lower()], recipe, quality))
    return path


def recipe_of(file: str | Path | bytes) -> dict[str, Any] | None:
    """The recipe that `save_image` wrote into a file; None where there is none."""
    with _opened(file) as image:
        if isinstance(image, PngImagePlugin.PngImageFile):
            text = image.text.get(KEY)
        else:
            comment = image.getexif().get_ifd(EXIF_IFD).get(USER_COMMENT, b"")
            if isinstance(comment, bytes):
                text = comment.removeprefix(CHARSET).decode("ascii", "replace")
            else:
                text = None
    if not text or not text.startswith("{"):  # a comment of someone else's
        return None
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DaedalError(
            f"the recipe in {_named(file)} is damaged ({error}); take the file as it was saved."
        ) from None


def grid(images: Sequence[Pixels], columns: int | None = None, gap: int = 0) -> Pixels:
    """A contact sheet: the images row by row, `columns` a row (None: as square as it gets), `gap`
    pixels of white between cells. Cells have the size of the largest; smaller images stand in their
    middle."""
    if not images:
        raise DaedalError("a contact sheet needs at least one image; the list is empty.")
    columns = columns or int(np.ceil(len(images) ** 0.5))
    channels = max(checked(image).shape[2] for image in images)
    h, w = (max(image.shape[axis] for image in images) for axis in (0, 1))
    rows = -(-len(images) // columns)
    columns = min(columns, len(images))
    sheet = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, channels), 255, np.uint8)
    for index, image in enumerate(images):
        top, left = (index // columns) * (h + gap), (index % columns) * (w + gap)
        top, left = top + (h - image.shape[0]) // 2, left + (w - image.shape[1]) // 2
        sheet[top : top + image.shape[0], left : left + image.shape[1], : image.shape[2]] = image
    return sheet


def open_mask(file: str | Path | bytes) -> tuple[np.ndarray, bool]:
    """(H, W) float32 in [0, 1], 1 where a picture is to be made anew, and whether that is where the
    file is transparent. White is meant, on black or on a transparent ground; where the opaque part
    of a file holds no white, or colours, as a picture with a hole does, the hole is meant."""
    pixels = open_image(file)
    luma = np.asarray(_as_image(pixels[..., :3]).convert("L"), np.float32) / 255
    if pixels.shape[2] == 3:
        return luma, False
    alpha = pixels[..., 3].astype(np.float32) / 255
    solid = alpha >= 0.5
    if solid.all():
        return luma, False
    colours = pixels[..., :3][solid].astype(int)
    grey = (np.ptp(colours, axis=1) < 16) if len(colours) else np.ones(0, bool)
    plain = grey & ((luma[solid] < 0.1) | (luma[solid] > 0.9))
    strokes = plain.mean() > 0.9 and (luma[solid] > 0.9).any() if len(colours) else False
    return (luma * alpha, False) if strokes else (1 - alpha, True)


def over(pixels: Pixels, colour: tuple[int, int, int] = (255, 255, 255)) -> Pixels:
    """(H, W, 4) laid on a plain colour -> (H, W, 3); RGB stays as it is."""
    if checked(pixels).shape[2] == 3:
        return pixels
    alpha = pixels[..., 3:].astype(np.float32) / 255
    return (
        (pixels[..., :3] * alpha + np.array(colour, np.float32) * (1 - alpha))
        .round()
        .astype(np.uint8)
    )


def parse_size(text: str, multiple: int = 8) -> tuple[int, int, str]:
    """A size such as "512x768" -> width, height, both snapped to the nearest `multiple` that the
    model asks for, and what to tell the user of it: an empty string where nothing changed. "512" is
    a square."""
    match = re.fullmatch(r"\s*(\d{1,6})(?:\s*[x×*]\s*(\d{1,6}))?\s*", text, re.IGNORECASE)
    if match is None:
        raise DaedalError(f"size {text!r} is not WIDTHxHEIGHT; write for example 512x512.")
    asked = int(match[1]), int(match[2] or match[1])
    if not all(1 <= side <= MAX_SIDE for side in asked):
        raise DaedalError(
            f"size {text!r} has a side outside 1 to {MAX_SIDE} pixels; write for example 512x512."
        )
    width, height = (max(multiple, (side + multiple // 2) // multiple * multiple) for side in asked)
    changed = f"size {asked[0]}x{asked[1]} is made {width}x{height}: this model makes multiples of {multiple}."
    return width, height, "" if (width, height) == asked else changed


def checked(pixels: Pixels) -> Pixels:
    """`pixels`, if they are an image; else an error that says what they are."""
    if pixels.ndim != 3 or pixels.shape[2] not in (3, 4) or not pixels.size:
        raise DaedalError(
            f"an image has the shape (height, width, 3 or 4), not {pixels.shape}; RGB has 3 channels, RGBA 4."
        )
    if pixels.dtype != np.uint8:
        raise DaedalError(
            f"an image is uint8 from 0 to 255, not {pixels.dtype}; scale and round it first."
        )
    return pixels


def _opened(file: str | Path | bytes) -> Image.Image:
    """The header of an image file; its pixels are not decoded yet."""
    path = file if isinstance(file, bytes) else Path(file)
    if isinstance(path, Path) and not path.is_file():
        raise DaedalError(f"{path} is not a file; give the path of an image.")
    if not (len(path) if isinstance(path, bytes) else path.stat().st_size):
        raise DaedalError(f"{_named(file)} is empty; give the path of an image.")
    try:
        image = Image.open(io.BytesIO(path) if isinstance(path, bytes) else path)
    except UnidentifiedImageError:
        raise DaedalError(
            f"{_named(file)} is not an image in a format that can be read; give a PNG, JPEG, WebP, GIF, BMP or TIFF file."
        ) from None
    except Image.DecompressionBombError as error:
        raise DaedalError(
            f"{_named(file)} is too large to open ({error}); make it smaller."
        ) from None
    except (OSError, SyntaxError, ValueError) as error:
        raise DaedalError(
            f"{_named(file)} is truncated or damaged ({error}); copy or download it again."
        ) from None
    if image.width * image.height > MAX_PIXELS:
        raise DaedalError(
            f"{_named(file)} has {image.width}x{image.height} pixels, more than {MAX_PIXELS:,}; make it smaller."
        )
    return image


def _as_array(image: Image.Image) -> Pixels:
    if image.mode.startswith("I;16"):  # 16 bits of grey: the upper eight
        grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, -1)
    if image.mode in ("I", "F"):
        raise DaedalError(
            f"an image of 32-bit numbers (mode {image.mode}) has no fixed white; save it with 8 or 16 bits a channel."
        )
    return np.array(image.convert("RGBA" if image.has_transparency_data else "RGB"))


def _as_image(pixels: Pixels) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(checked(pixels)))


def _metadata(text: str, format: str) -> dict[str, Any]:
    """Options of Pillow's `save` that put ASCII text into a file."""
    if format == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_text(KEY, text)
        return {"pnginfo": info}
    exif = Image.Exif()
    exif.get_ifd(EXIF_IFD)[USER_COMMENT] = CHARSET + text.encode("ascii")
    return {"exif": exif}


def _named(file: str | Path | bytes) -> str:
    return "the image" if isinstance(file, bytes) else str(file)
