"""A decoder with one number a token instead of logits: the reward model and the value function of RLHF (Stiennon et al. 2020, Ouyang et al.
2022). On disk it is transformers' `...ForSequenceClassification` with one label (daedal.checkpoints.scalar).

Legend: B batch, T tokens, D width.
"""

from typing import Any

import torch
from torch import Tensor, nn

from daedal.networks.decoder import Decoder
from daedal.nn.linear import Linear


class ScalarModel(nn.Module):
    """tokens (B, T) -> values (B, T) fp32. The head starts at zero, so everything is worth nothing until it is trained. The decoder's own
    head goes, where it is not the embeddings too."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.model, self.config = decoder, decoder.config
        if not self.config.tie_word_embeddings:
            decoder.lm_head = nn.Identity()  # type: ignore[assignment]
        self.score = Linear(self.config.hidden_size, 1, bias=False)
        nn.init.zeros_(self.score.weight)
        self.score.to(decoder.embed_tokens.weight.device)

    def forward(self, tokens: Tensor, cache: Any = None, positions: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Arguments as for `Decoder`."""
        return self.score(self.model.hidden(tokens, cache, positions, mask).float())[..., 0]

    @property
    def layers(self) -> nn.ModuleList:
        return self.model.layers

    @property
    def embed_tokens(self) -> nn.Module:
        return self.model.embed_tokens

    @property
    def compute_dtype(self) -> torch.dtype | None:
        return self.model.compute_dtype

    @compute_dtype.setter
    def compute_dtype(self, dtype: torch.dtype | None) -> None:
        self.model.compute_dtype = dtype

    def flops_per_token(self, context: int, train: bool = False) -> float:
        return self.model.flops_per_token(context, train)
