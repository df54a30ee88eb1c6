"""What a run may change when it goes on, for every recipe."""

from pathlib import Path
from typing import Any

import pytest

from daedal.errors import DaedalError
from daedal.train import checkpoint
from daedal.train.recipe.base import FIXED, FIXED_PRESENCE, Run, marks_of
from daedal.train.tasks import TASKS, load_recipe

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = [path for path in sorted(FOLDER.rglob("*.yaml")) if path.stem != "teacher"]  # trains none


# what a task learns from, where it is not called data, and another one
OTHERS = {"phonemes": ("dictionary", "elsewhere"), "voice": ("teacher", "elsewhere")}


def resumed(recipe: Run) -> dict[str, Any] | None:
    return checkpoint.resume(recipe, checkpoint.fixed(recipe))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_run_goes_on_with_its_own_model_data_and_optimizer_only(
    path: Path, tmp_path: Path
) -> None:
    begun = load_recipe(path, [f"out={tmp_path}"])
    assert resumed(begun) is None
    checkpoint.save(tmp_path / "checkpoints", 1, {"fixed": checkpoint.fixed(begun)})
    other = "muon" if begun.optimizer.name == "adamw" else "adamw"
    assert resumed(
        load_recipe(
            path,
            [
                f"out={tmp_path}",
                "steps=99999",
                "optimizer.clip=0.5",
                "checkpoint_every=3",
                "micro_rows=1",
            ],
        )
    )
    changes = {
        "seed": "77",
        "rows": str(begun.rows // 2 or 2),
        "optimizer.name": other,
        "ema (or none)": "null" if begun.ema else "0.5",
    }
    for key, value in changes.items():
        with pytest.raises(DaedalError, match=f"another {key.split(' ')[0]}.*delete"):
            resumed(
                load_recipe(
                    path, [f"out={tmp_path}", "micro_rows=1", f"{key.split(' ')[0]}={value}"]
                )
            )
    name, value = OTHERS.get(begun.task, ("data", ""))
    if name == "data":
        data = {**begun.data.model_dump(), "train": [{"path": "elsewhere"}]}
        value = str(data).replace("None", "null")
    with pytest.raises(DaedalError, match=f"another {name}"):
        resumed(load_recipe(path, [f"out={tmp_path}", f"{name}={value}"]))


def test_a_run_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "checkpoints", 1, {"step": 1})
    with pytest.raises(DaedalError, match="earlier version"):
        resumed(load_recipe("recipes/text/tiny.yaml", [f"out={tmp_path}"]))


@pytest.mark.parametrize("task", [name for name in TASKS if name != "teacher"])
def test_fields_say_themselves_what_is_fixed(task: str) -> None:
    """In every task: a class that gives a field another default does not lose its mark."""
    recipe = TASKS[task].recipe_type
    marks = {name: marks_of(recipe, name) for name in recipe.model_fields}
    data = OTHERS.get(task, ("data", ""))[0]
    assert all(FIXED in marks[name] for name in (data, "seed", "rows", "averages"))
    assert FIXED_PRESENCE in marks["ema"]
    assert not {FIXED, FIXED_PRESENCE} & (marks["steps"] | marks["dtype"])
    begins = next(name for name in ("start", "codec", "model", "student", "side") if name in marks)
    assert FIXED in marks[begins]


def test_data_are_what_they_hold(tmp_path: Path) -> None:
    """A moved folder is the same data; a changed, added or renamed file is other data."""
    first, second = tmp_path / "a", tmp_path / "b"
    (first / "part").mkdir(parents=True)
    (first / "part" / "one.jsonl").write_text('{"prompt": "a", "completion": "yes"}\n' * 100_000)
    (first / "two.jsonl").write_text("{}\n")

    def run(data: Path) -> Run:
        source = f"data.train=[{{path: '{data}'}}, {{path: tasks}}]"
        return load_recipe(
            "recipes/chat/sft.yaml", ["start=house/chat", f"out={tmp_path / 'run'}", source]
        )

    begun = checkpoint.fixed(run(first))
    checkpoint.save(tmp_path / "run/checkpoints", 1, {"fixed": begun})
    first.rename(second)
    assert resumed(run(second))
    changed = second / "part" / "one.jsonl"
    for change in (
        lambda: changed.write_text(changed.read_text().replace("yes", "no!")),
        lambda: changed.write_text(changed.read_text().replace("no!", "yes") + " "),
        lambda: (
            changed.write_text(changed.read_text()[:-1]),
            (second / "three.jsonl").write_text(""),
        ),
        lambda: (
            (second / "three.jsonl").unlink(),
            (second / "two.jsonl").rename(second / "2.jsonl"),
        ),
    ):
        change()
        with pytest.raises(DaedalError, match=r"another data \(files or their contents\)"):
            resumed(run(second))
    (second / "2.jsonl").rename(second / "two.jsonl")
    assert resumed(run(second)) and checkpoint.fixed(run(second)) == begun
