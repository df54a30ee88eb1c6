"""Curves of runs: what is drawn of metrics.jsonl and evaluations.jsonl."""

import json
from pathlib import Path

import pytest

from daedal.errors import DaedalError
from daedal.media import plots
from daedal.train import metrics


def written(folder: Path, steps: int, evaluations: list[dict]) -> Path:
    folder.mkdir()
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": i + 1, "loss": 1 / (i + 1)}) + "\n" for i in range(steps))
        + '{"step": 9'
    )
    (folder / "evaluations.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in evaluations)
    )
    return folder


def test_a_panel_of_the_loss_and_of_each_number(tmp_path: Path) -> None:
    a = written(
        tmp_path / "a",
        250,
        [
            {"step": 100, "psnr": 16.0, "standard_error": 0.5},
            {"step": 200, "psnr": 17.0, "standard_error": 0.5},
        ],
    )
    b = written(tmp_path / "b", 20, [{"step": 20, "all": 0.5}])
    assert metrics.curves([b]).shape == (2 * plots.HEIGHT, 4 * plots.WIDTH, 3)  # loss, all
    assert metrics.curves([a, b]).shape == (4 * plots.HEIGHT, 4 * plots.WIDTH, 3)  # loss, psnr, all
    with pytest.raises(DaedalError, match="no metrics"):
        metrics.curves([a, tmp_path / "c"])
    (tmp_path / "b" / "metrics.jsonl").write_text(
        json.dumps({"step": 1, "loss": 0.0, "reward": 0.5, "kl": 0.1}) + "\n"
    )
    # loss, reward, kl, all
    assert metrics.curves([b]).shape == (4 * plots.HEIGHT, 4 * plots.WIDTH, 3)


def test_points_are_medians_and_evaluations_have_their_interval(tmp_path: Path) -> None:
    points = metrics.smoothed([{"step": i + 1, "loss": float(i % 3)} for i in range(300)], "loss")
    assert len(points) == 100 and points[-1] == (300, (1.0, 0.0, 2.0))
    assert metrics.point(
        {"step": 5, "psnr": 16.0, "standard_error": 0.5, "codes": 3.0}, "psnr"
    ) == (
        5,
        (16.0, pytest.approx(15.02), pytest.approx(16.98)),
    )
    assert metrics.point(
        {"step": 5, "psnr": 16.0, "standard_error": 0.5, "codes": 3.0}, "codes"
    ) == (5, (3.0, 3.0, 3.0))


def test_the_command_line_draws_them(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from daedal.cli import app

    run = written(tmp_path / "a", 5, [])
    result = CliRunner().invoke(app, ["curves", str(run), "-o", str(tmp_path / "c.png")])
    assert (
        result.exit_code == 0
        and result.output.strip() == str(tmp_path / "c.png")
        and (tmp_path / "c.png").exists()
    )
