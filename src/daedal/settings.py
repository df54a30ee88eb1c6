"""Settings, each once: a dataclass whose fields are annotated with their meaning and range. Python
calls, recipes, the command line and forms take names, defaults, ranges and help from it.

    @dataclass(frozen=True)
    class ToneSettings:
        seconds: Annotated[float, Setting("How long.", 0.01, 60)] = 1.0

    asked = read(ToneSettings, {"seconds": 2}, "tones")
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from daedal.errors import DaedalError, nearest

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Setting:
    """What a setting means, in a line of help, and the values that it may have."""

    help: str
    low: float | None = None
    high: float | None = None
    metavar: str | None = None  # in help, where the type does not say it
    flags: tuple[str, ...] = ()  # on the command line, where they are not --the-name
    # whether the command line has it: not where its values are no words or numbers
    typed: bool = True
    # of a setting that names something on this machine: "picture", "sound", "weights" or "model". Who calls
    # from elsewhere cannot name it by its path
    place: str = ""


@cache
def settings_of(model: type) -> dict[str, tuple[Any, Setting]]:
    """Name -> (type, Setting) of a dataclass's annotated fields, in order."""
    hints = get_type_hints(model, include_extras=True)
    parts = {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Annotated}
    return {
        name: (kind, meta) for name, (kind, meta, *_) in parts.items() if isinstance(meta, Setting)
    }


def read(model: type[Settings], given: Mapping[str, Any], what: str) -> Settings:
    """The dataclass with these values. An unknown name, or a number out of its range, is an error;
    `what` is generated, as "pictures"."""
    known = settings_of(model)
    for name in given:
        if name not in known:
            raise DaedalError(
                f"{name!r} is not a setting of {what}{nearest(name, list(known))}; settings: {', '.join(known)}."
            )
    for name, value in given.items():
        check(name, value, known[name][1])
    return model(**given)


def check(name: str, value: Any, setting: Setting) -> None:
    """Raise unless a value lies in its setting's range."""
    low, high = setting.low, setting.high
    if value is None or low is None or high is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DaedalError(f"{name}={value!r} is not a number; choose {low} to {high}.")
    if not low <= value <= high:
        raise DaedalError(f"{name}={value} is out of range; choose {low} to {high}.")


def several(kind: Any) -> bool:
    """Whether a setting's type takes a tuple of values."""
    return any(get_origin(part) is tuple for part in (kind, *get_args(kind)))
