"""The StyleGAN authors' network pickles, read without running any of the code they carry.

Such a file (`G_ema`, `G`, `D`) pickles whole Python objects together with their source. Here every
name it calls for is looked up in a short list: tensors and plain containers are rebuilt, the
authors' objects become `Part`s, of which only parameters, buffers and constructor arguments are
looked at, and anything else is an error. Released BigGAN weights are plain tensors
(`checkpoints.load` opens them by name) and need none of this."""

import collections
import io
import pickle
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from daedal.checkpoints.folder import save
from daedal.errors import DaedalError
from daedal.networks.stylegan import StyleGAN2Generator, StyleGANConfig
from daedal.networks.stylegan3 import StyleGAN3Config, StyleGAN3Generator

WITHOUT_EFFECT = (
    "num_fp16_res",
    "fp16_channels_last",
    "magnitude_ema_beta",
    "w_avg_beta",
    "fused_modconv_default",
    "use_noise",
    "resample_filter",
)


@dataclass
class Part:
    """A pickled module: its attributes."""

    state: dict[str, Any]

    def tensors(self, prefix: str = "") -> dict[str, Tensor]:
        found = {
            prefix + name: value
            for kind in ("_parameters", "_buffers")
            for name, value in self.state[kind].items()
            if value is not None
        }
        for name, part in self.state["_modules"].items():
            found |= part.tensors(f"{prefix}{name}.") if isinstance(part, Part) else {}
        return found

    def arguments(self) -> dict[str, Any]:
        """Constructor arguments, those of parts raised to one level."""
        given = dict(self.state.get("_init_kwargs") or {})
        mapping = given.pop("mapping_kwargs", None) or {}
        synthesis = given.pop("synthesis_kwargs", None) or {}
        renamed = {
            "num_mapping_layers" if key == "num_layers" else key: value
            for key, value in mapping.items()
        }
        return {**given, **synthesis, **renamed}


ALLOWED: dict[str, Any] = {  # what the authors' pickles are made of
    "collections.OrderedDict": collections.OrderedDict,
    "dnnlib.util.EasyDict": dict,
    "torch_utils.persistence._reconstruct_persistent_obj": lambda meta: Part(meta["state"]),
    "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": lambda data, grad, hooks: nn.Parameter(data, grad),
    "torch.storage._load_from_bytes": lambda d: torch.load(io.BytesIO(d), weights_only=True),
    "torch.Size": torch.Size,
    "torch.device": torch.device,
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    "numpy.core.multiarray.scalar": np.float64(0).__reduce__()[0],
    "numpy.core.multiarray._reconstruct": np.zeros(1).__reduce__()[0],
    "_codecs.encode": lambda text, encoding: text.encode(encoding),
    "__builtin__.set": set,
    "builtins.set": set,
}


class Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        called = f"{module.replace('numpy._core', 'numpy.core')}.{name}"
        if called not in ALLOWED:
            raise DaedalError(
                f"the pickle asks for {called}, which no StyleGAN needs; nothing of it was run. Convert only files you trust."
            )
        return ALLOWED[called]


def read_generator(path: str | Path) -> StyleGAN2Generator:
    """The averaged generator (`G_ema`) of a StyleGAN2-ADA or StyleGAN3 pickle, ready to
    `checkpoints.save`."""
    with Path(path).open("rb") as file:
        try:
            held = Reader(file).load()
        except (
            pickle.UnpicklingError,
            EOFError,
            KeyError,
            AttributeError,
            TypeError,
            ValueError,
        ) as error:
            raise DaedalError(
                f"{path} is not a StyleGAN network pickle of the PyTorch releases ({error}); give an unbroken .pkl of those."
            ) from None
    part = held.get("G_ema") if isinstance(held, dict) else None
    if not isinstance(part, Part):
        raise DaedalError(
            f"{path} holds no averaged generator (G_ema); give a network snapshot of StyleGAN2-ADA or StyleGAN3."
        )
    tensors, given = part.tensors(), part.arguments()
    kind: Any = (
        StyleGAN3Generator
        if any(name.startswith("synthesis.input.") for name in tensors)
        else StyleGAN2Generator
    )
    known = {field.name for field in fields(kind.config_class)}
    if unknown := [
        key
        for key in given
        if key not in known and key not in WITHOUT_EFFECT and key != "conv_clamp"
    ]:
        raise DaedalError(
            f"{path} was made with {unknown[0]}={given[unknown[0]]!r}, which Daedal's {kind.__name__} does not have."
        )
    generator = kind(
        kind.config_class(
            **{key: value for key, value in given.items() if key in known and value is not None}
        )
    )
    wanted = {
        name: value.float()
        for name, value in tensors.items()
        if not name.endswith(kind.names.skipped)
    }
    generator.load_state_dict(wanted)
    return generator.eval()


def convert(path: str | Path, out: Path) -> StyleGANConfig | StyleGAN3Config:
    """Write the generator as a folder of safetensors. Returns its config."""
    generator = read_generator(path)
    save(generator, out)
    return generator.config
