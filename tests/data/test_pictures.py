import io
import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from daedal.data.pictures import (
    Folder,
    Parquet,
    PictureBatches,
    Scenes,
    decode,
    encode_captions,
    fitted,
    laid_on,
)
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.media.images import open_image
from daedal.worlds.scenes import RELATIONS


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(
        ["a red circle on a white background"] * 10, 300, ["<|end|>", "<|pad|>"], pad="<|pad|>"
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rows = []
    for name, style, alpha in (
        ("apple", "flat", 255),
        ("pear", "flat", 0),
        ("plum", "outline", 255),
    ):
        buffer = io.BytesIO()
        Image.new("RGBA", (32, 32), (200, 0, 0, alpha)).save(buffer, "PNG")
        rows.append(
            {
                "image": buffer.getvalue(),
                "caption": f"{name}, {style}",
                "name": name,
                "style": style,
                "keywords": ["fruit", "food"],
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "set.parquet")
    return tmp_path / "set.parquet"


def test_batches_depend_on_seed_and_step_alone(tokenizer: Tokenizer) -> None:
    first = PictureBatches([(Scenes(32), 1.0)], tokenizer, 4, 12, seed=7)
    batches = [batch for batch, _ in zip(first, range(3), strict=False)]
    later = next(iter(PictureBatches([(Scenes(32), 1.0)], tokenizer, 4, 12, seed=7, step=2)))
    assert first.state() == {"step": 4} or first.state() == {"step": 3}
    assert all((batches[2][key] == later[key]).all() for key in later)
    assert batches[0]["images"].shape == (4, 3, 32, 32) and batches[0]["captions"].shape == (4, 12)


def test_dropped_captions_are_all_padding(tokenizer: Tokenizer) -> None:
    batch = next(iter(PictureBatches([(Scenes(32), 1.0)], tokenizer, 4, 12, seed=7, drop=1.0)))
    assert (batch["captions"] == tokenizer.pad_id).all()
    assert (
        encode_captions(tokenizer, ["", "A Red circle"], 4)[1].tolist()
        == encode_captions(tokenizer, ["a red circle "], 4)[0].tolist()
    )


def test_rows_are_chosen_and_laid_on_paper(file: Path, tokenizer: Tokenizer) -> None:
    import random

    flat = Parquet(file, 16, {"style": ["flat"]})
    assert len(flat) == 2 and len(Parquet(file, 16)) == 3
    rng, seen = random.Random(0), set()
    for _ in range(60):
        picture, caption = flat.sample(rng)
        assert picture.shape == (16, 16, 3) and ("apple" in caption or "pear" in caption)
        if "pear" in caption and "background" not in caption:
            # transparent: only the paper shows, and white need not be said
            assert (picture == 255).all()
        seen.add(caption)
    assert len(seen) > 8 and any("fruit" in caption for caption in seen)


def test_every_reader_sees_the_picture_that_generation_opens(tmp_path: Path) -> None:
    """Bytes, the struct of `datasets`, a path and a folder; 16 bits of grey; turned by EXIF."""
    ramp = np.linspace(0, 65535, 32).astype(np.uint16)[None].repeat(32, 0)
    Image.fromarray(ramp).save(tmp_path / "grey.png")
    turned = Image.fromarray(np.dstack([ramp // 257, ramp.T // 257, 0 * ramp]).astype(np.uint8))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    for name in ("grey.png", "turned.png"):
        data, want = (tmp_path / name).read_bytes(), open_image(tmp_path / name)
        for image in (
            data,
            {"bytes": data, "path": None},
            {"bytes": None, "path": str(tmp_path / name)},
        ):
            assert np.array_equal(decode(image, 32)[..., :3], want)
        assert np.array_equal(fitted(tmp_path / name, 32)[..., :3], want)


def test_a_folder_keeps_where(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    rows = ({"file_name": f"{name}.png", "text": name, "split": name} for name in ("a", "b"))
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert Folder(tmp_path, 8, where={"split": "b"}).captions == ["b"]
    with pytest.raises(DaedalError, match="no picture where"):
        Folder(tmp_path, 8, where={"split": "c"})


def test_half_transparent_is_half_the_paper() -> None:
    picture = np.zeros((1, 1, 4), np.uint8)
    picture[..., 3] = 51
    assert laid_on(picture, (255, 100, 0)).tolist() == [[[204, 80, 0]]]


def test_bad_sources_are_named(tmp_path: Path, file: Path) -> None:
    with pytest.raises(DaedalError, match="is not a file"):
        Parquet(tmp_path / "none.parquet", 16)
    with pytest.raises(DaedalError, match="no row where"):
        Parquet(file, 16, {"style": "oil"})
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "text.parquet")
    with pytest.raises(DaedalError, match="no column caption, image"):
        Parquet(tmp_path / "text.parquet", 16)


def test_scenes_of_one_kind_are_of_that_kind_only() -> None:
    rng = random.Random(0)
    said = {
        kind: [Scenes(64, kind).sample(rng)[1] for _ in range(30)]
        for kind in ("alone", "several", "related")
    }
    assert all(caption.startswith(("two", "three")) for caption in said["several"])
    assert all(any(f" {r} " in caption for r in RELATIONS) for caption in said["related"])
    assert not any(
        caption.startswith(("two", "three")) or any(f" {r} " in caption for r in RELATIONS)
        for caption in said["alone"]
    )


def test_a_kind_of_scene_that_is_none_is_an_error() -> None:
    with pytest.raises(
        DaedalError,
        match=r"scenes:severl is not a kind of scene \(did you mean 'several'\?\); there are scenes:unseen",
    ):
        Scenes(64, "severl")
