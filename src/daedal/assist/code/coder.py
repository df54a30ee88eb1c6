"""The verbs of code, for people: each asks a model, runs what can be run, and returns code with what
was run and what passed.

    with Coder.load("coder") as coder:
        coder.write("the longest word of a sentence").code
        coder.tests(source).code                           # asserts that hold, and kill mutants
        coder.fix(source, "assert f(2) == 4")
"""

import ast
import difflib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

from daedal.assist.code import solve
from daedal.assist.code.complete import Completion, Gap, complete
from daedal.assist.code.inputs import calls_for
from daedal.assist.code.mutants import mutants_of
from daedal.errors import DaedalError
from daedal.pipelines import text
from daedal.pipelines.painter import generation_config
from daedal.sandbox import examples
from daedal.sandbox.compare import equal
from daedal.sandbox.results import Call, Case
from daedal.sandbox.sandbox import Sandbox
from daedal.sandbox.snippets import Signature, alone, code_in, functions_in, tree_of

MUTANTS = 60  # of a function, at most
SYSTEM = "You are an expert programmer. Answer with code, and with nothing that was not asked for."
RUN = ("javascript",)  # languages beside Python whose functions are run to compare
DEFINED = re.compile(
    r"function\s+(\w+)|(?:const|let|var)\s+(\w+)\s*=\s*(?:async\s*)?(?:\(|\w+\s*=>|function)"
)
JS = """
;const __in = require("fs").readFileSync(0, "utf8").trim().split("\\n");
for (const line of __in) {
  let out;
  try { out = {ok: FUNCTION(...JSON.parse(line))}; } catch (e) { out = {error: String(e)}; }
  console.log(JSON.stringify(out === undefined ? null : out));
}
"""


@dataclass(frozen=True)
class Coded:
    """Code, and what is known of it: `verdict` in words, `passed` of `ran` checks, whether it may be
    relied on (`sure`: something was checked and all of it passed)."""

    code: str
    verdict: str
    passed: int = 0
    ran: int = 0
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def sure(self) -> bool:
        return self.ran > 0 and self.passed == self.ran

    def as_dict(self) -> dict[str, Any]:
        own = {"code": self.code, "verdict": self.verdict, "passed": self.passed}
        return own | {"ran": self.ran, "sure": self.sure} | self.details


class Coder:
    """A model, and a sandbox to run what it writes. Once its work is `unwanted`, the next token ends
    it with a DaedalError."""

    def __init__(
        self,
        pipeline: Any,
        sandbox: Sandbox,
        seed: int = 0,
        unwanted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.pipeline, self.sandbox, self.seed = pipeline, sandbox, seed
        self.unwanted = unwanted

    @classmethod
    def load(cls, model: str, seed: int = 0) -> Self:
        return cls(text.load(model), Sandbox(), seed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sandbox.close()

    # ---- asking ----

    def ask(
        self, prompt: str, more: list[dict[str, str]] | None = None, **settings: Any
    ) -> list[tuple[str, float]]:
        """(answer, mean log-probability a token) of a prompt."""
        turns = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt}]
        asked: Any = turns + (more or [])
        if not self.pipeline.chats:
            fence = "\n\n```python\n" if "code block" in prompt else "\n\n"
            asked = "\n\n".join(turn["content"] for turn in asked[1:]) + fence
            settings.setdefault("stop", ("```",))
        settings = {"max_tokens": 512, "temperature": 0.0, "seed": self.seed, **settings}
        handle = self.pipeline.start(asked, **settings)
        for _ in handle:
            if self.unwanted():
                handle.cancel()
                raise DaedalError("nobody waits for this answer any more; ask again.")
        results = handle.results()
        return [(each.text, sum(each.logprobs) / max(len(each.logprobs), 1)) for each in results]

    def answer(self, prompt: str, **settings: Any) -> str:
        return self.ask(prompt, **settings)[0][0]

    # ---- verbs ----

    def complete(self, gap: Gap, **settings: Any) -> Completion:
        """What belongs at a cursor."""
        return complete(self.pipeline, gap, unwanted=self.unwanted, **settings)

    def solve(
        self,
        task: str,
        cases: list[Case] | None = None,
        n: int = 16,
        temperature: float = 0.8,
        on_stage: Callable[[dict[str, Any]], None] = lambda stage: None,
    ) -> solve.Solution:
        """A function that does what a task says: many are drawn, run and compared."""
        given = examples.cases_in(task) if cases is None else cases
        function = given[0].call.function if given and given[0].call else None
        prompt = examples.asking(task, function, [examples.written(case) for case in given[:3]])

        def draw(count: int, seed: int, more: list[dict[str, str]]) -> list[tuple[str, float]]:
            return self.ask(prompt, more, n=count, seed=self.seed + seed, temperature=temperature)

        problem = solve.Problem(draw, given, function, self._inputs)
        return solve.solve(problem, self.sandbox, n=n, seed=self.seed, on_stage=on_stage)

    def _inputs(self, code: str) -> str:
        asked = f"{code}\nWrite ten calls of this function with unusual inputs, one a line, each like f(1, 'a'). Only the calls."
        return self.answer(asked, max_tokens=200).replace("```python", "").replace("```", "")

    def write(self, task: str) -> Coded:
        """Code that does what is said, checked on the examples in it; up to eight tries. What a small
        model wrote of words that it does not know is claimed only if examples pass."""
        found = self.solve(task, n=8)
        if found.code is None:
            return Coded("", found.verdict, 0, found.examples)
        unknown = self.unknown(task) if not found.passed else []
        if unknown:
            said = f"nothing is claimed: {self.pipeline.name} was never trained on {', '.join(unknown)}, and no example was there to check it"
            return Coded("", f"{said}; give one, or `daedal models pull coder`", 0, 0)
        details = {"samples": found.samples, "clusters": list(found.clusters)}
        return Coded(found.code, found.verdict, found.passed, found.examples, details)

    @cached_property
    def words(self) -> set[str]:
        """The words of a model that lists those it was trained on: one of a small world."""
        folder = self.pipeline.folder
        return set(generation_config(folder).get("words", ())) if folder else set()

    def unknown(self, task: str) -> list[str]:
        """Words of a task that a model which lists its words was not trained on."""
        text = re.sub(r"\w*\(.*|'[^']*'|\"[^\"]*\"", "", task.lower())  # without examples
        return [
            word
            for word in dict.fromkeys(re.findall(r"[a-z]+", text))
            if self.words and word not in self.words
        ]

    def _talks(self, verb: str) -> None:
        if self.words or not self.pipeline.chats:
            raise DaedalError(
                f"{self.pipeline.name} writes and fills functions and cannot {verb}; `daedal models pull coder` brings a model that can."
            )

    def explain(self, code: str) -> str:
        """What code does, in words."""
        self._talks("explain")
        return self.answer(
            f"Explain what this code does, in plain words, briefly.\n\n```\n{code}\n```"
        ).strip()

    def review(self, code: str) -> str:
        """What is wrong with code, in words."""
        self._talks("review")
        return self.answer(
            f"Review this code. List real faults only, one a line; say 'no faults found' if there are none.\n\n```\n{code}\n```"
        ).strip()

    def tests(self, code: str, function: str | None = None) -> Coded:
        """Asserts for a function: those that the model writes and the code satisfies, and where they
        leave mutants alive, inputs that tell these apart with what the code gives now."""
        signature = self._function(code, function)
        code = alone(code, signature.name)
        if (loaded := self.sandbox.run(code)).status != "ok":
            why = (loaded.stderr.strip().splitlines() or [loaded.status])[-1]
            raise DaedalError(
                f"{signature.name} cannot be run by itself ({why}); tests are written for functions that need the standard library only."
            )
        asked = f"```python\n{code}\n```\nWrite ten assert statements that test {signature.name}, with plain values, like `assert {signature.name}(...) == ...`. Cover edge cases. Only the asserts, in one code block."
        written = code_in(self.answer(asked))
        drawn = examples.cases_in(written, signature.name)
        verdicts = self.sandbox.grade(code, drawn).verdicts if drawn else ()
        held = [case for case, verdict in zip(drawn, verdicts, strict=True) if verdict == "ok"]
        mutants = [m for m in mutants_of(code) if m][:MUTANTS]
        kept, alive = self._telling_apart(mutants, held)
        added = self._telling(code, signature, kept, alive)
        alive = self._alive(alive, added)
        killed = len(mutants) - len(alive)
        lines = [examples.written(case) for case in kept + added]
        details = {
            "written": len(drawn), "held": len(held), "kept": len(kept), "added": len(added), "mutants": len(mutants),
            "killed": killed,
        }  # fmt: skip
        verdict = f"{len(held)} of {len(drawn)} tests hold, of which {len(kept)} say something new; {len(added)} added from what the code gives; {killed} of {len(mutants)} mutants noticed"
        return Coded("\n".join(lines) + "\n", verdict, len(kept) + len(added), len(lines), details)

    def _function(self, code: str, name: str | None) -> Signature:
        if tree_of(code) is None:
            raise DaedalError("the code is not Python that compiles; mend it first.")
        found = [f for f in functions_in(code) if name in (None, f.name)]
        if not found:
            raise DaedalError(
                f"there is no function {name or 'at the top of the file'}; name one that is there."
            )
        return found[-1]

    def _alive(self, mutants: list[str], cases: list[Case]) -> list[str]:
        """The mutants that pass every case."""
        if not cases:
            return mutants
        grades = self.sandbox.grade_many([(mutant, cases) for mutant in mutants])
        return [m for m, grade in zip(mutants, grades, strict=True) if grade.solved]

    def _telling_apart(self, mutants: list[str], held: list[Case]) -> tuple[list[Case], list[str]]:
        """The cases that notice a mutant which none before noticed, or whose result is new; and the
        mutants that pass them all."""
        if not held:
            return [], mutants
        grades = self.sandbox.grade_many([(mutant, held) for mutant in mutants])
        kept, noticed = list[Case](), set[int]()
        for i, case in enumerate(held):
            found = {n for n, grade in enumerate(grades) if grade.verdicts[i] != "ok"}
            if found - noticed or not any(equal(case.want, other.want) for other in kept):
                kept.append(case)
                noticed |= found
        return kept, [mutant for n, mutant in enumerate(mutants) if n not in noticed]

    def _telling(
        self, code: str, signature: Signature, kept: list[Case], alive: list[str]
    ) -> list[Case]:
        """Cases, of what the code gives now, each of which at least one living mutant fails."""
        known = [case.call for case in kept if case.call]
        known = known or [
            c.call for c in examples.cases_in(signature.docstring, signature.name) if c.call
        ]
        calls = calls_for(signature, known, 24, self.seed)
        if not calls or not alive:
            return []
        given = self.sandbox.run(code, calls).answers
        good = [Case(a.value, c) for c, a in zip(calls, given, strict=True) if a.status == "ok"]
        results = self.sandbox.run_many(
            [(mutant, [case.call for case in good if case.call]) for mutant in alive]
        )
        found: list[Case] = []
        for result in results:
            telling = [
                case
                for case, answer in zip(good, result.answers, strict=True)
                if answer.status != "ok" or not equal(answer.value, case.want)
            ]
            if telling and not any(case in found for case in telling):
                found.append(telling[0])
        return found

    def fix(self, code: str, complaint: str, rounds: int = 3) -> Coded:
        """Code mended by what fails: asserts, or a traceback. Only what passes is claimed."""
        cases = examples.cases_in(complaint)
        prompt = f"```python\n{code}\n```\nThis fails:\n{complaint}\nWrite the whole corrected code in one Python code block."
        best, passed = code, self.sandbox.grade(code, cases).verdicts.count("ok") if cases else 0
        for number in range(rounds):
            temperature = 0.0 if number == 0 else 0.7
            tried = [
                code_in(a)
                for a, _ in self.ask(
                    prompt,
                    n=1 if number == 0 else 4,
                    temperature=temperature,
                    seed=self.seed + number,
                )
            ]
            tried = [without_checks(each, code) for each in tried if tree_of(each) is not None]
            if tried and not cases:
                return Coded(
                    tried[0],
                    "compiles; nothing to run was given",
                    details=self._diff(code, tried[0]),
                )
            grades = self.sandbox.grade_many([(each, cases) for each in tried])
            for each, grade in zip(tried, grades, strict=True):
                if grade.verdicts.count("ok") > passed:
                    best, passed = each, grade.verdicts.count("ok")
            if cases and passed == len(cases):
                break
        verdict = f"passes {passed} of {len(cases)} checks" if cases else "no answer compiles"
        return Coded(best, verdict, passed, len(cases), self._diff(code, best))

    def _diff(self, old: str, new: str) -> dict[str, Any]:
        lines = difflib.unified_diff(old.splitlines(True), new.splitlines(True), "before", "after")
        return {"diff": "".join(lines)}

    def translate(self, code: str, to: str) -> Coded:
        """Code in another language; of Python functions to JavaScript both are run on the same
        inputs."""
        self._talks("translate")
        answer = self.answer(
            f"Translate this to {to}. Keep the names. Answer with one code block.\n\n```python\n{code}\n```"
        )
        made = code_in(answer, to)
        found = functions_in(code)
        if to not in RUN or to not in self.sandbox.report.languages or not found:
            return Coded(made, f"not run: {to} is not compared here")
        signature = found[-1]
        calls = calls_for(
            signature, [c.call for c in examples.cases_in(code) if c.call], 12, self.seed
        )
        ours = self.sandbox.run(code, calls).answers
        usable = [
            (c, a.value)
            for c, a in zip(calls, ours, strict=True)
            if a.status == "ok" and plain(c, a.value)
        ]
        if not usable:
            return Coded(made, "not run: no inputs that both languages have")
        lines = "\n".join(json.dumps(list(call.args)) for call, _ in usable)
        program = made + JS.replace("FUNCTION", function_in(made, signature.name))
        result = self.sandbox.run(program, stdin=lines + "\n", language=to)
        theirs = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
        pairs = zip(usable, theirs, strict=False)
        same = sum(
            "ok" in got and equal(got["ok"], json.loads(json.dumps(want)))
            for (_, want), got in pairs
        )
        verdict = f"gives what the original gives on {same} of {len(usable)} inputs"
        if result.status != "ok":
            verdict += (
                f" ({(result.stderr or result.error).strip().splitlines()[-1:] or result.status})"
            )
        return Coded(made, verdict, same, len(usable))


def function_in(code: str, name: str) -> str:
    """The function of JavaScript that is meant: of this name, else the last that is defined."""
    found = [a or b for a, b in DEFINED.findall(code)]
    return name if name in found or not found else found[-1]


def without_checks(code: str, before: str) -> str:
    """Code without the asserts at its top that were not there before: a model repeats them."""
    tree = tree_of(code)
    if tree is None:
        return code
    lines = code.splitlines(keepends=True)
    old = set(before.splitlines())
    for node in tree.body:
        own = range(node.lineno - 1, node.end_lineno or node.lineno)
        if isinstance(node, ast.Assert) and not all(lines[i].rstrip() in old for i in own):
            for i in own:
                lines[i] = ""
    return "".join(lines).rstrip("\n") + "\n"


def plain(call: Call, value: Any) -> bool:
    """Whether JSON can say both, so that another language can."""
    try:
        return (
            json.loads(json.dumps([list(call.args), value], allow_nan=False)) is not None
            and not call.kwargs
        )
    except (TypeError, ValueError):
        return False
