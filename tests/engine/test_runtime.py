"""The runtime: exactly one terminal event a request, whatever its neighbours do, from any thread."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from daedal import networks
from daedal.data.tokenizer import Tokenizer
from daedal.engine.engine import Engine
from daedal.engine.request import Request
from daedal.engine.runtime import Generation, GeneratorLane, Runtime
from daedal.engine.shares import Shares
from daedal.errors import DaedalError
from daedal.processes import autoregression
from daedal.processes.sampling import SamplingParams

WORDS = Tokenizer.train(["one day", "once"] * 5, 270, ["<|eos|>"], eos="<|eos|>")
SHAPE = {
    "model_type": "llama", "vocab_size": WORDS.vocab_size, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 96, "eos_token_id": WORDS.eos_ids[0],
}  # fmt: skip


def tiny() -> "networks.Decoder":
    torch.manual_seed(0)
    network = networks.build(networks.config_from_dict(SHAPE)).eval().double()
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.4) if p.dim() > 1 else None
    return network


NETWORK = tiny()


class Faulty:
    """A grammar whose matcher raises after some tokens, as a user's own would."""

    def __init__(self, after: int) -> None:
        self.after = after

    def matcher(self) -> "Faulty":
        return Faulty(self.after)

    def allowed(self, vocabulary: int) -> torch.Tensor:
        if self.after == 0:
            raise KeyError("no such rule")
        return torch.ones(vocabulary, dtype=torch.bool)

    def accept(self, token: int) -> bool:
        self.after -= 1
        return False

    def rollback(self, count: int) -> None:
        self.after += count

    def fits(self, guesses: list[int]) -> int:
        return len(guesses)


def naive(request: Request) -> list[int]:
    made = autoregression.stream(NETWORK, request.prompt, request.params, eos_ids=WORDS.eos_ids)
    return [token for token, _ in made]


class EngineMachine(RuleBasedStateMachine):
    """Requests are submitted, some of them impossible, some failing in the middle; cancelled; and
    stepped. Whatever happens, each ends once, and one that ends by itself has the naive loop's
    tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = Engine(
            NETWORK,
            WORDS,
            max_batch=3,
            token_budget=8,
            max_len=40,
            cache="paged",
            block_size=4,
            memory_budget=20_000,
        )
        self.requests: list[Request] = []
        self.ends: dict[Request, str] = {}

    @rule(
        prompt=st.lists(st.integers(3, 8), min_size=1, max_size=12),
        temperature=st.sampled_from([0.0, 0.8]), tokens=st.integers(1, 8), n=st.integers(1, 3), client=st.sampled_from("ab"),
    )  # fmt: skip
    def submit(
        self, prompt: list[int], temperature: float, tokens: int, n: int, client: str
    ) -> None:
        params = SamplingParams(temperature=temperature, max_tokens=tokens, n=n, seed=1)
        self.requests += self.engine.submit(prompt, params, client=client).samples

    @rule(prompt=st.lists(st.integers(3, 8), min_size=1, max_size=12), after=st.integers(0, 3))
    def submit_one_that_raises(self, prompt: list[int], after: int) -> None:
        params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, grammar=Faulty(after))
        self.requests.append(self.engine.submit(prompt, params))

    @rule(wrong=st.sampled_from([{"logit_bias": {9999: 1.0}}, {"logprobs": 1000}]))
    def submit_what_cannot_be(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(DaedalError, match="vocabulary"):
            self.engine.submit([3], SamplingParams(**wrong))

    @rule(data=st.data())
    @precondition(lambda self: self.requests)
    def cancel(self, data: st.DataObject) -> None:
        self.engine.cancel(data.draw(st.sampled_from(self.requests)))

    @rule()
    def step(self) -> None:
        self.engine.step()

    @invariant()
    def an_end_is_final(self) -> None:
        for request in self.requests:
            if request in self.ends:
                assert request.finished == self.ends[request]
            elif request.finished:
                self.ends[request] = request.finished
        self.engine.cache.check()

    def teardown(self) -> None:
        for _ in range(400):
            if not self.engine.busy:
                break
            self.engine.step()
        assert not self.engine.busy and len(self.engine.cache.free) == 3
        for request in self.requests:
            assert request.finished in ("stop", "length", "cancelled", "error")
            if isinstance(request.params.grammar, Faulty):
                assert (
                    request.finished in ("error", "cancelled")
                    or request.limit <= request.params.grammar.after
                )
                assert request.finished != "error" or isinstance(request.error, KeyError)
            else:
                assert request.error is None
                if request.finished != "cancelled":
                    assert request.output == naive(request)


TestEngineMachine = EngineMachine.TestCase
TestEngineMachine.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)


def counting(steps: int, log: list[str], name: str, fails: bool = False):
    for i in range(steps):
        log.append(name)
        yield i
        if fails:
            raise ValueError(name)
    return name


def test_generations_take_turns_and_fail_alone() -> None:
    runtime, lane, log = Runtime(), GeneratorLane(), list[str]()
    runtime.add(lane)
    a, b, c = (
        lane.submit(Generation(counting(3, log, name, name == "b"), client=name)) for name in "abc"
    )
    runtime.wait(lambda: bool(a.finished and b.finished and c.finished))
    assert sorted(log) == list("aaabccc") and log[:3] == list("abc")
    assert (a.finished, a.value, c.value) == ("stop", "a", "c")
    assert b.finished == "error" and isinstance(b.error, ValueError) and not lane.busy


def test_generations_of_other_weights_wait() -> None:
    runtime, lane, log = Runtime(), GeneratorLane(), list[str]()
    runtime.add(lane)
    all_of_them = [lane.submit(Generation(counting(2, log, name), weights=name)) for name in "aab"]
    runtime.wait(lambda: all(g.finished for g in all_of_them))
    assert log == list("aaaabb")


def test_a_cancelled_generation_ends_before_its_next_step() -> None:
    runtime, lane, log = Runtime(), GeneratorLane(limit=2), list[str]()
    runtime.add(lane)
    a, b = (lane.submit(Generation(counting(9, log, name))) for name in "ab")
    with pytest.raises(DaedalError, match="2 generations wait"):
        lane.submit(Generation(counting(9, log, "c")))
    runtime.wait(lambda: len(a.states) == 1)
    a.cancelled = b.cancelled = True
    runtime.wait(lambda: bool(a.finished and b.finished))
    assert a.finished == b.finished == "cancelled" and log.count("a") == 1 and log.count("b") <= 1


def test_lanes_share_time_and_threads_hand_on_the_lead() -> None:
    runtime, lanes, log = Runtime(), [GeneratorLane(), GeneratorLane()], list[str]()
    for lane in lanes:
        runtime.add(lane)

    def slow(name: str, seconds: float, steps: int):
        for i in range(steps):
            time.sleep(seconds)
            log.append(name)
            yield i

    def run(lane: GeneratorLane, generation: Generation) -> str | None:
        lane.submit(generation)
        runtime.wait(lambda: generation.finished is not None)
        return generation.finished

    with ThreadPoolExecutor(8) as pool:
        work = [(lanes[0], "heavy", 0.004, 20), *[(lanes[1], "light", 0.001, 20)] * 3]
        ends = [
            pool.submit(run, lane, Generation(slow(*rest), client=str(i)))
            for i, (lane, *rest) in enumerate(work)
        ]
        assert [end.result(timeout=20) for end in ends] == ["stop"] * 4
    first = log[:40]  # four light steps take as long as a heavy one
    assert 5 <= first.count("heavy") <= 11
    assert threading.active_count() < 20


def test_a_client_that_floods_does_not_starve_another() -> None:
    shares, queue = Shares(), [("flood", i) for i in range(10)] + [("one", 10)]
    shares.charge("flood", 1.0)
    assert shares.order(queue, lambda item: (0, *item))[0] == ("one", 10)
    assert shares.order(queue, lambda item: (int(item[1] == 7), *item))[0] == ("flood", 7)
    shares.charge("one", 5.0)
    assert shares.start("late") == shares.now  # no credit for having been away


def test_a_waiter_without_work_is_told() -> None:
    with pytest.raises(RuntimeError, match="no model has work"):
        Runtime().wait(lambda: False)


def test_a_stop_string_that_is_a_control_token_ends_the_text() -> None:
    words = Tokenizer.train(["one day", "once"] * 5, 270, ["<|eos|>", "<|turn|>"], eos="<|eos|>")
    turn = words.backend.token_to_id("<|turn|>")
    params = SamplingParams(
        temperature=0, max_tokens=9, stop=("<|turn|>",), logit_bias={turn: 100.0}
    )
    request = Engine(NETWORK, words).generate([[5]], params)[0]
    assert (request.finished, request.output, request.text) == ("stop", [turn], "")
    assert autoregression.generate_text(NETWORK, words, [5], params) == ""
