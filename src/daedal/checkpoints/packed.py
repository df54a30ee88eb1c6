"""Quantised folders, as `checkpoints.quantize` writes them, prepared for when one is loaded.

The folder holds our own packed tensors under the module's own names (daedal.nn.quantized), and a
`quantization_config` in config.json: {"quant_method": "daedal", "bits": 4, "group_size": 32,
"calibrated": true}. It loads ready to run, by memory map, with no full-precision copy at any time.
"""

from typing import Any

from daedal.errors import DaedalError
from daedal.networks.names import Names
from daedal.nn.quantized import (
    QuantEmbedding,
    QuantLinear,
    TiedHead,
    finish_,
    head_bits,
    swappable,
    tied,
)

METHOD = "daedal"


def prepare_(network: Any, quantization_config: dict[str, Any]) -> Any:
    """Swap the layers of a meta-device network for packed ones, empty, as the folder's
    `quantization_config` says."""
    method, bits = quantization_config.get("quant_method"), quantization_config.get("bits", 8)
    if method != METHOD:
        raise DaedalError(
            f"the folder is quantised with {method!r}, which Daedal does not read; use the unquantised model and `daedal quantize` it.",
        )
    share = tied(network)
    for name, module, head in swappable(network):
        width, device = head_bits(bits) if head else bits, module.weight.device
        if head and share:
            network.embed_tokens = QuantEmbedding(
                module.in_features, module.out_features, width
            ).to(device)
            network.lm_head = TiedHead(network.embed_tokens)
        else:
            layer = QuantLinear(
                module.in_features, module.out_features, width, module.bias is not None
            )
            network.set_submodule(name, layer.to(device))
    network.family_names, network.names = network.names, Names()  # adapters use the family's names
    return finish_(network)
