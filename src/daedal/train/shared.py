"""Completions packed so that a prompt runs once for all that follow it, and nothing runs for
padding or for what is dropped.

    packed = Shared(tokens, mask)
    hidden = network.hidden(packed.tokens, cache=packed)[0, packed.drawn]  # (n, D): the states that
    the sampled tokens were drawn in

Neighbours with an equal prompt share it (the idea of Prefix Grouper, Liu et al. 2025): its states
are functions of its own tokens alone, so that values and gradients are those of whole rows. It
stands where a step of a KV cache stands (daedal.nn.cache), so a network knows nothing of it.

Legend: B rows, T tokens, Q prompts, R rows with a sampled token, P and L tokens of the longest
prompt and answer, N flat tokens, H heads, K head dim."""

from typing import Unpack

import torch
from torch import Tensor, nn

from daedal.nn.attention import Scores, attend


class Shared:
    """Flat: the prompts one after another, then the answers. `tokens`, `positions` and `lengths`
    (1, N) and `attend` are what a network uses; `drawn` (n,) are the places before the sampled
    tokens, in the order of `mask`'s Trues. tokens (B, T), mask (B, T - 1) is True where tokens[:,
    1:] was sampled."""

    def __init__(self, tokens: Tensor, mask: Tensor) -> None:
        used = mask.any(1)
        used[0] |= ~used.any()  # something has to run
        tokens, mask = tokens[used, :-1], mask[used]
        places = torch.arange(mask.shape[1], device=mask.device)
        ends = mask.int().argmax(1, keepdim=True)  # (R, 1): the last place of the prompt
        last = (mask * places).amax(1, keepdim=True)  # (R, 1): of the row
        alike = (ends[1:] == ends[:-1]) & ((tokens[1:] == tokens[:-1]) | (places > ends[1:])).all(
            1, keepdim=True
        )
        # (R, 1): the row brings a new prompt
        leads = nn.functional.pad(~alike, (0, 0, 1, 0), value=True)
        # (R, T - 1): what runs
        prompt, answer = (places <= ends) & leads, (places > ends) & (places <= last)
        flat = lambda a, b: torch.cat([a.expand_as(mask)[prompt], b.expand_as(mask)[answer]])[None]  # noqa: E731
        self.tokens, self.positions = flat(tokens, tokens), flat(places, places)
        self.lengths = flat(ends + 1, last + 1)
        self.place(prompt, answer, leads, ends, last)
        self.drawn = self.at[mask]

    def place(
        self, prompt: Tensor, answer: Tensor, leads: Tensor, ends: Tensor, last: Tensor
    ) -> None:
        """Where attention finds its queries and keys among the flat tokens, and where these find
        its results."""
        at = torch.zeros_like(prompt, dtype=torch.int64)
        at[prompt] = torch.arange(int(prompt.sum()), device=at.device)
        at[answer] = torch.arange(int(prompt.sum()), self.tokens.shape[1], device=at.device)
        # (R,): the row that a row's prompt runs in
        whose = leads[:, 0].nonzero()[:, 0][leads[:, 0].cumsum(0) - 1]
        # (R, T - 1): flat numbers
        self.at = torch.where(torch.arange(at.shape[1], device=at.device) <= ends, at[whose], at)
        P, self.L = int(ends.amax()) + 1, int((last - ends).amax())
        self.prompts = self.at[leads[:, 0], :P]  # (Q, P)
        # (R, P + L): prompts end where answers begin
        around = ends + 1 + torch.arange(-P, self.L, device=at.device)
        self.exists, self.around = around >= 0, self.at.gather(1, around.clamp(0, at.shape[1] - 1))
        ran = around[:, P:] <= last  # (R, L)
        # of padded results, those of flat tokens
        self.back = torch.cat([prompt[leads[:, 0], :P].flatten(), ran.flatten()]).nonzero()[:, 0]

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, **scores: Unpack[Scores]
    ) -> Tensor:
        """q (1, N, H, K), k and v (1, N, Hkv, K) -> like q."""
        outs = [attend(*(rows(t, self.prompts) for t in (q, k, v)), **scores).flatten(0, 1)]
        if self.L:
            queries, P = self.around[:, -self.L :], self.around.shape[1] - self.L
            q, k, v = rows(q, queries), rows(k, self.around), rows(v, self.around)
            out = attend(q, k, v, mask=self.exists, offset=P, **scores)
            outs.append(out.flatten(0, 1))
        return torch.cat(outs).index_select(0, self.back)[None]


def rows(flat: Tensor, at: Tensor) -> Tensor:
    """flat (1, N, H, K), at (B, T) -> (B, T, H, K)."""
    return flat[0].index_select(0, at.flatten()).view(*at.shape, *flat.shape[2:])
