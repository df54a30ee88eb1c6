"""How to continue a prompt, as settings; and the hash that turns a seed into noise. Imports no
torch, so that --help is quick."""

import dataclasses
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from daedal.errors import DaedalError
from daedal.settings import Setting

INF = float("inf")
# a temperature below is greedy: logits divided by it would overflow, and its limit is the likeliest
# token
COLD = 1e-5
MASK = (1 << 64) - 1
GOLDEN, M1, M2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def mix(seed: int, counter: int) -> int:
    """A 63-bit hash of (seed, counter): the finaliser of SplitMix64 (Steele et al. 2014), twice."""
    x = seed & MASK
    for add in (GOLDEN, counter * GOLDEN):
        x = (x + add) & MASK
        x = ((x ^ (x >> 30)) * M1) & MASK
        x = ((x ^ (x >> 27)) * M2) & MASK
        x ^= x >> 31
    return x >> 1


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How to continue one prompt. The defaults draw from the model's own distribution;
    `temperature=0` is greedy.

    `repetition_penalty` sees prompt and output (Keskar et al. 2019), `presence_penalty` and
    `frequency_penalty` the output (OpenAI). `stop` strings end the text and are not part of it.
    `logprobs=k` also reports the k likeliest tokens at each step. `adapter` names one of the
    engine's adapters; None is the base alone. `grammar` is a compiled
    `daedal.processes.grammar.Grammar`. `mark` is the
    `daedal.processes.text_mark.GreenList` that watermarks the text. `seed=None` means: draw one, and
    report it."""

    temperature: Annotated[float, Setting("0 is greedy, 1 the model's own distribution.")] = 1.0
    top_k: Annotated[int, Setting("Draw from the k likeliest; 0 for all.")] = 0  # 0: all
    top_p: Annotated[float, Setting("Draw from the likeliest that hold this share.")] = 1.0
    min_p: Annotated[float, Setting("Drop tokens below this share of the likeliest.")] = 0.0
    typical_p: Annotated[
        float, Setting("Draw from the tokens of the most typical surprise that hold this share.")
    ] = 1.0
    repetition_penalty: Annotated[
        float, Setting("Above 1: tokens seen before become less likely.")
    ] = 1.0
    presence_penalty: Annotated[
        float, Setting("Taken from the logits of tokens written already.")
    ] = 0.0
    frequency_penalty: Annotated[
        float, Setting("The same for each time that a token was written.")
    ] = 0.0
    logit_bias: Annotated[
        Mapping[int, float], Setting("Added to the logits of tokens, by id.", typed=False)
    ] = field(default_factory=dict)
    seed: Annotated[int | None, Setting("Same seed, same text.")] = None
    max_tokens: Annotated[int, Setting("Longest text, in tokens.")] = 256
    stop: Annotated[tuple[str, ...], Setting("End before this string; may be repeated.")] = ()
    ignore_eos: Annotated[bool, Setting("Go on after the model's end token.")] = False
    logprobs: Annotated[int | None, Setting("Report the k likeliest tokens at each step.")] = None
    n: Annotated[int, Setting("How many texts.", flags=("-n", "--n"))] = 1
    grammar: Any = None
    mark: Any = None
    adapter: Annotated[str | None, Setting("One of the engine's adapters.", typed=False)] = None

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
        return (
            self if self.seed is not None else dataclasses.replace(self, seed=secrets.randbits(32))
        )

    def check(self, vocabulary: int) -> None:
        """Raise a DaedalError where the settings ask for tokens that a vocabulary of this size has
        not."""
        if beyond := [i for i in self.logit_bias if i >= vocabulary]:
            raise DaedalError(
                f"logit_bias names token {beyond[0]}, but the vocabulary ends at {vocabulary - 1}."
            )
        if (self.logprobs or 0) > vocabulary:
            raise DaedalError(
                f"logprobs={self.logprobs} asks for more tokens than the vocabulary of {vocabulary} has; ask for fewer."
            )

    def sample_of(self, index: int) -> "SamplingParams":
        """The settings of sample `index` out of n: the first keeps the seed, the others derive
        theirs from it."""
        assert self.seed is not None
        return dataclasses.replace(
            self, n=1, seed=self.seed if index == 0 else mix(self.seed, index) & 0x7FFFFFFF
        )

    @property
    def greedy(self) -> bool:
        return self.temperature < COLD or self.top_k == 1

    @property
    def edits(self) -> bool:
        """Whether anything but temperature and truncation touches the logits."""
        return bool(
            self.logit_bias
            or self.repetition_penalty != 1
            or self.presence_penalty
            or self.frequency_penalty
            or self.mark
        )

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
    "logprobs": (
        lambda x: x is None or (_integer(x) and x >= 0),
        "a whole number from 0 up, or None",
    ),
    "n": (lambda x: _integer(x) and x >= 1, "a whole number from 1 up"),
    "adapter": (lambda x: x is None or isinstance(x, str), "a name, or None"),
}
