"""Parts measured by themselves: known errors give known decibels, an eye that sees gives R@1 of
one, and the command prints both."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from daedal import checkpoints
from daedal.cli import app
from daedal.evals import parts
from daedal.media import images
from daedal.networks.autoencoder import AutoencoderKL, AutoencoderKLConfig


class Off(torch.nn.Module):
    """A codec that makes every value 0.2 brighter, or 0.02, picture by picture."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def moments(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x

    def _decode(self, z: torch.Tensor) -> torch.Tensor:
        return z + torch.tensor([0.2, 0.02]).repeat(len(z) // 2)[:, None, None, None]


def test_known_errors_in_decibels() -> None:
    """Errors of 0.2 and 0.02 in a span of 2 are 20 and 40 dB; the mean of their squares is 20 - 10
    log10(0.505)."""
    found, sheet = parts.reconstruction(Off(), torch.full((6, 3, 16, 16), 128, dtype=torch.uint8))
    assert (
        found["rebuilt"]["psnr"].value == pytest.approx(30, abs=1e-3)
        and found["rebuilt"]["psnr"].n == 6
    )
    assert found["rebuilt"]["psnr_of_mean"].value == pytest.approx(22.967, abs=1e-3)
    assert sheet.shape[2] == 3 and sheet.dtype == np.uint8


def test_an_eye_that_sees() -> None:
    class Eye:
        def pictures(self, x: torch.Tensor) -> torch.Tensor:
            return torch.eye(4)

        def texts(self, captions: list[str]) -> torch.Tensor:
            return torch.eye(4)[[0, 1, 3, 2]]

    found = parts.recognition(Eye(), torch.zeros(4, 3, 8, 8, dtype=torch.uint8), list("abcd"))[
        "retrieval"
    ]  # type: ignore[arg-type]
    assert found["r1_of_picture"].value == found["r1_of_caption"].value == 0.5


def test_the_command(tmp_path: Path) -> None:
    codec = AutoencoderKL(
        AutoencoderKLConfig(block_out_channels=(8,), norm_num_groups=4, sample_size=16)
    ).init_weights(0)
    checkpoints.save(codec, tmp_path / "codec")
    for i in range(4):
        images.save_image(np.full((16, 16, 3), 60 * i, np.uint8), tmp_path / "set" / f"{i}.png")
        (tmp_path / "set" / f"{i}.txt").write_text(f"grey number {i}")
    command = [
        "eval",
        str(tmp_path / "codec"),
        "--data",
        str(tmp_path / "set"),
        "--sheet",
        str(tmp_path / "sheet.png"),
        "--json",
    ]
    found = json.loads(CliRunner().invoke(app, command).stdout)
    assert 0 < found["rebuilt"]["psnr"]["value"] < 40 and found["rebuilt"]["psnr"]["n"] == 4
    (tmp_path / "r.yaml").write_text(
        f"task: autoencode\nsteps: 1\nout: x\ndata: {{train: [], validation: [{{path: {tmp_path / 'set'}}}]}}\n"
    )
    assert found == json.loads(
        CliRunner().invoke(app, [*command[:3], str(tmp_path / "r.yaml"), "--json"]).stdout
    )
    assert images.open_image(tmp_path / "sheet.png").shape[0] > 32
    assert (
        parts.part_of(str(tmp_path / "codec")) == "AutoencoderKL"
        and parts.part_of("house/image") is None
        and parts.part_of("house/text") is None
    )
