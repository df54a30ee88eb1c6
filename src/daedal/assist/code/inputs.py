"""Inputs for a function that nobody gave: from the types of its annotations and default kinds, and by
changing inputs that are known, value by value of the same kind (as EvalPlus does, Liu et al.
2023)."""

import random
from typing import Any

from daedal.sandbox.results import Call
from daedal.sandbox.snippets import Signature

WORDS = ("", "a", "abc", "Hello World", "racecar", "aabbcc", "123", "a-b c", "Zebra", "x" * 12)
NUMBERS = (0, 1, 2, 3, 5, 7, 10, -1, -4, 12, 17, 100)
TRIES = 20  # for each input that is wanted, until it is new


def calls_for(signature: Signature, known: list[Call], count: int, seed: int = 0) -> list[Call]:
    """Up to `count` new calls: changed known ones, else made by type."""
    draw = random.Random(seed)
    found: list[Call] = []
    for _ in range(count * TRIES):
        if len(found) == count:
            break
        if known and draw.random() < 0.8:
            old = draw.choice(known)
            args = tuple(changed(value, draw) for value in old.args)
            call = Call(old.function, args, {k: changed(v, draw) for k, v in old.kwargs.items()})
        elif known and not any(signature.annotations):
            continue
        else:
            args = tuple(made(kind, name, draw) for kind, name in places(signature))
            call = Call(signature.name, args)
        if call not in found and call not in known:
            found.append(call)
    return found


def places(signature: Signature) -> list[tuple[str, str]]:
    """(annotation, name) of the arguments that must be given."""
    needed = len(signature.arguments) - signature.defaults
    return list(zip(signature.annotations, signature.arguments, strict=True))[:needed]


def changed(value: Any, draw: random.Random) -> Any:
    """Another value of the same kind; often the same."""
    if draw.random() < 0.3:
        return value
    if isinstance(value, bool):
        return draw.random() < 0.5
    if isinstance(value, int):
        return draw.choice([value + 1, value - 1, -value, value * 2, *NUMBERS])
    if isinstance(value, float):
        return draw.choice([value + 0.5, -value, value * 3, 0.0, 1.5])
    if isinstance(value, str):
        return text(value, draw)
    if isinstance(value, list | tuple):
        return type(value)(items(list(value), draw))
    if isinstance(value, dict):
        kept = [item for item in value.items() if draw.random() < 0.8]
        return {key: changed(each, draw) for key, each in kept}
    if isinstance(value, set):
        return set(items(sorted(value, key=repr), draw))
    return value


def text(value: str, draw: random.Random) -> str:
    if not value:
        return draw.choice(WORDS)
    i = draw.randrange(len(value))
    ways = [value[::-1], value[:i] + value[i + 1 :], value + value[i], value.upper(), value[:i]]
    return draw.choice([*ways, draw.choice(WORDS)])


def items(value: list[Any], draw: random.Random) -> list[Any]:
    """A list longer, shorter, in another order, or with other items."""
    value = [changed(each, draw) for each in value] if draw.random() < 0.6 else list(value)
    way = draw.randrange(5)
    if way == 0 and value:
        value.insert(draw.randrange(len(value) + 1), draw.choice(value))
    elif way == 1 and value:
        del value[draw.randrange(len(value))]
    elif way == 2:
        draw.shuffle(value)
    elif way == 3:
        value = value[: len(value) // 2]
    return value


def made(kind: str, name: str, draw: random.Random) -> Any:
    """A value for an annotation, or where there is none for a name's usual kind."""
    kind = kind.replace("typing.", "").lower()
    inner = kind.partition("[")[2].rstrip("]")
    if kind.startswith(("list", "sequence", "iterable")) or (not kind and name in LISTS):
        return [made(inner or "int", "", draw) for _ in range(draw.randrange(6))]
    if kind.startswith("tuple"):
        return tuple(
            made(part.strip(), "", draw)
            for part in (inner or "int, int").split(",")
            if part.strip() != "..."
        )
    if kind.startswith("dict"):
        return {draw.choice(WORDS): draw.choice(NUMBERS) for _ in range(draw.randrange(4))}
    if kind.startswith("set"):
        return {made(inner or "int", "", draw) for _ in range(draw.randrange(5))}
    if kind.startswith("bool"):
        return draw.random() < 0.5
    if kind.startswith("float"):
        return draw.choice([0.0, 1.5, -2.25, 10.0, 3.7])
    if kind.startswith("str") or (not kind and name in STRINGS):
        return draw.choice(WORDS)
    return draw.choice(NUMBERS)


LISTS = {"lst", "list", "items", "numbers", "nums", "values", "arr", "array", "xs", "data", "l"}
STRINGS = {"s", "string", "text", "word", "sentence", "str", "name", "line", "phrase"}
