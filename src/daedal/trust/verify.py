"""What is known of where a file comes from: its signed manifest, this machine's registry, the recipe
in its metadata, and of a text the watermark. No answer here means that a person made it."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from daedal.errors import DaedalError
from daedal.files import data_folder, private_file
from daedal.media import audio, images, video
from daedal.processes.text_mark import KEY_FILE, GreenList, new_key
from daedal.trust import manifest, registry
from daedal.trust.manifest import Manifest
from daedal.trust.registry import Made
from daedal.trust.text_mark import MarkTest, examine

if TYPE_CHECKING:
    from daedal.data.tokenizer import Tokenizer

Answer = TypeVar("Answer")
UNREAD = 'manifests are not read; pip install "daedal[provenance]" adds that.'
NOTHING = "nothing is known of where it comes from; metadata and marks are easily lost, so that is no evidence of who or what made it."


@dataclass(frozen=True)
class Provenance:
    """What the signals say of a file. `unread` are sentences about signals that could not be asked."""

    file: str
    sha256: str
    manifest: Manifest | None = None
    registry: tuple[Made, ...] = ()
    recipe: Mapping[str, Any] | None = None
    mark: MarkTest | None = None
    unread: tuple[str, ...] = field(default=())

    def as_dict(self) -> dict[str, Any]:
        test = self.mark and {
            **asdict(self.mark), "z": self.mark.z, "p_value": self.mark.p_value, "marked": self.mark.marked,
        }  # fmt: skip
        return asdict(self) | {"mark": test, "sentences": self.sentences()}

    def sentences(self) -> list[str]:
        """All that is known, a sentence a signal."""
        said = [manifest_sentence(self.manifest)] if self.manifest else []
        said += [made_sentence(each) for each in self.registry]
        if self.recipe:
            whose = (
                f"{self.recipe.get('model')}, seed {self.recipe.get('settings', {}).get('seed')}"
            )
            said.append(f"recipe: its metadata names {whose} (unsigned: anyone can write that).")
        known = bool(said) or (self.mark is not None and self.mark.marked)
        if self.mark:
            said.append(f"text: {self.mark.sentence}")
        return [*said, *([] if known else [NOTHING]), *self.unread]


def verify(file: Path, tokenizer: "Tokenizer | None" = None) -> Provenance:
    """Ask every signal. A text needs the tokenizer of the model that may have written it."""
    if not file.is_file():
        raise DaedalError(f"there is no file {file}; check its name and folder.")
    suffix, unread = file.suffix.lower(), list[str]()
    signed = None
    if suffix in manifest.TYPES:
        if manifest.installed():
            signed = _asked("manifest", lambda: manifest.read(file), unread)
        else:
            unread.append(UNREAD)
    mark = None
    if suffix in (".txt", ".md"):
        if tokenizer is None:
            unread.append(
                "the watermark of a text is looked for with --model, the model that may have written it."
            )
        else:
            mark = text_mark(file, tokenizer)
            if mark is None:
                unread.append(
                    "this installation has marked no text yet, so there is no watermark to look for."
                )
    made = _asked("registry", lambda: tuple(registry.find(file)), unread) or ()
    recipe = _asked("recipe", lambda: recipe_of(file), unread)
    return Provenance(str(file), registry.sha256(file), signed, made, recipe, mark, tuple(unread))


def _asked(name: str, signal: Callable[[], Answer], unread: list[str]) -> Answer | None:
    """What a signal says. A damaged file silences one (by whatever its decoder raises: ours, or
    Pillow's and FFmpeg's), and the others are still heard."""
    try:
        return signal()
    except (ValueError, OSError, SyntaxError) as error:
        unread.append(f"{name}: the file does not open ({str(error).rstrip('.')}).")
        return None


def text_mark(file: Path, tokenizer: "Tokenizer") -> MarkTest | None:
    """The test of a text for this installation's watermark; None where it has never marked one."""
    if not (data_folder() / KEY_FILE).exists():
        return None
    try:
        text = file.read_text("utf-8")
    except UnicodeDecodeError:
        raise DaedalError(f"{file} is not UTF-8 text; convert it first.") from None
    return examine(
        GreenList(private_file(KEY_FILE, new_key)), tokenizer.encode(text, add_bos=False)
    )


def recipe_of(file: Path) -> dict[str, Any] | None:
    """The recipe in the metadata of a file."""
    suffix = file.suffix.lower()
    if suffix in audio.FORMATS:
        return audio.recipe_of(file)
    found = images.recipe_of(file) if suffix in images.FORMATS else None
    return found or (video.recipe_of(file) if suffix in video.SUFFIXES else None)


def manifest_sentence(found: Manifest) -> str:
    if found.state == "Invalid":
        parts = "; ".join(found.failures)
        return f"manifest: Invalid, the file was changed after it was signed, or the manifest was ({parts})."
    signer = (
        "this installation"
        if found.state == "Trusted"
        else f"{found.signer!r}, whom nobody here vouches for"
    )
    what = "made or edited by a trained model" if found.generated else ", ".join(found.actions)
    model = f" ({found.generation['model']})" if found.generation else ""
    parents = f", from {', '.join(found.parents)}" if found.parents else ""
    return f"manifest: {found.state}, signed by {signer}: {what}{model}{parents}."


def made_sentence(made: Made) -> str:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(made.at))
    number = f", generation {made.generation} of its history" if made.generation else ""
    whose = f"that this machine made with {made.model} on {when}{number}"
    if made.same:
        return f"registry: it is, byte for byte, the {made.medium} {whose}."
    return f"registry: it differs in {made.bits:.0f} bits of 64 from the {made.medium} {whose}; an unlike file comes so near to one of the registry with a chance of at most {made.chance:.2g}."
