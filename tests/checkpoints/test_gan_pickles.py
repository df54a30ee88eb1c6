"""StyleGAN pickles are read without running their code. (Pickles that the authors' own code wrote,
of both generations, were also read: their pictures came out equal to 2e-7.)"""

import os
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from daedal import checkpoints
from daedal.checkpoints.gan_pickles import read_generator
from daedal.errors import DaedalError
from daedal.networks.stylegan import StyleGAN2Generator, StyleGANConfig
from daedal.networks.stylegan3 import StyleGAN3Config, StyleGAN3Generator

SMALL = {"z_dim": 8, "w_dim": 8, "img_resolution": 16, "channel_base": 128, "channel_max": 8}


class EasyDict(dict):
    """Stands for the authors' dictionary."""


class Persistent:
    """Stands for an object of the authors': pickled as a call of their function on its source,
    class name and attributes."""

    def __init__(self, module: nn.Module, **arguments: Any) -> None:
        parts = {
            name: Persistent(part) for name, part in module._modules.items() if part is not None
        }
        self.state = {
            "_parameters": module._parameters,
            "_buffers": module._buffers,
            "_modules": parts,
            "_init_kwargs": arguments,
        }

    def __reduce__(self) -> Any:
        meta = EasyDict(
            type="class",
            version=6,
            module_src="raise SystemExit",
            class_name="Generator",
            state=self.state,
        )
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,)


class Evil:
    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (self.folder,)


@pytest.fixture
def authors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their modules, while pickling."""
    for name in ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.util"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))

    def _reconstruct_persistent_obj(meta: Any) -> None:
        raise AssertionError("code of the pickle was run")

    _reconstruct_persistent_obj.__module__, _reconstruct_persistent_obj.__qualname__ = (
        "torch_utils.persistence",
        "_reconstruct_persistent_obj",
    )
    sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    monkeypatch.setattr(EasyDict, "__module__", "dnnlib.util")
    sys.modules["dnnlib.util"].EasyDict = EasyDict  # type: ignore[attr-defined]


def pickled(network: nn.Module, path: Path, **arguments: Any) -> Path:
    part = Persistent(network, mapping_kwargs=EasyDict(num_layers=3), **SMALL, **arguments)
    path.write_bytes(
        pickle.dumps(
            {"G": part, "D": None, "G_ema": part, "training_set_kwargs": EasyDict(path="x")}
        )
    )
    return path


@pytest.mark.parametrize(
    "network",
    [
        StyleGAN2Generator(StyleGANConfig(**SMALL, num_mapping_layers=3)),
        StyleGAN3Generator(StyleGAN3Config(**SMALL, num_mapping_layers=3, num_layers=4)),
    ],
    ids=["stylegan2", "stylegan3"],
)
def test_a_pickle_becomes_a_folder(network: Any, tmp_path: Path, authors: None) -> None:
    from daedal.cli import app

    network.init_weights(0).eval()
    more = {"num_layers": 4} if isinstance(network, StyleGAN3Generator) else {}
    path = pickled(network, tmp_path / "a.pkl", num_fp16_res=4, **more)
    run = CliRunner().invoke(app, ["convert", str(path), str(tmp_path / "out")])
    assert run.exit_code == 0, run.output
    z = torch.randn(2, 8)
    with torch.no_grad():
        assert torch.equal(checkpoints.load(tmp_path / "out").eval()(z), network(z))


def test_what_is_no_such_pickle_gets_a_sentence(tmp_path: Path, authors: None) -> None:
    network = StyleGAN2Generator(StyleGANConfig(**SMALL, num_mapping_layers=3)).init_weights(0)
    cases = {
        "evil": (
            pickle.dumps({"G_ema": Evil(str(tmp_path / "ran"))}),
            "no StyleGAN needs; nothing of it was run",
        ),
        "broken": (b"\x80\x04not a pickle", "not a StyleGAN network pickle"),
        "empty": (pickle.dumps({"G_ema": None}), "holds no averaged generator"),
        "strange": (
            pickled(network, tmp_path / "b.pkl", architecture="resnet").read_bytes(),
            "architecture='resnet'",
        ),
    }
    for name, (data, words) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DaedalError, match=words):
            read_generator(tmp_path / name)
    assert not (tmp_path / "ran").exists()
