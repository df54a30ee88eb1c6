"""Letters to phonemes: an encoder of the word's letters (VITS's, with relative positions) and a
recurrence that spells the phonemes of each letter, hearing what it spelt before. Each letter stands
for none, one or two phonemes (daedal.data.phonemes.align), so both run in step and no attention has
to find the place.

Legend: B words of one length, T letters, D width, V chunks."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from daedal.networks.vits import EncoderLayer, VitsConfig
from daedal.nn.linear import Embedding, Linear


@dataclass(frozen=True, kw_only=True)
class PhonemeConfig:
    chunks: tuple[str, ...]  # the phonemes that a letter can stand for, joined by spaces
    letters: str
    hidden_size: int = 128
    num_hidden_layers: int = 2
    ffn_dim: int = 256
    state_size: int = 192
    embedding_size: int = 64

    architecture: ClassVar[str] = "LettersToPhonemes"
    model_type: ClassVar[str] = "letters_to_phonemes"

    @property
    def encoder(self) -> VitsConfig:
        return VitsConfig(hidden_size=self.hidden_size, ffn_dim=self.ffn_dim)


class LettersToPhonemes(nn.Module):
    config_class = PhonemeConfig
    compute_dtype: torch.dtype | None = None

    def __init__(self, config: PhonemeConfig) -> None:
        super().__init__()
        self.config = config
        width, state, chunks = config.hidden_size, config.state_size, len(config.chunks)
        self.embed = Embedding(len(config.letters) + 1, width)  # 0 is a boundary
        self.layers = nn.ModuleList(
            EncoderLayer(config.encoder) for _ in range(config.num_hidden_layers)
        )
        self.spelt = Embedding(chunks + 1, config.embedding_size)  # the last: nothing yet
        self.cell = nn.GRU(width + config.embedding_size, state, batch_first=True)
        self.head = Linear(state + width, chunks)

    def init_weights(self, seed: int = 0) -> "LettersToPhonemes":
        torch.manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
            elif "norm" not in name:
                nn.init.zeros_(parameter)
        return self

    def encode(self, letters: Tensor) -> Tensor:  # (B, T) -> (B, T, D)
        bounded = nn.functional.pad(letters, (1, 1))
        x, mask = self.embed(bounded), torch.ones_like(bounded)[:, None].float()
        for layer in self.layers:
            x = layer(x, mask)
        return x[:, 1:-1]

    def forward(self, letters: Tensor, chunks: Tensor) -> Tensor:
        """letters (B, T), and the chunks (B, T) that are right -> logits (B, T, V) of each, given
        those before it."""
        seen = self.encode(letters)
        before = nn.functional.pad(chunks[:, :-1], (1, 0), value=len(self.config.chunks))
        states, _ = self.cell(torch.cat([seen, self.spelt(before)], -1))
        return self.head(torch.cat([states, seen], -1))

    @torch.no_grad()
    def spell(self, letters: Tensor, width: int = 4) -> Tensor:
        """letters (B, T) -> the likeliest chunks (B, T), by a beam of `width`."""
        (words, length), kinds = letters.shape, len(self.config.chunks)
        seen = self.encode(letters).repeat_interleave(width, 0)
        state = seen.new_zeros(1, words * width, self.config.state_size)
        last = torch.full((words * width, 1), kinds)
        scores = torch.full((words, width), -1e9)
        scores[:, 0] = 0.0  # all beams begin alike
        made = torch.zeros(words, width, 0, dtype=torch.long)
        for t in range(length):
            here = seen[:, t : t + 1]
            out, state = self.cell(torch.cat([here, self.spelt(last)], -1), state)
            logits = self.head(torch.cat([out, here], -1))[:, 0].log_softmax(-1)
            total = scores[..., None] + logits.view(words, width, kinds)
            scores, best = total.flatten(1).topk(width)
            beam, chunk = best // kinds, best % kinds
            rows = (beam + torch.arange(words)[:, None] * width).flatten()
            state, last = state[:, rows], chunk.view(-1, 1)
            kept = made.gather(1, beam[..., None].expand(-1, -1, t))
            made = torch.cat([kept, chunk[..., None]], -1)
        return made[:, 0]
