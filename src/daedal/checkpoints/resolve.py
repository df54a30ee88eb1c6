"""From a name to a folder: a house model in the package, a local folder or GGUF file, a model of the
catalogue, or a Hub name."""

from pathlib import Path

from daedal.checkpoints import catalogue
from daedal.checkpoints.gguf_folder import SUFFIX, folder_of, is_gguf
from daedal.checkpoints.hub import download
from daedal.errors import DaedalError, nearest

HOUSE = Path(__file__).parent.parent / "house"


def house_models() -> list[str]:
    """Names of the models that came with the package."""
    return sorted(f"house/{path.parent.name}" for path in HOUSE.glob("*/config.json"))


def resolve(name: str | Path) -> Path:
    """The folder of a house name (`house/text`), a local path, a name of the catalogue (`coder`), or
    a Hub name (`owner/model`). A local path never touches the network; that of a GGUF file is its
    folder in the cache."""
    text = str(name)
    if text.startswith("house/"):
        if text not in house_models():
            raise DaedalError(
                f"{text!r} is not a house model{nearest(text, house_models())}; there are {', '.join(house_models())}."
            )
        return HOUSE / text.removeprefix("house/")
    path = Path(text).expanduser()
    if path.is_dir() or is_gguf(path):
        return folder_of(path)
    if path.suffix == SUFFIX:
        raise DaedalError(f"{text} is not there; check the path of the GGUF file.")
    if text in catalogue.entries():
        return of_catalogue(text)
    if text.startswith((".", "/", "~")) or text.count("/") != 1:
        known = [*catalogue.entries(), *house_models()]
        raise DaedalError(
            f"{text!r} is neither a folder here, a house model, a name of the catalogue{nearest(text, known)} nor a Hub name of the form owner/model; "
            f"house models: {', '.join(house_models())}; `daedal models available` lists the catalogue."
        )
    return download(text)


def of_catalogue(name: str) -> Path:
    """The folder of a short name whose model is here; one of the Hub is downloaded."""
    entry = catalogue.entries()[name]
    if entry.source.startswith("hub:"):
        return download(entry.source.removeprefix("hub:"))
    place = catalogue.place(name)
    if place is None:
        raise DaedalError(
            f"{name} is not on this machine; `daedal models pull {name}` brings it ({entry.size / 1e6:,.0f} MB, {entry.licence})."
        )
    return folder_of(place)
