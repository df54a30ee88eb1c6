"""What a network costs, counted from the shapes it really computes with: the network is rebuilt
without memory (on the meta device) and run once under torch's operation counter."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_flops(network: nn.Module, call: Callable[[Any], Any]) -> int:
    """Floating-point operations of `call(network)`: matrix products, convolutions and attention, a
    multiply-add being two. `call` is given a network of the same `config` on the meta device; the
    tensors it makes are there too, so nothing is computed."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        call(type(network)(network.config).requires_grad_(False))
    return counter.get_total_flops()
