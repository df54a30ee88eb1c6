"""The fields of requests: OpenAI's, written here, and each medium's own settings, which come from
its settings class with their types, ranges and help."""

from copy import copy
from dataclasses import fields as fields_of
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from daedal.pipelines.medium import Medium
from daedal.settings import settings_of


class Body(BaseModel):
    """A request's body. What a field we do not know asks for is not done, and not an error."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def whole_characters(cls, given: Any) -> Any:
        """JSON can spell half a character (a lone surrogate), which no reply could carry."""
        if halved(given):
            raise ValueError("a text holds half a character (a lone surrogate); send whole ones")
        return given


def halved(value: Any) -> bool:
    """Whether a text somewhere in a value of JSON cannot be written as UTF-8."""
    if isinstance(value, str):
        return any("\ud800" <= c <= "\udfff" for c in value) if not value.isascii() else False
    if isinstance(value, dict):
        return any(halved(each) for pair in value.items() for each in pair)
    return isinstance(value, list) and any(map(halved, value))


def settings_body(name: str, medium: Medium, base: type[Body], leave: set[str]) -> type[Body]:
    """`base` and an optional field for each setting of a medium that it has not. Settings that
    name files or models of this machine are no fields, nor are those to `leave` out."""
    made: dict[str, Any] = {}
    for key, (kind, setting) in settings_of(medium.settings).items():
        if (own := base.model_fields.get(key)) is not None and own.description is None:
            made[key] = (own.annotation, with_help(own, setting.help))
        if setting.place or not setting.typed or key in leave or key in base.model_fields:
            continue
        made[key] = (simple(kind) | None, Field(None, description=setting.help))
        if setting.low is not None and int in (kind, *get_args(kind)):
            made[key] = (
                simple(kind) | None,
                Field(None, description=setting.help, ge=setting.low, le=setting.high),
            )
    return create_model(name, __base__=base, **made)


def with_help(field: Any, text: str) -> Any:
    """A field as it is, and described as its setting is."""
    described = copy(field)
    described.description = text
    return described


def simple(kind: Any) -> Any:
    """The type of a setting in JSON: a tuple is a list."""
    return list[str] | str if tuple in (kind, *map(type, get_args(kind))) else kind


def settings_in(body: Body, medium: Medium) -> dict[str, Any]:
    """The settings of a medium that a body names."""
    known = {field.name for field in fields_of(medium.settings)}
    given = {key: getattr(body, key) for key in type(body).model_fields if key in known}
    return {key: value for key, value in given.items() if value is not None}
