"""Arithmetic without `eval`: an expression is parsed, and worked out in fractions.

calculated("0.1 + 0.2")         # '0.3'
calculated("2 ** 200 / 3")      # '≈ 5.35646e+59': not a decimal of finite length
calculated("12% of 250")        # '30'"""

import ast
import math
import operator
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from daedal.errors import DaedalError

BITS = 14_000  # of the largest number that is worked with: 4,214 digits, which Python still writes
WRITTEN = {"×": "*", "÷": "/", "−": "-", "^": "**", "·": "*"}
BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}  # fmt: skip
EXACT: dict[str, Callable[..., Any]] = {"abs": abs, "min": min, "max": max, "floor": math.floor, "ceil": math.ceil, "round": round}  # fmt: skip
WHOLE: dict[str, Callable[..., Any]] = {"gcd": math.gcd, "lcm": math.lcm, "factorial": math.factorial, "comb": math.comb}  # fmt: skip
ROUNDED: dict[str, Callable[..., Any]] = {"sin": math.sin, "cos": math.cos, "tan": math.tan, "exp": math.exp, "log": math.log, "log10": math.log10, "log2": math.log2}  # fmt: skip
CONSTANTS = {"pi": math.pi, "e": math.e}


def calculated(expression: str) -> str:
    """The value of an expression: exact where it is a whole number or a finite decimal, else 15
    digits behind an ≈. Errors: what is no arithmetic, and numbers beyond 14,000 bits."""
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", expression.strip().rstrip("=? "))
    for sign, plain in WRITTEN.items():
        text = text.replace(sign, plain)
    text = re.sub(r"(\d+(?:\.\d+)?)\s*%\s*of\b", r"\1 / 100 *", text)
    text = re.sub(r"(\d+(?:\.\d+)?)\s*%(?=\s*(?:[-+*/)]|$))", r"(\1 / 100)", text)
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise DaedalError(f"{expression!r} is no arithmetic; write it like (3 + 4) * 2.") from None
    try:
        value, exact = worked(tree, text)
    except DaedalError:
        raise
    except ZeroDivisionError:
        raise DaedalError(f"{expression!r} divides by zero.") from None
    except (OverflowError, ValueError, TypeError, RecursionError) as error:
        raise DaedalError(f"{expression!r} has no value here ({error}).") from None
    return written(value, exact)


def worked(node: ast.AST, text: str) -> tuple[Fraction, bool]:
    """A value, and whether it is exact."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        if isinstance(node.value, float) and math.isinf(node.value):
            raise DaedalError(
                f"{text!r} has a number that is too large to write; take a smaller one."
            )
        source = ast.get_source_segment(text, node) or str(node.value)
        return sized(Fraction(source.replace("_", ""))), True
    if isinstance(node, ast.Name) and node.id in CONSTANTS:
        return Fraction(CONSTANTS[node.id]), False
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value, exact = worked(node.operand, text)
        return (-value if isinstance(node.op, ast.USub) else value), exact
    if isinstance(node, ast.BinOp):
        (left, first), (right, second) = worked(node.left, text), worked(node.right, text)
        if isinstance(node.op, ast.Pow):
            value, exact = power(left, right)
            return value, exact and first and second
        if type(node.op) in BINARY:
            return sized(Fraction(BINARY[type(node.op)](left, right))), first and second
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        return called(node.func.id, [worked(each, text) for each in node.args])
    raise DaedalError(
        f"{text!r} has a part that is no arithmetic; use numbers, + - * / // % **, sqrt, round, min, max and the like."
    )


def power(base: Fraction, exponent: Fraction) -> tuple[Fraction, bool]:
    if exponent.denominator != 1:
        root = exact_root(base) if exponent == Fraction(1, 2) else None
        return (Fraction(float(base) ** float(exponent)), False) if root is None else (root, True)
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if size * abs(exponent.numerator) > BITS and size > 1:
        raise DaedalError(f"a power of {exponent} is too large to write; take a smaller one.")
    return base**exponent.numerator, True


def exact_root(value: Fraction) -> Fraction | None:
    if value < 0:
        raise ValueError("the square root of a negative number")
    found = Fraction(math.isqrt(value.numerator), math.isqrt(value.denominator))
    return found if found * found == value else None


def called(name: str, given: list[tuple[Fraction, bool]]) -> tuple[Fraction, bool]:
    values, exact = [value for value, _ in given], all(sure for _, sure in given)
    if name == "sqrt" and len(values) == 1:
        value, sure = power(values[0], Fraction(1, 2))
        return value, sure and exact
    if name == "round" and len(values) == 2:
        return Fraction(round(values[0], int(values[1]))), exact
    if name in EXACT:
        return Fraction(EXACT[name](*values)), exact
    if name in WHOLE:
        if any(v.denominator != 1 or (v > 2000 and name in ("factorial", "comb")) for v in values):
            raise DaedalError(f"{name} takes whole numbers, up to 2000 where it grows fast.")
        return sized(Fraction(WHOLE[name](*(v.numerator for v in values)))), exact
    if name in ROUNDED:
        return Fraction(ROUNDED[name](*map(float, values))), False
    known = ", ".join(["sqrt", *EXACT, *WHOLE, *ROUNDED])
    raise DaedalError(f"there is no function {name!r}; there are {known}.")


def sized(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > BITS:
        raise DaedalError("a number on the way is too large to write; take smaller ones.")
    return value


def written(value: Fraction, exact: bool) -> str:
    if value.denominator == 1 and (exact or abs(value) < 1e15):
        return str(value.numerator) if exact else f"≈ {value.numerator}"
    twos_and_fives = value.denominator
    for prime in (2, 5):
        while twos_and_fives % prime == 0:
            twos_and_fives //= prime
    if exact and twos_and_fives == 1 and value.denominator.bit_length() < 60:
        places = next(n for n in range(60) if (value * 10**n).denominator == 1)
        digits = str(abs((value * 10**places).numerator)).rjust(places + 1, "0")
        return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"
    return f"≈ {float(value):.15g}"
