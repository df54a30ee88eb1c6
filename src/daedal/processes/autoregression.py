"""Text one token after another: the naive loop that every trick of the engine is compared with, and
what can be done with logits in it.

    ids = generate(network, prompt_ids, SamplingParams(temperature=0, max_tokens=50), eos_ids=(2,))

Here too: guidance by a second stream of logits (classifier-free, contrastive), beam search,
speculation's rule of acceptance, guesses copied from the prompt, and stop strings that are held
back while half seen.

Legend: B batch, T tokens, V vocabulary, k guessed tokens."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from daedal.errors import DaedalError
from daedal.nn.cache import KVCache
from daedal.processes.sampling import INF, SamplingParams, logprobs, sample_batch

if TYPE_CHECKING:
    from daedal.data.tokenizer import Tokenizer
    from daedal.networks.decoder import Decoder


def activation_dtype(network: "Decoder") -> torch.dtype:
    """The dtype that keys and values have in this network."""
    return network.compute_dtype or network.embed_tokens.weight.dtype


class Feed:
    """One sequence through one network: `feed(new_ids)` returns the logits (V,) after them.

    `max_len=None` keeps no cache and runs the whole sequence each time; otherwise keys and values
    of up to max_len tokens are kept."""

    def __init__(self, network: "Decoder", max_len: int | None = None) -> None:
        self.network = network
        self.ids: list[int] = []
        device = network.embed_tokens.weight.device
        self.cache: KVCache | None = None
        if max_len:
            self.cache = KVCache(network.config, 1, max_len, activation_dtype(network), device)

    def __call__(self, ids: Sequence[int]) -> Tensor:
        self.ids.extend(ids)
        device = self.network.embed_tokens.weight.device
        step = self.cache.step([(0, len(ids))]) if self.cache else None
        tokens = torch.tensor([ids if step else self.ids], device=device)  # (1, T)
        hidden = self.network.hidden(tokens, cache=step)[0, -1]
        if step:
            step.commit()
        return self.network.head(hidden)


@dataclass(frozen=True)
class Contrast:
    """A second stream beside the first: its network, its (weaker) prompt, and how the two logits
    combine."""

    network: "Decoder"
    prompt: Sequence[int]
    combine: Callable[[Tensor, Tensor], Tensor]  # (V,) expert, (V,) other -> (V,)


def guided(scale: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Classifier-free guidance for text (Sanchez et al. 2023): away from what the model says
    without the prompt. 1 is no guidance."""

    def combine(conditional: Tensor, unconditional: Tensor) -> Tensor:
        with_prompt, without = conditional.log_softmax(-1), unconditional.log_softmax(-1)
        return without + scale * (with_prompt - without)

    return combine


def contrastive(alpha: float = 0.1, beta: float = 0.5) -> Callable[[Tensor, Tensor], Tensor]:
    """Contrastive decoding (Li et al. 2022, as scaled by O'Brien & Lewis 2023): away from an
    amateur, among tokens that the expert finds at least alpha times as likely as its best."""

    def combine(expert: Tensor, amateur: Tensor) -> Tensor:
        implausible = expert < expert.amax(-1, keepdim=True) + torch.tensor(alpha).log()
        return ((1 + beta) * expert - beta * amateur).masked_fill(implausible, -INF)

    return combine


@torch.inference_mode()
def stream(
    network: "Decoder",
    prompt: Sequence[int],
    params: SamplingParams,
    *,
    eos_ids: Iterable[int] = (),
    cached: bool = False,
    contrast: Contrast | None = None,
) -> Iterator[tuple[int, float]]:
    """Yield (token, log-probability under the network) until an end token, which is yielded too,
    the grammar's end, or `max_tokens`."""
    if not prompt:
        raise DaedalError("The prompt has no tokens; start with at least the bos token.")
    if params.adapter is not None:
        raise DaedalError(
            f"adapter={params.adapter!r} is for an engine; put the adapter on the network with load_adapter."
        )
    params.check(network.config.vocab_size)
    params, ends = params.seeded(), frozenset(() if params.ignore_eos else eos_ids)
    matcher = params.grammar.matcher() if params.grammar else None
    size = len(prompt) + params.max_tokens
    feed = Feed(network, size if cached else None)
    other = None
    if contrast:
        other = Feed(contrast.network, len(contrast.prompt) + params.max_tokens if cached else None)
    fresh, weaker = prompt, contrast.prompt if contrast else prompt
    output: list[int] = []
    while True:
        logits = feed(fresh)
        shaped = contrast.combine(logits, other(weaker)) if contrast and other else logits
        shaped = matcher.mask(shaped[None])[0] if matcher else shaped
        token = sample_batch(shaped[None], [(params, prompt, output)])[0]
        output.append(token)
        yield token, float(logprobs(logits[None], [token])[0])
        if token in ends or len(output) == params.max_tokens or (matcher and matcher.accept(token)):
            return
        fresh = weaker = [token]


def generate(
    network: "Decoder", prompt: Sequence[int], params: SamplingParams, **options: Any
) -> list[int]:
    """The new token ids of one continuation; options as for `stream`."""
    return [token for token, _ in stream(network, prompt, params, **options)]


def generate_text(
    network: "Decoder",
    tokenizer: "Tokenizer",
    prompt: Sequence[int],
    params: SamplingParams,
    **options: Any,
) -> str:
    """The text of one continuation, cut at the first stop string."""
    from daedal.data.detokenizer import Detokenizer

    words = Detokenizer(tokenizer, prompt)
    held = StopStrings(params.stop)
    ends = stop_ids(tokenizer, params.stop)
    text = ""
    for token, _ in stream(network, prompt, params, eos_ids=tokenizer.eos_ids, **options):
        text += held.push(words.push(token))
        if held.stopped:
            return text
        if token in ends:
            break
    return text + held.push(words.flush()) + held.flush()


def stop_ids(tokenizer: "Tokenizer", stops: Iterable[str]) -> frozenset[int]:
    """Ids of the control tokens among stop strings: they never show in a text, and end it all the
    same."""
    ids = (tokenizer.backend.token_to_id(stop) for stop in stops)
    return frozenset(i for i in ids if i is not None and i in tokenizer.special_ids)


class StopStrings:
    """Text that may go out: `push(text)` returns it but for an ending that could become a stop
    string; `stopped` once one is whole."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops, self.stopped, self._held = tuple(stops), False, ""

    def push(self, text: str) -> str:
        if not self.stops or self.stopped:
            return "" if self.stopped else text
        self._held += text
        found = [at for at in (self._held.find(stop) for stop in self.stops) if at >= 0]
        if found:
            self.stopped = True
            return self._held[: min(found)]
        longest = min(len(self._held), max(map(len, self.stops)) - 1)
        ends = (n for n in range(longest, 0, -1) if self._begins(self._held[-n:]))
        at = len(self._held) - next(ends, 0)
        out, self._held = self._held[:at], self._held[at:]
        return out

    def _begins(self, text: str) -> bool:
        return any(stop.startswith(text) for stop in self.stops)

    def flush(self) -> str:
        """What was held back, when no more text comes."""
        out, self._held = "" if self.stopped else self._held, ""
        return out


# -- beam search -----------------------------------------------------------------------------------


Hypothesis = tuple[tuple[int, ...], float]  # ids so far, summed log-probability


@dataclass(frozen=True)
class Beam:
    ids: tuple[int, ...]
    score: float  # summed log-probability over length ** length_penalty


@torch.inference_mode()
def beam_search(
    network: "Decoder",
    prompt: Sequence[int],
    *,
    beams: int,
    max_tokens: int,
    eos_ids: Iterable[int] = (),
    length_penalty: float = 1.0,
    early_stopping: bool = False,
) -> list[Beam]:
    """The `beams` best finished continuations, best first. `early_stopping` ends when there are
    that many, else when none can get better."""
    if beams < 1:
        raise DaedalError(f"beams={beams} must be at least 1.")
    ends = set(eos_ids)
    device, longest = network.embed_tokens.weight.device, len(prompt) + max_tokens
    cache = KVCache(network.config, beams, longest, activation_dtype(network), device)
    logits = _beam_step(network, cache, [list(prompt)]).expand(beams, -1)
    _reorder(cache, [0] * beams, len(prompt))
    # one real beam until they part
    running: list[Hypothesis] = [((), 0.0), *(((), -INF) for _ in range(beams - 1))]
    done: list[Beam] = []
    for length in range(1, max_tokens + 1):
        running, parents, ended = _extend(running, logits, ends if length < max_tokens else None)
        done += [Beam(ids, total / length**length_penalty) for ids, total in ended]
        done = sorted(done, key=lambda b: -b.score)[:beams]
        best = running[0][1] / length**length_penalty if running else -INF
        if not running or (len(done) == beams and (early_stopping or best < done[-1].score)):
            break
        _reorder(cache, parents, len(prompt) + length - 1)
        logits = _beam_step(network, cache, [[ids[-1]] for ids, _ in running])
    return done


def _extend(
    running: list[Hypothesis], logits: Tensor, ends: set[int] | None
) -> tuple[list[Hypothesis], list[int], list[Hypothesis]]:
    """(running beams, their parents, those that ended). An end counts only among the best `beams`;
    `ends=None`: everything ends here."""
    beams = len(running)
    scores = torch.tensor([total for _, total in running], device=logits.device)[
        :, None
    ] + logits.float().log_softmax(-1)
    values, flat = scores.flatten().topk(min(beams * (1 + max(1, len(ends or ()))), scores.numel()))
    going: list[Hypothesis] = []
    ended: list[Hypothesis] = []
    parents: list[int] = []
    for rank, (total, at) in enumerate(zip(values.tolist(), flat.tolist(), strict=True)):
        parent, token = divmod(at, logits.shape[-1])
        hypothesis = ((*running[parent][0], token), total)
        if ends is None or token in ends:
            ended += [hypothesis] if rank < beams and total > -INF else []
        elif len(going) < beams:
            going.append(hypothesis)
            parents.append(parent)
    return going, parents, ended


def _beam_step(network: "Decoder", cache: KVCache, rows: list[list[int]]) -> Tensor:
    step = cache.step([(slot, len(ids)) for slot, ids in enumerate(rows)])
    hidden = network.hidden(
        torch.tensor(rows, device=network.embed_tokens.weight.device), cache=step
    )[:, -1]
    step.commit()
    return network.head(hidden)  # (B, V)


def _reorder(cache: KVCache, parents: list[int], length: int) -> None:
    """Slot i goes on from what slot parents[i] holds."""
    for tensor in [*cache.keys, *cache.values]:
        tensor[: len(parents), :, :length] = tensor[parents, :, :length]
    cache.lengths[: len(parents)] = [length] * len(parents)


# -- speculation -----------------------------------------------------------------------------------


def speculative_accept(
    target: Tensor, draft: Tensor, guesses: Sequence[int], uniforms: Sequence[float]
) -> list[int]:
    """The tokens that k guesses yield, 1 to k+1 of them, distributed as the target's own (Leviathan
    et al. 2023, algorithm 1).

    target (k+1, V) and draft (k, V) are probabilities, guesses were drawn from the draft's rows,
    uniforms are k+1 independent draws in (0, 1)."""
    for i, guess in enumerate(guesses):
        if uniforms[i] * float(draft[i, guess]) >= float(target[i, guess]):
            residual = (target[i] - draft[i]).clamp(min=0)
            # given the rejection, this uniform is spent: the last one draws the correction
            return [*guesses[:i], inverse_cdf(residual, uniforms[-1])]
    return [*guesses, inverse_cdf(target[-1], uniforms[-1])]


def inverse_cdf(weights: Tensor, u: float) -> int:
    """The token of weights (V,), which need not sum to one, whose share of the line holds u."""
    line = weights.double().cumsum(-1)
    at = torch.tensor(u, dtype=torch.float64) * line[-1]
    return int(torch.searchsorted(line, at.clamp(max=line[-1] * (1 - 1e-15)), right=True))


class PromptLookup:
    """Guesses what follows by looking where the last tokens stood before (Saxena 2023); constant
    work a token.

    The longest match of `longest` down to `shortest` tokens wins, its latest place first."""

    def __init__(self, ids: Sequence[int] = (), longest: int = 3, shortest: int = 1) -> None:
        self.sizes = range(longest, shortest - 1, -1)
        self.ids: list[int] = []
        # n-gram -> (where it ended last, and the time before)
        self._after: dict[tuple[int, ...], tuple[int, int]] = {}
        self.extend(ids)

    def extend(self, ids: Iterable[int]) -> None:
        for token in ids:
            self.ids.append(token)
            end = len(self.ids)
            for size in self.sizes:
                if size <= end:
                    gram = tuple(self.ids[end - size : end])
                    self._after[gram] = (end, self._after.get(gram, (0, 0))[0])

    def propose(self, k: int) -> list[int]:
        """Up to k tokens that followed the last time; none when nothing matches."""
        for size in self.sizes:
            _, before = self._after.get(tuple(self.ids[-size:]), (0, 0))
            if before:
                return self.ids[before : before + k]
        return []


def prompt_lookup(ids: Sequence[int], k: int, longest: int = 3, shortest: int = 1) -> list[int]:
    """One guess of up to k tokens for what follows `ids`; `PromptLookup` does it for a sequence
    that grows."""
    return PromptLookup(ids, longest, shortest).propose(k)
