"""Whether an answer is the one wanted, decided by the parent on plain data. An answer has been
decoded to builtin types, so comparing it runs none of the candidate's code."""

import math
from collections import deque
from typing import Any

TOLERANCE = 1e-6  # of floats, relative and absolute, as in EvalPlus


def equal(got: Any, want: Any) -> bool:
    """`got == want` as Python has it, but that floats may differ by `TOLERANCE` and NaN equals NaN.
    Lists, tuples and dicts are compared item by item."""
    if isinstance(want, float) and isinstance(got, float | int):
        return _close(got, want)
    if isinstance(want, list | tuple | deque) and type(got) is type(want):
        return len(got) == len(want) and all(map(equal, got, want))
    if isinstance(want, dict) and isinstance(got, dict):
        return got.keys() == want.keys() and all(equal(got[key], want[key]) for key in want)
    return bool(got == want)


def _close(got: float, want: float) -> bool:
    if math.isnan(want):
        return isinstance(got, float) and math.isnan(got)
    try:
        return math.isclose(got, want, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    except OverflowError:  # an int beyond every float
        return False


def same_output(got: str, want: str) -> bool:
    """Whether a program printed what is wanted: line by line and word by word, blank lines at the
    end aside, numbers within `TOLERANCE` where `want` has a decimal point."""
    ours, theirs = _lines(got), _lines(want)
    return len(ours) == len(theirs) and all(map(_same_line, ours, theirs))


def _lines(text: str) -> list[str]:
    return text.rstrip().splitlines()


def _same_line(got: str, want: str) -> bool:
    ours, theirs = got.split(), want.split()
    return len(ours) == len(theirs) and all(map(_same_word, ours, theirs))


def _same_word(got: str, want: str) -> bool:
    if got == want or "." not in want:
        return got == want
    try:
        return _close(float(got), float(want))
    except ValueError:
        return False
