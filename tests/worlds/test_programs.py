"""Programs with exact tests."""

import ast
import random

from daedal.worlds.programs import SAYS_NOTHING, document, program, program_tasks, programs


def test_every_program_runs_and_tells_inputs_apart():
    r = random.Random(0)
    for _ in range(400):
        p = program(r)
        (function,) = [n for n in ast.parse(p.code).body if isinstance(n, ast.FunctionDef)]
        assert function.name == p.name and ast.get_docstring(function) == p.task
        assert p.cases(r)


def test_what_is_held_out_is_never_in_training():
    r = random.Random(1)
    kept = {program(r, held_out=True).key for _ in range(200)}
    seen = {program(r, held_out=False).key for _ in range(2000)}
    assert not kept & seen and len(kept) > 40


def test_asserts_hold():
    r = random.Random(2)
    for _ in range(50):
        p = program(r)
        exec(p.code + "\n".join(p.asserts(r)), {})


def test_texts_are_the_same_for_a_seed():
    assert list(programs(20, 3)) == list(programs(20, 3)) != list(programs(20, 4))
    texts = [document(random.Random(i)) for i in range(200)]
    assert sum("Answer with one Python code block" in text for text in texts) > 40


def test_tasks_bring_tests_that_their_answer_passes():
    tasks = list(program_tasks(60, 5))
    assert tasks == list(program_tasks(60, 5)) != list(program_tasks(60, 6))
    for task in tasks:
        code, fence = task["completion"].split("```")
        exec(code + "\n".join(task["tests"]), {})
        assert not fence and len(task["tests"]) >= 1
    plain = sum(task["tests"][0].split("(")[0].split()[1] in SAYS_NOTHING for task in tasks)
    assert 5 < plain < 30  # a name of one such word; a quarter is due
