"""A recipe: the YAML that says how weights are made, checked by pydantic, with `key=value`
overrides. A task is a class, in the module of its medium."""

import json
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from daedal.errors import DaedalError, nearest
from daedal.train.recipe.base import Run
from daedal.train.recipe.chat import (
    ConstitutionRecipe,
    PreferenceRecipe,
    RewardRecipe,
    RLRecipe,
    SFTRecipe,
)
from daedal.train.recipe.flow import (
    DistillRecipe,
    FlowRecipe,
    MeanFlowRecipe,
    PreferRecipe,
    SketchRecipe,
)
from daedal.train.recipe.pictures import (
    AdaptRecipe,
    AutoencodeRecipe,
    ContrastRecipe,
    GanRecipe,
    PriorRecipe,
    RateRecipe,
)
from daedal.train.recipe.text import DistilTextRecipe, Recipe

TASKS: dict[str, type[Run]] = {
    "pretrain": Recipe, "distil_text": DistilTextRecipe, "flow": FlowRecipe, "sketch": SketchRecipe, "meanflow": MeanFlowRecipe, "distill": DistillRecipe,
    "prefer": PreferRecipe, "autoencode": AutoencodeRecipe, "contrast": ContrastRecipe, "rate": RateRecipe, "prior": PriorRecipe, "gan": GanRecipe,
    "adapt": AdaptRecipe, "sft": SFTRecipe, "reward": RewardRecipe, "preference": PreferenceRecipe, "rl": RLRecipe, "constitution": ConstitutionRecipe,
}  # fmt: skip


def load_recipe(path: str | Path, overrides: list[str] = ()) -> Any:  # type: ignore[assignment]
    """Read a recipe (one of TASKS, by its `task`); each override is `key=value` with dots for
    sections (`model.depth=4`), the value read as YAML."""
    path = Path(path)
    if not path.is_file():
        known = [str(p) for p in Path("recipes").rglob("*.yaml")]
        raise DaedalError(
            f"{path} is not a recipe file{nearest(str(path), known)}; recipes here: {', '.join(sorted(known)) or 'none'}."
        )
    try:
        raw = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise DaedalError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise DaedalError(
            f"{path} holds no keys; a recipe is a YAML mapping such as recipes/text/tiny.yaml."
        )
    raw.setdefault("out", f"runs/{path.stem}")
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise DaedalError(
                f"{override!r} is not key=value; write for example steps=100 or model.depth=4."
            )
        place = raw
        *sections, leaf = key.split(".")
        for section in sections:
            place = place.setdefault(section, {})
        place[leaf] = yaml.safe_load(value)
    return check(raw, str(path))


def check(raw: dict[str, Any], where: str) -> Any:
    task = raw.get("task", "pretrain")
    if task not in TASKS:
        raise DaedalError(
            f"{where}: task {task!r} is not one of {', '.join(TASKS)}{nearest(str(task), TASKS)}."
        )
    try:
        return TASKS[task].model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = fields_beside(TASKS[task], first["loc"])
            raise DaedalError(
                f"{where}: unknown key {key!r}{nearest(str(first['loc'][-1]), known)}; known here: {', '.join(known)}."
            ) from None
        if not key:
            raise DaedalError(f"{where}: {first['msg'].removeprefix('Value error, ')}.") from None
        value = json.dumps(first.get("input"), default=str)[:80]
        raise DaedalError(
            f"{where}: {key} = {value} does not fit: {first['msg'][:1].lower()}{first['msg'][1:]}."
        ) from None


def fields_beside(section: Any, location: tuple[int | str, ...]) -> list[str]:
    """Names of the section that holds the last part of a pydantic location."""
    for part in location[:-1]:
        if isinstance(part, str):
            annotation = section.model_fields[part].annotation
            section = next(
                kind
                for kind in (annotation, *get_args(annotation))
                if isinstance(kind, type) and issubclass(kind, BaseModel)
            )
    return sorted(section.model_fields)
