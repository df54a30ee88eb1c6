"""Code with one small fault each (DeMillo et al. 1978): what a test suite must notice. A comparison,
an operator, a constant, a condition or a returned value is changed."""

import ast
import copy
from collections.abc import Iterator

COMPARED = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
COMPUTED = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Div,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip


def mutants_of(code: str) -> list[str]:
    """Every mutant, each once, in the order of the code."""
    tree = ast.parse(code)
    nodes = [node for node in ast.walk(tree) if not isinstance(node, ast.Module)]
    found = dict.fromkeys(text for i in range(len(nodes)) for text in mutants_at(tree, i))
    found.pop(ast.unparse(tree), None)
    return list(found)


def mutants_at(tree: ast.Module, index: int) -> Iterator[str]:
    """The mutants of one node, each made in a copy of the tree."""
    number = 0
    while True:
        whole = copy.deepcopy(tree)
        nodes = [node for node in ast.walk(whole) if not isinstance(node, ast.Module)]
        changes = changes_of(nodes[index])
        if number >= len(changes):
            return
        changes[number]()
        yield ast.unparse(ast.fix_missing_locations(whole))
        number += 1


def changes_of(node: ast.AST) -> list:
    """What may be done to a node, as calls that do it."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARED:
        return [lambda: node.ops.__setitem__(0, COMPARED[type(node.ops[0])]())]
    if isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in COMPUTED:
        return [lambda: setattr(node, "op", COMPUTED[type(node.op)]())]
    if isinstance(node, ast.BoolOp):
        other = ast.Or if isinstance(node.op, ast.And) else ast.And
        return [lambda: setattr(node, "op", other())]
    if isinstance(node, ast.If | ast.While | ast.IfExp):
        negated = ast.UnaryOp(ast.Not(), node.test)
        return [lambda: setattr(node, "test", negated)]
    if isinstance(node, ast.Return) and node.value is not None:
        return [lambda: setattr(node, "value", ast.Constant(None))]
    if isinstance(node, ast.Constant):
        return [lambda v=v: setattr(node, "value", v) for v in others(node.value)]
    return []


def others(value: object) -> list:
    """Other constants of the same kind."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value + 1, value - 1]
    return ["", "mutant"] if isinstance(value, str) and value and " " not in value else []
