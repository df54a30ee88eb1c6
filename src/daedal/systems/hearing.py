"""How a Whisper model writes down a window of sound: what it may say next, the search for the
likeliest text, another try where that looks wrong, and when each word was said (Radford et al. 2022,
sections 3.8 and 4.5).

Searches are generators that yield once a token, so that others may have their turn, and return.

Legend: R rows (texts that are tried), V vocabulary, T tokens, S states."""

import zlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from daedal.nn.seq2seq import Cache
from daedal.systems.whisper import PER_SECOND, Tokens, Whisper

INITIAL = 1.0  # seconds: the latest that a window's first text may begin
REPETITIVE = 2.4  # how many times smaller zlib makes a text that goes round in circles
UNLIKELY = -1.0  # mean log-probability below which a text is tried again
SILENT = 0.6  # probability of the token that says that nobody speaks
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
TRIES = 5  # texts drawn at a temperature
MEDIAN = 7  # states of the filter over attention
MINUS = float("-inf")

Steps = Generator[None, None, "Heard"]


@dataclass(frozen=True)
class Heard:
    """The text of a window: its tokens without the prompt and the end, the sum of their
    log-probabilities with the end's, the probability that nobody speaks, how it was drawn."""

    tokens: tuple[int, ...]
    logprob: float
    no_speech: float
    temperature: float
    text: str

    @property
    def mean_logprob(self) -> float:
        return self.logprob / (len(self.tokens) + 1)

    @property
    def compression_ratio(self) -> float:
        data = self.text.encode()
        return len(data) / len(zlib.compress(data)) if data else 0.0

    @property
    def silent(self) -> bool:
        return self.no_speech > SILENT and self.mean_logprob < UNLIKELY

    @property
    def doubtful(self) -> bool:
        """Whether another try may be better."""
        wrong = self.compression_ratio > REPETITIVE or self.mean_logprob < UNLIKELY
        return wrong and not self.silent


# ---- what may be said ----------------------------------------------------------------------------


def constrained_(logits: Tensor, texts: Sequence[Sequence[int]], t: Tokens, clock: bool) -> Tensor:
    """Put -inf into logits (R, V) where the token may not follow a row's text. With `clock`, texts
    stand between pairs of timestamps that never go back, and a timestamp is due where all of them
    together are likelier than any word."""
    logits[:, list(t.suppressed)] = MINUS
    logits[:, t.no_clock] = MINUS
    if not texts[0]:
        logits[:, list(t.first)] = MINUS
    if not clock:
        logits[:, t.clock :] = MINUS
        return logits
    for row, text in zip(logits, texts, strict=True):
        times_(row, text, t)
    scores = logits.log_softmax(-1)
    words, times = scores[:, : t.clock], scores[:, t.clock :]
    due = times.logsumexp(-1) > words.max(-1).values
    words[due] = MINUS
    return scores


def times_(row: Tensor, text: Sequence[int], t: Tokens) -> None:
    """The rules of timestamps, of one row (V,)."""
    if not text:
        row[: t.clock] = MINUS
        row[t.clock + round(INITIAL * PER_SECOND) + 1 :] = MINUS
        return
    timed = text[-1] >= t.clock
    paired = len(text) < 2 or text[-2] >= t.clock
    if timed and paired:
        row[t.clock :] = MINUS
    elif timed:
        row[: t.end] = MINUS
    last = next((token for token in reversed(text) if token >= t.clock), None)
    if last is not None:  # the end of a text is later than its beginning
        row[t.clock : last + (0 if timed and not paired else 1)] = MINUS


# ---- the search ----------------------------------------------------------------------------------


def prefilled(
    whisper: Whisper, states: Tensor, prompt: Sequence[int], rows: int
) -> tuple[Cache, Tensor, float]:
    """(a cache that has read the prompt, the logits (rows, V) after it, the probability that nobody
    speaks). The prompt is read once, and its keys and values are copied to all rows."""
    network, t, device = whisper.network, whisper.tokens, whisper.device
    cache = network.cache(states, rows, whisper.cross_dtype)
    whole, cache.own = cache.own, [(k[:1], v[:1]) for k, v in cache.own]
    hidden = network.decoder(torch.tensor([list(prompt)], device=device), cache)
    at = len(prompt) - 1 - list(prompt)[::-1].index(t.start)
    logits = network.decoder.lm_head(hidden[:, [at, -1]]).float()
    cache.own = whole
    for k, v in whole:
        k[1:], v[1:] = k[:1], v[:1]
    silence = logits[0, 0].softmax(-1)[t.no_speech].item()
    return cache, logits[:, 1].repeat(rows, 1), silence


def searched(
    whisper: Whisper, states: Tensor, prompt: Sequence[int], beams: int, clock: bool
) -> Steps:
    """The likeliest text that a beam search finds (Graves 2012); of one beam, the greedy one."""
    t, most = whisper.tokens, room(whisper, prompt)
    cache, logits, silence = prefilled(whisper, states, prompt, beams)
    texts: list[list[int]] = [[] for _ in range(beams)]
    sums = torch.zeros(beams, device=logits.device)
    sums[1:] = MINUS  # all rows are one until the first token
    ended: list[tuple[float, list[int]]] = []
    shared = 0  # tokens that all rows have in common
    for _ in range(most):
        scores = constrained_(logits, texts, t, clock).log_softmax(-1) + sums[:, None]
        best = scores.flatten().topk(2 * beams)
        rows, kept = list[int](), list[tuple[float, list[int]]]()
        for value, index in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            row, token = divmod(index, scores.shape[1])
            if token == t.end:
                if len(kept) < beams:
                    ended.append((value, texts[row]))
            elif len(kept) < beams:
                rows.append(row)
                kept.append((value, [*texts[row], token]))
        texts, sums = [text for _, text in kept], sums.new_tensor([value for value, _ in kept])
        yield
        if len(ended) >= beams:
            break
        while (
            all(text[shared] == texts[0][shared] for text in texts) and shared < len(texts[0]) - 1
        ):
            shared += 1
        cache.reorder(rows, len(prompt) + shared)
        fed = torch.tensor([[text[-1]] for text in texts], device=logits.device)
        logits = whisper.network(fed, cache, last=True)[:, -1]
    ended = ended or [(value, text) for value, text in zip(sums.tolist(), texts, strict=True)]
    value, text = max(ended, key=lambda each: each[0] / max(1, len(each[1])))
    return Heard(tuple(text), value, silence, 0.0, whisper.text(text).strip())


def drawn(
    whisper: Whisper,
    states: Tensor,
    prompt: Sequence[int],
    temperature: float,
    clock: bool,
    noise: torch.Generator,
) -> Steps:
    """The likeliest of a few texts drawn at a temperature."""
    t, most = whisper.tokens, room(whisper, prompt)
    cache, logits, silence = prefilled(whisper, states, prompt, TRIES)
    texts: list[list[int]] = [[] for _ in range(TRIES)]
    sums, open_rows = torch.zeros(TRIES), torch.ones(TRIES, dtype=torch.bool)
    for _ in range(most):
        scores = constrained_(logits, texts, t, clock).log_softmax(-1).cpu()
        chosen = torch.multinomial((scores / temperature).softmax(-1), 1, generator=noise)[:, 0]
        sums += torch.where(open_rows, scores.gather(1, chosen[:, None])[:, 0], 0)
        chosen = torch.where(open_rows, chosen, t.end)
        open_rows &= chosen != t.end
        texts = [
            [*text, token] if token != t.end else text
            for text, token in zip(texts, chosen.tolist(), strict=True)
        ]
        yield
        if not open_rows.any():
            break
        logits = whisper.network(chosen[:, None].to(logits.device), cache, last=True)[:, -1]
    best = max(range(TRIES), key=lambda i: sums[i].item() / (len(texts[i]) + 1))
    return Heard(
        tuple(texts[best]),
        sums[best].item(),
        silence,
        temperature,
        whisper.text(texts[best]).strip(),
    )


def room(whisper: Whisper, prompt: Sequence[int]) -> int:
    """How many tokens a window may have: half of the context, the other being what came before."""
    most = whisper.network.config.max_target_positions
    return min(most // 2, most - len(prompt))


def heard(
    whisper: Whisper,
    states: Tensor,
    prompt: Sequence[int],
    beams: int,
    clock: bool,
    temperatures: Sequence[float],
    noise: torch.Generator,
) -> Steps:
    """The text of a window: searched, and drawn at ever higher temperatures for as long as it looks
    wrong. Where all do, the likeliest."""
    tried: list[Heard] = []
    for temperature in temperatures:
        if temperature:
            found = yield from drawn(whisper, states, prompt, temperature, clock, noise)
        else:
            found = yield from searched(whisper, states, prompt, beams, clock)
        if not found.doubtful:
            return found
        tried.append(found)
    plain = [each for each in tried if each.compression_ratio <= REPETITIVE]
    return max(plain or tried, key=lambda each: each.mean_logprob)


def language_of(whisper: Whisper, states: Tensor) -> tuple[str, float]:
    """The likeliest language of a sound, and its probability."""
    languages = whisper.tokens.languages
    if not languages:
        return "en", 1.0
    tokens = torch.tensor([[whisper.tokens.start]], device=whisper.device)
    logits = whisper.network(tokens, whisper.network.cache(states, 1))[0, -1]
    shares = logits[list(languages.values())].softmax(-1)
    best = int(shares.argmax())
    return list(languages)[best], shares[best].item()


# ---- when words were said ------------------------------------------------------------------------


def word_times(
    whisper: Whisper, states: Tensor, prompt: Sequence[int], text: Sequence[int], frames: int
) -> list[tuple[float, float, float]]:
    """(start, end, probability) of each token of `text`, in seconds of the window: the path along
    which the attention of the heads that follow the sound is greatest (Radford et al.'s released
    code). `frames` of the spectrogram hold sound."""
    t, network = whisper.tokens, whisper.network
    front = [*prompt, t.no_clock]
    ids = torch.tensor([[*front, *text, t.end]], device=whisper.device)
    cache = network.cache(states, 1, whisper.cross_dtype)
    cache.weights = []
    logits = network(ids, cache)[0, len(front) - 1 : -2, : t.end]
    chances = logits.softmax(-1).gather(1, ids[0, len(front) : -1, None])[:, 0].tolist()
    weights = torch.stack([cache.weights[layer][0, head] for layer, head in whisper.heads])
    weights = weights[:, :, : max(1, frames // 2)]  # (heads, T, S)
    weights = weights / weights.sum(-1, keepdim=True)
    spread, mean = torch.std_mean(weights, -2, keepdim=True, unbiased=False)
    smooth = median_filtered((weights - mean) / spread, MEDIAN)
    tokens, times = warped(-smooth.mean(0)[len(front) : -1].double().cpu().numpy())
    starts = [
        float(times[i]) / PER_SECOND
        for i in range(len(tokens))
        if i == 0 or tokens[i] != tokens[i - 1]
    ]
    ends = [*starts[1:], min(float(times[-1]) + 1, frames // 2) / PER_SECOND]
    return list(zip(starts, ends, chances, strict=True))


def median_filtered(x: Tensor, width: int) -> Tensor:
    """The median over `width` neighbours of the last axis, whose ends are reflected."""
    if x.shape[-1] <= width // 2:
        return x
    padded = torch.nn.functional.pad(x, (width // 2, width // 2), mode="reflect")
    return padded.unfold(-1, width, 1).median(-1).values


def warped(cost: np.ndarray) -> tuple[list[int], list[int]]:
    """The cheapest path (rows, columns) from corner to corner of a matrix (dynamic time warping),
    computed a diagonal at a time."""
    rows, columns = cost.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0
    step = np.zeros((rows + 1, columns + 1), np.int8)
    for diagonal in range(2, rows + columns + 1):
        i = np.arange(max(1, diagonal - columns), min(rows, diagonal - 1) + 1)
        j = diagonal - i
        options = np.stack([total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]])
        step[i, j] = options.argmin(0)
        total[i, j] = cost[i - 1, j - 1] + options.min(0)
    i, j, path = rows, columns, []
    while i > 0 and j > 0:
        path.append((i - 1, j - 1))
        kind = step[i, j]
        i, j = i - (kind != 2), j - (kind != 1)
    path.reverse()
    return [a for a, _ in path], [b for _, b in path]
