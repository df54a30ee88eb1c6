"""The image pipeline around the house's transformer (random weights) and its ways in."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import daedal
from daedal import checkpoints
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.media import images
from daedal.networks.media import MediaConfig, MediaTransformer
from daedal.pipelines import history
from daedal.pipelines.image import ImagePipeline, Picture, load
from daedal.processes.imaging import edges, from_pixels, pixels

TINY = MediaConfig(
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=96,
    vocab_size=300,
    text_layers=1,
    text_length=6,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    network = MediaTransformer(TINY).init_weights(0)
    for p in network.parameters():
        p.data += 0.05 * torch.randn(p.shape)
    checkpoints.save(network, folder)
    Tokenizer.train(["a red circle"] * 5, 300, ["<|end|>", "<|pad|>"], pad="<|pad|>").save(folder)
    (folder / "generation_config.json").write_text(json.dumps({"steps": 3, "guidance_scale": 2.0}))
    return folder


@pytest.fixture
def pipeline(folder: Path) -> ImagePipeline:
    return load(folder, device="cpu", dtype="fp32")


def test_a_seed_is_a_picture_and_its_recipe_makes_it_again(
    pipeline: ImagePipeline, tmp_path: Path
) -> None:
    first, second = pipeline("a red circle", seed=4, n=2)
    assert not np.array_equal(first.pixels, second.pixels) and first.pixels.shape == (64, 64, 3)
    assert np.array_equal(pipeline.reproduce(second.recipe).pixels, second.pixels)
    read = images.recipe_of(first.save(tmp_path / "a.png"))
    assert (
        read == json.loads(json.dumps(first.recipe))
        and read["settings"]["steps"] == 3
        and read["settings"]["seed"] == 4
    )
    assert (tmp_path / "a.png").read_bytes() == pipeline.reproduce(read).save(
        tmp_path / "b.png"
    ).read_bytes()
    assert first._repr_png_()[:4] == b"\x89PNG"


def test_a_seed_is_drawn_and_kept_when_none_is_given(pipeline: ImagePipeline) -> None:
    made = pipeline("a red circle")
    assert np.array_equal(
        pipeline("a red circle", seed=made.recipe["settings"]["seed"]).pixels, made.pixels
    )


def test_only_the_mask_is_painted_to_the_bit(pipeline: ImagePipeline, tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    mask = np.zeros((64, 64), np.uint8)
    mask[11:30, 3:50] = 255  # not on the patches' grid
    images.save_image(picture, tmp_path / "init.png")
    images.save_image(np.repeat(mask[..., None], 3, -1), tmp_path / "mask.png")
    made = pipeline(
        "a red circle", init=tmp_path / "init.png", mask=tmp_path / "mask.png", seed=1, strength=1.0
    )
    assert (
        np.array_equal(made.pixels[mask == 0], picture[mask == 0])
        and (made.pixels[mask > 0] != picture[mask > 0]).any()
    )
    assert np.array_equal(pipeline.reproduce(made.recipe).pixels, made.pixels)
    images.save_image(picture[::-1], tmp_path / "init.png")
    with pytest.raises(DaedalError, match="no longer what the recipe used"):
        pipeline.reproduce(made.recipe)


def test_sizes_are_snapped_and_init_gives_the_size(pipeline: ImagePipeline) -> None:
    assert pipeline("x", width=70, height=30, seed=0).pixels.shape == (32, 72, 3)
    assert pipeline("x", init=np.zeros((41, 60, 3), np.uint8), seed=0).pixels.shape == (40, 64, 3)


def test_a_mask_becomes_what_its_picture_becomes(pipeline: ImagePipeline) -> None:
    """The picture and its mask at another size than the canvas; the mask at another than both."""
    picture = np.full((41, 60, 3), 200, np.uint8)
    mask = np.zeros((82, 120), np.uint8)
    mask[:40] = 255
    made = pipeline("x", init=picture, mask=mask, seed=1, strength=1.0).pixels
    assert made.shape == (40, 64, 3) and (made[24:] == 200).all() and (made[:16] != 200).any()


def test_a_photo_is_painted_at_the_models_size(pipeline: ImagePipeline, tmp_path: Path) -> None:
    photo = np.zeros((300, 400, 3), np.uint8)
    handle = pipeline.start("x", init=photo, seed=1)
    assert handle.results()[0].pixels.shape == (56, 72, 3)
    assert handle.remarks == (
        "the picture of 400x300 is painted at about 74x55, this model's size; give a size for another.",
    )
    assert pipeline("x", init=photo, seed=1, width=80, height=64).pixels.shape == (64, 80, 3)
    hole = np.dstack([photo, np.full((300, 400), 255, np.uint8)])
    hole[:100, :100, 3] = 0
    images.save_image(hole, tmp_path / "mask.png")
    remarks = pipeline.start("x", init=photo, mask=tmp_path / "mask.png", seed=1).remarks
    assert remarks[-1] == "the mask has no white, so what is transparent in it is painted anew"


def test_a_picture_is_extended_and_stays_to_the_bit(
    pipeline: ImagePipeline, tmp_path: Path
) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (60, 64, 3), dtype=np.uint8)
    images.save_image(picture, tmp_path / "init.png")
    made = pipeline("a red circle", init=tmp_path / "init.png", extend="16,0,0,5", seed=1)
    assert made.pixels.shape == (72, 80, 3) and np.array_equal(made.pixels[:60, 16:], picture)
    assert made.pixels[:60, :16].std() > 0 and np.array_equal(
        pipeline.reproduce(made.recipe).pixels, made.pixels
    )


def test_the_house_model_follows_edges(tmp_path: Path) -> None:
    network = MediaTransformer(replace(TINY, control_size=64)).init_weights(0)
    for p in network.parameters():
        p.data += 0.05 * torch.randn(p.shape)
    checkpoints.save(network, tmp_path)
    Tokenizer.train(["a red circle"] * 5, 300, ["<|end|>", "<|pad|>"], pad="<|pad|>").save(tmp_path)
    pipeline = load(tmp_path, device="cpu", dtype="fp32")
    photo = np.full((64, 64, 3), 255, np.uint8)
    photo[20:40, 20:40] = (200, 0, 0)
    lines = np.repeat(pixels(edges(from_pixels(photo)) * 2 - 1)[0], 3, -1)
    for name, shown in (("photo", photo), ("lines", lines)):
        images.save_image(shown, tmp_path / f"{name}.png")
    paint = lambda **more: pipeline("a red circle", seed=1, steps=2, **more).pixels  # noqa: E731
    followed = paint(control=f"edges:{tmp_path / 'lines.png'}")
    assert np.array_equal(
        followed, paint(control=f"edges-of:{tmp_path / 'photo.png'}")
    ) and not np.array_equal(followed, paint())
    assert np.array_equal(
        paint(control=f"edges:{tmp_path / 'lines.png'}", control_scale=0), paint()
    )
    with pytest.raises(
        DaedalError, match=r"'canny' is not a kind this model knows.*edges, edges-of"
    ):
        paint(control=f"canny:{tmp_path / 'lines.png'}")


def test_progress_previews_and_cancelling(pipeline: ImagePipeline) -> None:
    seen, previews = [], []
    pipeline.results(
        "x",
        seed=0,
        on_progress=lambda done, total: seen.append((done, total)),
        on_event=lambda event: previews.append(event.preview()),
    )
    assert (
        seen == [(1, 3), (2, 3), (3, 3)]
        and len(previews) == 3
        and previews[0].shape == (1, 64, 64, 3)
    )

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline("x", on_progress=stop)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"guidance": 3}, "not a setting of pictures.*guidance_scale"),
        ({"sampler": "eular"}, "'eular' is not known.*euler"),
        ({"steps": 0}, "steps=0 is out of range"),
        ({"strength": 0}, "strength=0 must be above 0"),
        ({"mask": np.zeros((64, 64), bool)}, "needs the picture it belongs to"),
        ({"init": np.zeros((64, 64), np.uint8)}, "height, width, 3"),
        (
            {"init": np.zeros((64, 64, 3), np.uint8), "mask": np.zeros((32, 64), bool)},
            "64x32 and the picture is 64x64; give a mask of the picture's shape",
        ),
        ({"init": "nowhere.png"}, "nowhere.png cannot be read"),
        ({"control": "canny:x.png"}, "cannot be given control; .* takes none of them"),
        ({"extend": "8,8"}, "extend needs a picture"),
        ({"extend": "8,8", "init": np.zeros((64, 64, 3), np.uint8)}, "LEFT,TOP,RIGHT,BOTTOM"),
        (
            {"extend": "8,0,0,0", "width": 64, "init": np.zeros((64, 64, 3), np.uint8)},
            "72x64, and 64xNone was asked",
        ),
        ({"like": "webuy"}, "webuy.*webui"),
    ],
)
def test_bad_settings_get_a_sentence(pipeline: ImagePipeline, settings: dict, words: str) -> None:
    with pytest.raises(DaedalError, match=words):
        pipeline("a red circle", **settings)


def test_an_empty_prompt_gets_a_sentence(pipeline: ImagePipeline) -> None:
    with pytest.raises(DaedalError, match="prompt is empty"):
        pipeline("  ")


def test_load_knows_what_a_folder_holds(folder: Path) -> None:
    assert isinstance(daedal.load(str(folder)), ImagePipeline)
    with pytest.raises(DaedalError, match="quantize=8 does not apply"):
        daedal.load(str(folder), quantize=8)


@pytest.mark.dtype
def test_the_command_line_paints_logs_and_paints_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from daedal.cli import app

    monkeypatch.setenv("DAEDAL_HISTORY", str(tmp_path / "history.db"))
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke(
        app,
        [
            "image",
            "a red circle",
            "--model",
            str(folder),
            "--seed",
            "7",
            "--size",
            "60x64",
            "-n",
            "2",
            "-o",
            "out.png",
        ],
    )
    assert (
        run.exit_code == 0
        and run.stdout.split() == ["out-1.png", "out-2.png"]
        and "made 64x64" in run.stderr
    )
    entry = history.entries(1)[0]
    assert entry.medium == "image" and entry.settings["seed"] == 7 and entry.sample == 1
    run = CliRunner().invoke(app, ["again", str(entry.id), "-o", "again.png"])
    assert run.exit_code == 0, run.output
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "out-2.png").read_bytes()
    assert "a red circle" in CliRunner().invoke(app, ["history"]).stdout
    run = CliRunner().invoke(
        app, ["image", "красный круг", "--model", str(folder), "-o", "out.png"]
    )
    assert (
        run.exit_code == 0
        and run.stdout.split() == ["out.png"]
        and "'красный' is in signs" in run.stderr
    )


def test_a_language_model_fills_the_prompt_in(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from daedal.cli import app

    monkeypatch.setenv("DAEDAL_HISTORY", str(tmp_path / "history.db"))
    command = [
        "image",
        "a red circle",
        "--model",
        str(folder),
        "--seed",
        "7",
        "-o",
        str(tmp_path / "a.png"),
        "--expand",
        "house/text",
    ]
    run = CliRunner().invoke(app, command)
    assert run.exit_code == 0, run.output
    said = images.recipe_of(tmp_path / "a.png")["prompt"]
    assert said.startswith("a red circle") and repr(said) in run.stderr


def test_picture_counts_its_steps(pipeline: ImagePipeline) -> None:
    made = pipeline("x", seed=0, steps=5)
    assert isinstance(made, Picture) and made.amount == 5 and len(made.logged) == 64


def test_numbers_that_are_not_finite_become_no_picture(
    pipeline: ImagePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(job: Any) -> Any:
        yield None
        return torch.full((1, 3, 64, 64), float("nan"))

    monkeypatch.setattr(pipeline.painter, "paint", broken)
    with pytest.raises(DaedalError, match="NaN or infinite"):
        pipeline("a red circle", seed=0)


def test_guidance_up_to_one_is_none(pipeline: ImagePipeline) -> None:
    plain, zero = (pipeline("x", seed=0, guidance_scale=g).pixels for g in (1.0, 0.0))
    assert np.array_equal(plain, zero)
