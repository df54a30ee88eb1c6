"""From logits to a token: penalties, temperature, truncation, and one draw, as pure functions on (V,) or (B, V).

The draw is Gumbel-max (Gumbel 1954): argmax of logit + noise is a sample of the softmax. The noise is a hash of (seed, step, token id), no
generator's state. So a sequence draws the same tokens alone, in any batch, after a preemption, or under speculation, where a draft that
hears the same noise mostly guesses right.

Legend: B sequences, V vocabulary, K tokens of a shortlist.
"""

import dataclasses
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from daedal.errors import DaedalError

INF = float("inf")
COLD = 1e-5  # a temperature below is greedy: logits divided by it would overflow, and its limit is the likeliest token
SHORT = 256  # draws look among this many of the likeliest tokens first, at all of them only when that is not enough


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How to continue one prompt. The defaults draw from the model's own distribution; `temperature=0` is greedy.

    `repetition_penalty` sees prompt and output (Keskar et al. 2019), `presence_penalty` and `frequency_penalty` the output (OpenAI).
    `stop` strings end the text and are not part of it. `logprobs=k` also reports the k likeliest tokens at each step.
    `adapter` names one of the engine's adapters; None is the base alone.
    `grammar` is a compiled `daedal.processes.grammar.Grammar`. `seed=None` means: draw one, and report it.
    """

    temperature: float = 1.0
    top_k: int = 0  # 0: all
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    n: int = 1
    grammar: Any = None
    adapter: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        for name, (good, rule) in RULES.items():
            value = getattr(self, name)
            try:
                valid = good(value)
            except TypeError:
                valid = False
            if not valid:
                raise DaedalError(f"{name}={value!r} must be {rule}.")
        object.__setattr__(self, "stop", tuple(self.stop))

    def seeded(self) -> "SamplingParams":
        """These settings with a seed, drawn now if there was none."""
        return self if self.seed is not None else dataclasses.replace(self, seed=secrets.randbits(32))

    def check(self, vocabulary: int) -> None:
        """Raise a DaedalError where the settings ask for tokens that a vocabulary of this size has not."""
        if beyond := [i for i in self.logit_bias if i >= vocabulary]:
            raise DaedalError(f"logit_bias names token {beyond[0]}, but the vocabulary ends at {vocabulary - 1}.")
        if (self.logprobs or 0) > vocabulary:
            raise DaedalError(f"logprobs={self.logprobs} asks for more tokens than the vocabulary of {vocabulary} has; ask for fewer.")

    def sample_of(self, index: int) -> "SamplingParams":
        """The settings of sample `index` out of n: the first keeps the seed, the others derive theirs from it."""
        assert self.seed is not None
        return dataclasses.replace(self, n=1, seed=self.seed if index == 0 else mix(self.seed, index) & 0x7FFFFFFF)

    @property
    def greedy(self) -> bool:
        return self.temperature < COLD or self.top_k == 1

    @property
    def edits(self) -> bool:
        """Whether anything but temperature and truncation touches the logits."""
        return bool(self.logit_bias or self.repetition_penalty != 1 or self.presence_penalty or self.frequency_penalty)

    @property
    def shape(self) -> tuple[float, ...]:
        """What temperature and truncation depend on: sequences of equal shape are handled together."""
        return (self.temperature, self.top_k, self.top_p, self.min_p, self.typical_p)


def _integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


RULES: dict[str, tuple[Any, str]] = {
    "temperature": (lambda x: 0 <= x < INF, "a number from 0 (greedy) up"),
    "top_k": (lambda x: _integer(x) and x >= 0, "a whole number, 0 for all tokens"),
    "top_p": (lambda x: 0 < x <= 1, "above 0 and at most 1"),
    "min_p": (lambda x: 0 <= x <= 1, "from 0 to 1"),
    "typical_p": (lambda x: 0 < x <= 1, "above 0 and at most 1"),
    "repetition_penalty": (lambda x: 0 < x < INF, "above 0 (1 is none)"),
    "presence_penalty": (lambda x: -INF < x < INF, "a number"),
    "frequency_penalty": (lambda x: -INF < x < INF, "a number"),
    "logit_bias": (
        lambda x: all(_integer(k) and k >= 0 and v < INF for k, v in x.items()),
        "token ids mapped to finite numbers, or -inf to ban one",
    ),
    "seed": (lambda x: x is None or (_integer(x) and x >= 0), "a whole number from 0 up, or None"),
    "max_tokens": (lambda x: _integer(x) and x >= 1, "a whole number from 1 up"),
    "stop": (lambda x: all(isinstance(s, str) and s for s in x), "strings that are not empty"),
    "logprobs": (lambda x: x is None or (_integer(x) and x >= 0), "a whole number from 0 up, or None"),
    "n": (lambda x: _integer(x) and x >= 1, "a whole number from 1 up"),
    "adapter": (lambda x: x is None or isinstance(x, str), "a name, or None"),
}


# -- noise ---------------------------------------------------------------------------------------------------------------------------------

MASK = (1 << 64) - 1
GOLDEN, M1, M2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
SHIFT30, SHIFT27, SHIFT31, SHIFT11 = (np.uint64(n) for n in (30, 27, 31, 11))


def mix(seed: int, counter: int) -> int:
    """A 63-bit hash of (seed, counter): the finaliser of SplitMix64 (Steele et al. 2014), twice."""
    x = seed & MASK
    for add in (GOLDEN, counter * GOLDEN):
        x = (x + add) & MASK
        x = ((x ^ (x >> 30)) * M1) & MASK
        x = ((x ^ (x >> 27)) * M2) & MASK
        x ^= x >> 31
    return x >> 1


def uniform(keys: Sequence[int], ids: Tensor) -> Tensor:
    """Hash of (keys[b], ids[b, k]) as a float64 in (0, 1), (B, K). On the CPU in numpy: torch takes twice as long for so few numbers."""
    x = ids.cpu().numpy().astype(np.uint64) * np.uint64(GOLDEN) + np.array(keys, np.uint64)[:, None]
    x = (x ^ (x >> SHIFT30)) * np.uint64(M1)
    x = (x ^ (x >> SHIFT27)) * np.uint64(M2)
    return torch.from_numpy((((x ^ (x >> SHIFT31)) >> SHIFT11) + 0.5) * 2.0**-53).to(ids.device)


def gumbel(keys: Sequence[int], ids: Tensor) -> Tensor:
    """Standard Gumbel noise for each (key, token id), (B, K)."""
    return uniform(keys, ids).log_().neg_().log_().neg_()


# -- what changes logits -------------------------------------------------------------------------------------------------------------------


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
    return logits.masked_fill(logits < logits.amax(-1, keepdim=True) + math.log(p), -INF) if p else logits


def typical(logits: Tensor, p: float) -> Tensor:
    """Keep the tokens whose surprise is nearest to the entropy until they hold the mass p (Meister et al. 2022)."""
    logp = logits.log_softmax(-1)
    entropy = -(logp.exp() * logp).nansum(-1, keepdim=True)
    order = (-logp - entropy).abs().argsort(stable=True, dim=-1)
    return logits.masked_fill(_beyond(logp.exp().gather(-1, order), p).gather(-1, order.argsort(-1)), -INF)


def repetition(logits: Tensor, seen: Sequence[int], penalty: float) -> Tensor:
    """logits (V,): those of tokens seen so far are divided by the penalty where positive, multiplied where negative."""
    ids = torch.tensor(list(seen), dtype=torch.long, device=logits.device).unique()
    old = logits[ids]
    return logits.index_put((ids,), torch.where(old > 0, old / penalty, old * penalty))


def presence_and_frequency(logits: Tensor, output: Sequence[int], presence: float, frequency: float) -> Tensor:
    """logits (V,) minus `presence` once and `frequency` each time for tokens written so far."""
    ids, counts = torch.tensor(list(output), dtype=torch.long, device=logits.device).unique(return_counts=True)
    return logits.index_put((ids,), logits[ids] - (presence + frequency * counts).to(logits.dtype))


def edit(logits: Tensor, params: SamplingParams, prompt: Sequence[int], output: Sequence[int]) -> Tensor:
    """Penalties and bias on the logits (V,) of one sequence."""
    if params.repetition_penalty != 1 and (prompt or output):
        logits = repetition(logits, [*prompt, *output], params.repetition_penalty)
    if (params.presence_penalty or params.frequency_penalty) and output:
        logits = presence_and_frequency(logits, output, params.presence_penalty, params.frequency_penalty)
    if params.logit_bias:
        params.check(logits.shape[-1])
        ids = torch.tensor(list(params.logit_bias), device=logits.device)
        bias = torch.tensor(list(params.logit_bias.values()), dtype=logits.dtype, device=logits.device)
        logits = logits.index_put((ids,), logits[ids] + bias)
    return logits


def truncate(logits: Tensor, params: SamplingParams) -> Tensor:
    """Temperature, then top-k, top-p, min-p and typical in that order, as whole rows with -inf: the definition that `shortlist` makes fast."""
    logits = temperature(logits.float(), 1.0 if params.greedy else params.temperature)
    if params.greedy:
        return logits.masked_fill(logits < logits.amax(-1, keepdim=True), -INF)
    logits = top_k(logits, params.top_k) if params.top_k else logits
    logits = top_p(logits, params.top_p) if params.top_p < 1 else logits
    logits = min_p(logits, params.min_p)
    return typical(logits, params.typical_p) if params.typical_p < 1 else logits


def shortlist(logits: Tensor, params: SamplingParams, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`truncate` among the k likeliest: (log-probabilities (B, K), ids (B, K), log of the mass left out (B,), enough (B,)).

    A row where `enough` is False keeps tokens beyond its K likeliest and needs a longer list.
    """
    p = temperature(logits.float(), params.temperature).softmax(-1)
    whole = params.top_k or params.typical_p < 1 or k >= p.shape[-1]
    plain = not (whole or params.top_p < 1 or params.min_p)
    most = min(params.top_k or (p.shape[-1] if whole else k), p.shape[-1])
    values, ids = highest(p, most) if plain else p.topk(most, -1)  # in any order, descending
    held = values.sum(-1)
    enough, logp = torch.full_like(held, whole, dtype=torch.bool), values.log()
    if params.top_p < 1:
        enough |= held >= params.top_p
        logp = logp.masked_fill(_beyond(values / held[:, None] if whole else values, params.top_p), -INF)
    if params.min_p:
        enough |= values[:, -1] < params.min_p * values[:, 0]
        logp = min_p(logp, params.min_p)
    if params.typical_p < 1:
        logp = typical(logp, params.typical_p)
    left = (1 - held).clamp(min=0) if plain else torch.zeros_like(held)
    return logp, ids, left.log(), enough | plain


# -- the draw ------------------------------------------------------------------------------------------------------------------------------


def sample(logits: Tensor, params: SamplingParams, *, prompt: Sequence[int] = (), output: Sequence[int] = ()) -> tuple[int, float]:
    """Draw the next token from logits (V,): (token, its log-probability under the model). The step is `len(output)`, the seed `params.seed`."""
    token = sample_batch(logits[None], [(params, prompt, output)])[0]
    return token, float(logprobs(logits[None], [token])[0])


Row = tuple[SamplingParams, Sequence[int], Sequence[int]]  # settings, prompt ids, ids written so far


def sample_batch(logits: Tensor, rows: Sequence[Row]) -> list[int]:
    """Draw one token for each row of logits (B, V). What a row draws does not depend on the other rows."""
    if any(params.edits for params, _, _ in rows):
        logits = torch.stack([edit(line, *row) if row[0].edits else line for line, row in zip(logits, rows, strict=True)])
    groups: dict[tuple[float, ...], list[int]] = {}
    for i, (params, _, _) in enumerate(rows):
        groups.setdefault((0.0,) if params.greedy else params.shape, []).append(i)
    tokens = [0] * len(rows)
    for members in groups.values():
        chosen = _draw(logits if len(members) == len(rows) else logits[members], [rows[i] for i in members])
        for i, token in zip(members, chosen, strict=True):
            tokens[i] = token
    return tokens


def _draw(logits: Tensor, rows: Sequence[Row], k: int = SHORT) -> list[int]:
    """sample_batch for rows of equal shape, logits edited. The mass outside the shortlist stands as one more candidate with id -1."""
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
    """The likeliest token of each row (B, V). numpy's is 15 times as fast on a CPU, where torch's would cost a tenth of a small model's step."""
    if logits.device.type != "cpu" or logits.requires_grad:
        return logits.argmax(-1).tolist()
    wide = logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
    return wide.numpy().argmax(-1).tolist()


def highest(p: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k highest of each row (B, V), with their places, in any order: on a CPU a third of the time that order costs."""
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
    """Log-probabilities (B,) of one token a row under the model itself: no temperature, penalty or truncation."""
    wide = logits.float()
    return wide.gather(-1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0] - wide.logsumexp(-1)


def likeliest(logits: Tensor, k: int) -> list[tuple[int, float]]:
    """The k likeliest tokens of logits (V,) with their log-probabilities."""
    values, ids = logits.float().log_softmax(-1).topk(k)
    return list(zip(ids.tolist(), values.tolist(), strict=True))
