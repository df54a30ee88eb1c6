"""What the recipes and the documentation print works as it stands."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from daedal.checkpoints.catalogue import entries
from daedal.checkpoints.resolve import house_models
from daedal.cli import app
from daedal.data.contents import GENERATED
from daedal.train.recipe.base import Run
from daedal.train.tasks import load_recipe, run

ROOT = Path(__file__).parents[1]
RECIPES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "recipes").rglob("*.yaml"))
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "src/daedal/house").rglob("README.md")),
]
PAGES.remove(ROOT / "docs/log.md")  # of its days, not of today
MODELS = ("start", "teacher", "value", "codec", "reward")  # keys that name a model
QUICK = [
    "steps=1",
    "rows=4",
    "micro_rows=4",
    "context=128",
    "evaluate_tasks=1",
    "answer_tokens=4",
    "device=cpu",
]


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def models_of(section: Any) -> set[str]:
    """The models that a recipe names: `house/chat`, a name of the catalogue or the Hub, or another
    run's folder."""
    if not isinstance(section, dict):
        return set()
    named = {
        value
        for key, value in section.items()
        if key in MODELS and isinstance(value, str) and ("/" in value or value in entries())
    }
    return named.union(*(models_of(value) for value in section.values()))


def is_bundled(recipe: Run) -> bool:
    return all(model in house_models() for model in models_of(recipe.model_dump()))


@pytest.mark.parametrize("path", RECIPES)
def test_a_recipe_starts_from_what_is_there(path: str) -> None:
    """From a bundled model or none, and then it says what it will take; outside of recipes/chat
    also from an open model, or from what another recipe makes."""
    recipe = load_recipe(path)
    if is_bundled(recipe):
        shown = CliRunner().invoke(app, ["train", path, "--dry-run"])
        assert shown.exit_code == 0 and "at the full peak" in shown.stdout, shown.exception
        return
    assert not path.startswith("recipes/chat")
    for model in models_of(recipe.model_dump()) - set(house_models()) - entries().keys():
        if model.startswith("runs/"):
            assert model.removesuffix("/model") in {load_recipe(other).out for other in RECIPES}
        else:
            assert re.fullmatch(r"[\w.-]+/[\w.-]+", model) and Path(path).stem in (
                "controlnet",
                "dreambooth",
                "lora",
                "textual_inversion",
            )


@pytest.mark.parametrize("path", [path for path in RECIPES if path.startswith("recipes/chat")])
def test_a_chat_recipe_runs_as_printed(path: str, tmp_path: Path) -> None:
    """A step of it, where its data are generated."""
    recipe = load_recipe(path)
    data = getattr(recipe, "data", None)  # a teacher has none
    if data and not all(GENERATED.match(source.path) for source in [*data.train, *data.validation]):
        return
    quick = [*QUICK, f"out={tmp_path}"]
    if recipe.task == "rl":
        quick += ["rollout.questions=2", "rollout.group=2", "rows=4", "shortest=0"]
    if recipe.task == "constitution":
        quick += ["questions=4", "rounds=1", "sft_steps=1", "answer_tokens=24"]
    if getattr(recipe, "sampled", None):
        quick += ["sampled.tasks=8", "sampled.n=4", "answer_tokens=40"]
    if getattr(recipe, "task_pairs", None):
        quick += ["task_pairs=8"]
    if recipe.task == "teacher":
        quick = [each for each in quick if not each.startswith(("context", "evaluate"))]
    folder = run(load_recipe(path, quick))
    assert (folder / "exchanges.jsonl").exists() or (folder / "config.json").exists()


def commands(page: Path) -> list[str]:
    """The `daedal` commands of a page: of its blocks, and among its words. A word in capitals
    stands for something of the reader's."""
    lines, prose, language = list[str](), list[str](), None
    for line in page.read_text(encoding="utf-8").splitlines():
        if fence := re.match(r"\s*```(\w*)$", line):
            language = None if language is not None else fence[1]
        elif language is None:
            prose.append(line)
        elif language in ("bash", "sh") or line.startswith("daedal "):
            lines.append(line)
    inline = re.findall(r"(?<!`)`(daedal [^`]+)`(?!`)", "\n".join(prose))
    found = []
    for line in [*lines, *inline]:
        for part in re.split(r"\s*(?:&&|\|\|?|;)\s", line.partition(" #")[0]):
            words = shlex.split(part)
            if words and Path(words[0]).name == "daedal":
                found.append(shlex.join(words[1:]))
    return found


PRINTED = [
    (page.relative_to(ROOT).as_posix(), command)
    for page in PAGES
    for command in dict.fromkeys(commands(page))
]


@pytest.mark.parametrize(("page", "command"), PRINTED)
def test_a_printed_command_is_understood(page: str, command: str) -> None:
    """Its verb and options exist, and a recipe takes the keys that are given."""
    args = shlex.split(command)
    if args[:1] in ([], ["--version"], ["--help"]) or "..." in command:
        return
    known = {each.name for each in (*app.registered_commands, *app.registered_groups)}
    args = args if args[0] in known else ["text", *args]
    group, words = typer.main.get_command(app), args
    while words and hasattr(group, "resolve_command"):  # a group of verbs
        _, group, words = group.resolve_command(typer.Context(group), words)
    if not words:  # a verb that is spoken of
        return
    words = ["1" if word == "N" else word for word in words]
    params = group.make_context(args[0], list(words)).params
    if args[0] == "train" and params["recipe"].endswith(".yaml"):
        load_recipe(params["recipe"], params["overrides"] or [])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_printed_python_compiles(page: Path) -> None:
    for block in re.findall(
        r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S
    ):
        compile(block, str(page), "exec")
