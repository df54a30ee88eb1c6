"""A trained eye: a CLIP folder as the house writes it (`daedal train recipes/image/clip.yaml`),
with its tokenizer and what it does to pictures before it looks. Evaluation takes its features,
preference training its opinion.

Legend: B pictures, T tokens, P width of the shared space."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from daedal import checkpoints
from daedal.data.pictures import encode_captions
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.networks.clip import CLIPModel


@dataclass
class ClipScorer:
    clip: CLIPModel
    tokenizer: Tokenizer
    mean: Tensor  # (3, 1, 1), of pictures in [0, 1]
    std: Tensor

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        path = checkpoints.resolve(str(folder))
        clip = checkpoints.load(path, torch.float32)
        if not isinstance(clip, CLIPModel):
            raise DaedalError(
                f"{folder} holds a {type(clip).__name__}; give the folder of a CLIP model, as recipes/image/clip.yaml makes."
            )
        file = path / "preprocessor_config.json"
        prepared = json.loads(file.read_text()) if file.is_file() else {}
        mean, std = (
            torch.tensor(prepared.get(key, [0.5] * 3))[:, None, None]
            for key in ("image_mean", "image_std")
        )
        return cls(clip.eval(), Tokenizer.load(path), mean, std)

    def prepared(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) in [-1, 1] -> as the tower takes them. Differentiable."""
        side = self.clip.config.vision.image_size
        if images.shape[2:] != (side, side):
            images = F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
        return ((images + 1) / 2 - self.mean.to(images)) / self.std.to(images)

    def tokens(self, captions: Sequence[str]) -> Tensor:
        """(B, T) int64, each with an end of text behind its last word."""
        c = self.clip.config.text
        return ended(
            encode_captions(self.tokenizer, captions, c.max_position_embeddings - 1),
            cast(int, c.pad_token_id),
            c.eos_token_id,
        )

    @torch.no_grad()
    def pictures(self, images: Tensor, rows: int = 50) -> Tensor:
        """images (B, 3, H, W) in [-1, 1] -> unit vectors (B, P)."""
        return torch.cat(
            [self.clip.embed_images(self.prepared(part)) for part in images.split(rows)]
        )

    @torch.no_grad()
    def texts(self, captions: Sequence[str], rows: int = 200) -> Tensor:
        """Unit vectors (B, P)."""
        return torch.cat([self.clip.embed_text(part) for part in self.tokens(captions).split(rows)])


def ended(captions: Tensor, pad: int, eos: int) -> Tensor:
    """captions (B, T), filled with `pad` -> (B, T + 1): an end of text behind the last word, where
    the tower pools."""
    longer = F.pad(captions, (0, 1), value=pad)
    return longer.scatter(1, (captions != pad).sum(1, keepdim=True), eos)
