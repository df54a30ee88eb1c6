"""Networks that are loaded when they are used. In between they are idle models of the store, which
unloads them when the budget is short: so a model whose parts work one after another needs room for the
largest, not for all."""

from collections.abc import Callable, Hashable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from daedal import checkpoints
from daedal.checkpoints.folder import empty_network
from daedal.engine.store import STORE, stamp


class OnDemand:
    """Stands in for the network of a folder: what is called is called on the network, leased for as
    long as the call lasts; all else (its config) is known without the weights."""

    def __init__(self, folder: Path, dtype: torch.dtype, device: torch.device) -> None:
        self.where = folder, dtype, device
        self.empty = empty_network(folder)
        self.wear()

    def wear(self, names: Hashable = (), put_on: Callable[[nn.Module], None] | None = None) -> None:
        """From now on the network is the one that `put_on` has changed, known by `names`; without
        them the one of the folder. Others than the one asked for are idle."""
        self.worn, self.put_on = names, put_on

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
        key = ("network", *stamp(folder), dtype, device, self.worn)
        expected = sum(parameter.numel() for parameter in self.empty.parameters()) * dtype.itemsize
        with STORE.lease(key, partial(self.loaded, self.put_on), expected) as network:
            return getattr(network, name)(*arguments, **options)

    def loaded(self, put_on: Callable[[nn.Module], None] | None) -> nn.Module:
        network = checkpoints.load(*self.where)
        if put_on is not None:
            put_on(network)
        return network
