"""From logits to a token: penalties, temperature, truncation, and one draw, as pure functions on
(V,) or (B, V).

The draw is Gumbel-max (Gumbel 1954): argmax of logit + noise is a sample of the softmax. The noise
is a hash of (seed, step, token id), no generator's state. So a sequence draws the same tokens
alone, in any batch, after a preemption, or under speculation, where a draft that hears the same
noise mostly guesses right.

Legend: B sequences, V vocabulary, K tokens of a shortlist."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from daedal.processes.sampling_params import GOLDEN, INF, M1, M2, SamplingParams, mix

# draws look among this many of the likeliest tokens first, at all of them only when that is not
# enough
SHORT = 256


# -- noise -----------------------------------------------------------------------------------------

SHIFT30, SHIFT27, SHIFT31, SHIFT11 = (np.uint64(n) for n in (30, 27, 31, 11))


def uniform(keys: Sequence[int], ids: Tensor) -> Tensor:
    """Hash of (keys[b], ids[b, k]) as a float64 in (0, 1), (B, K). On the CPU in numpy: torch takes
    twice as long for so few numbers."""
    x = ids.cpu().numpy().astype(np.uint64) * np.uint64(GOLDEN) + np.array(keys, np.uint64)[:, None]
    x = (x ^ (x >> SHIFT30)) * np.uint64(M1)
    x = (x ^ (x >> SHIFT27)) * np.uint64(M2)
    return torch.from_numpy((((x ^ (x >> SHIFT31)) >> SHIFT11) + 0.5) * 2.0**-53).to(ids.device)


def gumbel(keys: Sequence[int], ids: Tensor) -> Tensor:
    """Standard Gumbel noise for each (key, token id), (B, K)."""
    return uniform(keys, ids).log_().neg_().log_().neg_()


# -- what changes logits ---------------------------------------------------------------------------


def temperature(logits: Tensor, value: float) -> Tensor:
    """Flatter above 1, sharper below."""
    return logits if value == 1 else logits / value


def top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k likeliest tokens (Fan et al. 2018); ties with the k-th stay."""
    least = logits.topk(min(k, logits.shape[-1]), -1).values[..., -1:]
    return logits.masked_fill(logits < least, -INF)


def top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the likeliest tokens until they hold the mass p (Holtzman et al. 2019), at least one."""
    values, order = logits.sort(-1, descending=True)
    return logits.masked_fill(_beyond(values.softmax(-1), p).gather(-1, order.argsort(-1)), -INF)


def _beyond(probabilities: Tensor, p: float) -> Tensor:
    """For probabilities in descending order: True after those that reach p."""
    return probabilities.cumsum(-1) - probabilities >= p


def min_p(logits: Tensor, p: float) -> Tensor:
    """Keep tokens at least p times as likely as the likeliest (Nguyen et al. 2024)."""
    if p:
        return logits.masked_fill(logits < logits.amax(-1, keepdim=True) + math.log(p), -INF)
    return logits


def typical(logits: Tensor, p: float) -> Tensor:
    """Keep the tokens whose surprise is nearest to the entropy until they hold the mass p (Meister
    et al. 2022)."""
    logp = logits.log_softmax(-1)
    entropy = -(logp.exp() * logp).nansum(-1, keepdim=True)
    order = (-logp - entropy).abs().argsort(stable=True, dim=-1)
    return logits.masked_fill(
        _beyond(logp.exp().gather(-1, order), p).gather(-1, order.argsort(-1)), -INF
    )


def repetition(logits: Tensor, seen: Sequence[int], penalty: float) -> Tensor:
    """logits (V,): those of tokens seen so far are divided by the penalty where positive,
    multiplied where negative."""
    ids = torch.tensor(list(seen), dtype=torch.long, device=logits.device).unique()
    old = logits[ids]
    return logits.index_put((ids,), torch.where(old > 0, old / penalty, old * penalty))


def presence_and_frequency(
    logits: Tensor, output: Sequence[int], presence: float, frequency: float
) -> Tensor:
    """logits (V,) minus `presence` once and `frequency` each time for tokens written so far."""
    ids, counts = torch.tensor(list(output), dtype=torch.long, device=logits.device).unique(
        return_counts=True
    )
    return logits.index_put((ids,), logits[ids] - (presence + frequency * counts).to(logits.dtype))


def edit(
    logits: Tensor, params: SamplingParams, prompt: Sequence[int], output: Sequence[int]
) -> Tensor:
    """Penalties, bias and watermark on the logits (V,) of one sequence."""
    if params.repetition_penalty != 1 and (prompt or output):
        logits = repetition(logits, [*prompt, *output], params.repetition_penalty)
    if (params.presence_penalty or params.frequency_penalty) and output:
        logits = presence_and_frequency(
            logits, output, params.presence_penalty, params.frequency_penalty
        )
    if params.logit_bias:
        params.check(logits.shape[-1])
        ids = torch.tensor(list(params.logit_bias), device=logits.device)
        bias = torch.tensor(
            list(params.logit_bias.values()), dtype=logits.dtype, device=logits.device
        )
        logits = logits.index_put((ids,), logits[ids] + bias)
    if params.mark and (prompt or output):
        logits = params.mark(logits, (output or prompt)[-1])
    return logits


def truncate(logits: Tensor, params: SamplingParams) -> Tensor:
    """Temperature, then top-k, top-p, min-p and typical in that order, as whole rows with -inf: the
    definition that `shortlist` makes fast."""
    logits = temperature(logits.float(), 1.0 if params.greedy else params.temperature)
    if params.greedy:
        return logits.masked_fill(logits < logits.amax(-1, keepdim=True), -INF)
    logits = top_k(logits, params.top_k) if params.top_k else logits
    logits = top_p(logits, params.top_p) if params.top_p < 1 else logits
    logits = min_p(logits, params.min_p)
    return typical(logits, params.typical_p) if params.typical_p < 1 else logits


def shortlist(
    logits: Tensor, params: SamplingParams, k: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`truncate` among the k likeliest: (log-probabilities (B, K), ids (B, K), log of the mass left
    out (B,), enough (B,)).

    A row where `enough` is False keeps tokens beyond its K likeliest and needs a longer list."""
    p = temperature(logits.float(), params.temperature).softmax(-1)
    whole = params.top_k or params.typical_p < 1 or k >= p.shape[-1]
    plain = not (whole or params.top_p < 1 or params.min_p)
    most = min(params.top_k or (p.shape[-1] if whole else k), p.shape[-1])
    values, ids = highest(p, most) if plain else p.topk(most, -1)  # in any order, descending
    held = values.sum(-1)
    enough, logp = torch.full_like(held, whole, dtype=torch.bool), values.log()
    if params.top_p < 1:
        enough |= held >= params.top_p
        logp = logp.masked_fill(
            _beyond(values / held[:, None] if whole else values, params.top_p), -INF
        )
    if params.min_p:
        enough |= values[:, -1] < params.min_p * values[:, 0]
        logp = min_p(logp, params.min_p)
    if params.typical_p < 1:
        logp = typical(logp, params.typical_p)
    left = (1 - held).clamp(min=0) if plain else torch.zeros_like(held)
    return logp, ids, left.log(), enough | plain


# -- the draw --------------------------------------------------------------------------------------


def sample(
    logits: Tensor,
    params: SamplingParams,
    *,
    prompt: Sequence[int] = (),
    output: Sequence[int] = (),
) -> tuple[int, float]:
    """Draw the next token from logits (V,): (token, its log-probability under the model). The step
    is `len(output)`, the seed `params.seed`."""
    token = sample_batch(logits[None], [(params, prompt, output)])[0]
    return token, float(logprobs(logits[None], [token])[0])


# settings, prompt ids, ids written so far
Row = tuple[SamplingParams, Sequence[int], Sequence[int]]


def sample_batch(logits: Tensor, rows: Sequence[Row]) -> list[int]:
    """Draw one token for each row of logits (B, V). What a row draws does not depend on the other
    rows."""
    if any(params.edits for params, _, _ in rows):
        logits = torch.stack(
            [
                edit(line, *row) if row[0].edits else line
                for line, row in zip(logits, rows, strict=True)
            ]
        )
    groups: dict[tuple[float, ...], list[int]] = {}
    for i, (params, _, _) in enumerate(rows):
        groups.setdefault((0.0,) if params.greedy else params.shape, []).append(i)
    tokens = [0] * len(rows)
    for members in groups.values():
        chosen = _draw(
            logits if len(members) == len(rows) else logits[members], [rows[i] for i in members]
        )
        for i, token in zip(members, chosen, strict=True):
            tokens[i] = token
    return tokens


def _draw(logits: Tensor, rows: Sequence[Row], k: int = SHORT) -> list[int]:
    """sample_batch for rows of equal shape, logits edited. The mass outside the shortlist stands as
    one more candidate with id -1."""
    params = rows[0][0]
    if params.greedy:
        return argmax(logits)
    keys = [mix(p.seed or 0, len(output)) for p, _, output in rows]
    logp, ids, left, enough = shortlist(logits, params, k)
    ids = torch.cat([ids, torch.full_like(ids[:, :1], -1)], -1)  # (B, K+1)
    scores = torch.cat([logp, left[:, None]], -1).double() + gumbel(keys, ids)
    tokens = ids.gather(-1, scores.argmax(-1, keepdim=True))[:, 0].tolist()
    for i, (token, complete) in enumerate(zip(tokens, enough.tolist(), strict=True)):
        if not complete:
            tokens[i] = _draw(logits[i : i + 1], rows[i : i + 1], 16 * k)[0]
        elif token < 0:
            tokens[i] = _draw_outside(logits[i] / params.temperature, ids[i, :-1], keys[i])
    return tokens


def argmax(logits: Tensor) -> list[int]:
    """The likeliest token of each row (B, V). numpy's is 15 times as fast on a CPU, where torch's
    would cost a tenth of a small model's step."""
    if logits.device.type != "cpu" or logits.requires_grad:
        return logits.argmax(-1).tolist()
    wide = logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
    return wide.numpy().argmax(-1).tolist()


def highest(p: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k highest of each row (B, V), with their places, in any order: on a CPU a third of the
    time that order costs."""
    if p.device.type != "cpu" or p.requires_grad:
        values, ids = p.topk(k, -1, sorted=False)
        return values, ids
    ids = torch.from_numpy(p.numpy().argpartition(p.shape[-1] - k, -1)[:, -k:])
    return p.gather(-1, ids), ids


def _draw_outside(logits: Tensor, ids: Tensor, key: int) -> int:
    """A token of logits (V,) that is not among `ids`."""
    everything = torch.arange(logits.shape[-1], device=logits.device)[None]
    noisy = logits.double()[None] + gumbel([key], everything)
    return int(noisy.index_fill(-1, ids, -INF).argmax())


def logprobs(logits: Tensor, tokens: Sequence[int]) -> Tensor:
    """Log-probabilities (B,) of one token a row under the model itself: no temperature, penalty or
    truncation."""
    wide = logits.float()
    return wide.gather(-1, torch.tensor(tokens, device=logits.device)[:, None])[
        :, 0
    ] - wide.logsumexp(-1)


def likeliest(logits: Tensor, k: int) -> list[tuple[int, float]]:
    """The k likeliest tokens of logits (V,) with their log-probabilities."""
    values, ids = logits.float().log_softmax(-1).topk(k)
    return list(zip(ids.tolist(), values.tolist(), strict=True))
