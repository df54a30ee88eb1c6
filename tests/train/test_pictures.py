"""What picture runs share: plain batches, pictures held out, counted costs."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn

from daedal.data.pictures import Scenes
from daedal.train.pictures import PlainBatches, clean, cost, held_out, sheet
from daedal.train.recipe.pictures import PictureSource


def test_plain_batches_know_their_step() -> None:
    batches = PlainBatches([(Scenes(32), 1.0)], rows=3, seed=7)
    first = [batch for batch, _ in zip(batches, range(3), strict=False)]
    later = next(iter(PlainBatches([(Scenes(32), 1.0)], rows=3, seed=7, step=2)))
    assert torch.equal(first[2]["images"], later["images"]) and later["step"].tolist() == [3, 3, 3]
    assert clean(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1, 1]


def test_held_out_pictures_differ_in_row_and_caption(tmp_path: Path) -> None:
    rows = []
    for i in range(8):
        buffer = io.BytesIO()
        Image.new("RGBA", (16, 16), (10 * i, 0, 0, 255)).save(buffer, "PNG")
        # two rows a caption
        rows.append(
            {"image": buffer.getvalue(), "caption": f"fruit {i // 2}", "name": f"fruit {i}"}
        )
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "set.parquet")
    listed = [PictureSource(path=str(tmp_path / "set.parquet")), PictureSource(path="scenes")]
    images, captions = held_out(listed, 16, 20)
    assert (
        images.shape == (14, 3, 16, 16)
        and len(set(captions)) == 14
        and sum(c.startswith("fruit") for c in captions) == 4
    )
    again, _ = held_out(listed, 16, 20)
    assert torch.equal(images, again)
    assert len(held_out(listed, 16, 6)[1]) == 6


def test_cost_by_hand() -> None:
    """(10, 4) @ (4, 3) is 2 * 10 * 4 * 3 operations, thrice with the backward pass; its input and
    the ReLU's output are kept."""
    counted = cost(
        lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU()),
        lambda module: module(torch.empty(10, 4, requires_grad=True)),
    )
    assert counted == (15, 3 * 240, 4 * (40 + 30))


def test_sheet(tmp_path: Path) -> None:
    rows = [np.full((3, 8, 8, 3), value, np.uint8) for value in (0, 255)]
    line = sheet(tmp_path, 5, rows)
    assert np.asarray(Image.open(line.removeprefix("pictures: "))).shape == (16, 24, 3)


def test_sharding_is_refused() -> None:
    from daedal.errors import DaedalError
    from daedal.train.tasks import load_recipe

    with pytest.raises(DaedalError, match="task: prior does not shard its weights"):
        load_recipe("recipes/image/prior.yaml", ["parallel=fsdp", "ema=null"])
