"""Quantised folders: written by `quantize`, prepared for by `prepare_` when one is loaded.

    quantize("models/small", "models/small-int8", bits=8)
    quantize("models/small", "models/small-int4", bits=4, calibration=token_batches)     # GPTQ

The folder holds our own packed tensors under the module's own names (daedal.nn.quantized), and a `quantization_config` in config.json:
{"quant_method": "daedal", "bits": 4, "group_size": 32, "calibrated": true}. It loads ready to run, by memory map, with no full-precision
copy at any time.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from daedal.errors import DaedalError
from daedal.networks.names import Names
from daedal.nn.quantized import GROUP, QuantEmbedding, QuantLinear, TiedHead, finish_, head_bits, quantize_, swappable, tied

METHOD = "daedal"
COMPANIONS = ("*.json", "*.model", "*.jinja", "*.txt", "*.md", "LICENSE*")  # tokenizer, chat template, card


def prepare_(network: Any, quantization_config: dict[str, Any]) -> Any:
    """Swap the layers of a meta-device network for packed ones, empty, as the folder's `quantization_config` says."""
    method, bits = quantization_config.get("quant_method"), quantization_config.get("bits", 8)
    if method != METHOD:
        raise DaedalError(f"the folder is quantised with {method!r}, which Daedal does not read; use the unquantised model and `daedal quantize` it.")
    share = tied(network)
    for name, module, head in swappable(network):
        width = head_bits(bits) if head else bits
        if head and share:
            network.embed_tokens = QuantEmbedding(module.in_features, module.out_features, width).to(module.weight.device)
            network.lm_head = TiedHead(network.embed_tokens)
        else:
            network.set_submodule(name, QuantLinear(module.in_features, module.out_features, width, module.bias is not None).to(module.weight.device))
    network.family_names, network.names = network.names, Names(prefix="")  # the folder uses the module's own names, adapters the family's
    return finish_(network)


def quantize(
    folder: str | Path, out: str | Path, bits: int = 8, calibration: Iterable[Tensor] | None = None, max_shard_bytes: int = 5_000_000_000
) -> None:
    """Read a model folder, pack its weights, write `out`: config.json, safetensors and the tokenizer's files. `calibration`, batches of
    token ids (B, T), makes int4 rounding follow GPTQ instead of the nearest level."""
    from daedal.checkpoints.folder import load, read_config, save

    if read_config(folder).get("quantization_config"):
        raise DaedalError(f"{folder} is quantised already; start from the full-precision folder.")
    network = load(folder)
    if calibration is not None and bits == 4:
        from daedal.nn.gptq import gptq_

        gptq_(network, calibration)
    else:
        quantize_(network, bits)
    network.names = Names(prefix="")
    settings = {"quant_method": METHOD, "bits": bits, "group_size": GROUP if bits == 4 else None, "calibrated": calibration is not None and bits == 4}
    save(network, out, max_shard_bytes, {"quantization_config": settings})
    copy_companions(Path(folder), Path(out))


def copy_companions(folder: Path, out: Path) -> None:
    """The small files beside the weights that a model needs or that describe it."""
    for pattern in COMPANIONS:
        for file in folder.glob(pattern):
            if file.name != "config.json" and not file.name.endswith(".safetensors.index.json"):
                shutil.copyfile(file, out / file.name)
