"""Quantised folders written (checkpoints.packed prepares for one when it is loaded).

quantize("models/small", "models/small-int8", bits=8)
quantize("models/small", "models/small-int4", bits=4, calibration=token_batches)     # GPTQ"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from daedal.checkpoints.files import copy_companions, opened, tensors, weight_files
from daedal.checkpoints.folder import empty_network, fill, put, read_config, save
from daedal.checkpoints.gguf_folder import source_of
from daedal.checkpoints.packed import METHOD
from daedal.errors import DaedalError
from daedal.networks.decoder import Decoder
from daedal.networks.names import Names
from daedal.nn.gptq import gptq_
from daedal.nn.quantized import QuantLinear, finish_, kinds_for, pack_, tied


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
    calibrated = calibration is not None and bits == 4
    network, kinds = loaded(Path(folder), bits, whole=calibrated)
    if calibrated:
        gptq_(network, calibration)  # type: ignore[arg-type]
    network.names = Names()
    settings = {
        "quant_method": METHOD,
        "bits": bits,
        "kinds": kinds if bits == 4 else None,
        "calibrated": calibrated,
    }
    save(network, out, max_shard_bytes, {"quantization_config": settings})
    copy_companions(Path(folder), Path(out))


def loaded(folder: Path, bits: int, whole: bool) -> tuple[Any, dict[str, str]]:
    """The decoder of a folder, each matrix packed as it is read unless they are wanted `whole`, and
    the kinds that its layers are packed to."""
    network = empty_network(folder)
    if not isinstance(network, Decoder):
        raise DaedalError(f"{folder} holds no language model; only these are quantised.")
    kinds = kinds_for(network, bits)

    def keep(network: Any, name: str, tensor: Tensor) -> None:
        layer = name.removesuffix(".weight")
        head = "lm_head" if layer == "embed_tokens" and tied(network) else layer
        if head in kinds and name.endswith(".weight"):
            pack_(network, head, tensor, kinds[head])
        else:
            packed = isinstance(network.get_submodule(name.rpartition(".")[0]), QuantLinear)
            put(network, name, tensor.float() if packed else tensor)  # a bias

    fill(network, tensors(folder) if whole else one_by_one(folder), keep=None if whole else keep)
    return (network if whole else finish_(network)).eval(), kinds


def one_by_one(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a folder, each from a map of its own, which is gone with the tensor: pages of
    one map would all stay."""
    for file in weight_files(folder):
        for name in opened(file)[1]:
            yield name, opened(file)[0](name)
