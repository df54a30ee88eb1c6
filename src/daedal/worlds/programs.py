"""Small Python functions with what they do in words: tasks with exact tests, endless and
licence-free. A function is a filter, a change and a summary of a list, of words, of letters, of
digits, or a count in a dictionary, written in one of several styles.

    p = program(random.Random(0))
    p.task      # 'Return the sum of the squares of the even numbers in a list.'
    p.code      # a function with that docstring
    p.call()    # an input; the function itself says what it should give

One combination in ten, by its hash, is `held_out` and never drawn for training."""

import hashlib
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

Maker = Callable[[random.Random], tuple[Any, ...]]

# ---- what is combined ----------------------------------------------------------------------------

# (in words, as an expression of x); k and m are small numbers
NUMBER_FILTERS = (
    ("", ""), ("even", "x % 2 == 0"), ("odd", "x % 2 == 1"), ("positive", "x > 0"),
    ("negative", "x < 0"), ("greater than {k}", "x > {k}"), ("less than {k}", "x < {k}"),
    ("divisible by {k}", "x % {k} == 0"), ("not equal to {k}", "x != {k}"),
    ("from {k} to {m}", "{k} <= x <= {m}"),
)  # fmt: skip
NUMBER_CHANGES = (
    ("", "x"), ("doubled", "x * 2"), ("squared", "x * x"), ("cubed", "x ** 3"),
    ("with {k} added", "x + {k}"), ("with {k} taken away", "x - {k}"), ("times {k}", "x * {k}"),
    ("negated", "-x"), ("without sign", "abs(x)"),
)  # fmt: skip
WORD_FILTERS = (
    ("", ""), ("longer than {k} letters", "len(x) > {k}"), ("shorter than {m} letters", "len(x) < {m}"),
    ("that start with {c}", "x.startswith({c})"), ("that end with {c}", "x.endswith({c})"),
    ("that contain {c}", "{c} in x"), ("without {c}", "{c} not in x"), ("in upper case", "x.isupper()"),
)  # fmt: skip
WORD_CHANGES = (
    ("", "x"), ("in upper case", "x.upper()"), ("in lower case", "x.lower()"),
    ("reversed", "x[::-1]"), ("capitalized", "x.capitalize()"), ("twice", "x * 2"),
    ("without their first letter", "x[1:]"), ("with {c} replaced by {d}", "x.replace({c}, {d})"),
)  # fmt: skip
LETTER_FILTERS = (
    ("vowels", "x in 'aeiou'"), ("consonants", "x.isalpha() and x not in 'aeiou'"),
    ("digits", "x.isdigit()"), ("letters", "x.isalpha()"), ("spaces", "x == ' '"),
    ("upper case letters", "x.isupper()"), ("characters other than {c}", "x != {c}"),
    ("characters {c}", "x == {c}"),
)  # fmt: skip
# (in words, as an expression of the list xs, the loop that does the same: start, step, result)
NUMBER_SUMMARIES = (
    ("the sum of", "sum({xs})", ("total = 0", "total += {x}", "total")),
    ("the number of", "len({xs})", ("count = 0", "count += 1", "count")),
    ("the largest of", "max({xs}, default=0)", ("best = None", "best = {x} if best is None else max(best, {x})", "0 if best is None else best")),
    ("the smallest of", "min({xs}, default=0)", ("best = None", "best = {x} if best is None else min(best, {x})", "0 if best is None else best")),
    ("a list of", "{xs}", ("result = []", "result.append({x})", "result")),
    ("a sorted list of", "sorted({xs})", ("result = []", "result.append({x})", "sorted(result)")),
    ("a list, in reverse order, of", "{xs}[::-1]", ("result = []", "result.insert(0, {x})", "result")),
    ("the product of", "math.prod({xs})", ("product = 1", "product *= {x}", "product")),
    ("the set of", "set({xs})", ("result = set()", "result.add({x})", "result")),
)  # fmt: skip
WORD_SUMMARIES = (
    ("a list of", "{xs}", ("result = []", "result.append({x})", "result")),
    ("the number of", "len({xs})", ("count = 0", "count += 1", "count")),
    ("a sorted list of", "sorted({xs})", ("result = []", "result.append({x})", "sorted(result)")),
    ("the longest of", "max({xs}, key=len, default='')", ("best = ''", "best = {x} if len({x}) > len(best) else best", "best")),
    ("a text, joined by {c}, of", "{c}.join({xs})", ("result = []", "result.append({x})", "{c}.join(result)")),
    ("the total length of", "sum(map(len, {xs}))", ("total = 0", "total += len({x})", "total")),
    ("a dictionary of lengths of", "{{w: len(w) for w in {xs}}}", ("result = {{}}", "result[{x}] = len({x})", "result")),
)  # fmt: skip
LETTER_SUMMARIES = (
    ("the number of", "len({xs})", ("count = 0", "count += 1", "count")),
    ("a text of", "''.join({xs})", ("result = ''", "result += {x}", "result")),
    ("a list of", "{xs}", ("result = []", "result.append({x})", "result")),
    ("how often each comes of", "{{c: {xs}.count(c) for c in {xs}}}", ("counts = {{}}", "counts[{x}] = counts.get({x}, 0) + 1", "counts")),
)  # fmt: skip
# (in words, arguments, the ways to write it, an input)
SINGLE: tuple[tuple[str, str, tuple[str, ...], Maker], ...] = (
    ("the sum of the digits of a number", "n", ("return sum(int(d) for d in str(n))", "total = 0\nwhile n > 0:\n    total += n % 10\n    n //= 10\nreturn total"), lambda r: (r.randrange(10000),)),
    ("the number of digits of a number", "n", ("return len(str(n))",), lambda r: (r.randrange(100000),)),
    ("the largest digit of a number", "n", ("return max(int(d) for d in str(n))",), lambda r: (r.randrange(100000),)),
    ("a number with its digits reversed", "n", ("return int(str(n)[::-1])",), lambda r: (r.randrange(100000),)),
    ("the factorial of a number", "n", ("if n <= 1:\n    return 1\nreturn n * {f}(n - 1)", "result = 1\nfor i in range(2, n + 1):\n    result *= i\nreturn result"), lambda r: (r.randrange(9),)),
    ("the n-th Fibonacci number, counted from 0", "n", ("a, b = 0, 1\nfor _ in range(n):\n    a, b = b, a + b\nreturn a", "if n < 2:\n    return n\nreturn {f}(n - 1) + {f}(n - 2)"), lambda r: (r.randrange(15),)),
    ("the greatest common divisor of two numbers", "a, b", ("while b:\n    a, b = b, a % b\nreturn a", "if b == 0:\n    return a\nreturn {f}(b, a % b)"), lambda r: (r.randrange(1, 60), r.randrange(1, 60))),
    ("whether a number is prime", "n", ("if n < 2:\n    return False\nfor i in range(2, int(n ** 0.5) + 1):\n    if n % i == 0:\n        return False\nreturn True", "return n > 1 and all(n % i for i in range(2, n))"), lambda r: (r.randrange(60),)),
    ("the number of divisors of a number", "n", ("return sum(n % i == 0 for i in range(1, n + 1))", "count = 0\nfor i in range(1, n + 1):\n    if n % i == 0:\n        count += 1\nreturn count"), lambda r: (r.randrange(1, 60),)),
    ("a list of the divisors of a number", "n", ("return [i for i in range(1, n + 1) if n % i == 0]",), lambda r: (r.randrange(1, 60),)),
    ("the sum of the numbers from 1 to n", "n", ("return n * (n + 1) // 2", "return sum(range(1, n + 1))"), lambda r: (r.randrange(30),)),
    ("the sum of the squares from 1 to n", "n", ("return sum(i * i for i in range(1, n + 1))",), lambda r: (r.randrange(20),)),
    ("a number raised to a power", "base, exponent", ("result = 1\nfor _ in range(exponent):\n    result *= base\nreturn result", "return base ** exponent"), lambda r: (r.randrange(-4, 8), r.randrange(6))),
    ("whether a text reads the same backwards", "text", ("return text == text[::-1]",), lambda r: (r.choice(["level", "noon", "abc", "", "abba", "ab"]),)),
    ("whether two texts are anagrams", "a, b", ("return sorted(a) == sorted(b)",), lambda r: r.choice([("listen", "silent"), ("abc", "bca"), ("ab", "abb"), ("x", "y")])),
    ("a text reversed", "text", ("return text[::-1]", "result = ''\nfor c in text:\n    result = c + result\nreturn result"), lambda r: (words(r, 2),)),
    ("a text with the case of each letter swapped", "text", ("return text.swapcase()",), lambda r: (words(r, 2).title(),)),
    ("the words of a text in reverse order", "text", ("return ' '.join(text.split()[::-1])",), lambda r: (words(r, 3),)),
    ("the first letter of each word of a text, joined", "text", ("return ''.join(word[0] for word in text.split())",), lambda r: (words(r, 3),)),
    ("the most frequent letter of a text", "text", ("return max(sorted(set(text)), key=text.count)",), lambda r: (words(r, 1) + "e",)),
    ("a list without its doubles, in order", "items", ("result = []\nfor item in items:\n    if item not in result:\n        result.append(item)\nreturn result", "return list(dict.fromkeys(items))"), lambda r: (numbers(r),)),
    ("a dictionary of how often each item comes in a list", "items", ("counts = {{}}\nfor item in items:\n    counts[item] = counts.get(item, 0) + 1\nreturn counts",), lambda r: (numbers(r),)),
    ("whether a list is sorted", "items", ("return items == sorted(items)", "for i in range(len(items) - 1):\n    if items[i] > items[i + 1]:\n        return False\nreturn True"), lambda r: (sorted(numbers(r)) if r.random() < 0.5 else numbers(r),)),
    ("the second largest number in a list", "items", ("return sorted(set(items))[-2]",), lambda r: ([3, *numbers(r), 90],)),
    ("the difference of the largest and the smallest number in a list", "items", ("return max(items) - min(items)",), lambda r: ([1, *numbers(r)],)),
    ("the running sums of a list", "items", ("total = 0\nresult = []\nfor item in items:\n    total += item\n    result.append(total)\nreturn result",), lambda r: (numbers(r),)),
    ("the items of two lists in turn", "a, b", ("result = []\nfor x, y in zip(a, b):\n    result += [x, y]\nreturn result",), lambda r: (numbers(r), numbers(r))),
    ("the items that two lists share, sorted", "a, b", ("return sorted(set(a) & set(b))",), lambda r: (numbers(r), numbers(r))),
    ("a flat list of the items of a list of lists", "lists", ("return [item for part in lists for item in part]", "result = []\nfor part in lists:\n    result.extend(part)\nreturn result"), lambda r: ([numbers(r)[:3], numbers(r)[:2]],)),
    ("the average of a list of numbers, 0 if it is empty", "items", ("return sum(items) / len(items) if items else 0", "if not items:\n    return 0\nreturn sum(items) / len(items)"), lambda r: (numbers(r),)),
    ("a dictionary with keys and values swapped", "mapping", ("return {{value: key for key, value in mapping.items()}}",), lambda r: (mapping(r),)),
    ("the key of the largest value of a dictionary", "mapping", ("return max(mapping, key=mapping.get)",), lambda r: ({"z": 99, **mapping(r)},)),
    ("the sum of the values of a dictionary", "mapping", ("return sum(mapping.values())",), lambda r: (mapping(r),)),
    ("the keys of a dictionary, sorted by value", "mapping", ("return sorted(mapping, key=mapping.get)",), lambda r: (mapping(r),)),
    ("the words of a text grouped by length", "text", ("groups = {{}}\nfor word in text.split():\n    groups.setdefault(len(word), []).append(word)\nreturn groups",), lambda r: (words(r, 4),)),
    ("the index of an item in a list, -1 if it is not there", "items, item", ("for i, each in enumerate(items):\n    if each == item:\n        return i\nreturn -1", "return items.index(item) if item in items else -1"), lambda r: (numbers(r), r.randrange(10))),
    ("a temperature in Fahrenheit from Celsius", "celsius", ("return celsius * 9 / 5 + 32",), lambda r: (r.randrange(-20, 40),)),
    ("the area of a rectangle", "width, height", ("return width * height",), lambda r: (r.randrange(20), r.randrange(20))),
    ("whether a year is a leap year", "year", ("return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)",), lambda r: (r.choice([1900, 2000, 2023, 2024]),)),
)  # fmt: skip
VERBS = ("Return {}.", "Give back {}.", "Compute {}.", "Write a function that returns {}.", "Find {}.", "Get {}.")  # fmt: skip
NAMES = ("numbers", "values", "items", "nums", "xs", "data")
SHORT = ("the", "a", "an", "of", "in", "to", "that", "each", "is", "it", "if", "by", "with", "from", "and", "not", "than")  # fmt: skip
SAYS_NOTHING = ("amber", "bolt", "candle", "dune", "ember", "fern", "gravel", "harbour", "ivy", "jolt", "kelp", "lantern", "maple", "nectar", "orbit", "pebble", "quartz", "ripple", "saddle", "thistle", "umbra", "velvet", "willow", "yarn", "zephyr")  # fmt: skip
VOCABULARY = ("apple", "Tree", "river", "SUN", "cloud", "moon", "stone", "Bird", "echo", "oak", "ERA", "tea", "island")  # fmt: skip


def numbers(r: random.Random) -> list[int]:
    return [r.randrange(-9, 20) for _ in range(r.randrange(2, 8))]


def words(r: random.Random, count: int) -> str:
    return " ".join(r.choice(VOCABULARY) for _ in range(count))


def mapping(r: random.Random) -> dict[str, int]:
    return {key: r.randrange(50) for key in r.sample("abcdefg", r.randrange(1, 5))}


# ---- a program -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Program:
    """A function: its `task` in words, `name`, `code` with a docstring, how inputs are made, and a
    `key` of what was combined."""

    task: str
    name: str
    code: str
    make: Maker = field(repr=False)
    key: str = ""

    @property
    def held_out(self) -> bool:
        return hashlib.blake2b(self.key.encode(), digest_size=4).digest()[0] < 26

    def renamed(self, name: str) -> "Program":
        return replace(self, name=name, code=re.sub(rf"\b{self.name}\(", f"{name}(", self.code))

    def cases(self, r: random.Random, count: int = 3) -> list[tuple[tuple[Any, ...], Any]]:
        """(arguments, result) of different inputs, by running the function itself: it is our own."""
        space: dict[str, Any] = {}
        exec(self.code, space)
        found: list[tuple[tuple[Any, ...], Any]] = []
        for _ in range(count * 5):
            args = self.make(r)
            if len(found) < count and all(args != known for known, _ in found):
                found.append((args, space[self.name](*args)))
        return found

    def asserts(self, r: random.Random, count: int = 3) -> list[str]:
        return [
            f"assert {self.name}({', '.join(map(repr, args))}) == {want!r}"
            for args, want in self.cases(r, count)
        ]


def program(r: random.Random, held_out: bool | None = None) -> Program:
    """A program; with `held_out` one that is, or is not, among those kept from training."""
    while True:
        kind = r.choice((listed, listed, worded, worded, lettered, single))
        made = kind(r)
        if held_out in (None, made.held_out):
            return made


def listed(r: random.Random) -> Program:
    parts = r.choice(NUMBER_FILTERS), r.choice(NUMBER_CHANGES), r.choice(NUMBER_SUMMARIES)
    return piped(r, *parts, "numbers", "in a list", r.choice(NAMES), lambda r: (numbers(r),))


def worded(r: random.Random) -> Program:
    parts = r.choice(WORD_FILTERS), r.choice(WORD_CHANGES), r.choice(WORD_SUMMARIES)
    argument = r.choice(("text", "sentence", "line"))
    return piped(
        r, *parts, "words", "of a text", argument, lambda r: (words(r, r.randrange(1, 6)),)
    )


def lettered(r: random.Random) -> Program:
    said, test = r.choice(LETTER_FILTERS)
    parts = ("", test), ("", "x"), r.choice(LETTER_SUMMARIES)
    make = lambda r: (f"{words(r, 2)} {r.randrange(100)}",)  # noqa: E731
    return piped(r, *parts, said, "of a text", r.choice(("text", "s", "string")), make)


def piped(
    r: random.Random,
    kept: tuple[str, str],
    changed: tuple[str, str],
    summary: tuple[str, str, tuple[str, str, str]],
    noun: str,
    place: str,
    argument: str,
    make: Maker,
) -> Program:
    """Filter, change and summary as one function."""
    k = r.randrange(2, 7)
    letters = [repr(c) for c in r.sample("aeiorstnl", 2)]
    filled = {"k": k, "m": k + r.randrange(2, 9), "c": letters[0], "d": letters[1]}
    adjective, test = (part.format(**filled) for part in kept)
    change, value = (part.format(**filled) for part in changed)
    front = adjective if adjective in ("even", "odd", "positive", "negative") else ""
    behind = "" if front else adjective
    said = " ".join(filter(None, [summary[0].format(**filled), "the", front, noun, place, behind]))
    said += f", each {change}" if change else ""
    name = name_of(said, r)
    whole = (
        argument if noun == "numbers" else f"{argument}.split()" if noun == "words" else argument
    )
    style = r.randrange(3)
    body = (comprehended, looped, named)[style](whole, test, value, summary, filled)
    task = r.choice(VERBS).format(said)
    key = "/".join((kept[0], changed[0], summary[0], noun))
    return Program(task, name, function(name, argument, task, body), make, key)


def comprehended(whole: str, test: str, value: str, summary: Any, filled: dict[str, Any]) -> str:
    each = f"{value} for x in {whole}" + (f" if {test}" if test else "")
    return f"return {summary[1].format(xs=f'[{each}]', **filled)}"


def named(whole: str, test: str, value: str, summary: Any, filled: dict[str, Any]) -> str:
    each = f"{value} for x in {whole}" + (f" if {test}" if test else "")
    return f"chosen = [{each}]\nreturn {summary[1].format(xs='chosen', **filled)}"


def looped(whole: str, test: str, value: str, summary: Any, filled: dict[str, Any]) -> str:
    start, step, result = (part.format(x="value", **filled) for part in summary[2])
    inner = [f"value = {value}", step] if value != "x" else [step.replace("value", "x")]
    if test:
        inner = [f"if {test}:", *(f"    {line}" for line in inner)]
    lines = [start, f"for x in {whole}:", *(f"    {line}" for line in inner), f"return {result}"]
    return "\n".join(lines)


def single(r: random.Random) -> Program:
    said, arguments, ways, make = r.choice(SINGLE)
    name = name_of(said, r)
    body = r.choice(ways).format(f=name)
    task = r.choice(VERBS).format(said)
    return Program(task, name, function(name, arguments, task, body), make, said)


def name_of(said: str, r: random.Random) -> str:
    """A name from the first telling words, or a short one."""
    telling = [
        "".join(filter(str.isalnum, w)).lower() for w in said.split() if w.lower() not in SHORT
    ]
    telling = [word for word in telling if word and word[0].isalpha()]
    return (
        "_".join(telling[: r.choice((2, 3))])
        if r.random() < 0.8
        else r.choice(("f", "solve", "run"))
    )


def function(name: str, arguments: str, task: str, body: str) -> str:
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    front = "import math\n\n\n" if "math." in body else ""
    return f'{front}def {name}({arguments}):\n    """{task}"""\n{lines}\n'


# ---- texts to learn from -------------------------------------------------------------------------


def asked(p: Program, r: random.Random) -> str:
    """A task as `daedal code` asks a model that has no chat template."""
    shown = "".join(f"\n{line}" for line in p.asserts(r, r.choice((0, 1, 1, 2))))
    named = f" Name it {p.name}." if shown or r.random() < 0.3 else ""
    return f"Write a Python function. {p.task}{named}{shown}\nAnswer with one Python code block.\n\n```python\n"


def document(r: random.Random) -> str:
    """A text of training: a function; a task and its answer; a function and its tests."""
    p, kind = program(r, held_out=False), r.random()
    if kind < 0.45:
        return p.code
    if kind < 0.85:
        return f"{asked(p, r)}{p.code}```"
    return p.code + "\n\n" + "\n".join(p.asserts(r, 4)) + "\n"


def program_tasks(count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """`count` tasks with five tests each and an answer, to be asked and rewarded. Every second
    function has a name that says nothing, which can only be read."""
    r = random.Random(f"tasks of programs/{seed}")
    for _ in range(count):
        p = program(r, held_out=False)
        if r.random() < 0.5:
            p = p.renamed("_".join(r.sample(SAYS_NOTHING, r.choice((1, 2)))))
        yield {"prompt": p.task, "tests": p.asserts(r, 5), "completion": f"{p.code}```"}


def programs(count: int, seed: int = 0) -> Iterator[str]:
    """`count` texts, the same for the same seed."""
    r = random.Random(f"programs/{seed}")
    return (document(r) for _ in range(count))
