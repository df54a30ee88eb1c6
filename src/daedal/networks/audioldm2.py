"""How AudioLDM 2 (Liu et al. 2023) puts two texts before its language model: each projected to the
model's width, between a learnt beginning and a learnt end, one after the other.

Parameter names are those of diffusers' files. Legend: B prompts, S and T tokens, D width."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.nn.linear import Linear


@dataclass(frozen=True, kw_only=True)
class AudioLDM2ProjectionConfig:
    text_encoder_dim: int
    text_encoder_1_dim: int
    langauge_model_dim: int  # so spelled in every file

    class_name: ClassVar[str] = "AudioLDM2ProjectionModel"
    fixed: ClassVar[dict[str, Any]] = {  # else it is a model of speech, which reads phonemes
        "use_learned_position_embedding": None, "max_seq_length": None,
    }  # fmt: skip


class AudioLDM2ProjectionModel(nn.Module):
    config_class = AudioLDM2ProjectionConfig
    class_name = AudioLDM2ProjectionConfig.class_name

    def __init__(self, config: AudioLDM2ProjectionConfig) -> None:
        super().__init__()
        self.config, D = config, config.langauge_model_dim
        self.projection = Linear(config.text_encoder_dim, D)
        self.projection_1 = Linear(config.text_encoder_1_dim, D)
        self.sos_embed, self.eos_embed = (nn.Parameter(torch.ones(D)) for _ in range(2))
        self.sos_embed_1, self.eos_embed_1 = (nn.Parameter(torch.ones(D)) for _ in range(2))

    def forward(self, first: Tensor, second: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """first (B, S, .), second (B, T, .), of which `there` (B, T) exist -> (B, S + T + 4, D), and
        which of these exist."""
        ends, more = (self.sos_embed, self.eos_embed), (self.sos_embed_1, self.eos_embed_1)
        x = [framed(self.projection(first), *ends), framed(self.projection_1(second), *more)]
        exists = F.pad(there.bool(), (first.shape[1] + 3, 1), value=True)
        return torch.cat(x, 1), exists


def framed(x: Tensor, begin: Tensor, end: Tensor) -> Tensor:
    rows = [each.to(x.dtype).expand(len(x), 1, -1) for each in (begin, end)]
    return torch.cat([rows[0], x, rows[1]], 1)
