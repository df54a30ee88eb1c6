"""A decoder with one number a token instead of logits: the reward model and the value function of
RLHF (Stiennon et al. 2020, Ouyang et al. 2022). On disk it is transformers'
`...ForSequenceClassification` with one label.

Legend: B batch, T tokens, D width."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from daedal.networks.decoder import Decoder
from daedal.networks.names import Names
from daedal.nn.linear import Linear


class ScalarModel(nn.Module):
    """tokens (B, T) -> values (B, T) fp32. The head starts at zero, so everything is worth nothing
    until it is trained. The decoder's own head goes, where it is not the embeddings too."""

    title = "reward model"
    ending = "ForSequenceClassification"  # of what config.json calls it
    ties = {"model.lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.model, self.config = decoder, decoder.config
        if not self.config.tie_word_embeddings:
            decoder.lm_head = nn.Identity()  # type: ignore[assignment]
        self.score = Linear(self.config.hidden_size, 1, bias=False)
        nn.init.zeros_(self.score.weight)
        self.score.to(decoder.embed_tokens.weight.device)

    def forward(
        self,
        tokens: Tensor,
        cache: Any = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Arguments as for `Decoder`."""
        return self.score(self.model.hidden(tokens, cache, positions, mask).float())[..., 0]

    @property
    def names(self) -> Names:
        names = self.model.names
        skipped = (*names.skipped, "lm_head.weight")
        return replace(names, own="model.", bare=("lm_head.", "score."), skipped=skipped)

    def written(self, config: dict[str, Any]) -> dict[str, Any]:
        """The decoder's config.json as that of this model."""
        [name] = config["architectures"]
        for ending in ("ForCausalLM", "LMHeadModel"):
            name = name.replace(ending, self.ending)
        labels = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
        return {**config, "architectures": [name], **labels}

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
