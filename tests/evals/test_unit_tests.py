"""Unit tests that a model writes, measured by execution."""

import pytest

from daedal.errors import DaedalError
from daedal.evals import unit_tests
from daedal.sandbox.sandbox import Sandbox

TWICE = 'def twice(x):\n    """Twice x."""\n    return x * 2\n'


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(workers=1) as found:
        yield found


def test_functions_are_those_that_stand_alone(sandbox):
    rows = [
        {"code": TWICE},
        {"code": "def plain(x):\n    return x\n"},
        {"code": 'def far(x):\n    """Far."""\n    return x\n', "imports": "import nowhere"},
        {
            "code": 'def root(x):\n    """Root."""\n    return sqrt(x)\n',
            "imports": "from math import sqrt",
        },
    ]
    found = unit_tests.alone(sandbox, rows, 10)
    assert [code.split("def ")[1][:5] for code in found] == ["twice", "root("]
    assert unit_tests.alone(sandbox, rows, 1) == found[:1]
    with pytest.raises(DaedalError, match="none of these functions"):
        unit_tests.alone(sandbox, rows[1:3], 10)
    with pytest.raises(DaedalError, match="no column `code`"):
        unit_tests.alone(sandbox, [{"text": "x"}], 10)


def test_shares_are_over_all_tests_and_all_mutants():
    one = {"written": 10, "held": 9, "kept": 4, "added": 0, "mutants": 4, "killed": 4}
    other = {"written": 0, "held": 0, "kept": 0, "added": 0, "mutants": 12, "killed": 0}
    found = unit_tests.measured([one, other])
    assert found["hold"].value == 0.9 and found["mutants"].value == 0.25
    assert found["functions"].value == 0.5 and found["functions"].n == 2
    assert found["mutants"].low <= 0.25 <= found["mutants"].high
