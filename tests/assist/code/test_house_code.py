"""The bundled code model in its world: what it writes and fills is run."""

import pytest

from daedal.assist.code.coder import Coder
from daedal.data import infill
from daedal.errors import DaedalError
from daedal.evals import code
from daedal.evals.code_tasks import holes, made


@pytest.fixture(scope="module")
def coder():
    with Coder.load("house/code") as found:
        yield found


def test_it_solves_and_fills_what_it_has_never_seen(coder):
    tasks = made(30)
    found, _ = code.sampled(coder, tasks, 1, 0.0)
    assert found["pass@1"].value > 0.5
    for kind in ("line", "span"):
        gaps = [gap for gap in holes(tasks) if gap.kind == kind]
        assert code.filled(coder, gaps)["by execution"].value > 0.5


def test_it_has_a_format_and_its_own_words(coder):
    form = infill.format_of(coder.pipeline.tokenizer)
    assert form.suffix_first and form.mark == "<|fim_spm|>"
    assert coder.unknown("Return the sum of the even numbers in a list. f([1]) == 'zebra'") == []
    assert coder.unknown("Return the median of a list.") == ["median"]


def test_it_says_what_it_does_not_do(coder):
    found = coder.write("Parse a date of a log line and return its weekday.")
    assert found.code == "" and not found.sure and "never trained on" in found.verdict
    checked = coder.write("Return the largest of the numbers in a list. f([3, 9, 2]) == 9")
    assert checked.sure and coder.sandbox.run(checked.code).status == "ok"
    for verb in (coder.explain, coder.review, lambda text: coder.translate(text, "c")):
        with pytest.raises(DaedalError, match="house/code writes and fills functions and cannot"):
            verb("def f(): pass")
