"""The tasks of `daedal train`: the one table of what a recipe's `task` means, and recipes read by it,
with `key=value` overrides."""

import json
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from daedal.errors import DaedalError, nearest
from daedal.train.adapt import Adapt
from daedal.train.autoencode import Autoencode
from daedal.train.constitution import Constitution
from daedal.train.contrast import Contrast
from daedal.train.distil_text import DistilText
from daedal.train.distill import Distill
from daedal.train.flow import Flow
from daedal.train.gan import Adversarial
from daedal.train.meanflow import MeanFlow
from daedal.train.phonemes import Phonemes
from daedal.train.prefer import Prefer
from daedal.train.preference import Preference
from daedal.train.pretrain import Pretrain
from daedal.train.prior import Prior
from daedal.train.rate import Rate
from daedal.train.reward import Reward
from daedal.train.rl import RL
from daedal.train.sft import SFT
from daedal.train.sketch import Sketch
from daedal.train.task import Task
from daedal.train.teacher import Teacher
from daedal.train.video import Video
from daedal.train.voice import Voice

LANGUAGE = (Pretrain, DistilText, SFT, Reward, Preference, RL, Constitution, Teacher)
MEDIA = (Flow, Sketch, MeanFlow, Distill, Prefer, Video)
PICTURES = (Autoencode, Contrast, Rate, Prior, Adversarial, Adapt)
SOUND = (Phonemes, Voice)
# a task's name is that of its recipe
TASKS: dict[str, type[Task]] = {
    kind.recipe_type.model_fields["task"].default: kind
    for kind in (*LANGUAGE, *MEDIA, *PICTURES, *SOUND)
}


def run(recipe: Any) -> Path:
    """Train what a recipe says; the folder that is written (daedal.train.task.Task.run)."""
    return TASKS[recipe.task](recipe).run()


def plan(recipe: Any) -> dict[str, Any]:
    """What training it will take (daedal.train.task.Task.plan)."""
    return TASKS[recipe.task](recipe).plan()


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
            if not isinstance(place, dict):
                raise DaedalError(
                    f"{override!r}: {section} is {place!r} and has no keys; leave out what follows it."
                )
        place[leaf] = yaml.safe_load(value)
    return check(raw, str(path))


def check(raw: dict[str, Any], where: str) -> Any:
    task = raw.get("task", "pretrain")
    if task not in TASKS:
        raise DaedalError(
            f"{where}: task {task!r} is not one of {', '.join(TASKS)}{nearest(str(task), TASKS)}."
        )
    try:
        return TASKS[task].recipe_type.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = fields_beside(TASKS[task].recipe_type, first["loc"])
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
            kinds = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
            section = next(kind for kind in kinds if issubclass(kind, BaseModel))
    return sorted(section.model_fields)
