"""Quantised folders, as `checkpoints.quantize` writes them, prepared for when one is loaded.

The folder holds our own packed tensors under the module's own names (daedal.nn.quantized), and a
`quantization_config` in config.json: {"quant_method": "daedal", "bits": 4, "kinds": {"lm_head":
"q6_k", ...}, "calibrated": true}. It loads ready to run, by memory map, with no full-precision copy
at any time."""

from typing import Any

from daedal.errors import DaedalError
from daedal.networks.names import Names
from daedal.nn.quantized import dequantize_, kinds_for, pack_empty_

METHOD = "daedal"
METHODS = (METHOD, "gguf")  # the latter of files that were opened (checkpoints.gguf_folder)


def prepare_(network: Any, quantization_config: dict[str, Any]) -> Any:
    """Swap the layers of a meta-device network for packed ones, empty, as the folder's
    `quantization_config` says."""
    method, bits = quantization_config.get("quant_method"), quantization_config.get("bits", 8)
    if method not in METHODS:
        raise DaedalError(
            f"the folder is quantised with {method!r}, which Daedal does not read; use the unquantised model and `daedal quantize` it.",
        )
    kinds = quantization_config.get("kinds")
    if bits == 4 and not kinds:
        raise DaedalError(
            "the folder was packed to 4 bits by an older Daedal, in a layout that is no more; `daedal quantize` the unquantised model again.",
        )
    pack_empty_(network, kinds or kinds_for(network, bits))
    network.family_names, network.names = network.names, Names()  # adapters use the family's names
    return network


def unpack_(network: Any) -> Any:
    """A packed network as an ordinary one in fp32, under its family's names; any other as it is."""
    if hasattr(network, "family_names"):
        dequantize_(network)
        network.names = network.family_names
        network.compute_dtype = None
    return network
