"""The wire carries plain data exactly, and nothing that is not."""

import math
import pickle
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daedal.sandbox import wire

hashable = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters())
    | st.binary(),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=5,
)
plain = st.recursive(
    hashable | st.integers(-(2**400), 2**400) | st.complex_numbers(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.sets(hashable, max_size=4)
        | st.dictionaries(hashable, inner, max_size=4)
    ),
    max_leaves=20,
)
Point = namedtuple("Point", "x y")


class Colour(IntEnum):
    RED = 3


def types(value: Any) -> Any:
    """The type of a value and, in order, of what it holds."""
    if isinstance(value, list | tuple):
        return type(value), [types(part) for part in value]
    if isinstance(value, dict):
        return dict, [(types(key), types(part)) for key, part in value.items()]
    return type(value)


@given(plain)
def test_a_value_comes_back_as_it_went(value: Any) -> None:
    back = wire.decode(wire.encode(value))
    assert back == value
    assert types(back) == types(value)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_an_error(data: bytes) -> None:
    try:
        value = wire.decode(data)
    except wire.WireError:
        return
    # a set may come with a key twice, so its bytes need not come back; the value does
    assert repr(wire.decode(wire.encode(value))) == repr(value)


@given(plain, st.data())
def test_a_value_cut_off_is_an_error(value: Any, data: st.DataObject) -> None:
    whole = wire.encode(value)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(wire.WireError):
        wire.decode(whole[:cut])
    with pytest.raises(wire.WireError):
        wire.decode(whole + b"N")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.0, 5e-324])
def test_floats_to_the_bit(value: float) -> None:
    assert repr(wire.decode(wire.encode(value))) == repr(value)


@pytest.mark.parametrize(
    ("value", "base"),
    [
        (Counter("aab"), {"a": 2, "b": 1}),
        (defaultdict(list, a=[1]), {"a": [1]}),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (Point(1, 2), (1, 2)),
        (Colour.RED, 3),
        (bytearray(b"ab"), b"ab"),
        (deque([1, 2]), deque([1, 2])),
        (-(2**9000), -(2**9000)),
        ("\ud800", "\ud800"),
    ],
)
def test_subclasses_are_their_base(value: Any, base: Any) -> None:
    back = wire.decode(wire.encode(value))
    assert back == base
    assert type(back) is type(base)


@pytest.mark.parametrize("value", [object(), len, int, iter([]), range(3), (x for x in ()), [open]])
def test_what_is_no_data_is_refused(value: Any) -> None:
    with pytest.raises(wire.WireError, match="not plain data"):
        wire.encode(value)


def test_bounds() -> None:
    nested: list = []
    nested.append(nested)
    with pytest.raises(wire.WireError, match="nested"):
        wire.encode(nested)
    wide = [0] * 2
    for _ in range(60):
        wide = [wide, wide]
    with pytest.raises(wire.WireError, match="bytes"):
        wire.encode(wide, 10**5)
    with pytest.raises(wire.WireError, match="nested"):
        wire.decode(b"l\1\0\0\0" * 10**5)
    with pytest.raises(wire.WireError, match="cut off"):
        wire.decode(b"l\xff\xff\xff\xffN")
    with pytest.raises(wire.WireError, match="collide"):
        wire.decode(wire.encode({i * (2**61 - 1) for i in range(1, 200)}))
    with pytest.raises(wire.WireError, match="no hash"):
        wire.decode(b"s\1\0\0\0l\0\0\0\0")
    with pytest.raises(wire.WireError, match="tag"):
        wire.decode(pickle.dumps([1]))


def test_a_frame_answers_its_own_nonce_only() -> None:
    nonce, other = bytes(range(16)), bytes(16)
    framed = wire.frame(nonce, ["a"])
    for cut in range(len(framed)):
        assert wire.unframe(bytearray(framed[:cut]), nonce, 100) == (False, None)
    assert wire.unframe(bytearray(framed), nonce, 100) == (True, ["a"])
    for bad, what in (
        (wire.frame(other, ["a"]), "nonce"),
        (framed + b"x", "more"),
        (wire.frame(nonce, "a" * 200), "bytes"),
    ):
        with pytest.raises(wire.WireError, match=what):
            wire.unframe(bytearray(bad), nonce, 100)
