"""The engine: many requests through one network, a step at a time (continuous batching, Yu et al.
2022).

    engine = Engine(network, tokenizer)
    request = engine.submit(tokenizer.encode("Once"), SamplingParams(temperature=0))
    while not request.finished:
        engine.step()
    print(request.text)

A step is one ragged call of the network: one token each of the requests that decode, guesses to
verify, and parts of prompts. What comes out of a request equals the naive loop
(daedal.processes.autoregression) token for token, whatever runs beside it and whichever of prefix
caching, preemption and speculation is on. `submit` and `cancel` may be called from any thread,
`step` from one at a time. A request whose settings or work fail ends alone, with what was raised;
its neighbours go on.

Legend: N flat tokens of a step, V vocabulary, k guesses."""

import itertools
import math
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from daedal.data.tokenizer import Tokenizer
from daedal.energy import METER
from daedal.engine.adapters import Adapters
from daedal.engine.graphs import Graphs
from daedal.engine.paged import PagedCache
from daedal.engine.replays import Replays
from daedal.engine.request import Request, Token, new_request, take
from daedal.engine.scheduler import Cache, Scheduler, Work
from daedal.engine.slots import SlotCache
from daedal.engine.speculative import Draft, look_up
from daedal.errors import Busy, DaedalError
from daedal.nn.pages import PAGE_SIZES
from daedal.processes.autoregression import activation_dtype
from daedal.processes.sampling import Row, SamplingParams, likeliest, logprobs, sample_batch

if TYPE_CHECKING:
    from daedal.networks.decoder import Decoder


class Engine:
    """A network, a cache and a queue.

    `max_batch` requests run at once, none longer than `max_len` tokens (default: the network's
    context, where rows grow with need; else 4,096); a step runs at most `token_budget` tokens.
    `attention` is how keys and values are read: 'kernels' (ours, on a CPU), 'sdpa' (PyTorch's), or
    'flex' (FlexAttention over pages); 'auto' is flex on a CUDA device. `cache='slots'` keeps
    max_batch rows, `'paged'` blocks of `block_size` tokens within `memory_budget` bytes (default:
    max_batch texts of `max_len` or 4,096 tokens, and one of the longest); 'auto' is pages where
    flex is asked for or sdpa. With `replay` decode steps are captured and replayed. `draft` and `prompt_lookup` guess up
    to `guesses` or `prompt_lookup` tokens ahead. `cache_dtype` defaults to the activations'.
    `adapters` are peft folders by the names that requests ask for them with
    (`SamplingParams.adapter`). At most `limit` requests wait. With `exact_prefixes` a beginning is
    shared only where that changes no output by a bit (see SlotCache)."""

    def __init__(
        self,
        network: "Decoder",
        tokenizer: Tokenizer | None = None,
        *,
        max_batch: int = 16,
        max_len: int | None = None,
        token_budget: int = 256,
        attention: str = "auto",
        cache: str = "auto",
        block_size: int | None = None,
        prefix_caching: bool = True,
        memory_budget: int | None = None,
        cache_dtype: torch.dtype | None = None,
        draft: "Decoder | None" = None,
        guesses: int = 4,
        prompt_lookup: int = 0,
        replay: bool = True,
        adapters: Mapping[str, str | Path] | None = None,
        exact_prefixes: bool = False,
        limit: int = 1024,
    ) -> None:
        self.network, self.tokenizer = network, tokenizer
        self.device = network.embed_tokens.weight.device
        context = network.config.max_position_embeddings
        attention, cache = chosen(attention, cache, self.device)
        growing = memory_budget is None
        self.max_len = min(max_len or (context if growing else 4096), context)
        usual = min(max_len or 4096, context)
        if token_budget < max_batch:
            raise DaedalError(
                f"token_budget={token_budget} must be at least max_batch={max_batch}, or a running request would starve."
            )
        dtype = cache_dtype or activation_dtype(network)
        chunk = token_budget if exact_prefixes else None
        self.attention = attention
        self.cache = self._fitting_cache(
            cache, max_batch, block_size, prefix_caching, memory_budget, dtype, chunk, usual
        )
        self.max_len = self.cache.max_len
        self.scheduler = Scheduler(self.cache, token_budget)
        ends = tokenizer.eos_ids if tokenizer else _as_tuple(network.config.eos_token_id)
        self.ends = frozenset(ends)
        self.draft = Draft(draft, network, max_batch, self.max_len) if draft is not None else None
        self.guesses, self.prompt_lookup = guesses, prompt_lookup
        self.replays: Replays | Graphs | None = None
        if replay and isinstance(self.cache, SlotCache) and attention == "kernels":
            self.replays = Replays(network, self.cache, max_batch)
        elif replay and isinstance(self.cache, PagedCache) and self.device.type == "cuda":
            self.replays = Graphs(network, self.cache)
        self.adapters = Adapters(network)
        for name, folder in (adapters or {}).items():
            self.add_adapter(name, folder)
        self._new: deque[Request] = deque()
        self.limit = limit
        self._ids = itertools.count()
        self.steps = self.tokens_run = self.guessed = self.accepted = 0
        self.overhead_s = 0.0  # time in steps outside the networks

    def _fitting_cache(self, kind: str, max_batch: int, *rest: Any) -> Cache:
        """`_make_cache`; memory that is not there is a DaedalError."""
        try:
            return self._make_cache(kind, max_batch, *rest)
        except (RuntimeError, MemoryError) as error:
            per_token = self.network.cache_bytes_per_token(rest[3])
            size = per_token * self.max_len * max_batch / 1e9
            raise DaedalError(
                f"A cache of {max_batch} x {self.max_len} tokens needs {size:.1f} GB, "
                "which is not there; lower either."
            ) from error

    def _make_cache(
        self,
        kind: str,
        max_batch: int,
        block_size: int | None,
        prefix_caching: bool,
        memory_budget: int | None,
        dtype: torch.dtype,
        chunk: int | None,
        usual: int,
    ) -> Cache:
        config, per_token = self.network.config, self.network.cache_bytes_per_token(dtype)
        place = (dtype, self.device, prefix_caching)
        if kind == "slots":
            if memory_budget is not None:
                fitting = memory_budget // (per_token * self.max_len)
                if fitting < 1:
                    raise DaedalError(
                        f"memory_budget={memory_budget} bytes hold {memory_budget // per_token} tokens, less than max_len={self.max_len}; "
                        "lower max_len or use cache='paged'."
                    )
                max_batch = min(max_batch, fitting)
            native = self.attention == "kernels"
            return SlotCache(config, max_batch, self.max_len, *place, chunk, native)
        size = block_size or PAGE_SIZES[self.attention]
        whole = per_token * max(max_batch * usual, -(-self.max_len // size) * size)
        blocks = (whole if memory_budget is None else memory_budget) // (per_token * size)
        how = (*place, chunk, self.attention)
        cache = PagedCache(config, max_batch, self.max_len, blocks, size, *how)
        self.attention = cache.settle(config.num_attention_heads, activation_dtype(self.network))
        return cache

    # -- requests ----------------------------------------------------------------------------------

    def submit(
        self,
        prompt: Sequence[int],
        params: SamplingParams | None = None,
        *,
        client: str = "",
        priority: int = 0,
    ) -> Request:
        """Queue a prompt. With `params.n` above 1 the result's `samples` are all n requests, which
        share the prompt's work. Clients share the engine evenly; a higher `priority` is served
        first."""
        params = (params or SamplingParams()).seeded()
        if not prompt:
            raise DaedalError("The prompt has no tokens; start with at least the bos token.")
        if len(prompt) >= self.max_len:
            raise DaedalError(
                f"The prompt has {len(prompt)} tokens and the context {self.max_len}; shorten it or raise max_len."
            )
        vocabulary = self.network.config.vocab_size
        if bad := [i for i in prompt if not 0 <= i < vocabulary]:
            raise DaedalError(f"token id {bad[0]} is outside the vocabulary of {vocabulary}.")
        params.check(vocabulary)
        if (waiting := len(self._new) + len(self.scheduler.waiting)) + params.n > self.limit:
            raise Busy(
                f"{waiting} requests wait already, of at most {self.limit}; ask again later, or for fewer than n={params.n}."
            )
        if (params.stop or params.grammar) and self.tokenizer is None:
            raise DaedalError("Stop strings and grammars need the engine to have a tokenizer.")
        limit = min(params.max_tokens, self.max_len - len(prompt))
        adapter = self.adapters.number(params.adapter)
        samples = [
            new_request(next(self._ids), prompt, params.sample_of(i), limit, self.tokenizer)
            for i in range(params.n)
        ]
        for request in samples:
            request.samples, request.adapter = samples, adapter
            request.client, request.priority = client, priority
            if request is not samples[0] and self.cache.prefix_caching:
                request.waits_for = samples[0]
        self._new.extend(samples)
        return samples[0]

    def cancel(self, request: Request) -> None:
        """Stop a request, wherever it is; its memory is free before the next step."""
        request.cancelled = True

    @property
    def cache_bytes(self) -> int:
        """Bytes of the keys and values: of a device what was allocated, of a CPU, where memory is
        taken when it is first written, what sequences hold."""
        tensors = (*self.cache.keys, *self.cache.values)
        if self.device.type != "cpu":
            return sum(each.nbytes for each in tensors)
        return sum(self.cache.lengths) * self.network.cache_bytes_per_token(tensors[0].dtype)

    @property
    def busy(self) -> bool:
        """Whether a step would have something to do."""
        return bool(self._new or self.scheduler.waiting or self.scheduler.running)

    def stream(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams | Sequence[SamplingParams]
    ) -> Iterator[tuple[int, Token]]:
        """Run prompts to their ends and yield (index of the prompt, token) as they come. A reader
        that stops early cancels them."""
        each = params if isinstance(params, Sequence) else [params] * len(prompts)
        pairs = enumerate(zip(prompts, each, strict=True))
        requests = {self.submit(prompt, p): i for i, (prompt, p) in pairs}
        owner = {sample: i for request, i in requests.items() for sample in request.samples}
        try:
            while not all(request.finished for request in owner):
                out = self.step()
                yield from ((owner[sample], token) for sample, token in out if sample in owner)
        finally:
            for request in owner:
                self.cancel(request)

    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams | Sequence[SamplingParams]
    ) -> list[Request]:
        """Run prompts to their ends: one request a prompt, with its output, text and samples."""
        each = params if isinstance(params, Sequence) else [params] * len(prompts)
        requests = [self.submit(prompt, p) for prompt, p in zip(prompts, each, strict=True)]
        while not all(sample.finished for request in requests for sample in request.samples):
            self.step()
        return requests

    def add_adapter(self, name: str, folder: str | Path) -> None:
        """Load a LoRA folder (daedal.checkpoints.adapter) for requests to name; between steps."""
        self.adapters.add(name, folder)

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter, between steps. One that requests still run with is an error."""
        number = self.adapters.number(name)
        requests = (*self._new, *self.scheduler.waiting, *self.scheduler.running)
        if busy := sum(request.adapter == number for request in requests):
            raise DaedalError(
                f"the adapter {name!r} still serves {busy} of the requests; let them finish, or cancel them and take a step."
            )
        self.adapters.remove(name)

    # -- one step ----------------------------------------------------------------------------------

    @torch.inference_mode()
    def step(self) -> list[tuple[Request, Token]]:
        """One call of the network. Returns what came out, in order of admission."""
        began, mark = time.perf_counter(), METER.mark()
        self._collect()
        drafted = self._guess()
        work = self.scheduler.plan()
        if not work:
            return []
        try:
            out, spent = self._carry_out(work)
        finally:  # also after Ctrl-C: keys without a token drawn after them are forgotten
            for request in self.scheduler.running:
                self._forget(request)
        self.steps += 1
        count = sum(w.count for w in work)
        self.tokens_run += count
        joules = METER.since(mark)
        for w in work:
            w.request.joules += joules * w.count / count
        self.overhead_s += time.perf_counter() - began - drafted - spent
        return out

    def _forget(self, request: Request) -> None:
        """Forget the keys of tokens that were not drawn."""
        lengths = self.cache.lengths
        lengths[request.slot] = min(lengths[request.slot], len(request.tokens) - 1)

    def _collect(self) -> None:
        """Take in what other threads submitted and cancelled."""
        while self._new:  # in this order, so that a Ctrl-C in between loses none
            if self._new[0] not in self.scheduler.waiting:
                self.scheduler.waiting.append(self._new[0])
            self._new.popleft()
        self.scheduler.mend()
        for request in (*self.scheduler.waiting, *self.scheduler.running):
            if request.cancelled or request.finished:  # Ctrl-C came before it was released
                self._finish(request, request.finished or "cancelled")

    def _finish(self, request: Request, reason: str, error: Exception | None = None) -> None:
        request.error, request.finished = error or request.error, reason
        if request.slot < 0:
            self.scheduler.waiting.remove(request)
        else:
            if error is not None:
                self.cache.discard(request.slot)
            self.scheduler.release(request)

    def _carry_out(self, work: list[Work]) -> tuple[list[tuple[Request, Token]], float]:
        """Run and draw: what came out, and the seconds in the network. What fails together is tried
        alone, and what fails alone ends."""
        began = time.perf_counter()
        try:
            logits = self._run(work)
        except Exception as error:
            if len(work) > 1:
                parts = [self._carry_out([w]) for w in work]
                return [pair for out, _ in parts for pair in out], sum(spent for _, spent in parts)
            self._finish(work[0].request, "error", error)
            return [], time.perf_counter() - began
        spent = time.perf_counter() - began
        done = [w for w in work if w.complete]
        return self._deliver(*self._branch(done, logits)), spent

    def _branch(self, work: list[Work], logits: Tensor) -> tuple[list[Work], Tensor]:
        """The same, and the samples that draw their first token from the logits of the one which has
        now run the prompt they share."""
        counts = [len(w.guesses) + 1 for w in work]
        ends = list(itertools.accumulate(counts))
        found, rows = list[Work](), list[int]()
        for w, end in zip(work, ends, strict=True):
            if not w.request.output and len(w.request.samples) > 1:
                siblings = self.scheduler.branch(w.request)
                found += [Work(each, 0, len(each.tokens), []) for each in siblings]
                rows += [end - 1] * len(siblings)
        return (work + found, torch.cat([logits, logits[rows]])) if found else (work, logits)

    def _guess(self) -> float:
        """Guesses for the requests that decode; returns the seconds that the draft network took."""
        running, lengths = self.scheduler.running, self.cache.lengths
        decoding = [r for r in running if len(r.tokens) - lengths[r.slot] == 1]
        if self.prompt_lookup and decoding:
            look_up(decoding, self.prompt_lookup)
        if self.draft is None or not decoding:
            return 0.0
        began = time.perf_counter()
        self.draft.guess([r for r in decoding if not r.guesses], self.guesses)
        return time.perf_counter() - began

    def _run(self, work: list[Work]) -> Tensor:
        """Logits (rows, V) of the requests that caught up: one row each, and one more for each
        guess."""
        owners = [w.request.adapter for w in work for _ in range(w.count)]
        network = self.adapters.network if any(owners) else self.network
        if self.replays is not None and len(owners) == len(work) and network is self.network:
            logits = self.replays([w.tokens()[0] for w in work], [w.request.slot for w in work])
            if logits is not None:
                return logits
        step = self.cache.step([(w.request.slot, w.count) for w in work])
        # (1, N)
        tokens = torch.tensor(
            [list(itertools.chain.from_iterable(w.tokens() for w in work))], device=self.device
        )
        self.adapters.route(owners, self.device)
        hidden = network.hidden(tokens, cache=step)[0]  # (N, D)
        step.commit()
        if len(work) == 1:
            self.cache.computed(work[0].request.slot, work[0].start, work[0].count)
        at, rows = 0, list[int]()
        for w in work:
            at += w.count
            if w.complete:
                rows.extend(range(at - 1 - len(w.guesses), at))
        self.adapters.route([owners[row] for row in rows], self.device)
        return network.head(hidden[rows] if len(rows) < len(hidden) else hidden)

    def _deliver(self, work: list[Work], logits: Tensor) -> list[tuple[Request, Token]]:
        """Draw, keep the guesses that agree, and hand out the tokens."""
        if not work:
            return []
        counts = [len(w.guesses) + 1 for w in work]
        try:
            drawn = self._draw(work, logits)
        except Exception as error:
            if len(work) > 1:
                parts = zip(work, logits.split(counts), strict=True)
                return [pair for w, lines in parts for pair in self._deliver([w], lines)]
            self._finish(work[0].request, "error", error)
            return []
        out, at = list[tuple[Request, Token]](), 0
        for w, count in zip(work, counts, strict=True):
            try:
                out.extend((w.request, token) for token in self._take(w, drawn[at : at + count]))
                self._settle(w)
            except Exception as error:
                self._finish(w.request, "error", error)
            at += count
        return out

    def _draw(
        self, work: list[Work], logits: Tensor
    ) -> list[tuple[int, float | None, tuple[tuple[int, float], ...]]]:
        """(token, log-probability, likeliest) of each row of logits (rows, V)."""
        rows, masks = list[Row](), list[Tensor | None]()
        for w in work:
            rows.extend(_rows(w))
            masks.extend(_masks(w, logits.shape[-1]))
        masked = logits
        if any(mask is not None for mask in masks):
            masked = torch.stack(
                [
                    line if mask is None else line.masked_fill(~mask.to(line.device), float("-inf"))
                    for line, mask in zip(logits, masks, strict=True)
                ]
            )
        drawn = sample_batch(masked, rows)
        asked = [params.logprobs for params, _, _ in rows]
        known = any(k is not None for k in asked)
        scores = (logprobs(logits, drawn) if known else logits[range(len(drawn)), drawn]).tolist()
        if not all(map(math.isfinite, scores)):
            raise DaedalError(
                "the model's numbers became NaN or infinite; load it with dtype fp32, or check its weights."
            )
        return [
            (token, None if k is None else score, tuple(likeliest(logits[row], k)) if k else ())
            for row, (token, score, k) in enumerate(zip(drawn, scores, asked, strict=True))
        ]

    def _take(
        self, work: Work, drawn: list[tuple[int, float | None, tuple[tuple[int, float], ...]]]
    ) -> Iterator[Token]:
        """The tokens of one request: the first, and one more for each guess that agreed."""
        request, i = work.request, 0
        for i, (token, score, best) in enumerate(drawn):
            yield take(request, token, self.ends, score, best)
            if request.finished or i == len(work.guesses) or token != work.guesses[i]:
                break
        self.guessed, self.accepted = self.guessed + len(work.guesses), self.accepted + i

    def _settle(self, work: Work) -> None:
        """Forget the keys of guesses that failed, name what is final, and let finished requests go."""
        request = work.request
        self._forget(request)
        self.cache.note(request.slot)
        request.guesses = []
        if request.finished:
            self.scheduler.release(request)


def _as_tuple(value: int | tuple[int, ...] | None) -> tuple[int, ...]:
    return () if value is None else (value,) if isinstance(value, int) else tuple(value)


def chosen(attention: str, cache: str, device: torch.device) -> tuple[str, str]:
    """The one switch: (how keys and values are read, how they are kept), with every 'auto' decided
    for this device."""
    if attention not in ("auto", "kernels", *PAGE_SIZES):
        raise DaedalError(f"attention={attention!r} must be auto, kernels, sdpa or flex.")
    if cache not in ("auto", "slots", "paged"):
        raise DaedalError(f"cache={cache!r} must be 'slots' or 'paged', or 'auto'.")
    if cache == "auto":
        paged = attention in PAGE_SIZES or (attention == "auto" and device.type == "cuda")
        cache = "paged" if paged else "slots"
    if attention == "auto" and cache == "slots":
        attention = "kernels" if device.type == "cpu" else "sdpa"
    elif attention == "auto":
        attention = "flex" if device.type == "cuda" else "sdpa"
    if attention == "kernels" and (cache == "paged" or device.type != "cpu"):
        raise DaedalError(
            f"attention='kernels' reads slots on a CPU, not {cache} keys on {device.type}; use sdpa."
        )
    if attention == "flex" and cache == "slots":
        raise DaedalError("attention='flex' reads pages; use cache='paged', or attention='sdpa'.")
    return attention, cache


def _rows(work: Work) -> list[Row]:
    """What each row of logits is drawn with: the output so far and the guesses before it."""
    request = work.request
    return [
        (request.params, request.prompt, request.output + work.guesses[:i] if i else request.output)
        for i in range(len(work.guesses) + 1)
    ]


def _masks(work: Work, vocabulary: int) -> list[Tensor | None]:
    """The tokens that the request's grammar allows in each row, walking it along the guesses and
    back."""
    matcher = work.request.matcher
    if matcher is None:
        return [None] * (len(work.guesses) + 1)
    masks: list[Tensor | None] = [matcher.allowed(vocabulary)]
    for guess in work.guesses:
        matcher.accept(guess)
        masks.append(matcher.allowed(vocabulary))
    matcher.rollback(len(work.guesses))
    return masks
