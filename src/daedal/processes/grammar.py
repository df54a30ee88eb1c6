"""Constrained decoding: only tokens that can still become a valid text keep their logits (Willard &
Louf 2023; the parser is llguidance).

    grammar = Grammar.json(tokenizer, {"type": "object", "properties": {"age": {"type": "integer"}},
    "required": ["age"]}) params = SamplingParams(grammar=grammar)

A `Grammar` is compiled once and shared; each sequence walks it with a `Matcher` of its own."""

import json
from collections.abc import Mapping
from typing import Any

import llguidance
import numpy as np
import torch
from torch import Tensor

from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError

# One line with single spaces: with free white space a weak model can fill its whole budget with
# blanks.
STYLE: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def _trie(tokenizer: Tokenizer) -> llguidance.LLTokenizer:
    """llguidance's view of the vocabulary, made once a tokenizer (about a second for a large one)."""
    if "trie" not in tokenizer.derived:
        try:
            tokenizer.derived["trie"] = llguidance.LLTokenizer(
                tokenizer.backend.to_str(),
                n_vocab=tokenizer.vocab_size,
                eos_token=list(tokenizer.eos_ids) or None,
            )
        except Exception as error:  # the Rust side raises bare exceptions
            raise DaedalError(
                f"Constrained decoding cannot use this tokenizer: {error}."
            ) from error
    return tokenizer.derived["trie"]


class Grammar:
    """A compiled constraint for one tokenizer. Errors are raised here, before anything is
    generated."""

    def __init__(self, tokenizer: Tokenizer, source: str, what: str) -> None:
        self._first = llguidance.LLMatcher(_trie(tokenizer), source, log_level=0)
        if self._first.is_error():
            raise DaedalError(f"The {what} cannot be used: {_reason(self._first.get_error())}.")
        self._first.compute_bitmask()  # only now does it know that nothing can follow
        if self._first.is_stopped() and not self._first.is_accepting():
            raise DaedalError(f"The {what} cannot be met by any text; loosen it.")

    @classmethod
    def json(cls, tokenizer: Tokenizer, schema: Mapping[str, Any] | str | bool = True) -> "Grammar":
        """Texts that are JSON and valid under a JSON schema, given as a mapping or its JSON source;
        without one, any JSON."""
        if isinstance(schema, str):
            try:
                schema = json.loads(schema)
            except ValueError as error:
                raise DaedalError(f"The schema is not JSON: {error}.") from error
        if schema is False:
            raise DaedalError("The schema cannot be used: false allows no value.")
        if not isinstance(schema, Mapping | bool):
            raise DaedalError(f"A JSON schema is an object, not {json.dumps(schema)[:60]}.")
        schema = {} if schema is True else schema
        return cls(
            tokenizer,
            llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), defaults=STYLE),
            "schema",
        )

    @classmethod
    def regex(cls, tokenizer: Tokenizer, pattern: str) -> "Grammar":
        """Texts that match a regular expression whole (Rust's regex syntax)."""
        return cls(
            tokenizer, llguidance.LLMatcher.grammar_from_regex(pattern), f"pattern {pattern!r}"
        )

    def matcher(self) -> "Matcher":
        """A walk from the start."""
        return Matcher(self._first.deep_copy())


def _reason(message: str) -> str:
    """The one telling line of llguidance's report."""
    lines = [line.strip() for line in message.splitlines() if line.strip(" ^|")]
    reason = next(
        (line.removeprefix("error: ") for line in lines if line.startswith("error:")),
        lines[0] if lines else "no reason given",
    )
    return reason.rstrip(".")


class Matcher:
    """The state of one sequence in a grammar: `mask` before a draw, `accept` after it, `rollback`
    when speculation was wrong."""

    def __init__(self, state: llguidance.LLMatcher) -> None:
        self._state = state

    def allowed(self, vocabulary: int) -> Tensor:
        """(V,) bool: the tokens that keep the text valid, an end token where it may end."""
        bits = np.unpackbits(
            np.frombuffer(self._state.compute_bitmask(), dtype=np.uint8), bitorder="little"
        )
        seen = np.zeros(vocabulary, dtype=bool)
        seen[: min(vocabulary, len(bits))] = bits[:vocabulary]
        return torch.from_numpy(seen)

    def mask(self, logits: Tensor) -> Tensor:
        """logits (..., V) with -inf at tokens that are not allowed."""
        return logits.masked_fill(~self.allowed(logits.shape[-1]).to(logits.device), float("-inf"))

    def accept(self, token: int) -> bool:
        """Go on with this token; True when the text is complete and nothing can follow."""
        if not self._state.consume_token(token):
            raise DaedalError(
                f"Token {token} breaks the grammar: {_reason(self._state.get_error())}."
            )
        return self._state.is_stopped()

    def fits(self, tokens: list[int]) -> int:
        """How many of these tokens, from the first, the grammar would take."""
        return self._state.validate_tokens(tokens)

    def rollback(self, count: int) -> None:
        """Take back the last `count` tokens."""
        self._state.rollback(count)

    @property
    def complete(self) -> bool:
        """Whether the text may end here."""
        return self._state.is_accepting()
