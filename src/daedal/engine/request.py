"""One continuation in the engine: what was asked, what has come out, where its keys and values are."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from daedal.data.detokenizer import Detokenizer
from daedal.data.tokenizer import Tokenizer
from daedal.processes.autoregression import PromptLookup, StopStrings, stop_ids
from daedal.processes.sampling import SamplingParams

if TYPE_CHECKING:
    from daedal.processes.grammar import Matcher


@dataclass(frozen=True, slots=True)
class Token:
    """One token that came out. `text` is what it lets out of the stream: nothing while a character
    or a stop string is half seen."""

    id: int
    text: str
    logprob: float | None = None
    likeliest: tuple[tuple[int, float], ...] = ()


@dataclass(eq=False, slots=True)
class Request:
    """A prompt and its continuation. Its whole progress is two integers: `len(tokens)`, and how
    many of them the cache has.

    `finished` is None while it runs, then 'stop' (an end token, a stop string or the grammar's
    end), 'length', 'cancelled' or 'error' (then `error` is what was raised). It is set once and
    never changes."""

    id: int
    prompt: list[int]
    params: SamplingParams
    limit: int  # most new tokens
    tokens: list[int]  # prompt and output
    adapter: int = 0  # its number in the engine, 0 for the base alone
    output: list[int] = field(default_factory=list)
    stream: list[Token] = field(default_factory=list)
    finished: str | None = None
    error: Exception | None = None
    client: str = ""  # whose it is: clients share the engine evenly
    priority: int = 0  # higher is served first
    samples: list["Request"] = field(default_factory=list)  # all n of them, this one among them
    waits_for: "Request | None" = None  # a sample waits until its sibling has run the shared prompt
    slot: int = -1  # its place in the cache, -1 while it has none
    reused: int = 0  # tokens of the prompt that the cache already had
    preemptions: int = 0
    joules: float = 0.0  # its share of the steps that it was part of, by tokens
    cancelled: bool = False
    guesses: list[int] = field(default_factory=list)
    stop_ids: frozenset[int] = frozenset()
    matcher: "Matcher | None" = None
    words: Detokenizer | None = None
    held: StopStrings | None = None
    lookup: PromptLookup | None = None

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.stream)


def new_request(
    index: int,
    prompt: Sequence[int],
    params: SamplingParams,
    limit: int,
    tokenizer: Tokenizer | None,
) -> Request:
    """A request at its start, with the state that its settings ask for."""
    request = Request(index, list(prompt), params, limit, list(prompt))
    request.matcher = params.grammar.matcher() if params.grammar else None
    if tokenizer is not None:
        request.words, request.held = Detokenizer(tokenizer, prompt), StopStrings(params.stop)
        request.stop_ids = stop_ids(tokenizer, params.stop)
    return request


def take(
    request: Request,
    token: int,
    ends: frozenset[int],
    logprob: float | None = None,
    likeliest: tuple[tuple[int, float], ...] = (),
) -> Token:
    """Add one token to a request, decide whether that finishes it, and return what may be shown."""
    request.tokens.append(token)
    request.output.append(token)
    if request.lookup is not None:
        request.lookup.extend((token,))
    complete = request.matcher is not None and request.matcher.accept(token)
    text, ended = "", token in ends and not request.params.ignore_eos
    if request.words is not None and request.held is not None and not ended:
        text = request.held.push(request.words.push(token))
    if (
        complete
        or token in request.stop_ids
        or ended
        or (request.held is not None and request.held.stopped)
    ):
        request.finished = "stop"
    elif len(request.output) >= request.limit:
        request.finished = "length"
    if request.finished and request.words is not None and request.held is not None:
        text += request.held.push(request.words.flush()) + request.held.flush()
    out = Token(token, text, logprob, likeliest)
    request.stream.append(out)
    return out
