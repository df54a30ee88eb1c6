"""The house in figures: `python -m tests.house` prints what its redesigns are measured by."""

import ast
import statistics
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[2] / "src" / "daedal"


def main() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(ROOT.rglob("*.py"))}
    lines = [line for text in texts.values() for line in text.splitlines()]
    lengths = sorted(size for text in texts.values() for size, _ in functions(text))
    longest, where = max(
        (size, f"{path.relative_to(ROOT)}: {name}")
        for path, text in texts.items()
        for size, name in functions(text)
    )
    inner = sum(
        line.startswith((" ", "\t")) and line.strip().startswith("from daedal") for line in lines
    )
    print(
        f"lines          {len(lines):,} in {len(texts)} files; {sum(len(line) > 100 for line in lines):,} wider than 100 columns"
    )
    print(
        f"functions      {len(lengths):,}: median {statistics.median(lengths):g}, p90 {lengths[int(0.9 * len(lengths))]}, longest {longest} ({where})"
    )
    print(f"fmt: skip      {sum('# fmt: skip' in line for line in lines)}")
    print(f"inner imports  {inner} of our own inside functions")
    found = circles()
    print(
        f"circles        {len(found)} among modules"
        + "".join(f"\n               {' <-> '.join(sorted(names))}" for names in found)
    )


def functions(text: str) -> list[tuple[int, str]]:
    """(lines, name) of each function."""
    found = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return [(node.end_lineno - node.lineno + 1, node.name) for node in found if node.end_lineno]


def circles() -> list[set[str]]:
    """Groups of modules that import each other, imports inside functions counted: strongly
    connected components (Tarjan 1972)."""
    graph = grimp.build_graph("daedal", exclude_type_checking_imports=True)
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(module: str) -> None:
        order[module] = low[module] = len(order)
        stack.append(module)
        for other in graph.find_modules_directly_imported_by(module):
            if other not in order:
                visit(other)
            if other in stack:
                low[module] = min(low[module], low[other])
        if low[module] == order[module]:
            at = stack.index(module)
            group, stack[at:] = set(stack[at:]), []
            found.extend([group] if len(group) > 1 else [])

    for module in graph.modules:
        if module not in order:
            visit(module)
    return found


if __name__ == "__main__":
    main()
