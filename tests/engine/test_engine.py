"""The engine equals the naive loop token for token: mixed lengths, every cache, every feature,
every order of events.

Networks here are tiny, random and float64, so that no two logits are near enough for the order of a
sum to matter.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from daedal import networks
from daedal.data.tokenizer import Tokenizer
from daedal.engine.engine import Engine
from daedal.engine.paged import PagedCache
from daedal.engine.slots import common_prefix
from daedal.errors import DaedalError
from daedal.nn import kernels
from daedal.nn.quantized import quantize_
from daedal.processes.autoregression import generate, generate_text
from daedal.processes.grammar import Grammar
from daedal.processes.sampling import SamplingParams
from daedal.processes.text_mark import GreenList

VOCABULARY = 24
EOS = 2


def tiny(seed: int = 0, **sizes) -> "networks.Decoder":
    torch.manual_seed(seed)
    shape = {
        "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 96, "eos_token_id": EOS,
    }  # fmt: skip
    network = networks.build(networks.config_from_dict({**shape, **sizes})).eval().double()
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.4) if p.dim() > 1 else None
    return network


TARGET = tiny()
SLIDING = tiny(1, model_type="mistral", sliding_window=5)
DRAFT = tiny(2, num_hidden_layers=1)
with torch.no_grad():  # a draft that is often right
    DRAFT.load_state_dict({name: TARGET.state_dict()[name] for name in DRAFT.state_dict()})

PROMPTS = st.lists(st.lists(st.integers(3, 8), min_size=1, max_size=20), min_size=1, max_size=6)
FEATURES = st.fixed_dictionaries({
    "cache": st.sampled_from(["slots", "paged"]),
    "max_batch": st.integers(1, 4),
    "token_budget": st.integers(4, 24),
    "block_size": st.sampled_from([1, 3, 8]),
    "prefix_caching": st.booleans(),
    "prompt_lookup": st.sampled_from([0, 0, 3]),
    "draft": st.sampled_from([None, DRAFT]),
    "blocks": st.integers(0, 20),
})  # fmt: skip
SETTINGS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.0, 0.8]),
    top_p=st.sampled_from([1.0, 0.9]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.3]),
    frequency_penalty=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 3),
    max_tokens=st.integers(1, 16),
    ignore_eos=st.booleans(),
    mark=st.sampled_from([None, None, GreenList(bytes(32))]),
)


def build(network, features: dict, **more) -> Engine:
    options = dict(features)
    blocks = options.pop("blocks", 0)
    need = -(-40 // options["block_size"])  # the longest request here fits
    if options["cache"] == "paged":
        options["memory_budget"] = (
            (need + blocks) * options["block_size"] * network.cache_bytes_per_token(torch.float64)
        )
    return Engine(network, **options, **more)


def settled(engine: Engine) -> bool:
    """Nothing is held after everything finished."""
    if isinstance(engine.cache, PagedCache):
        engine.cache.check()
        return len(engine.cache.pool.free) == engine.cache.blocks and not any(engine.cache.tables)
    return len(engine.cache.free) == engine.cache.spare


@settings(max_examples=80, deadline=None)
@given(PROMPTS, FEATURES, st.data(), st.sampled_from([TARGET, SLIDING]))
def test_output_equals_the_naive_loop(
    prompts: list[list[int]], features: dict, data, network
) -> None:
    params = [data.draw(SETTINGS) for _ in prompts]
    engine = build(network, features)
    requests = engine.generate(prompts, params)
    for request, prompt, p in zip(requests, prompts, params, strict=True):
        assert request.output == generate(network, prompt, p, eos_ids=[EOS])
    assert settled(engine)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(3, 8), min_size=1, max_size=20), FEATURES, SETTINGS, st.integers(2, 4))
def test_samples_share_the_prompt_and_equal_their_own_runs(
    prompt: list[int], features: dict, params: SamplingParams, n: int
) -> None:
    params = SamplingParams(temperature=1.0, seed=params.seed, max_tokens=params.max_tokens, n=n)
    engine = build(TARGET, features)
    first = engine.generate([prompt], params)[0]
    assert [s.output for s in first.samples] == [
        generate(TARGET, prompt, params.sample_of(i), eos_ids=[EOS]) for i in range(n)
    ]
    assert settled(engine)


@pytest.mark.parametrize("exact", [False, True])
def test_samples_run_their_prompt_once(exact: bool) -> None:
    engine = Engine(TARGET, max_batch=4, max_len=64, exact_prefixes=exact)
    params = SamplingParams(temperature=1.0, seed=3, max_tokens=5, n=6, ignore_eos=True)
    first = engine.submit([3, 4, 5, 6] * 5, params)
    other = engine.submit([7, 8], SamplingParams(max_tokens=2, ignore_eos=True))
    engine.step()
    assert other.slot >= 0 and sum(s.slot >= 0 for s in first.samples) == 3
    while engine.busy:
        engine.step()
    again = 20 if exact else 1  # of the samples that found no place in time
    assert engine.tokens_run == 20 + 3 * 4 + 3 * (again + 4) + 2 + 1
    for i, sample in enumerate(first.samples):
        assert sample.output == generate(TARGET, first.prompt, params.sample_of(i))


@settings(max_examples=50, deadline=None)
@given(
    PROMPTS,
    FEATURES,
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 12)), max_size=4),
    st.integers(0, 3),
)
def test_cancelling_anything_at_any_step_disturbs_nothing(
    prompts, features: dict, cancels, late: int
) -> None:
    engine, params = (
        build(TARGET, features),
        SamplingParams(temperature=0, max_tokens=10, ignore_eos=True),
    )
    requests, steps = (
        [engine.submit(prompt, params) for prompt in prompts[: len(prompts) - late or 1]],
        0,
    )
    while engine.busy:
        for index, when in cancels:
            if when == steps and index < len(requests):
                engine.cancel(requests[index])
        if steps == 2:  # some come later
            requests += [engine.submit(prompt, params) for prompt in prompts[len(requests) :]]
        engine.step()
        if isinstance(engine.cache, PagedCache):
            engine.cache.check()
        steps += 1
    for request in requests:
        want = generate(TARGET, request.prompt, params)
        assert request.finished in ("length", "cancelled")
        assert request.output == (
            want if request.finished == "length" else want[: len(request.output)]
        )
    assert settled(engine)


def test_preemption_happens_and_changes_nothing() -> None:
    prompts = [[3 + i, 4, 5, 6] for i in range(4)]
    params = SamplingParams(temperature=0.9, seed=1, max_tokens=20, ignore_eos=True)
    engine = Engine(
        TARGET,
        cache="paged",
        block_size=2,
        max_batch=4,
        memory_budget=24 * 2 * TARGET.cache_bytes_per_token(torch.float64),
    )
    requests = engine.generate(prompts, params)
    assert engine.scheduler.preemptions > 0 and settled(engine)
    assert [r.output for r in requests] == [generate(TARGET, p, params) for p in prompts]


@pytest.mark.parametrize("cache", ["slots", "paged"])
def test_prefix_hits_grow_with_the_shared_prefix(cache: str) -> None:
    base = [3 + (7 * i) % 19 for i in range(32)]
    hits = []
    for shared in range(0, 33, 4):
        engine = Engine(TARGET, cache=cache, block_size=4)
        engine.generate([base], SamplingParams(temperature=0, max_tokens=2))
        hits.append(
            engine.generate(
                [base[:shared] + [20] * 4], SamplingParams(temperature=0, max_tokens=2)
            )[0].reused
        )
    assert hits == sorted(hits) and hits[0] == 0 and hits[-1] == 32
    off = Engine(TARGET, cache=cache, prefix_caching=False)
    assert [off.generate([base], SamplingParams(max_tokens=2))[0].reused for _ in range(2)] == [
        0,
        0,
    ]


def test_a_freed_block_keeps_its_name_until_reused() -> None:
    engine = Engine(
        TARGET,
        cache="paged",
        block_size=4,
        memory_budget=12 * 4 * TARGET.cache_bytes_per_token(torch.float64),
    )
    base, params = list(range(3, 23)), SamplingParams(temperature=0, max_tokens=1)
    assert [engine.generate([base], params)[0].reused for _ in range(2)] == [0, 16]
    engine.generate([[23 - i % 4 for i in range(40)]], params)  # needs the place
    assert engine.generate([base], params)[0].reused < 16
    assert settled(engine)


def test_speculation_is_worth_it() -> None:
    prompt, params = (
        [3, 4, 5],
        SamplingParams(temperature=0.7, seed=0, max_tokens=40, ignore_eos=True),
    )
    plain, same = Engine(TARGET), Engine(TARGET, draft=tiny(), guesses=4)
    assert plain.generate([prompt], params)[0].output == same.generate([prompt], params)[0].output
    # a draft that is the target is always right
    assert same.accepted == same.guessed > 0 and same.steps < plain.steps / 3
    looking = Engine(TARGET, prompt_lookup=3)
    biased = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True, logit_bias={7: 50.0})
    looking.generate([prompt], biased)
    assert looking.accepted > 10 and looking.steps < 20


@pytest.mark.parametrize("cache", ["slots", "paged"])
def test_long_prompts_do_not_stall_those_that_decode(cache: str) -> None:
    engine = Engine(TARGET, cache=cache, token_budget=8, max_batch=4)
    params = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True)
    first = engine.submit([3, 4], params)
    engine.step()
    engine.submit([5] * 60, params)
    before = len(first.output)
    for _ in range(6):
        engine.step()
    assert len(first.output) == before + 6


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return Tokenizer.train(["abc"], 270, ("<|endoftext|>",))


@pytest.fixture(scope="module")
def speaker(words: Tokenizer):
    return tiny(3, vocab_size=words.vocab_size, eos_token_id=None)


@pytest.mark.parametrize("features", [{}, {"prompt_lookup": 3}, {"cache": "paged"}])
def test_stop_strings_grammar_and_text(words: Tokenizer, speaker, features: dict) -> None:
    letters = SamplingParams(
        seed=0, max_tokens=40, stop=("ab", "cca"), grammar=Grammar.regex(words, "[abc ]{30,50}")
    )
    json = SamplingParams(
        seed=1, max_tokens=60, grammar=Grammar.json(words, {"enum": ["yes", "no", "perhaps"]})
    )
    free = SamplingParams(seed=2, max_tokens=20, top_k=60)
    engine = Engine(speaker, words, **features)
    prompts = [words.encode("a"), words.encode("b "), words.encode("éab")]
    requests = engine.generate(prompts, [letters, json, free])
    for request, prompt, params in zip(requests, prompts, (letters, json, free), strict=True):
        assert request.text == generate_text(speaker, words, prompt, params)
    assert requests[0].finished == requests[1].finished == "stop"
    assert "ab" not in requests[0].text and requests[1].text in ('"yes"', '"no"', '"perhaps"')


def test_streaming_and_logprobs(words: Tokenizer, speaker) -> None:
    params = SamplingParams(temperature=0, max_tokens=6, logprobs=2)
    engine, prompts = Engine(speaker, words), [words.encode("ab"), words.encode("c")]
    got: dict[int, list] = {0: [], 1: []}
    for index, token in engine.stream(prompts, params):
        got[index].append(token)
    for index, prompt in enumerate(prompts):
        ids = [token.id for token in got[index]]
        assert ids == generate(speaker, prompt, params, eos_ids=words.eos_ids)
        logits = (
            speaker(torch.tensor([prompt + ids])).detach()[0, len(prompt) - 1 : -1].log_softmax(-1)
        )
        for token, line in zip(got[index], logits, strict=True):
            assert (
                token.logprob == pytest.approx(float(line[token.id]), abs=1e-5)
                and len(token.likeliest) == 2
            )
            assert token.likeliest[0] == (token.id, pytest.approx(token.logprob))


def test_a_reader_that_leaves_frees_everything(words: Tokenizer, speaker) -> None:
    engine = Engine(speaker, words)
    stream = engine.stream([words.encode("ab")] * 3, SamplingParams(max_tokens=30))
    next(stream)
    stream.close()
    engine.step()
    assert not engine.busy and settled(engine)


def test_bad_requests_are_one_sentence(words: Tokenizer, speaker) -> None:
    engine = Engine(TARGET, max_len=10)
    with pytest.raises(DaedalError, match="12 tokens and the context 10"):
        engine.submit([3] * 12)
    with pytest.raises(DaedalError, match="no tokens"):
        engine.submit([])
    with pytest.raises(DaedalError, match="tokenizer"):
        engine.submit([3], SamplingParams(stop=("a",)))
    with pytest.raises(DaedalError, match="share a tokenizer"):
        Engine(TARGET, draft=speaker)
    with pytest.raises(DaedalError, match="max_len"):
        Engine(TARGET, memory_budget=100)
    with pytest.raises(DaedalError, match=r"needs .* GB"):
        Engine(tiny(), max_batch=10**12, token_budget=10**12)
    with pytest.raises(DaedalError, match=r"need .* GB"):
        Engine(
            tiny(max_position_embeddings=10**13), max_len=10**13, max_batch=1, token_budget=1
        ).cache.reserve(10**13)
    with pytest.raises(DaedalError, match="'slots' or 'paged'"):
        Engine(TARGET, cache="pages")


@pytest.mark.skipif(not kernels.build(), reason="no C++ compiler")
@pytest.mark.parametrize("bits", [32, 8])
def test_replayed_steps_draw_what_the_network_says(bits: int) -> None:
    """On the fast path (fp32, native kernels) each token is the network's own best, up to rounding,
    with the right log-probability."""
    # packed weights round activations, long inputs in another way than short ones
    slack = 2e-3 if bits == 32 else 1e-2
    network = tiny(
        4, hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2
    ).float()
    if bits < 32:
        quantize_(network, bits=bits)
    engine = Engine(network, max_batch=5, max_len=80, token_budget=16)
    params = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True, logprobs=0)
    for request in engine.generate([list(range(3, 4 + 3 * i)) for i in range(5)], params):
        lines = (
            network(torch.tensor([request.tokens]))
            .detach()[0, len(request.prompt) - 1 : -1]
            .log_softmax(-1)
        )
        for token, line in zip(request.stream, lines, strict=True):
            assert (
                token.logprob == pytest.approx(float(line[token.id]), abs=slack)
                and line[token.id] > line.max() - slack
            )
    assert engine.replays is not None and engine.replays.captured


@given(st.lists(st.integers(0, 1), max_size=12), st.lists(st.integers(0, 1), max_size=12))
def test_common_prefix(a: list[int], b: list[int]) -> None:
    n = common_prefix(a, b)
    assert a[:n] == b[:n] and (n == min(len(a), len(b)) or a[n] != b[n])


@pytest.mark.parametrize("how", ["weights", "compute"])
def test_activations_that_the_kernels_cannot_read_take_the_plain_step(how: str) -> None:
    kernels.build()
    network = tiny(hidden_size=32, num_attention_heads=4).to(
        torch.bfloat16 if how == "weights" else torch.float32
    )
    network.compute_dtype = torch.bfloat16 if how == "compute" else None
    params = SamplingParams(max_tokens=8, temperature=0, seed=0, ignore_eos=True)
    with torch.no_grad():
        (request,) = Engine(network, max_batch=2, max_len=64).generate([[3, 4, 5]], params)
        assert request.samples[0].output == generate(network, [3, 4, 5], params, cached=True)


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("native", [True, False])
def test_a_long_prompt_of_a_packed_network_is_read_in_parts(bits, native, monkeypatch):
    """Steps in which no request catches up have no row for the head, which is packed too."""
    if not native:
        monkeypatch.setattr(kernels, "available", lambda: False)
    network = quantize_(
        tiny(
            4, hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2
        ).float(),
        bits,
    )
    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    (request,) = Engine(network, max_batch=2, max_len=80, token_budget=8).generate(
        [[3 + i % 6 for i in range(40)]], params
    )
    lines = network(torch.tensor([request.tokens])).detach()[0, len(request.prompt) - 1 : -1]
    assert len(request.output) == 8
    assert all(
        line[token] > line.max() - 0.2 for token, line in zip(request.output, lines, strict=True)
    )


def test_exact_prefixes_change_no_output_by_a_bit() -> None:
    """In fp32, whose sums depend on how a prompt is cut: a second turn reads only what no whole
    chunk of the first has computed."""
    network = tiny(3, max_position_embeddings=512).float()
    first, more = [3 + i % 20 for i in range(150)], [5, 6, 7] * 20
    asked = SamplingParams(temperature=0.8, seed=1, max_tokens=20, ignore_eos=True, logprobs=0)
    make = lambda: Engine(network, token_budget=64, exact_prefixes=True)  # noqa: E731
    engine = make()
    turn = engine.generate([first], asked)[0]
    second = [*first, *turn.output, *more]
    again, alone = engine.generate([second], asked)[0], make().generate([second], asked)[0]
    assert (turn.reused, again.reused, alone.reused) == (0, 128, 0)
    assert again.output == alone.output
    assert [token.logprob for token in again.stream] == [token.logprob for token in alone.stream]
    third = engine.generate([[*second, *again.output, 4]], asked)[0]
    assert third.reused == 192, "what the second turn read is known now"


def test_rows_grow_with_the_longest_sequence() -> None:
    """Captured steps are captured again, and nothing that comes out changes."""
    network = tiny(4, max_position_embeddings=2048).float()
    engine = Engine(network, max_batch=3)
    assert engine.cache.places == 256
    prompts = [[3 + i % 20 for i in range(n)] for n in (5, 240, 700)]
    asked = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
    grown = [request.output for request in engine.generate(prompts, asked)]
    assert 740 <= engine.cache.places <= 1024
    assert grown == [generate(network, prompt, asked, cached=True) for prompt in prompts]


@pytest.mark.parametrize("cache", ["slots", "paged"])
def test_numbers_that_are_not_finite_stay_with_their_request(cache: str) -> None:
    """A token whose embedding is NaN: its request ends with a sentence, and those beside it and
    after it in its place are as alone."""
    network, bad = tiny(5), 9
    with torch.no_grad():
        network.embed_tokens.weight[bad] = float("nan")
    engine = Engine(network, cache=cache, block_size=4, max_batch=2)
    asked = SamplingParams(
        temperature=0, max_tokens=12, ignore_eos=True, logit_bias={bad: float("-inf")}
    )
    for _ in range(2):
        good, broken = engine.generate([[3, 4, 5], [6, bad, 7, 8, 3, 4]], asked)
        assert good.output == generate(network, [3, 4, 5], asked)
        assert broken.finished == "error" and "NaN" in str(broken.error)
    both = engine.generate([[3], [4, 5, 6, 7, 8]], asked)
    assert [request.output for request in both] == [
        generate(network, prompt, asked) for prompt in ([3], [4, 5, 6, 7, 8])
    ]


class Interrupted(list):
    """A list whose method of this name is cut short by Ctrl-C once, before or after its work."""

    def __init__(self, items, name: str, before: bool) -> None:
        super().__init__(items)
        self.name, self.before, self.due = name, before, True

    def cut(self, name: str, item) -> None:
        due = self.due and name == self.name
        self.due = self.due and not due
        if not (due and self.before):
            getattr(super(), name)(item)
        if due:
            raise KeyboardInterrupt

    def append(self, item) -> None:
        self.cut("append", item)

    def remove(self, item) -> None:
        self.cut("remove", item)


@pytest.mark.parametrize("cancel", [False, True])
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("of, name", [("running", "append"), ("waiting", "remove")])
def test_a_ctrl_c_in_the_middle_of_an_admission_is_put_right(of, name, before, cancel) -> None:
    engine = Engine(TARGET, max_batch=2)
    params = SamplingParams(temperature=0, max_tokens=5, ignore_eos=True)
    first, second = engine.submit([3, 4, 5], params), engine.submit([6, 7], params)
    setattr(engine.scheduler, of, Interrupted([], name, before))
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    if cancel:
        engine.cancel(first)
    while engine.busy:
        engine.step()
    assert second.output == generate(TARGET, [6, 7], params)
    assert first.finished == ("cancelled" if cancel else "length")
    assert len(engine.cache.free) == 2  # no place was lost
