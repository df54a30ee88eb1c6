"""What counts as the same answer."""

import math
from collections import deque
from typing import Any

import pytest

from daedal.sandbox.compare import equal, same_output


@pytest.mark.parametrize(
    ("got", "want", "same"),
    [
        (2, 2, True), (2, 3, False), (1, True, True), (2, 2.0, True), (0.1 + 0.2, 0.3, True), (0.3001, 0.3, False),
        (math.nan, math.nan, True), (0, math.nan, False), (math.inf, math.inf, True), (math.inf, 1e300, False), (10**400, 1.0, False),
        ([1, 2], [1, 2], True), ([1, 2], (1, 2), False), ([0.1 + 0.2], [0.3], True), ([1], [1, 2], False), (deque([1]), [1], False),
        ({"a": 0.1 + 0.2}, {"a": 0.3}, True), ({"a": 1}, {"b": 1}, False), ({1, 2}, {2, 1}, True), (frozenset({1}), {1}, True),
        ("1", 1, False), (b"a", "a", False), (None, None, True), (None, 0, False), ([[math.nan]], [[math.nan]], True),
    ],
)  # fmt: skip
def test_values(got: Any, want: Any, same: bool) -> None:
    assert equal(got, want) is same


@pytest.mark.parametrize(
    ("got", "want", "same"),
    [
        ("1\n", "1", True), ("1 \n2\n\n", "1\n2", True), ("1\n\n2", "1\n2", False), (" 1", "1", True), ("1 2", "1  2", True), ("12", "1 2", False),
        ("0.3333333", "0.33333333", True), ("0.4", "0.3", False), ("1.0", "1", False), ("1", "1.0", True), ("x 2.50", "x 2.5", True),
        ("nan", "0.5", False), ("", "", True), ("a", "", False), ("YES", "yes", False),
    ],
)  # fmt: skip
def test_outputs(got: str, want: str, same: bool) -> None:
    assert same_output(got, want) is same
