"""LoRAs that a clip asks for: networks that are loaded when they are used are loaded with them."""

import re
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from daedal.checkpoints.lora import Adapters, LoRA
from daedal.checkpoints.lora_files import read_lora
from daedal.engine.on_demand import OnDemand

SECOND = "transformer_2"  # the expert of low noise, whose LoRAs are as those of the first
EXPERTS = {
    "transformer": re.compile(r"high[-_ ]?noise|(^|[-_ .])high([-_ .]|$)", re.IGNORECASE),
    SECOND: re.compile(r"low[-_ ]?noise|(^|[-_ .])low([-_ .]|$)", re.IGNORECASE),
}
Worn = list[tuple[LoRA, float]]


class VideoLoras:
    """The networks of a model of clips that LoRAs change, and the LoRAs that they wear."""

    def __init__(self, parts: dict[str, Any]) -> None:
        roles = ("unet", "transformer", SECOND, "text_encoder")
        self.networks: dict[str, Any] = {role: parts[role] for role in roles if role in parts}
        whole = {role: net for role, net in self.networks.items() if not isinstance(net, OnDemand)}
        self.adapters = Adapters(whole)
        self.worn: tuple[tuple[Path, int, float], ...] = ()

    def apply(self, loras: tuple[tuple[Path, float], ...]) -> None:
        """These LoRAs, each (file, scale), and no others. If one does not fit, nothing changes."""
        wanted = tuple((path, path.stat().st_mtime_ns, scale) for path, scale in loras)
        if wanted == self.worn:
            return
        shells = {
            role: net.empty if isinstance(net, OnDemand) else net
            for role, net in self.networks.items()
            if role != SECOND
        }
        read = [read_lora(path, shells) for path, _ in loras]
        for lora in list(self.adapters.applied):
            self.adapters.remove(lora)
        for role, network in self.networks.items():
            part = "transformer" if role == SECOND else role
            own = [
                (file, LoRA(lora.name, {part: lora.updates[part]}), file[2])
                for file, lora in zip(wanted, read, strict=True)
                if part in lora.updates and self.meant(lora, role)
            ]
            worn = [(lora, scale) for _, lora, scale in own]
            if isinstance(network, OnDemand):
                put_on = partial(merge, part, worn) if own else None
                network.wear(tuple(file for file, *_ in own), put_on)
            else:
                for lora, scale in worn:
                    self.adapters.apply(lora, scale)
        self.worn = wanted

    def meant(self, lora: LoRA, role: str) -> bool:
        """Whether a LoRA is for this network: of two experts one may be named in the file's name."""
        named = [expert for expert, words in EXPERTS.items() if words.search(lora.name)]
        return (
            SECOND not in self.networks or len(named) != 1 or role not in EXPERTS or role in named
        )


def merge(part: str, worn: Worn, network: nn.Module) -> None:
    """LoRAs into the network that is this part of their model, for good."""
    adapters = Adapters({part: network})
    for lora, scale in worn:
        adapters.apply(lora, scale)
