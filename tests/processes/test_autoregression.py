"""The naive loop and what is built on logits: oracles from transformers on a tiny random network,
distributions by chi-square."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from daedal import networks
from daedal.errors import DaedalError
from daedal.processes import autoregression as A
from daedal.processes.sampling import SamplingParams

SIZES = {
    "model_type": "llama", "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "tie_word_embeddings": False,
}  # fmt: skip
PROMPT = [3, 17, 5, 8, 30]
GREEDY = SamplingParams(temperature=0, max_tokens=12)


def tiny(seed: int = 0, **sizes) -> "networks.Decoder":
    torch.manual_seed(seed)
    network = networks.build(networks.config_from_dict({**SIZES, **sizes})).eval()
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.3) if p.dim() > 1 else None
    return network


@pytest.fixture(scope="module")
def network():
    return tiny()


@pytest.fixture(scope="module")
def theirs(network):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        **{k: v for k, v in SIZES.items() if k != "model_type"},
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    state = {
        name if name == "lm_head.weight" else f"model.{name}": p
        for name, p in network.state_dict().items()
    }
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not missing and not unexpected
    return model


def test_greedy_equals_transformers_and_cache_changes_nothing(network, theirs) -> None:
    want = theirs.generate(
        torch.tensor([PROMPT]), max_new_tokens=12, do_sample=False, eos_token_id=None
    )[0, len(PROMPT) :].tolist()
    assert (
        A.generate(network, PROMPT, GREEDY)
        == A.generate(network, PROMPT, GREEDY, cached=True)
        == want
    )


def test_ends(network) -> None:
    free = A.generate(network, PROMPT, GREEDY)
    ended = A.generate(network, PROMPT, GREEDY, eos_ids=[free[4]])
    assert ended == free[: free.index(free[4]) + 1]
    ignoring = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    assert A.generate(network, PROMPT, ignoring, eos_ids=[free[4]]) == free


def test_n_samples_and_seeds(network) -> None:
    params = SamplingParams(n=3, seed=5, max_tokens=8)
    each = [params.seeded().sample_of(i) for i in range(3)]
    many = [A.generate(network, PROMPT, one) for one in each]
    assert many == [A.generate(network, PROMPT, one, cached=True) for one in each]
    assert len({tuple(ids) for ids in many}) == 3
    assert many[0] == A.generate(network, PROMPT, SamplingParams(seed=5, max_tokens=8))


def test_empty_prompt(network) -> None:
    with pytest.raises(DaedalError, match="no tokens"):
        A.generate(network, [], GREEDY)


@pytest.mark.parametrize("length_penalty", [1.0, 0.0, 2.0])
@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("beams", [1, 2, 4])
def test_beam_search_equals_transformers(
    network, theirs, beams: int, early_stopping: bool, length_penalty: float
) -> None:
    for ends in ([2], [2, 7], [11, 30, 4, 5]):
        options = {"length_penalty": length_penalty, "early_stopping": early_stopping}
        found = A.beam_search(network, PROMPT, beams=beams, max_tokens=9, eos_ids=ends, **options)
        if beams == 1:
            greedy = A.generate(
                network, PROMPT, SamplingParams(temperature=0, max_tokens=9), eos_ids=ends
            )
            assert found[0].ids == tuple(greedy)
            continue
        want = theirs.generate(
            torch.tensor([PROMPT]), num_beams=beams, num_return_sequences=beams, max_new_tokens=9, do_sample=False, eos_token_id=ends,
            return_dict_in_generate=True, output_scores=True, pad_token_id=0, **options,
        )  # fmt: skip
        rows = want.sequences[:, len(PROMPT) :].tolist()
        for beam, row, score in zip(found, rows, want.sequences_scores.tolist(), strict=True):
            assert list(beam.ids) == row[: len(beam.ids)] and set(row[len(beam.ids) :]) <= {
                0,
                ends[0],
            }
            assert beam.score == pytest.approx(score, abs=1e-4)


def test_guidance_equals_transformers(network, theirs) -> None:
    transformers = pytest.importorskip("transformers")
    weak, scale = PROMPT[-1:], 1.8
    guide = transformers.UnbatchedClassifierFreeGuidanceLogitsProcessor(
        scale, theirs, unconditional_ids=torch.tensor([weak]), use_cache=False
    )
    want = theirs.generate(
        torch.tensor([PROMPT]),
        max_new_tokens=10,
        do_sample=False,
        eos_token_id=None,
        logits_processor=[guide],
    )
    for cached in (False, True):
        contrast = A.Contrast(network, weak, A.guided(scale))
        ours = A.generate(
            network,
            PROMPT,
            SamplingParams(temperature=0, max_tokens=10),
            cached=cached,
            contrast=contrast,
        )
        assert ours == want[0, len(PROMPT) :].tolist()


def test_guidance_and_contrast_have_neutral_settings(network) -> None:
    amateur = tiny(1, num_hidden_layers=1)
    plain = A.generate(network, PROMPT, GREEDY)
    for combine in (A.guided(1.0), A.contrastive(0.1, 0.0), A.contrastive(1.0, 0.5)):
        assert (
            A.generate(network, PROMPT, GREEDY, contrast=A.Contrast(amateur, PROMPT[:1], combine))
            == plain
        )
    expert, other = torch.tensor([2.0, 1.9, -5.0]), torch.tensor([3.0, 0.0, -20.0])
    # the amateur's favourite loses, the implausible token stays out
    assert int(A.contrastive()(expert, other).argmax()) == 1


def chi_square(counts: torch.Tensor, expected: torch.Tensor) -> tuple[float, float]:
    df = len(counts) - 1
    return float(((counts - expected) ** 2 / expected).sum()), df * (
        1 - 2 / (9 * df) + 3.72 * (2 / (9 * df)) ** 0.5
    ) ** 3


def test_speculation_has_the_targets_distribution() -> None:
    """Two guessed positions over four tokens: every pair of emitted tokens is as likely as under
    the target."""
    g = torch.Generator().manual_seed(0)
    target, draft = (
        torch.rand(3, 4, generator=g).softmax(-1),
        (torch.rand(2, 4, generator=g) * 3).softmax(-1),
    )
    runs = 6000
    counts = torch.zeros(4, 4)
    for _ in range(runs):
        guesses = [int(torch.multinomial(row, 1, generator=g)) for row in draft]
        out = A.speculative_accept(target, draft, guesses, torch.rand(3, generator=g).tolist())
        second = out[1] if len(out) > 1 else int(torch.multinomial(target[1], 1, generator=g))
        counts[out[0], second] += 1
    statistic, limit = chi_square(
        counts.flatten(), (target[0][:, None] * target[1]).flatten() * runs
    )
    assert statistic < limit


def test_speculation_with_the_same_distribution_accepts_all() -> None:
    p = torch.rand(3, 5).softmax(-1)
    assert A.speculative_accept(p, p[:2], [1, 2], [0.999, 0.999, 0.5])[:2] == [1, 2]


def test_prompt_lookup() -> None:
    assert A.prompt_lookup([1, 2, 3, 9, 1, 2, 3], 3) == [9, 1, 2]
    # two tokens matched beat one matched later
    assert A.prompt_lookup([1, 2, 8, 2, 9, 1, 2], 1) == [8]
    assert A.prompt_lookup([1, 2, 3], 4) == [] and A.prompt_lookup([], 4) == []
    assert A.prompt_lookup([5, 5, 5], 4) == [5]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 5))
def test_prompt_lookup_is_the_plain_search(ids: list[int], k: int) -> None:
    def search() -> list[int]:
        for size in (3, 2, 1):
            for end in range(len(ids) - 1, size - 1, -1):
                if ids[end - size : end] == ids[len(ids) - size :]:
                    return ids[end : end + k]
        return []

    grown = A.PromptLookup()
    for token in ids:
        grown.extend([token])
    assert grown.propose(k) == A.prompt_lookup(ids, k) == search()


@settings(max_examples=300, deadline=None)
@given(
    st.text("ab", max_size=25),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    st.data(),
)
def test_stop_strings_hold_back_what_could_become_one(text: str, stops: list[str], data) -> None:
    held, out, at = A.StopStrings(stops), "", 0
    while at < len(text) and not held.stopped:
        size = data.draw(st.integers(1, 4))
        out += held.push(text[at : at + size])
        at += size
        assert not any(stop in out for stop in stops)
    out += held.flush()
    places = [text.find(stop) for stop in stops if stop in text]
    # a coarse push may see a later end first: the earliest start wins among what has arrived
    if held.stopped:
        assert text.startswith(out) and any(text[len(out) :].startswith(stop) for stop in stops)
    else:
        assert out == text and not places
