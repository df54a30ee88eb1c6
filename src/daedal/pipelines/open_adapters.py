"""LoRAs and learned words (textual inversion) that a call asks for: put on before it, kept for the
next one that asks for the same, taken off when one does not. The weights are then what they were,
bit for bit."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daedal.checkpoints.embeddings import add_embedding, read_embedding
from daedal.checkpoints.lora import Adapters
from daedal.checkpoints.lora_files import read_lora
from daedal.pipelines.given import Extras
from daedal.systems.text import Clip


@dataclass(frozen=True)
class Active:
    """What is on: the files as they were when read, and scales."""

    loras: tuple[tuple[Path, int, float], ...] = ()
    embeddings: tuple[tuple[Path, int], ...] = ()

    @classmethod
    def of(cls, extras: Extras) -> "Active":
        loras = tuple((path, path.stat().st_mtime_ns, scale) for path, scale in extras.loras)
        return cls(loras, tuple((path, path.stat().st_mtime_ns) for path in extras.embeddings))


class LoraManager:
    """The networks of a model by role, the CLIP towers among them, and what they wear."""

    def __init__(self, parts: dict[str, Any], towers: list[Clip]) -> None:
        self.parts, self.towers, self.adapters = parts, towers, Adapters(parts)
        self.active = Active()
        self.undo: list[Callable[[], None]] = []

    def apply(self, extras: Extras) -> None:
        """These LoRAs and words, and no others. If one does not fit, nothing is worn."""
        wanted = Active.of(extras)
        if wanted == self.active:
            return
        loras = [(read_lora(path, self.parts), scale) for path, _, scale in wanted.loras]
        words = [read_embedding(path) for path, _ in wanted.embeddings]
        self.remove_all()
        try:
            for lora, scale in loras:
                self.adapters.apply(lora, scale)
            if words:
                self.undo = [restorer(clip) for clip in self.towers]
            for word in words:
                learned = add_embedding(
                    word,
                    {clip.role: clip.tower for clip in self.towers},
                    {clip.role: clip.tokenizer for clip in self.towers},
                )
                for clip in self.towers:
                    clip.tokenizer = learned[clip.role]
        except Exception:
            self.remove_all()
            raise
        self.active = wanted

    def remove_all(self) -> None:
        for undo in self.undo:
            undo()
        for lora in list(self.adapters.applied):
            self.adapters.remove(lora)
        self.active, self.undo = Active(), []


def restorer(clip: Clip) -> Callable[[], None]:
    """What puts a tower's vocabulary back as it is now."""
    tokenizer = clip.tokenizer
    layer = clip.tower.text_model.embeddings.token_embedding
    tower = clip.tower
    weight, config, eos = layer.weight, tower.config, tower.text_model.eos

    def undo() -> None:
        clip.tokenizer, layer.weight, layer.num_embeddings = tokenizer, weight, len(weight)
        tower.config, tower.text_model.eos = config, eos

    return undo
