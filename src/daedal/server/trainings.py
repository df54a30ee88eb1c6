"""Recipes and the runs made of them. A run is a folder below the server's own, as `daedal train`
writes it; what it trained is offered among the models as `runs/NAME`.

No path comes from a client. It names recipes that the server has, and changes numbers and choices
of them; where a recipe wants a model or data, a name stands for it."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import daedal
from daedal.errors import DaedalError, nearest
from daedal.server.errors import ApiError, not_found

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,40}", re.ASCII)
KEY = re.compile(r"[a-z_]\w*(\.[a-z_]\w*)*", re.ASCII)
OWN = ("out", "task", "device", "tensorboard", "parallel")  # what the server decides
WORDS = ("prompts",)  # keys whose texts are texts, and no names of anything


def name_of(given: str, what: str) -> str:
    """A name that is one, and so no path."""
    if not NAME.fullmatch(given):
        message = f"{given!r} is no name of a {what}; use small letters, digits, - and _."
        raise ApiError(400, message, "bad_name", "name")
    return given


# ---- recipes -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """A recipe file. Paths in it are below `base`."""

    id: str
    path: Path
    base: Path

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @property
    def about(self) -> str:
        """The comment that it begins with."""
        lines = self.text.splitlines()
        count = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
        return " ".join(line.lstrip("# ").strip() for line in lines[:count])

    @property
    def values(self) -> dict[str, Any]:
        found = yaml.safe_load(self.text)
        return found if isinstance(found, dict) else {}


def recipes() -> dict[str, Recipe]:
    """The recipes of the working directory, else of the checkout that the package runs from."""
    for base in (Path.cwd(), Path(daedal.__file__).resolve().parents[2]):
        files = sorted((base / "recipes").rglob("*.yaml"))
        if files:
            names = [
                path.relative_to(base / "recipes").with_suffix("").as_posix() for path in files
            ]
            return {n: Recipe(n, path, base) for n, path in zip(names, files, strict=True)}
    return {}


def recipe_named(name: str) -> Recipe:
    found = recipes()
    if name not in found:
        message = f"there is no recipe {name!r}{nearest(name, found)}; /v1/recipes lists them."
        raise ApiError(404, message, "not_found", "recipe")
    return found[name]


def schema_of(recipe: Recipe) -> dict[str, Any]:
    """The JSON schema of a recipe's task."""
    from daedal.train import tasks

    task = recipe.values.get("task", "pretrain")
    return tasks.TASKS[task].recipe_type.model_json_schema()


def overrides(
    recipe: Recipe, settings: dict[str, Any], folder: Path, model: Callable[[str], str]
) -> list[str]:
    """The arguments `key=value` of `daedal train`, of settings that a client may give. `model`
    turns a model's name into what it stands for. Raises ApiError and DaedalError on anything else."""
    from daedal.train import tasks

    schema = schema_of(recipe)
    given = []
    for key, value in settings.items():
        if not KEY.fullmatch(key) or key.split(".")[0] in OWN:
            raise ApiError(400, f"{key!r} is no setting that a training takes.", param="settings")
        given.append(f"{key}={json.dumps(allowed(key, value, schema, model))}")
    given.append(f"out={folder}")
    tasks.load_recipe(recipe.path, given)
    return given


def allowed(key: str, value: Any, schema: dict[str, Any], model: Callable[[str], str]) -> Any:
    """A value as the recipe gets it: numbers as they are, texts only where they name nothing on the
    server's disk, or a model of the server."""
    if isinstance(value, list):
        return [allowed(key, each, schema, model) for each in value]
    if isinstance(value, dict):
        raise ApiError(400, f"{key} is a section; give its keys with dots.", param="settings")
    if not isinstance(value, str) or key in WORDS or value in choices(leaf(schema, key)):
        return value
    try:
        return model(value)
    except (ApiError, DaedalError):
        message = f"{key}: {value!r} is neither a choice of it nor a model that is here."
        raise ApiError(400, message, param="settings") from None


def leaf(schema: dict[str, Any], key: str) -> dict[str, Any]:
    """The part of a schema that describes a key with dots; empty where it says nothing."""
    node = schema
    for part in key.split("."):
        node = next((each for each in kinds(node, schema) if "properties" in each), {})
        node = node.get("properties", {}).get(part, {})
    return node


def kinds(node: dict[str, Any], schema: dict[str, Any]) -> list[dict[str, Any]]:
    found = node.get("anyOf", [node])
    return [schema["$defs"][n["$ref"].split("/")[-1]] if "$ref" in n else n for n in found]


def choices(node: dict[str, Any]) -> list[Any]:
    found = node.get("anyOf", [node])
    return [v for each in found for v in (*each.get("enum", ()), each.get("const"))]


# ---- runs ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A run's folder, as clients may read it."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def asked(self) -> dict[str, Any]:
        """The request that it was started by."""
        return json.loads((self.folder / "request.json").read_text())

    @property
    def model(self) -> Path | None:
        """What it trained, once that is written."""
        path = self.folder / "model"
        return path if (path / "config.json").is_file() else None

    def steps(self) -> int:
        """How many it takes in all; 0 where it has not begun."""
        return int(self.recipe().get("steps", 0))

    def recipe(self) -> dict[str, Any]:
        file = self.folder / "recipe.json"
        return json.loads(file.read_text()) if file.is_file() else {}

    def last(self) -> dict[str, Any]:
        """The last line of its metrics."""
        return (self.rows("metrics.jsonl") or [{}])[-1]

    def rows(self, file: str, after: int = 0, points: int = 0) -> list[dict[str, Any]]:
        """Lines of a file of numbers behind a step, or `points` of them evenly, the last too."""
        from daedal.train.metrics import read

        found = [row for row in read(self.folder / file) if row["step"] > after]
        if not points or len(found) <= points:
            return found
        return [found[-1 - round(i * (len(found) - 1) / (points - 1))] for i in range(points)][::-1]

    def samples(self) -> list[Path]:
        """Pictures that it made on its way, in order."""
        return sorted((self.folder / "samples").glob("*.png"))

    def log(self) -> list[str]:
        file = self.folder / "log.txt"
        return file.read_text(errors="replace").splitlines()[-200:] if file.is_file() else []


def begun(folder: Path, name: str, asked: dict[str, Any]) -> Run:
    """A folder for a run that was asked for. Raises ApiError where there is one of its name."""
    path = folder / "runs" / name_of(name, "run")
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        message = f"there is a training {name}; resume it, delete it, or take another name."
        raise ApiError(409, message, "exists", "name") from None
    (path / "request.json").write_text(json.dumps(asked))
    return Run(path)


def runs(folder: Path) -> list[Run]:
    """The runs of a server's folder, the newest first."""
    found = [file.parent for file in (folder / "runs").glob("*/request.json")]
    return [Run(path) for path in sorted(found, key=lambda path: -path.stat().st_mtime)]


def run_named(folder: Path, name: str) -> Run:
    path = folder / "runs" / name_of(name, "run")
    if not (path / "request.json").is_file():
        raise not_found("training", name)
    return Run(path)


def made(folder: Path) -> dict[str, str]:
    """Models that this server has made, by the names that they are offered under."""
    trained = {f"runs/{run.name}": str(run.model) for run in runs(folder) if run.model}
    packed = [path for path in (folder / "packed").glob("*") if NAME.fullmatch(path.name)]
    return trained | {f"packed/{path.name}": str(path) for path in sorted(packed)}
