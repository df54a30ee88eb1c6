"""The model store: leases keep, idleness unloads, the budget holds, and loading happens once."""

import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from torch import nn

from daedal.engine.store import ModelStore, budget_of, bytes_of
from daedal.errors import DaedalError

SIZE = 400  # bytes of a model below


def model() -> nn.Module:
    return nn.Linear(10, 10, bias=False)


class StoreMachine(RuleBasedStateMachine):
    """Leases taken and given back in any order: no leased model is unloaded, and idle ones never
    exceed the budget."""

    def __init__(self) -> None:
        super().__init__()
        self.store, self.held = ModelStore(3 * SIZE), list[tuple[str, nn.Module, ExitStack]]()

    @rule(key=st.sampled_from("abcde"))
    def take(self, key: str) -> None:
        leased = {held for held, _, _ in self.held}
        stack = ExitStack()
        if key not in leased and len(leased) == 3:
            with pytest.raises(DaedalError, match="in use"):
                stack.enter_context(self.store.lease(key, model, expected=SIZE))
            return
        got = stack.enter_context(self.store.lease(key, model, expected=SIZE))
        assert all(got is other for name, other, _ in self.held if name == key)
        self.held.append((key, got, stack))

    @rule(data=st.data())
    @precondition(lambda self: self.held)
    def give_back(self, data: st.DataObject) -> None:
        self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))[2].close()

    @invariant()
    def within_budget(self) -> None:
        assert self.store.used <= self.store.budget
        loaded = {key: leases for key, _, leases in self.store.models()}
        for key in {key for key, _, _ in self.held}:
            assert loaded[key] == sum(name == key for name, _, _ in self.held)


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)


def test_the_least_recently_used_idle_model_goes() -> None:
    store = ModelStore(2 * SIZE)
    made = {}
    for key in ("a", "b", "a", "c"):
        with store.lease(key, model, expected=SIZE) as got:
            made[key] = weakref.ref(got)
            del got
        time.sleep(0.002)
    assert (
        {key for key, _, _ in store.models()} == {"a", "c"}
        and made["b"]() is None
        and made["a"]() is not None
    )


def test_threads_load_a_model_once() -> None:
    store, loads = ModelStore(10**6), []

    def slow() -> nn.Module:
        loads.append(threading.get_ident())
        time.sleep(0.05)
        return model()

    def use(i: int) -> int:
        with store.lease("a", slow) as got:
            return id(got)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(use, range(8)))) == 1
    assert len(loads) == 1


def test_a_load_that_fails_leaves_nothing() -> None:
    store = ModelStore(10**6)

    def broken() -> nn.Module:
        raise OSError("no such file")

    with pytest.raises(OSError), store.lease("a", broken):
        pass
    assert store.models() == [] and store.used == 0
    with store.lease("a", model):
        assert store.used == SIZE


def test_adopted_models_count_while_they_live() -> None:
    store = ModelStore(2 * SIZE)
    owned = store.adopt(model())
    with store.lease("a", model, expected=SIZE):
        with (
            pytest.raises(DaedalError, match=r"needs 0.00 GB.*DAEDAL_MEMORY"),
            store.lease("b", model, expected=SIZE),
        ):
            pass
        del owned
        with store.lease("b", model, expected=SIZE):
            assert store.used == 2 * SIZE


def test_shared_weights_count_once() -> None:
    first = nn.Linear(10, 10, bias=False)
    second = nn.Linear(10, 10, bias=False)
    second.weight = first.weight
    assert bytes_of({"a": first, "b": [second]}) == SIZE


def test_the_budget_setting() -> None:
    assert budget_of("1.5") == 1_500_000_000 and budget_of(None) > 10**8
    with pytest.raises(DaedalError, match="DAEDAL_MEMORY='much'"):
        budget_of("much")


def test_keys_and_values_count():
    import daedal
    from daedal.engine.store import STORE

    model = daedal.load("house/text")
    before = STORE.used
    text = model("Once upon a time", max_tokens=40, ignore_eos=True)
    per_token = model.network.cache_bytes_per_token(model.engine.cache.keys[0].dtype)
    grown = STORE.used - before
    assert 40 * per_token <= grown <= (len(text.tokens) + 10) * per_token
