"""What a run may change when it goes on, for every recipe."""

from pathlib import Path

import pytest

from daedal.errors import DaedalError
from daedal.train import checkpoint
from daedal.train.recipe import load_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_run_goes_on_with_its_own_model_data_and_optimizer_only(path: Path, tmp_path: Path) -> None:
    begun = load_recipe(path, [f"out={tmp_path}"])
    assert checkpoint.resume(begun) is None
    checkpoint.save(tmp_path / "checkpoints", 1, {"recipe": begun.model_dump_json()})
    other = "muon" if begun.optimizer.name == "adamw" else "adamw"
    assert checkpoint.resume(load_recipe(path, [f"out={tmp_path}", "steps=99999", "optimizer.clip=0.5", "checkpoint_every=3", "micro_rows=1"]))
    changes = {"seed": "77", "rows": str(begun.rows // 2), "optimizer.name": other, "ema (or none)": "null" if begun.ema else "0.5"}
    for key, value in changes.items():
        with pytest.raises(DaedalError, match=f"another {key.split(' ')[0]}.*delete"):
            checkpoint.resume(load_recipe(path, [f"out={tmp_path}", "micro_rows=1", f"{key.split(' ')[0]}={value}"]))
    data = {**begun.data.model_dump(), "train": [{"path": "elsewhere"}]}
    with pytest.raises(DaedalError, match="another data"):
        checkpoint.resume(load_recipe(path, [f"out={tmp_path}", f"data={data}".replace("None", "null")]))
