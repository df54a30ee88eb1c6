"""Python as text and as trees: code out of answers, what two pieces have in common, signatures."""

import ast
import builtins
import re
import sys
import typing
from dataclasses import dataclass

FENCE = re.compile(r"```[ \t]*([\w+#-]*)[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)
NAMES = {
    "python": {"python", "py", "python3", ""},
    "javascript": {"javascript", "js", "node", ""},
    "bash": {"bash", "sh", "shell", ""},
    "c": {"c", ""},
}


def code_in(answer: str, language: str = "python") -> str:
    """The code of an answer: its longest fenced block of the language, else the answer, without the
    end of a fence that was opened for it."""
    blocks = [(name.lower(), code) for name, code in FENCE.findall(answer)]
    named = [code for name, code in blocks if name in NAMES.get(language, {language, ""})]
    found = max(
        named or [code for _, code in blocks] or [answer.rstrip().removesuffix("```")], key=len
    )
    return found.strip("\n") + "\n"


def tree_of(code: str) -> ast.Module | None:
    """The syntax tree of Python, or None of what is not Python."""
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def normal_form(code: str) -> str:
    """What is left of code without comments, layout and docstrings, the names of its arguments and
    variables numbered: equal for two ways to write the same."""
    tree = tree_of(code)
    if tree is None:
        return code
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
            node.body = [part for part in node.body if not is_docstring(part)] or [ast.Pass()]
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            renamed(node)
    return ast.unparse(tree)


def is_docstring(node: ast.stmt) -> bool:
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def renamed(function: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    """Number what a function names itself: its arguments and what it assigns."""
    own: dict[str, str] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.arg):
            own.setdefault(node.arg, f"v{len(own)}")
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.setdefault(node.id, f"v{len(own)}")
    for node in ast.walk(function):
        if isinstance(node, ast.arg):
            node.arg = own[node.arg]
            node.annotation = None
        elif isinstance(node, ast.Name) and node.id in own:
            node.id = own[node.id]
    function.returns = None


def with_imports(code: str) -> str:
    """Code with the imports that it forgot in front: modules of the standard library whose
    attributes it uses, and names of `typing`, where nothing else binds them. What a model leaves out
    most often, and no question of what the code means."""
    tree = tree_of(code)
    if tree is None:
        return code
    nodes = list(ast.walk(tree))
    names = {
        node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    free = names - bound_in(nodes)
    used = {
        n.value.id for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)
    }
    lines = [f"import {name}" for name in sorted(free & used & sys.stdlib_module_names)]
    if typed := sorted(free & set(typing.__all__) - set(dir(builtins))):
        lines.append(f"from typing import {', '.join(typed)}")
    return "\n".join([*lines, "", code]) if lines else code


def bound_in(nodes: list[ast.AST]) -> set[str]:
    """Every name that something in code binds, wherever."""
    found = {
        node.id
        for node in nodes
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)
    }
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            found.add(node.name)
    return found


@dataclass(frozen=True)
class Signature:
    """A function as it is called."""

    name: str
    arguments: tuple[str, ...]
    annotations: tuple[str, ...]  # empty where there is none
    defaults: int  # how many of the last have one
    docstring: str


def functions_in(code: str) -> list[Signature]:
    """The functions at the top of a module, in order."""
    tree = tree_of(code)
    nodes = [node for node in tree.body if isinstance(node, ast.FunctionDef)] if tree else []
    return [signature_of(node) for node in nodes]


def signature_of(node: ast.FunctionDef) -> Signature:
    given = [*node.args.posonlyargs, *node.args.args]
    notes = tuple(ast.unparse(arg.annotation) if arg.annotation else "" for arg in given)
    return Signature(
        node.name,
        tuple(arg.arg for arg in given),
        notes,
        len(node.args.defaults),
        ast.get_docstring(node) or "",
    )


def alone(code: str, function: str) -> str:
    """A function with what it needs of its module: the imports, constants, functions and classes
    that it names, and what these name. Annotations need nothing, as they are not evaluated."""
    tree = ast.parse(code)
    bound = {name: node for node in tree.body for name in bound_at(node)}
    wanted, names = {id(bound[function])}, [function]
    while names:
        needed = {name for name in needed_by(bound[names.pop()]) if name in bound}
        names += [name for name in needed if id(bound[name]) not in wanted]
        wanted |= {id(bound[name]) for name in needed}
    kept = [node for node in tree.body if id(node) in wanted]
    used = {name for node in kept for name in needed_by(node)}
    parts = [source_of(node, code, used) for node in kept]
    return "\n\n".join(["from __future__ import annotations", *parts]) + "\n"


def bound_at(node: ast.stmt) -> set[str]:
    """The names that a statement at the top of a module binds."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    return bound_in(list(ast.walk(node)))


def needed_by(node: ast.stmt) -> set[str]:
    """The names that a statement reads, annotations left out."""
    skipped = {
        id(inner)
        for each in ast.walk(node)
        for note in (getattr(each, "annotation", None), getattr(each, "returns", None))
        if isinstance(note, ast.AST)
        for inner in ast.walk(note)
    }
    nodes = list(ast.walk(node))
    own = bound_in(nodes) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else set()
    return {
        each.id
        for each in nodes
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Load) and id(each) not in skipped
    } - own


def source_of(node: ast.stmt, code: str, used: set[str]) -> str:
    """A statement as it stands; of an import only the names that are used."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = [a for a in node.names if (a.asname or a.name).partition(".")[0] in used]
        return ast.unparse(type(node)(**vars(node) | {"names": names}))
    first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))])
    return "\n".join(code.splitlines()[first - 1 : node.end_lineno])
