"""The watermark of texts: alarms no oftener than stated, found by length and entropy, cut in half,
and the same text again whatever runs beside it."""

import math
import os
import stat

import numpy as np
import pytest
import torch

import daedal
from daedal.engine.engine import Engine
from daedal.errors import DaedalError
from daedal.files import data_folder
from daedal.processes.autoregression import generate
from daedal.processes.sampling import SamplingParams, sample_batch
from daedal.processes.text_mark import GAMMA, GreenList
from daedal.trust.text_mark import binomial_tail, examine

VOCABULARY = 1000


def key(number: int) -> bytes:
    return number.to_bytes(32, "little")


def zipf(length: int, seed: int) -> list[int]:
    """Tokens as unlike in frequency as words are, with many repeated pairs."""
    weights = 1 / np.arange(1, VOCABULARY + 1)
    draw = np.random.default_rng(seed)
    return draw.choice(VOCABULARY, length, p=weights / weights.sum()).tolist()


def write(length: int, scale: float, seed: int, mark: GreenList | None) -> tuple[list[int], float]:
    """Tokens of a model whose logits are normal with this scale, and its entropy in bits."""
    logits = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(seed)) * scale
    p = logits.softmax(-1)
    params, output = SamplingParams(mark=mark, seed=seed), list[int]()
    for _ in range(length):
        output += sample_batch(logits[None], [(params, [0], output)])
    return output, float(-(p * p.log2()).sum())


def test_false_alarms_are_as_often_as_the_p_value_says():
    tests = [examine(GreenList(key(i)), zipf(200, i % 50)) for i in range(6000)]
    for rate in (1e-1, 1e-2, 1e-3):
        alarms = sum(test.p_value < rate for test in tests)
        # at most so often (the counts are whole, so less is right), within four deviations
        assert alarms <= 6000 * rate + 4 * math.sqrt(6000 * rate)
    assert sum(test.p_value < 0.1 for test in tests) > 300  # and not without any power


def test_repeated_pairs_are_counted_once():
    phrase = [5, 9, 5, 9] * 100
    assert examine(GreenList(key(1)), phrase).pairs == 2


def test_power_grows_with_length_and_entropy():
    found = {}
    for scale, length in ((1.0, 200), (1.0, 20), (4.0, 200)):
        runs = [write(length, scale, seed, GreenList(key(seed))) for seed in range(20)]
        found[scale, length] = sum(
            examine(GreenList(key(seed)), tokens).marked for seed, (tokens, _) in enumerate(runs)
        )
        bits = np.mean([entropy for _, entropy in runs])
        assert (bits > 9) == (scale == 1.0) and (bits < 5) == (scale == 4.0)
    assert found[1.0, 200] >= 19  # 95 % of texts of 200 tokens at 1e-5
    assert 0 < found[1.0, 20] < 20 and found[4.0, 200] < found[1.0, 200]


def test_half_a_text_and_only_its_own_key():
    tokens, _ = write(400, 1.0, 3, GreenList(key(3)))
    assert examine(GreenList(key(3)), tokens[:100] + tokens[300:]).marked
    assert not examine(GreenList(key(4)), tokens).marked


def test_binomial_tail_against_its_sum():
    for least, n in ((0, 5), (3, 9), (9, 9)):
        want = sum(math.comb(n, k) * GAMMA**k * (1 - GAMMA) ** (n - k) for k in range(least, n + 1))
        assert binomial_tail(least, n, GAMMA) == pytest.approx(want)


@pytest.fixture
def pipeline(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return daedal.load(str(tiny_folder))


def test_a_marked_text_of_a_model_is_known_and_made_again(pipeline):
    asked = dict(seed=1, max_tokens=100, ignore_eos=True, temperature=1.0, top_p=1.0)
    marked = pipeline("Once", watermark=True, watermark_strength=4.0, **asked)
    plain = pipeline("Once", **asked)
    secret = (data_folder() / "watermark.key").read_bytes()
    assert examine(GreenList(secret), marked.tokens).marked
    assert not examine(GreenList(secret), plain.tokens).marked
    assert marked.recipe["settings"]["watermark"] and "mark" not in marked.recipe["settings"]
    assert pipeline.reproduce(marked.recipe).tokens == marked.tokens != plain.tokens
    if os.name == "posix":
        assert stat.S_IMODE((data_folder() / "watermark.key").stat().st_mode) == 0o600


def test_batches_and_guesses_change_nothing(pipeline):
    mark = GreenList(key(1))
    prompts = [[5, 6, 7], [8, 9], [5, 6, 7, 8, 9]]
    params = [SamplingParams(seed=i, mark=mark, max_tokens=24, temperature=0.7) for i in range(3)]
    for options in ({}, {"prompt_lookup": 3}, {"draft": pipeline.network}):
        engine = Engine(pipeline.network, **options)
        for request, prompt, asked in zip(
            engine.generate(prompts, params), prompts, params, strict=True
        ):
            assert request.output == generate(pipeline.network, prompt, asked, eos_ids=engine.ends)


def test_a_grammar_leaves_the_text_unmarked_and_says_so(pipeline):
    stream = pipeline.start("Tell", regex="[0-9]{3}", watermark=True, max_tokens=8)
    assert stream.params.mark is None and "watermark" in stream.remarks[0]
    stream.cancel()


def test_a_damaged_key_is_named(pipeline):
    data_folder().mkdir(exist_ok=True)
    (data_folder() / "watermark.key").write_bytes(b"short")
    with pytest.raises(DaedalError, match="5 bytes"):
        pipeline("Once", watermark=True, max_tokens=1)


def test_an_empty_text_says_nothing():
    test = examine(GreenList(key(1)), [7])
    assert (test.pairs, test.z, test.p_value, test.marked) == (0, 0.0, 1.0, False)
    assert "human" not in test.sentence
