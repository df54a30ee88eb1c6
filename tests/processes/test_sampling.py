"""Sampling: filters equal to transformers', draws that follow the distribution, and draws that no
batch can change."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from daedal.errors import DaedalError
from daedal.processes import sampling as S
from daedal.processes.sampling import SamplingParams

V = 64


def random_logits(seed: int, rows: int = 8, vocabulary: int = V) -> torch.Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * 3


def oracles() -> list:
    t = pytest.importorskip("transformers")
    return [
        (lambda x: S.temperature(x, 0.7), t.TemperatureLogitsWarper(0.7)),
        (lambda x: S.top_k(x, 5), t.TopKLogitsWarper(5)),
        (lambda x: S.top_p(x, 0.8), t.TopPLogitsWarper(0.8)),
        (lambda x: S.top_p(x, 0.01), t.TopPLogitsWarper(0.01)),
        (lambda x: S.min_p(x, 0.1), t.MinPLogitsWarper(0.1)),
        (lambda x: S.typical(x, 0.6), t.TypicalLogitsWarper(0.6)),
    ]


@pytest.mark.parametrize("which", range(6))
def test_filters_equal_transformers(which: int) -> None:
    ours, theirs = oracles()[which]
    for seed in range(20):
        logits = random_logits(seed)
        torch.testing.assert_close(ours(logits), theirs(None, logits.clone()))


def test_repetition_equals_transformers() -> None:
    t = pytest.importorskip("transformers")
    logits, ids = random_logits(0, 1), [3, 5, 3, 60]
    want = t.RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([ids]), logits.clone())[0]
    torch.testing.assert_close(S.repetition(logits[0], ids, 1.3), want)
    torch.testing.assert_close(
        S.edit(logits[0], SamplingParams(repetition_penalty=1.3), ids[:2], ids[2:]), want
    )


def test_presence_frequency_and_bias() -> None:
    logits = torch.zeros(5)
    params = SamplingParams(
        presence_penalty=0.5, frequency_penalty=0.25, logit_bias={4: 2.0, 0: float("-inf")}
    )
    assert S.edit(logits, params, [3], [1, 1, 2]).tolist() == [float("-inf"), -1.0, -0.75, 0.0, 2.0]
    with pytest.raises(DaedalError, match="token 9"):
        S.edit(logits, SamplingParams(logit_bias={9: 1.0}), [], [])


SHAPES = [
    {},
    {"temperature": 0.6},
    {"top_k": 7},
    {"top_p": 0.7},
    {"min_p": 0.05},
    {"typical_p": 0.5},
    {"top_k": 12, "top_p": 0.9, "min_p": 0.02, "temperature": 1.3},
    {"top_k": 20, "typical_p": 0.8},
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("vocabulary", [V, 3000])
def test_shortlist_is_what_truncate_leaves(shape: dict, vocabulary: int) -> None:
    params = SamplingParams(**shape)
    for scale in (0.1, 2.0):  # flat rows do not fit the shortlist
        logits = random_logits(1, 8, vocabulary) * scale
        logp, ids, left, enough = S.shortlist(logits, params, 256)
        listed = torch.full_like(logits, -S.INF).scatter(-1, ids, logp).exp()
        want = S.truncate(logits, params).softmax(-1)
        outside = want.scatter(-1, ids, 0.0)
        norm = (listed.sum(-1) + left.exp())[:, None]
        torch.testing.assert_close(
            (listed / norm)[enough], (want - outside)[enough], rtol=1e-4, atol=1e-6
        )
        torch.testing.assert_close(
            (left.exp() / norm[:, 0])[enough], outside.sum(-1)[enough], rtol=1e-4, atol=1e-5
        )
        assert vocabulary > V or enough.all()


def chi_square(counts: torch.Tensor, expected: torch.Tensor) -> tuple[float, float]:
    """(statistic, the value that chance exceeds once in ten thousand): Wilson-Hilferty."""
    kept = expected > 5
    statistic = float(((counts - expected)[kept] ** 2 / expected[kept]).sum())
    df = int(kept.sum()) - 1
    return statistic, df * (1 - 2 / (9 * df) + 3.72 * (2 / (9 * df)) ** 0.5) ** 3


@pytest.mark.parametrize("short", [4, 256])
@pytest.mark.parametrize("shape", SHAPES)
def test_draws_follow_the_distribution(shape: dict, short: int, monkeypatch) -> None:
    # 4: the shortlist is not enough, 256: it holds everything
    monkeypatch.setattr(S._draw, "__defaults__", (short,))
    logits, draws = random_logits(2, 1)[0] / 2, 4_000
    params = SamplingParams(seed=0, **shape)
    rows = [(dataclasses.replace(params, seed=i), (), ()) for i in range(draws)]
    tokens = torch.tensor(S.sample_batch(logits.expand(draws, V), rows))
    expected = S.truncate(logits, params).softmax(-1) * draws
    counts = tokens.bincount(minlength=V).double()
    assert counts[expected == 0].sum() == 0
    statistic, limit = chi_square(counts, expected)
    assert statistic < limit


def test_draws_of_one_seed_are_independent_over_steps() -> None:
    logits, draws = random_logits(3, 1, 4)[0] / 4, 16_000
    params = SamplingParams(seed=7)
    rows = [(params, (), range(i)) for i in range(draws)]
    tokens = torch.tensor(S.sample_batch(logits.expand(draws, 4), rows))
    pairs = (tokens[::2] * 4 + tokens[1::2]).bincount(minlength=16).double()
    p = logits.softmax(-1).double()
    statistic, limit = chi_square(pairs, (p[:, None] * p).flatten() * draws / 2)
    assert statistic < limit


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, len(SHAPES)), st.integers(0, 9), st.integers(0, 5)),
        min_size=1,
        max_size=6,
    ),
    st.integers(0, 99),
)
def test_a_draw_does_not_depend_on_the_batch(rows: list[tuple[int, int, int]], seed: int) -> None:
    shapes = [*SHAPES, {"temperature": 0.0, "repetition_penalty": 2.0}]
    batch = [
        (SamplingParams(seed=s, **shapes[which]), [1, 2], list(range(step)))
        for which, s, step in rows
    ]
    logits = random_logits(seed, len(rows))
    together = S.sample_batch(logits, batch)
    assert together == [
        S.sample(line, p, prompt=a, output=b)[0]
        for line, (p, a, b) in zip(logits, batch, strict=True)
    ]


def test_greedy_and_logprobs() -> None:
    logits = random_logits(4, 1)[0]
    token, logprob = S.sample(logits, SamplingParams(temperature=0))
    assert token == int(logits.argmax()) and logprob == pytest.approx(
        float(logits.log_softmax(-1).max())
    )
    assert S.likeliest(logits, 3)[0] == (token, pytest.approx(logprob))


def test_samples_of_one_request_differ() -> None:
    params = SamplingParams(seed=1, n=5)
    assert len({params.sample_of(i).seed for i in range(5)}) == 5 and params.sample_of(0).seed == 1
    assert SamplingParams().seeded().seed is not None


BAD = [
    ("temperature", -1),
    ("temperature", float("nan")),
    ("top_k", 1.5),
    ("top_p", 0),
    ("top_p", 1.5),
    ("min_p", 2),
    ("repetition_penalty", 0),
    ("logit_bias", {"a": 1}),
    ("seed", -1),
    ("max_tokens", 0),
    ("stop", ("",)),
    ("n", 0),
    ("top_p", "high"),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_wrong_values_are_named(name: str, value: object) -> None:
    with pytest.raises(DaedalError, match=f"{name}=.* must be "):
        SamplingParams(**{name: value})
