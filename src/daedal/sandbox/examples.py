"""Examples in words and docstrings as test cases: `>>> f(1)` with what follows it, `assert f(1) ==
2`, `f(1) == 2`, `f(1) -> 2`. Only plain data is taken: what would have to be run to know the input
or the expected value is left out."""

import ast
import doctest
import re
from collections.abc import Sequence

from daedal.sandbox.results import Call, Case
from daedal.sandbox.snippets import tree_of

NAMED = re.compile(r"\b[A-Za-z_]\w*\(")
SAYS = re.compile(r"`?\s*(?:==|->|=>|→|returns?\b|should return\b|gives\b|is\b)\s*`?")


def cases_in(text: str, function: str | None = None) -> list[Case]:
    """The cases of a text, each once, of one function where it is named."""
    found: list[Case] = []
    for expression, want in pairs_in(text):
        case = case_of(expression, want)
        if case and case.call and function in (None, case.call.function) and case not in found:
            found.append(case)
    return found


def pairs_in(text: str) -> list[tuple[str, str]]:
    """(call, expected value) as they are written."""
    pairs = []
    try:
        examples = doctest.DocTestParser().get_examples(text)
    except ValueError:
        examples = []
    pairs += [(example.source.strip(), literal_at(example.want)) for example in examples]
    for line in text.splitlines():
        pairs += said_in(line)
    return pairs + [pair for node in asserts_in(text) for pair in asserted(node)]


def said_in(line: str) -> list[tuple[str, str]]:
    """`f(1) == 2` and its like anywhere in a line."""
    found = []
    for start in (match.start() for match in NAMED.finditer(line)):
        end = closing(line, line.index("(", start))
        says = SAYS.match(line, end) if end else None
        if says and (value := literal_at(line[says.end() :])):
            found.append((line[start:end], value))
    return found


def closing(line: str, start: int) -> int:
    """The place behind the bracket that closes the one at `start`, or 0."""
    for end in (i + 1 for i, c in enumerate(line) if c == ")" and i > start):
        if tree_of(f"f{line[start:end]}"):
            return end
    return 0


def literal_at(text: str) -> str:
    """The longest beginning of a text that is a plain value, or nothing."""
    for end in range(len(text), 0, -1):
        if text[end - 1] in ",.; ":  # of the sentence around it
            continue
        try:
            ast.literal_eval(text[:end].strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        return text[:end].strip()
    return ""


def asserts_in(text: str) -> list[ast.Assert]:
    """The assert statements of a text that is Python, or of its lines that are."""
    tree = tree_of(text)
    if tree is not None:
        return [node for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith("assert ")]
    trees = [tree_of(line) for line in lines]
    return [tree.body[0] for tree in trees if tree and isinstance(tree.body[0], ast.Assert)]


def asserted(node: ast.Assert) -> list[tuple[str, str]]:
    """`assert f(x) == y`, `assert f(x) is True`, `assert f(x)`, `assert not f(x)`."""
    test = node.test
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        if isinstance(test.ops[0], ast.Eq | ast.Is):
            left, right = test.left, test.comparators[0]
            left, right = (left, right) if isinstance(left, ast.Call) else (right, left)
            return [(ast.unparse(left), ast.unparse(right))]
        return []
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return [(ast.unparse(test.operand), "False")]
    return [(ast.unparse(test), "True")] if isinstance(test, ast.Call) else []


def case_of(expression: str, want: str) -> Case | None:
    """A case, where call and value are plain data."""
    call = call_of(expression)
    try:
        return Case(ast.literal_eval(want), call) if call else None
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def call_of(expression: str) -> Call | None:
    """A call of a plain name with plain data."""
    try:
        node = ast.parse(expression.strip(), mode="eval").body
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            return None
        args = tuple(ast.literal_eval(arg) for arg in node.args)
        kwargs = {key.arg: ast.literal_eval(key.value) for key in node.keywords if key.arg}
        return Call(node.func.id, args, kwargs)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def written(case: Case) -> str:
    """A case as an assert statement."""
    assert case.call is not None
    return f"assert {called(case.call)} == {case.want!r}"


def called(call: Call) -> str:
    given = [*map(repr, call.args), *(f"{key}={value!r}" for key, value in call.kwargs.items())]
    return f"{call.function}({', '.join(given)})"


def asking(task: str, function: str | None = None, shown: Sequence[str] = ()) -> str:
    """How a function is asked for: the task, its name, asserts that it must pass."""
    named = f" Name it {function}." if function else ""
    lines = "".join(f"\n{line}" for line in shown)
    return f"Write a Python function. {task}{named}{lines}\nAnswer with one Python code block."
