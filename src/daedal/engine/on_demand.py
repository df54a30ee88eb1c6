"""Networks that are loaded when they are used. In between they are idle models of the store, which
unloads them when the budget is short: so a model whose parts work one after another needs room for the
largest, not for all."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from daedal import checkpoints
from daedal.checkpoints.folder import empty_network
from daedal.engine.store import STORE, stamp


class OnDemand:
    """Stands in for the network of a folder: what is called is called on the network, leased for as
    long as the call lasts; all else (its config) is known without the weights."""

    def __init__(self, folder: Path, dtype: torch.dtype, device: torch.device) -> None:
        self.where = folder, dtype, device
        self.empty = empty_network(folder)

    def parameters(self) -> list[Tensor]:
        """One that says where, and in what, the network computes."""
        _, dtype, device = self.where
        return [torch.empty(0, dtype=dtype, device=device)]

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.empty, name)
        return partial(self.call, name) if callable(found) else found

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.call("__call__", *arguments, **options)

    def call(self, name: str, *arguments: Any, **options: Any) -> Any:
        folder, dtype, device = self.where
        key = ("network", *stamp(folder), dtype, device)
        expected = sum(parameter.numel() for parameter in self.empty.parameters()) * dtype.itemsize
        with STORE.lease(
            key, partial(checkpoints.load, folder, dtype, device), expected
        ) as network:
            return getattr(network, name)(*arguments, **options)
