"""Configs of networks: a frozen dataclass whose fields and defaults are those of the `config.json`
that diffusers or transformers write. `parse` reads one, `to_dict` writes it.

A config class has one of `class_name` (diffusers' `_class_name`) and `architecture` with
`model_type`
(transformers), and may have
  fixed    on-disk keys that Daedal knows at one value only; another value is an error, and the
  value
           is written back
  ignored  on-disk keys that change nothing in the computation (initialisation, output flags of old
           versions); EVERYTHING where tools add keys of their own, as to language models
  absent   fields it inherits that its own file has no key for
  aliases  the file's key -> our field, where a family spells a shared field its own way
  read     a class method, (the file's keys as ours) -> the same with what the family assumes where
           the file is silent
  written  a method, (our fields by the file's keys) -> what its readers want
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, TypeVar

from daedal.errors import DaedalError, nearest

# who wrote the file, and how
WRITERS = frozenset({"architectures", "model_type", "torch_dtype", "dtype", "transformers_version"})


class Everything(frozenset[str]):
    """Any key."""

    def __contains__(self, key: object) -> bool:
        return True


EVERYTHING = Everything()


class Config(Protocol):
    """Any frozen dataclass of fields; the class variables named above are optional."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


C = TypeVar("C", bound=Config)


def parse(config_class: type[C], raw: dict[str, Any]) -> C:
    """The config of a parsed `config.json`. Keys starting with "_" are dropped and lists become
    tuples; an unknown key, a missing one without a default, or an unsupported value is an error."""
    fields, fixed = _fields(config_class), _marks(config_class, "fixed")
    aliases, ignored = _marks(config_class, "aliases"), _marks(config_class, "ignored")
    raw = {aliases.get(key, key): value for key, value in raw.items()}
    read: Any = getattr(config_class, "read", dict)
    values = {key: tupled(value) for key, value in read(raw).items() if not key.startswith("_")}
    for key, value in values.items():
        if key in fixed and value != fixed[key]:
            known = f"Daedal knows {key}={fixed[key]!r} only"
            raise DaedalError(
                f"{key}={value!r} of {name_of(config_class)} is not supported; {known}."
            )
        if not (key in fields or key in fixed or key in WRITERS or key in ignored):
            near = nearest(key, [*fields, *fixed])
            raise DaedalError(
                f"config.json of {name_of(config_class)} has an unknown key {key!r}{near}."
            )
    every = {field.name: field for field in dataclasses.fields(config_class)}
    missing = [key for key, field in every.items() if key not in values and _required(field)]
    if missing:
        name, keys = name_of(config_class), ", ".join(missing)
        raise DaedalError(
            f"config.json of {name} lacks {keys}; add the key or download the file again."
        )
    return config_class(**{key: value for key, value in values.items() if key in every})


def defaulted(config_class: type[C], raw: dict[str, Any]) -> list[str]:
    """Fields that a parsed `config.json` leaves to the class default. (An old file means the
    default of the version that wrote it.)"""
    return [key for key in _fields(config_class) if key not in raw]


def to_dict(config: Config) -> dict[str, Any]:
    """The `config.json` that diffusers or transformers read."""
    kind = type(config)
    spelled = {ours: theirs for theirs, ours in _marks(kind, "aliases").items()}
    values = {spelled.get(key, key): listed(getattr(config, key)) for key in _fields(kind)}
    values |= {key: listed(value) for key, value in _marks(kind, "fixed").items()}
    values = config.written(values) if hasattr(config, "written") else values
    if hasattr(kind, "class_name"):
        return {"_class_name": kind.class_name, **values}
    architecture = getattr(kind, "architecture", kind.__name__)
    return {
        "architectures": [architecture],
        "model_type": getattr(kind, "model_type", ""),
        **values,
    }


def one_of(key: str, value: Any, known: Sequence[Any]) -> Any:
    """`value`, if it is one that is known for this key; else an error that names the nearest."""
    if value not in known:
        names = [str(name) for name in known]
        raise DaedalError(
            f"{key} {value!r} is not one of {', '.join(names)}{nearest(str(value), names)}."
        )
    return value


def per_level(key: str, value: Any, levels: int) -> tuple[Any, ...]:
    """One value for all levels of a U-Net, or a tuple of one a level."""
    if not isinstance(value, tuple):
        return (value,) * levels
    if len(value) != levels:
        raise DaedalError(
            f"{key} {value!r} has {len(value)} entries for {levels} levels; give one number or one a level."
        )
    return value


def name_of(config_class: type) -> str:
    return (
        getattr(config_class, "class_name", "")
        or getattr(config_class, "architecture", "")
        or config_class.__name__
    )


def tupled(value: Any) -> Any:
    return tuple(tupled(item) for item in value) if isinstance(value, list | tuple) else value


def listed(value: Any) -> Any:
    return [listed(item) for item in value] if isinstance(value, tuple) else value


def _fields(config_class: type) -> dict[str, "dataclasses.Field[Any]"]:
    absent = _marks(config_class, "absent")
    return {
        field.name: field for field in dataclasses.fields(config_class) if field.name not in absent
    }


def _marks(config_class: type, kind: str) -> Any:
    return getattr(config_class, kind, {})


def _required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
