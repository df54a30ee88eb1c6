"""What a call to an image pipeline is given beside words: pictures to start from, to be controlled
by or to refer to, LoRAs, embeddings.

Recipes name a file together with the digest of its content, "FILE#SHA256", and a file that is no
longer what it was is an error."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from daedal.checkpoints.lora_files import weight_file
from daedal.errors import DaedalError
from daedal.media import images

Given = str | Path | np.ndarray  # a picture: a file, or (H, W, 3) uint8
Listed = str | Path | Iterable[str | Path] | None  # one, or several

DIGEST = re.compile("#[0-9a-f]{64}$")
KINDS = (  # of control pictures
    "blur", "canny", "color", "depth", "gray", "hed", "inpaint", "lineart", "lowquality", "mlsd", "normal", "openpose", "pose", "recolor",
    "scribble", "seg", "shuffle", "sketch", "softedge", "tile",
)  # fmt: skip


@dataclass(frozen=True)
class Extras:
    """Checked and open; files are paths, pictures (H, W, 3) uint8."""

    controls: tuple[tuple[str, np.ndarray], ...] = ()  # (kind, picture of the size that is painted)
    reference: np.ndarray | None = None
    loras: tuple[tuple[Path, float], ...] = ()  # (file, scale)
    embeddings: tuple[Path, ...] = ()


def listed(given: Listed) -> list[str]:
    if given is None:
        return []
    if isinstance(given, str | Path):
        return [str(given)]
    return [str(each) for each in given]


def control_of(text: str) -> tuple[str, str]:
    """ "canny:edges.png" -> kind and file."""
    kind, mark, file = text.partition(":")
    if not mark or not file:
        raise DaedalError(f"control {text!r} is not KIND:FILE; write for example canny:edges.png.")
    return kind, file


def scaled_file(text: str) -> tuple[str, float]:
    """ "style.safetensors:0.8" -> file and scale, 1 if none is given."""
    match = re.fullmatch(r"(.+):([+-]?\d*\.?\d+)", text)
    return (match[1], float(match[2])) if match else (text, 1.0)


def remembered(given: Given | None) -> str | None:
    """How a recipe names a file or picture that was given: its path and the digest of its content,
    or the digest alone."""
    if given is None or (isinstance(given, str) and DIGEST.search(given)):
        return given
    if isinstance(given, np.ndarray):
        return f"#{hashlib.sha256(given.tobytes()).hexdigest()}"
    return f"{Path(given).resolve()}#{hashlib.sha256(content(Path(given))).hexdigest()}"


def remembered_control(text: str) -> str:
    kind, file = control_of(text)
    return f"{kind}:{remembered(file)}"


def remembered_lora(text: str) -> str:
    file, scale = scaled_file(text)
    return f"{file if DIGEST.search(file) else remembered(weight_file(Path(file)))}:{scale:g}"


def content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DaedalError(
            f"{path} cannot be read ({error.strerror}); give a file that is there."
        ) from None


def unchanged(given: str | Path) -> Path:
    """The file of a name, which must be what it was when a recipe named it."""
    if not DIGEST.search(str(given)):
        return Path(given)
    path, _, wanted = str(given).rpartition("#")
    if not path or hashlib.sha256(content(Path(path))).hexdigest() != wanted:
        raise DaedalError(
            f"{path or 'the picture given as an array'} is no longer what the recipe used; give it again."
        )
    return Path(path)


def opened(given: Given) -> np.ndarray:
    """(H, W, 3) uint8, from a file, an array, or a name that `remembered` gave, whose file must be
    what it was."""
    if isinstance(given, np.ndarray):
        if given.ndim != 3 or given.shape[2] != 3 or given.dtype != np.uint8:
            raise DaedalError(
                f"a picture is an array (height, width, 3) of uint8, and this one is {given.shape} of {given.dtype}."
            )
        return given
    return images.over(images.open_image(unchanged(given)))


def opened_mask(
    given: Given, size: tuple[int, int], width: int, height: int
) -> tuple[np.ndarray, str]:
    """(height, width) bool, true where to paint, and a remark on how the mask is read. It belongs
    to a picture of `size` (H, W), and becomes the size of the canvas as the picture does."""
    by_hole = False
    if isinstance(given, np.ndarray):
        mask = given.astype(np.float32) / (1 if given.dtype == bool else 255)
    else:
        mask, by_hole = images.open_mask(unchanged(given))
    (h, w), (high, wide) = mask.shape, size
    if abs(h * wide - w * high) > 0.02 * h * wide:
        raise DaedalError(
            f"the mask is {w}x{h} and the picture is {wide}x{high}; give a mask of the picture's shape."
        )
    if mask.shape != (height, width):
        grey = Image.fromarray(mask).resize((width, height), Image.Resampling.BILINEAR)
        mask = np.asarray(grey)
    hole = "the mask has no white, so what is transparent in it is painted anew"
    return mask >= 0.5, hole if by_hole else ""


def opened_control(text: str, width: int, height: int) -> tuple[str, np.ndarray]:
    kind, file = control_of(text)
    return kind, resized(opened(file), width, height)


def resized(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """A picture at another size; the same array where it has it."""
    if picture.shape[:2] == (height, width):
        return picture
    return np.array(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))


def extended(picture: np.ndarray, text: str, multiple: int) -> tuple[np.ndarray, np.ndarray]:
    """The picture with "LEFT,TOP,RIGHT,BOTTOM" pixels more (right and bottom up to a legal size),
    filled from its border, and the mask (H, W) bool of what is new."""
    parts = text.replace(" ", "").split(",")
    whole = len(parts) == 4 and all(part.isdigit() for part in parts)
    if not whole or not any(int(part) for part in parts):
        raise DaedalError(
            f'extend={text!r} is not LEFT,TOP,RIGHT,BOTTOM in pixels; write for example "0,0,64,0" for more on the right.'
        )
    left, top, right, bottom = map(int, parts)
    height, width = picture.shape[:2]
    right += -(left + width + right) % multiple
    bottom += -(top + height + bottom) % multiple
    around = ((top, bottom), (left, right))
    new = np.pad(np.zeros((height, width), bool), around, constant_values=True)
    return np.pad(picture, (*around, (0, 0)), mode="edge"), new
