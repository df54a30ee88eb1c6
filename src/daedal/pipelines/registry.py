"""The media, one line each. Whoever handles content of any kind iterates over them and names none."""

from pathlib import Path
from typing import Any

from daedal.errors import DaedalError, nearest
from daedal.pipelines.image_params import IMAGE, PartMeasuring
from daedal.pipelines.medium import Medium, Pipeline
from daedal.pipelines.music_params import MUSIC
from daedal.pipelines.sound_params import SOUND
from daedal.pipelines.speech_params import SPEECH
from daedal.pipelines.text_params import TEXT
from daedal.pipelines.transcription_params import TRANSCRIPTION
from daedal.pipelines.video_params import VIDEO
from daedal.settings import settings_of

__all__ = ["MEDIA", "PartMeasuring", "load", "medium_named", "medium_of", "opened"]

# each is asked in turn whether a folder is its own: a clip's model is a picture's of more axes
MEDIA: list[Medium] = [SPEECH, SOUND, VIDEO, IMAGE, MUSIC, TRANSCRIPTION, TEXT]


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
    """`opened`, and counted in the model store for as long as somebody holds it."""
    from daedal.engine.store import STORE

    return STORE.adopt(opened(name_or_folder, **loading))


def medium_of(name_or_folder: str | Path) -> Medium | None:
    """The medium of a model, by what its folder or file holds; None of an encoder of sentences. What
    is none of these is taken for a model of the last medium, which says what it cannot read."""
    from daedal.checkpoints.adapter import parted
    from daedal.pipelines import embedding, remote
    from daedal.pipelines.place import located

    if remote.is_remote(name_or_folder):
        return TEXT
    place = located(parted(name_or_folder)[0])
    if embedding.holds(place):
        return None
    return next((medium for medium in MEDIA if medium.code.holds(place)), MEDIA[-1])


def opened(name_or_folder: str | Path, **loading: Any) -> Any:
    """The pipeline of a model: "house/text", a folder, a file of weights, a Hub name,
    "BASE:ADAPTER"; of an encoder of sentences its `Embedder`. `loading` are the medium's (device,
    dtype, of text also quantize); None is left out."""
    from daedal.pipelines import embedding

    medium = medium_of(name_or_folder)
    given = {key: value for key, value in loading.items() if value is not None}
    if medium is None:
        if unknown := sorted(given.keys() - {"device", "dtype"}):
            raise DaedalError(
                f"{unknown[0]}={given[unknown[0]]!r} does not apply to {name_or_folder}, an encoder of sentences; it takes device, dtype."
            )
        return embedding.load(name_or_folder, **given)
    known = settings_of(medium.loading)
    if unknown := [key for key in given if key not in known]:
        key = unknown[0]
        raise DaedalError(
            f"{key}={given[key]!r} does not apply to {name_or_folder}, a model of {medium.plural}; it takes {', '.join(known)}."
        )
    return medium.code.load(name_or_folder, **given)
