"""What a tool is: a name, what it does, the JSON schema of its arguments, and a function that takes
them and gives a text; and what the policy must know of it (daedal.assist.tools.policy)."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from daedal.errors import DaedalError, nearest

Schema = Mapping[str, Any]
LONGEST = 8_000  # characters of a result that a model is shown
KINDS: dict[str, type | tuple[type, ...]] = {
    "string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": dict, "null": type(None),
}  # fmt: skip


@dataclass(frozen=True)
class Tool:
    """`run` takes the arguments by name. Its result may be text that others wrote (`untrusted`), or
    tell of the user (`private`); a tool that `acts` changes something outside of the conversation,
    and `targets` are those of its arguments that say where or on what."""

    name: str
    description: str
    parameters: Schema
    run: Callable[..., Any]
    untrusted: bool = False
    private: bool = False
    acts: bool = False
    targets: tuple[str, ...] = ()

    @property
    def offered(self) -> dict[str, Any]:
        """What a model is told of it."""
        return {
            "name": self.name,
            "description": self.description,
            "parameters": dict(self.parameters),
        }

    def __call__(self, arguments: Mapping[str, Any]) -> str:
        """The result as a text, cut where it is too long; DaedalError says what went wrong."""
        fits(arguments, self.parameters, self.name)
        try:
            made = self.run(**arguments)
        except (DaedalError, KeyboardInterrupt):
            raise
        except (
            Exception
        ) as error:  # a tool's fault is the model's to read, and ends no conversation
            raise DaedalError(f"{self.name} failed: {type(error).__name__}: {error}.") from error
        text = made if isinstance(made, str) else json.dumps(made, ensure_ascii=False, default=str)
        if len(text) <= LONGEST:
            return text
        return f"{text[:LONGEST]}\n[{len(text) - LONGEST} more characters are left out]"


def object_of(required: Sequence[str] | None = None, **properties: Schema) -> dict[str, Any]:
    """The schema of an object with these members, all of them required unless said."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else list(required),
        "additionalProperties": False,
    }


def text(description: str, **more: Any) -> dict[str, Any]:
    return {"type": "string", "description": description, **more}


def fits(value: Any, schema: Schema, what: str) -> None:
    """DaedalError unless a value is what a schema says, as far as types, members and choices go."""
    kinds = schema.get("type")
    named = [kinds] if isinstance(kinds, str) else kinds or []
    allowed = tuple(KINDS[kind] for kind in named if kind in KINDS)
    flat = tuple(one for kind in allowed for one in (kind if isinstance(kind, tuple) else (kind,)))
    wrong = isinstance(value, bool) and bool not in flat
    if flat and (wrong or not isinstance(value, flat)):
        raise DaedalError(f"{what} is {shown(value)}, and must be {' or '.join(named)}.")
    if "enum" in schema and value not in schema["enum"]:
        choices = ", ".join(map(str, schema["enum"]))
        raise DaedalError(f"{what} is {shown(value)}, and must be one of {choices}.")
    if isinstance(value, Mapping):
        members(value, schema, what)
    elif isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        for number, item in enumerate(value, 1):
            fits(item, schema["items"], f"{what}, item {number},")


def members(value: Mapping[str, Any], schema: Schema, what: str) -> None:
    known = schema.get("properties") or {}
    if missing := [name for name in schema.get("required") or () if name not in value]:
        raise DaedalError(f"{what} needs {missing[0]!r}, and was given {shown(dict(value))}.")
    for name, item in value.items():
        if name in known:
            fits(item, known[name], f"{what}: {name}")
        elif schema.get("additionalProperties") is False:
            raise DaedalError(f"{what} does not take {name!r}{nearest(name, list(known))}.")


def shown(value: Any) -> str:
    found = json.dumps(value, ensure_ascii=False, default=str)
    return found if len(found) < 60 else found[:57] + "..."
