"""Recipes: every file in recipes/ is valid, errors name the key and the nearest one, overrides
reach their place."""

from pathlib import Path

import pytest

from daedal.errors import DaedalError
from daedal.train.recipe.base import OptimizerRecipe
from daedal.train.tasks import load_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml"))
TINY = Path(__file__).parents[2] / "recipes/text/tiny.yaml"


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_recipes_are_valid(path):
    place = path.relative_to(TINY.parents[1]).with_suffix("")
    assert load_recipe(path).out == "/".join(["runs", *place.parts[1:]])


def test_overrides():
    recipe = load_recipe(
        TINY,
        [
            "out=/tmp/x",
            "steps=7",
            "seed=3",
            "checkpoint_every=2",
            "model.depth=3",
            "optimizer.name=adamw",
        ],
    )
    assert (recipe.out, recipe.steps, recipe.seed, recipe.checkpoint_every) == ("/tmp/x", 7, 3, 2)
    assert recipe.model.depth == 3 and recipe.optimizer.name == "adamw"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("stepz=3", ["unknown key 'stepz'", "'steps'"]),
        ("model.dept=3", ["unknown key 'model.dept'", "'depth'"]),
        ("steps=many", ["steps", '"many"', "integer"]),
        ("steps", ["'steps'", "key=value"]),
        ("steps.x=3", ["steps is 150", "no keys"]),
        ("rows=0", ["rows = 0", "greater than or equal to 1"]),
        ("sample_every=-5", ["sample_every = -5", "greater than or equal to 1"]),
        ("optimizer.decay=2", ["optimizer.decay = 2", "less than or equal to 1"]),
        ("optimizer.name=sgd", ["optimizer.name", "'muon' or 'adamw'"]),
    ],
)
def test_errors_name_the_value_and_the_mend(override, words):
    with pytest.raises(DaedalError) as error:
        load_recipe(TINY, [override])
    assert all(word in str(error.value) for word in words), error.value


def test_what_does_not_fit_together():
    with pytest.raises(DaedalError, match="leave ema out"):
        load_recipe(TINY, ["parallel=fsdp", "ema=0.9"])


def test_schedule():
    o = OptimizerRecipe(warmup=10, decay=0.5, final=0.1)
    factors = [o.factor(step, 100) for step in range(100)]
    assert factors[0] == 0.1 and factors[9] == factors[49] == 1.0
    assert factors[75] == pytest.approx(0.1 + 0.9 * 0.5)
    assert factors[99] == pytest.approx(0.1 + 0.9 * 0.02)


def test_rates_without_a_name_are_of_the_tasks_own_optimizer():
    o = load_recipe(TINY.parents[1] / "image/gan.yaml", ["optimizer.adam_lr=0.1"]).optimizer
    assert (o.name, o.adam_lr, o.betas) == ("adamw", 0.1, (0.0, 0.99))
    assert (
        load_recipe(TINY.parents[1] / "image/gan.yaml", ["optimizer={name: muon}"]).optimizer
        == OptimizerRecipe()
    )
