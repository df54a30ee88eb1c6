"""Quantised folders written (checkpoints.packed prepares for one when it is loaded).

quantize("models/small", "models/small-int8", bits=8)
quantize("models/small", "models/small-int4", bits=4, calibration=token_batches)     # GPTQ"""

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from daedal.checkpoints.files import copy_companions
from daedal.checkpoints.folder import load, read_config, save
from daedal.checkpoints.gguf_folder import source_of
from daedal.checkpoints.packed import METHOD
from daedal.errors import DaedalError
from daedal.networks.decoder import Decoder
from daedal.networks.names import Names
from daedal.nn.gptq import gptq_
from daedal.nn.quantized import kinds_for, quantize_


def quantize(
    folder: str | Path,
    out: str | Path,
    bits: int = 8,
    calibration: Iterable[Tensor] | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Read a model folder, pack its weights, write `out`: config.json, safetensors and the
    tokenizer's files. `calibration`, batches of token ids (B, T), makes 4-bit rounding follow GPTQ
    instead of the nearest level."""
    if read_config(folder).get("quantization_config"):
        raise DaedalError(
            f"{source_of(Path(folder))} is quantised already; start from the full-precision folder."
        )
    network = load(folder, kind=Decoder)
    kinds = kinds_for(network, bits)
    if calibration is not None and bits == 4:
        gptq_(network, calibration)
    else:
        quantize_(network, bits)
    network.names = Names()
    settings = {
        "quant_method": METHOD,
        "bits": bits,
        "kinds": kinds if bits == 4 else None,
        "calibrated": calibration is not None and bits == 4,
    }
    save(network, out, max_shard_bytes, {"quantization_config": settings})
    copy_companions(Path(folder), Path(out))
