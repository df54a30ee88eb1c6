"""Pictures as conditions of open image models: ControlNets and T2I-Adapters by kind of picture, and
IP-Adapters.

A network is found, in this order: in `control_model`, which is one network, or a folder of several
named by kind ("canny", "depth", ...); in the model's own folder. Networks beside the model's own
come from the model store, leased for as long as the job runs."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from daedal import checkpoints
from daedal.checkpoints.folder import load_ip_adapter
from daedal.engine.store import STORE, stamp
from daedal.errors import DaedalError
from daedal.nn.quick import quicken
from daedal.pipelines.given import KINDS
from daedal.pipelines.painter import Job
from daedal.processes.imaging import from_pixels
from daedal.systems.conditions import Control, Reference, for_clip, known_kind


class Conditioners:
    """The networks of conditions that a model has been asked for so far."""

    def __init__(self, parts: dict[str, Any], dtype: torch.dtype, device: torch.device) -> None:
        self.own = parts.get("controlnet") or parts.get("adapter")
        self.encoder: Any = parts.get("image_encoder")
        self.dtype, self.device = dtype, device

    def controls(self, job: Job, kinds: frozenset[str], leases: ExitStack) -> list[Control]:
        """One a control picture of the job. `kinds` are the networks' class names that fit the
        model."""
        found: list[Control] = []
        if not kinds:  # the model reads the pictures itself
            return found
        for kind, picture in job.extras.controls:
            network = self.network(kind, job.params.control_model, leases)
            if type(network).__name__ not in kinds:
                raise DaedalError(
                    f"{type(network).__name__} is no control for this model; it takes {' or '.join(sorted(kinds))}."
                )
            seen = from_pixels(picture).to(self.device, self.dtype)
            found.append(Control(kind, network, seen, job.params.control_scale))
        return found

    def network(self, kind: str, where: str | None, leases: ExitStack) -> Any:
        if where is None:
            known_kind(kind, KINDS)
            if self.own is None:
                raise DaedalError(
                    f"control {kind!r} needs its network; give control_model= (--control-model), a ControlNet or T2I-Adapter folder."
                )
            return self.own
        folder = checkpoints.resolve(where)
        if (folder / "config.json").exists():
            known_kind(kind, KINDS)
        else:
            named = [path.parent.name for path in folder.glob("*/config.json")]
            folder = folder / known_kind(kind, named)
        return self.leased(folder, leases, lambda: quicken(self.loaded(folder)))

    def reference(self, job: Job, leases: ExitStack) -> Reference | None:
        """The reference picture of the job, as its adapter reads it."""
        if job.extras.reference is None:
            return None
        if job.params.reference_model is None:
            raise DaedalError(
                "a reference picture needs an IP-Adapter; give reference_model= (--reference-model), its safetensors file."
            )
        file = Path(job.params.reference_model)
        adapter = self.leased(file, leases, lambda: load_ip_adapter(file, self.dtype, self.device))
        place = file.parent / "image_encoder"
        encoder = self.encoder or self.leased(place, leases, lambda: self.encoder_beside(file))
        picture = for_clip(job.extras.reference, encoder.config.image_size)
        picture = picture.to(self.device, self.dtype)
        seen = encoder(picture)
        if adapter_pools(adapter):
            features, nothing = seen.pooled, torch.zeros_like(seen.pooled)
        else:
            features, nothing = seen.hidden[-2], encoder(torch.zeros_like(picture)).hidden[-2]
        return Reference(adapter, features, nothing, job.params.reference_scale)

    def encoder_beside(self, file: Path) -> Any:
        folder = file.parent / "image_encoder"
        if not folder.is_dir():
            raise DaedalError(
                f"{file} needs the CLIP image encoder it was trained with; put its folder beside it, as {folder}."
            )
        return self.loaded(folder)

    def loaded(self, folder: Path) -> Any:
        return checkpoints.load(folder, dtype=self.dtype, device=self.device)

    def leased(self, place: Path, leases: ExitStack, load: Callable[[], Any]) -> Any:
        """A network of the store, until `leases` are given back."""
        key = ("network", *stamp(place), self.dtype, self.device)
        return leases.enter_context(STORE.lease(key, load))


def adapter_pools(adapter: Any) -> bool:
    """Whether an adapter reads the image's one embedding, not the states of its patches."""
    return type(adapter.image_proj).__name__ == "Tokens"
