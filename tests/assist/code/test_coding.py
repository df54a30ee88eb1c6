"""The verbs of code without a model: what they read, make, run and claim."""

import random

import pytest

from daedal.assist.code import solve
from daedal.assist.code.coder import Coder, function_in, without_checks
from daedal.assist.code.complete import Gap, complete, in_block, without_suffix
from daedal.assist.code.inputs import calls_for, changed
from daedal.assist.code.mutants import mutants_of
from daedal.errors import DaedalError
from daedal.pipelines import text
from daedal.sandbox.examples import call_of, cases_in, written
from daedal.sandbox.results import Call, Case
from daedal.sandbox.sandbox import Sandbox
from daedal.sandbox.snippets import alone, code_in, functions_in, normal_form, with_imports

ADD = 'def add(a, b):\n    """Sum.\n\n    >>> add(1, 2)\n    3\n    """\n    return a + b\n'


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(workers=2) as found:
        yield found


class Says:
    """A chat model that answers from a list, in order."""

    chats, name, folder = True, "says", None

    def __init__(self, *answers: str) -> None:
        self.answers, self.asked = list(answers), []

    def start(self, messages, n=1, **settings):
        self.asked.append(messages[-1]["content"])
        texts = [
            self.answers.pop(0) if len(self.answers) > 1 else self.answers[0] for _ in range(n)
        ]
        return Handle(texts)


class Handle(list):
    def results(self):
        return [Answer(text) for text in self]

    def cancel(self):
        self.clear()


class Answer:
    def __init__(self, text: str) -> None:
        self.text, self.logprobs = text, (-0.5,)


def fenced(code: str) -> str:
    return f"Here it is:\n```python\n{code}```\nDone."


# ---- reading -------------------------------------------------------------------------------------


def test_code_comes_out_of_answers():
    assert code_in(fenced(ADD)) == ADD
    assert code_in("```js\nlet a;\n```\n```python\nx = 1\n```") == "x = 1\n"
    assert code_in("x = 1") == "x = 1\n" and code_in("```python\nx = 1") == "x = 1\n"
    assert code_in("x = 1\n```") == "x = 1\n"  # a fence was opened in the prompt


MODULE = """import re
from math import pi as PI, sqrt
import numpy as np
from nowhere import lost

TWO = 2
FAR = lost()

def root(x):
    return sqrt(x)

def area(r: np.ndarray, root=None) -> "lost":
    return round(PI * r ** TWO + helped(), 2)

@property
def unused(x): return FAR

def helped():
    return root(0)
"""


def test_a_function_comes_out_of_its_module_with_what_it_needs():
    code = alone(MODULE, "area")
    space = {}
    exec(code, space)
    assert space["area"](1) == 3.14
    assert "re" not in space and "FAR" not in space and "unused" not in space
    assert code.count("import") == 2 and "np" not in space and alone(code, "area") == code


def test_a_function_that_cannot_run_here_is_not_asked_about(sandbox):
    model = Says("never")
    with pytest.raises(DaedalError, match=r"unfit cannot be run by itself .*nowhere"):
        Coder(model, sandbox).tests(
            "from nowhere import lost\n\ndef unfit(x):\n    return lost(x)\n"
        )
    assert model.asked == []


def test_two_ways_to_write_the_same_are_one():
    other = "def add(x, y):\n    # adds\n    return x+y"
    assert normal_form(ADD) == normal_form(other)
    assert normal_form(ADD) != normal_form(other.replace("+", "-"))
    assert normal_form("not python (") == "not python ("


def test_forgotten_imports_are_added_and_nothing_else():
    code = "def f(xs: List[int]) -> int:\n    return math.prod(xs) + re.sub\n"
    assert with_imports(code) == f"import math\nimport re\nfrom typing import List\n\n{code}"
    for whole in (
        "import math\n\ndef f(x):\n    return math.floor(x)\n",
        "import os.path as p\n\ndef f(re):\n    return re.x + p.sep\n",
        "def f(x):\n    math = x\n    return math.y\n",
        "def f(text):\n    return string + numpy.x\n",  # no attribute of a module, no module of ours
        "def f(\n",
    ):
        assert with_imports(whole) == whole


def test_examples_are_read_from_words():
    text = """Add two numbers. add(1, 2) == 3, and add(2, 2) -> 4.
    >>> add(0, 0)
    0
    assert add(5, 6) == 11
    assert not add(9, -9)
    add([1, (2)], "x)") returns [1, 2, 'x)']
    add(y, 1) == 3
    """
    cases = cases_in(text, "add")
    wants = {repr(case.want) for case in cases}
    assert {"3", "4", "0", "11", "False", "[1, 2, 'x)']"} == wants
    assert written(Case(3, Call("add", (1,), {"b": 2}))) == "assert add(1, b=2) == 3"
    assert call_of("add(x, 1)") is None and call_of("add(1, b=[2])") == Call(
        "add", (1,), {"b": [2]}
    )


def test_signatures():
    found = functions_in("def f(a: int, b='x') -> str: ...\nclass C: ...\ndef g(): ...")
    assert [f.name for f in found] == ["f", "g"]
    assert found[0].annotations == ("int", "") and found[0].defaults == 1


# ---- making --------------------------------------------------------------------------------------


def test_inputs_are_of_the_same_kinds_and_new():
    (signature,) = functions_in("def f(words: list[str], n: int): ...")
    calls = calls_for(signature, [], 20, seed=1)
    assert len({repr(call) for call in calls}) == len(calls) == 20
    assert all(isinstance(c.args[0], list) and isinstance(c.args[1], int) for c in calls)
    assert calls == calls_for(signature, [], 20, seed=1)
    draw = random.Random(0)
    for value in (3, 2.5, "abc", [1, 2], (1, "a"), {"a": 1}, {1, 2}, True, None):
        assert all(type(changed(value, draw)) is type(value) for _ in range(30))


def test_mutants_are_small_faults(sandbox):
    mutants = mutants_of(
        "def f(x):\n    if x > 0 and x != 5:\n        return x + 1\n    return 0\n"
    )
    assert len(mutants) == len(set(mutants)) >= 9
    cases = [Case(2, Call("f", (1,))), Case(0, Call("f", (0,))), Case(0, Call("f", (5,)))]
    cases += [Case(0, Call("f", (-1,))), Case(7, Call("f", (6,))), Case(5, Call("f", (4,)))]
    grades = sandbox.grade_many([(mutant, cases) for mutant in mutants])
    assert not any(grade.solved for grade in grades)  # thorough tests notice each of them


# ---- a gap ---------------------------------------------------------------------------------------


def test_a_completion_does_not_repeat_what_stands_there():
    assert without_suffix("a, b)", ")\n") == "a, b"
    assert without_suffix("x = 1\nprint(x)\n", "\nprint(x)\n") == "x = 1"
    assert without_suffix("x", "\n") == "x"
    block = "return 1\n    return 2\nprint(3)"
    assert in_block(block, "def f():\n    ") == "return 1\n    return 2"


def test_places_in_files(tmp_path):
    file = tmp_path / "a.py"
    file.write_text("one\ntwo\nthree\n")
    (tmp_path / "b.py").write_text("three_of_them = 1\n")
    assert Gap.at(file).before == "one\ntwo\nthree\n"
    gap = Gap.at(file, 2, 1)
    assert (gap.before, gap.after) == ("one\nt", "wo\nthree\n") and gap.files[0][0] == "b.py"
    with pytest.raises(DaedalError, match="no line 9"):
        Gap.at(file, 9)
    with pytest.raises(DaedalError, match="no column 7"):
        Gap.at(file, 1, 7)
    (tmp_path / "c.py").write_bytes(b"\0\1")
    with pytest.raises(DaedalError, match="is not text"):
        Gap.at(tmp_path / "c.py")
    (tmp_path / "d.py").write_bytes(b"# caf\xe9\n")
    with pytest.raises(DaedalError, match="not UTF-8"):
        Gap.at(tmp_path / "d.py")


# ---- solving -------------------------------------------------------------------------------------

RIGHT = "def double(x):\n    return x * 2\n"
RIGHT_TOO = "def double(y):\n    return y + y\n"
WRONG = "def double(x):\n    return x ** 2\n"  # right for 2
FAILS = "def double(x):\n    return x / 0\n"


def problem_of(*codes: str):
    answers = [fenced(code) for code in codes]

    def ask(count, seed, more):
        return [(answers[(seed + i) % len(answers)], -1.0) for i in range(count)]

    return solve.Problem(ask, [Case(4, Call("double", (2,)))])


def test_the_largest_group_that_agrees_is_picked(sandbox):
    found = solve.solve(problem_of(RIGHT, WRONG, RIGHT_TOO, FAILS), sandbox, n=16)
    assert normal_form(found.code) in (normal_form(RIGHT), normal_form(RIGHT_TOO))
    assert found.clusters == (8, 4) and found.distinct == 4 and found.survivors == 12
    assert found.passed == found.examples == 1 and "8 of 16 samples" in found.verdict
    assert found == solve.solve(problem_of(RIGHT, WRONG, RIGHT_TOO, FAILS), sandbox, n=16)


def test_it_stops_drawing_when_the_lead_is_certain(sandbox):
    assert solve.solve(problem_of(RIGHT), sandbox, n=64, batch=8).samples == 8


def test_nothing_is_claimed_where_nothing_passes(sandbox):
    found = solve.solve(problem_of(FAILS), sandbox, n=8, rounds=1)
    assert found.code is None and "nothing passes the examples" in found.verdict
    none = solve.solve(problem_of("not python ("), sandbox, n=8)
    assert none.code is None and none.reason == "no answer was a program"


def test_what_fails_is_told_what_it_gave(sandbox):
    told = []

    def ask(count, seed, more):
        told.extend(turn["content"] for turn in more if turn["role"] == "user")
        return [(fenced(RIGHT if more else FAILS), -1.0)] * count

    examples = [Case(4, Call("double", (2,)))]
    found = solve.solve(solve.Problem(ask, examples), sandbox, n=8)
    assert found.repairs == 1 and normal_form(found.code) == normal_form(RIGHT)
    assert "double(2)" in told[0] and "ZeroDivisionError" in told[0] and "should give 4" in told[0]


# ---- verbs ---------------------------------------------------------------------------------------


def test_tests_that_hold_are_kept_and_others_added(sandbox):
    said = Says(fenced("assert add(1, 2) == 3\nassert add(2, 2) == 5\nassert add(0, 0) == 0\n"))
    found = Coder(said, sandbox).tests("def add(a: int, b: int):\n    return a + b\n")
    assert found.details["written"] == 3 and found.details["kept"] == 2
    assert found.details["killed"] == found.details["mutants"] and "== 5" not in found.code
    with pytest.raises(DaedalError, match="no function nothing"):
        Coder(said, sandbox).tests(ADD, "nothing")
    with pytest.raises(DaedalError, match="compiles"):
        Coder(said, sandbox).tests("def (")


def test_a_fix_is_claimed_only_if_it_passes(sandbox):
    broken, mended = ADD.replace("+", "-"), ADD + "\nassert add(1, 2) == 3\n"
    found = Coder(Says(fenced(mended)), sandbox).fix(broken, "assert add(1, 2) == 3")
    assert found.sure and found.code == ADD and "+    return a + b" in found.details["diff"]
    failed = Coder(Says(fenced(broken)), sandbox).fix(broken, "assert add(1, 2) == 3", rounds=2)
    assert not failed.sure and failed.code == broken and failed.details["diff"] == ""


def test_a_translation_is_run_beside_the_original(sandbox):
    if "javascript" not in sandbox.report.languages:
        pytest.skip("no JavaScript here")
    code = "def double(x: int) -> int:\n    return x * 2\n"
    script = "```javascript\nfunction twice(x) { return x * 2; }\n```"
    assert Coder(Says(script), sandbox).translate(code, "javascript").sure
    wrong = Coder(Says(script.replace("* 2", "* 3")), sandbox).translate(code, "javascript")
    assert not wrong.sure and wrong.ran > 0
    assert function_in("const f = (x) => x;", "g") == "f"


def test_checks_that_a_model_repeats_are_taken_off():
    assert without_checks(ADD + "assert add(1, 1) == 2\n", ADD) == ADD
    kept = ADD + "assert add(1, 1) == 2\n"
    assert without_checks(kept, kept) == kept


def test_work_that_nobody_wants_ends(sandbox):
    coder = Coder(Says(fenced(ADD)), sandbox, unwanted=lambda: True)
    with pytest.raises(DaedalError, match="nobody waits"):
        coder.write("the sum of two numbers")


def test_a_long_file_fits_a_short_context():
    pipeline = text.load("house/text")
    found = complete(pipeline, Gap("x = 1\n" * 3000, "\ny = 2\n"), max_tokens=8)
    assert found.finish_reason == "length" and "no tokens for filling" in found.remark
