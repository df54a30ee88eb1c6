"""The machine in hand: what `dtype: auto` picks, and how one variable forces it."""

import json

import pytest
import torch
from typer.testing import CliRunner

from daedal import device as machine
from daedal.cli import app
from daedal.errors import DaedalError

CPU = torch.device("cpu")


@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_variable_forces_auto(
    monkeypatch: pytest.MonkeyPatch, name: str, dtype: torch.dtype
) -> None:
    monkeypatch.setenv("DAEDAL_DTYPE", name)
    assert machine.compute_dtype("auto", CPU) == dtype
    assert machine.has_bf16_units(CPU) == (dtype == torch.bfloat16)
    assert machine.compute_dtype("fp16", CPU) == torch.float16  # what is named stays
    told = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)
    assert told["auto_dtype"] == str(dtype).removeprefix("torch.") and told["dtype_forced"]
    assert "DAEDAL_DTYPE" in CliRunner().invoke(app, ["doctor"]).stdout


def test_unset_or_empty_it_is_the_devices_own(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for value in ("", None):
        monkeypatch.setenv("DAEDAL_DTYPE", value) if value is not None else monkeypatch.delenv(
            "DAEDAL_DTYPE"
        )
        found.append(machine.compute_dtype("auto", CPU))
    units = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    assert found == [torch.bfloat16 if units else torch.float32] * 2


def test_another_value_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAEDAL_DTYPE", "int8")
    with pytest.raises(DaedalError, match="DAEDAL_DTYPE=int8 is not one of fp32 and bf16"):
        machine.compute_dtype("auto", CPU)
