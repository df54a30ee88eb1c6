"""Constrained decoding: whatever is drawn parses and validates, no legal token is masked, and a bad
schema is one sentence."""

import itertools
import json
import re

import pytest
import torch

from daedal import networks
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.processes.autoregression import generate
from daedal.processes.grammar import Grammar
from daedal.processes.sampling import SamplingParams

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", 'b"é']}, "maxItems": 3},
        "note": {"anyOf": [{"type": "null"}, {"type": "boolean"}]},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


def valid(value: dict) -> bool:
    return (
        set(value) <= set(SCHEMA["properties"])
        and isinstance(value["name"], str) and len(value["name"]) <= 8
        and isinstance(value["age"], int) and 0 <= value["age"] <= 120
        and all(tag in ("a", 'b"é') for tag in value["tags"]) and len(value["tags"]) <= 3
        and value.get("note") in (None, True, False)
    )  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(
        ['{"name": "hello", "age": 12, "tags": ["a", "b"]} true false null ababab'] * 5,
        330,
        ("<|endoftext|>", "<|im_end|>"),
    )


@pytest.fixture(scope="module")
def network(tokenizer: Tokenizer):
    torch.manual_seed(0)
    config = {
        "model_type": "llama", "vocab_size": tokenizer.vocab_size + 5, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1,
    }  # fmt: skip
    network = networks.build(networks.config_from_dict(config)).eval()
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.3) if p.dim() > 1 else None
    return network


def text_of(tokenizer: Tokenizer, network, grammar: Grammar, seed: int) -> str:
    params = SamplingParams(grammar=grammar, seed=seed, max_tokens=300)
    ids = generate(network, [5], params, eos_ids=tokenizer.eos_ids, cached=True)
    assert len(ids) < 300
    return tokenizer.decode(ids)


def test_every_sample_validates(tokenizer: Tokenizer, network) -> None:
    grammar = Grammar.json(tokenizer, SCHEMA)
    texts = [text_of(tokenizer, network, grammar, seed) for seed in range(25)]
    assert all(valid(json.loads(text)) for text in texts) and len(set(texts)) > 20


@pytest.mark.parametrize("pattern", ["[ab]{2,4}", r"(yes|no|é)!?", "[0-9]{4}-[0-9]{2}"])
def test_every_sample_matches(tokenizer: Tokenizer, network, pattern: str) -> None:
    grammar = Grammar.regex(tokenizer, pattern)
    assert all(
        re.fullmatch(pattern, text_of(tokenizer, network, grammar, seed)) for seed in range(20)
    )


def test_masks_are_exact_by_brute_force(tokenizer: Tokenizer) -> None:
    """A token is allowed exactly when the text so far and the token begin one of the strings of the
    language."""
    language = {"".join(s) for n in range(1, 5) for s in itertools.product("ab", repeat=n)} | {
        "abc!",
        "é",
    }
    grammar = Grammar.regex(tokenizer, "[ab]{1,4}|abc!|é")
    words = [
        (i, tokenizer.backend.decode([i], skip_special_tokens=False))
        for i in range(tokenizer.vocab_size)
    ]
    for prefix in ["", "a", "ab", "abc", "baba", "abc!"]:
        matcher = grammar.matcher()
        for token in tokenizer.encode(prefix):
            matcher.accept(token)
        allowed = matcher.allowed(tokenizer.vocab_size)
        for i, word in words:
            if i in tokenizer.special_ids:
                assert bool(allowed[i]) == (i in tokenizer.eos_ids and prefix in language)
            elif "\ufffd" not in word:
                assert bool(allowed[i]) == any(
                    text.startswith(prefix + word) for text in language
                ), (prefix, word)
    first_byte = tokenizer.encode("é")[0]
    assert grammar.matcher().allowed(tokenizer.vocab_size)[first_byte]


def test_rollback_and_fits(tokenizer: Tokenizer) -> None:
    matcher = Grammar.regex(tokenizer, "[ab]{3}c").matcher()
    a, c = tokenizer.token_id("a"), tokenizer.token_id("c")
    before = matcher.allowed(tokenizer.vocab_size)
    assert matcher.fits([a, a, c]) == 2
    assert not matcher.accept(a) and not matcher.accept(a)
    matcher.rollback(2)
    assert torch.equal(before, matcher.allowed(tokenizer.vocab_size))
    assert [matcher.accept(t) for t in (a, a, a, c)] == [False, False, False, True]
    with pytest.raises(DaedalError, match="breaks the grammar"):
        matcher.accept(a)


def test_tokens_beyond_the_tokenizer_stay_masked(tokenizer: Tokenizer) -> None:
    logits = torch.zeros(1, tokenizer.vocab_size + 5)
    masked = Grammar.regex(tokenizer, "[ab]+").matcher().mask(logits)
    assert (
        bool((masked[0, tokenizer.vocab_size :] == float("-inf")).all())
        and not masked.isinf().all()
    )


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "objec"}, "objec"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum"),
        ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "incompatible"),
        ({"enum": []}, "empty"),
        (False, "false"),
        ("{not json", "not JSON"),
        ("[1]", "object"),
        ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "schema"),
    ],
)
def test_bad_schema_is_one_sentence(tokenizer: Tokenizer, schema: object, said: str) -> None:
    with pytest.raises(DaedalError, match=said) as error:
        Grammar.json(tokenizer, schema)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("pattern", ["[ab", "(?=a)b", r"[^\s\S]"])
def test_bad_pattern_is_one_sentence(tokenizer: Tokenizer, pattern: str) -> None:
    with pytest.raises(DaedalError, match="pattern") as error:
        Grammar.regex(tokenizer, pattern)
    assert "\n" not in str(error.value)
