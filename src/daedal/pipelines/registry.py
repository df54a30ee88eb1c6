"""The media, one line each. Whoever handles content of any kind iterates over them and names none."""

from pathlib import Path
from typing import Any

from daedal.errors import DaedalError, nearest
from daedal.pipelines.image_params import IMAGE, PartMeasuring
from daedal.pipelines.medium import Medium, Pipeline
from daedal.pipelines.text_params import TEXT
from daedal.settings import settings_of

__all__ = ["MEDIA", "PartMeasuring", "load", "medium_named"]

MEDIA: list[Medium] = [IMAGE, TEXT]


def medium_named(name: str) -> Medium:
    """The medium of a name."""
    for medium in MEDIA:
        if medium.name == name:
            return medium
    names = [medium.name for medium in MEDIA]
    raise DaedalError(
        f"{name!r} is not a medium that is known here{nearest(name, names)}; known are {', '.join(names)}."
    )


def load(name_or_folder: str | Path, **loading: Any) -> Pipeline:
    """The pipeline of a model, by what its folder or file holds: "house/text", a folder, a file of
    weights, a Hub name, "BASE:ADAPTER"; of an encoder of sentences its `Embedder`. `loading` are the medium's (device, dtype, of text also
    quantize); None is left out."""
    from daedal.checkpoints.adapter import parted
    from daedal.engine.store import STORE
    from daedal.pipelines import embedding
    from daedal.pipelines.place import located

    place = located(parted(name_or_folder)[0])
    given = {key: value for key, value in loading.items() if value is not None}
    if embedding.holds(place):
        if strange := sorted(given.keys() - {"device", "dtype"}):
            raise DaedalError(
                f"{strange[0]}={given[strange[0]]!r} does not apply to {name_or_folder}, an encoder of sentences; it takes device, dtype."
            )
        return STORE.adopt(embedding.load(place, **given))
    # the last says what it cannot read
    medium = next((medium for medium in MEDIA if medium.code.holds(place)), MEDIA[-1])
    known = settings_of(medium.loading)
    if unknown := [key for key in given if key not in known]:
        key = unknown[0]
        raise DaedalError(
            f"{key}={given[key]!r} does not apply to {name_or_folder}, a model of {medium.plural}; it takes {', '.join(known)}."
        )
    return STORE.adopt(medium.code.load(name_or_folder, **given))
