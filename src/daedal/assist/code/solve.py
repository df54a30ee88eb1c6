"""Solving by sampling, filtering and clustering (AlphaCode, Li et al. 2022; AlphaCode 2).

Many answers are drawn, those of equal trees counted together, those that fail the given examples
dropped; the rest run on inputs that nobody gave, and those that behave alike make a cluster. The
largest cluster is likeliest right: wrong programs are wrong each in its own way. Where none passes
the examples, the best is repaired, and where that fails nothing is claimed.

The stages are pure functions of (samples, seed) and of what the sandbox says."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from daedal.assist.code.inputs import calls_for
from daedal.sandbox.examples import call_of, called
from daedal.sandbox.results import Call, Case, Grade, Result
from daedal.sandbox.sandbox import Sandbox
from daedal.sandbox.snippets import code_in, functions_in, normal_form, tree_of, with_imports

INPUTS = 24  # on which behaviour is compared
Stage = dict[str, Any]  # its name and what it came to
SURE = 1.96  # standard errors of a lead that ends the drawing


@dataclass(frozen=True)
class Candidate:
    """A program, how many samples were this program, and their mean log-probability a token."""

    code: str
    count: int = 1
    logprob: float = 0.0
    passed: float = 0.0  # share of the examples
    behaviour: tuple[str, ...] = ()


@dataclass(frozen=True)
class Solution:
    """What was found, or that nothing was; with the evidence. `checked` says whether there were
    examples to pass."""

    code: str | None
    checked: bool
    passed: int = 0  # of the examples
    examples: int = 0
    samples: int = 0
    distinct: int = 0
    survivors: int = 0
    clusters: tuple[int, ...] = ()  # samples of each, the largest first
    inputs: int = 0
    repairs: int = 0
    reason: str = ""  # why nothing is claimed
    stages: tuple[dict[str, Any], ...] = field(default=(), repr=False)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def verdict(self) -> str:
        """A line of evidence."""
        if self.code is None:
            return self.reason
        ran = (
            f"passes {self.passed} of {self.examples} examples"
            if self.checked
            else "no examples to pass"
        )
        share = (
            f"; {self.clusters[0]} of {self.samples} samples behave like it"
            if self.clusters
            else ""
        )
        return f"{ran}{share} on {self.inputs} more inputs"


# ---- stages --------------------------------------------------------------------------------------


def candidates_of(answers: Sequence[tuple[str, float]]) -> list[Candidate]:
    """(answer, mean log-probability) -> programs that compile, equal ones counted together, the
    most frequent first."""
    found: dict[str, Candidate] = {}
    for answer, logprob in answers:
        code = with_imports(code_in(answer))
        tree = tree_of(code)
        if tree is None or not tree.body:
            continue
        key = normal_form(code)
        old = found.get(key, Candidate(code, 0, 0.0))
        mean = (old.logprob * old.count + logprob) / (old.count + 1)
        found[key] = replace(old, count=old.count + 1, logprob=mean)
    return sorted(found.values(), key=lambda c: (-c.count, -c.logprob, c.code))


def graded(candidates: list[Candidate], grades: Sequence[Grade]) -> list[Candidate]:
    """With the share of examples that each passed."""
    return [replace(c, passed=g.score) for c, g in zip(candidates, grades, strict=True)]


def survivors_of(candidates: list[Candidate], examples: Sequence[Case]) -> list[Candidate]:
    """Those that pass every example; all where there are none."""
    return [c for c in candidates if c.passed == 1.0] if examples else candidates


def behaving(candidates: list[Candidate], results: Sequence[Result]) -> list[Candidate]:
    """With what each gave on every input: a value, or how it failed."""
    return [
        replace(c, behaviour=tuple(shown(a.status, a.value, a.error) for a in r.answers))
        for c, r in zip(candidates, results, strict=True)
    ]


def shown(status: str, value: Any, error: str) -> str:
    if status == "ok":
        return f"= {value!r}"
    kind = error.strip().splitlines()[-1].partition(":")[0] if error.strip() else ""
    return f"! {status} {kind}"


def clusters_of(candidates: list[Candidate]) -> list[list[Candidate]]:
    """Those that behave alike, the cluster of most samples first; among equals the likelier."""
    found: dict[tuple[str, ...], list[Candidate]] = {}
    for candidate in candidates:
        found.setdefault(candidate.behaviour, []).append(candidate)

    def rank(cluster: list[Candidate]) -> tuple[Any, ...]:
        works = sum(mark.startswith("=") for mark in cluster[0].behaviour)
        best = max(c.logprob for c in cluster)
        return (-mass(cluster) * (1 if works or not cluster[0].behaviour else 0.1), -works, -best)

    return sorted(found.values(), key=rank)


def mass(cluster: list[Candidate]) -> int:
    return sum(candidate.count for candidate in cluster)


def certain(clusters: list[list[Candidate]], left: int) -> bool:
    """Whether more samples will hardly change which cluster is the largest: its lead over the next
    is beyond the noise of the counts (a difference of two shares), or beyond what is left."""
    if not clusters:
        return False
    first = mass(clusters[0])
    second = mass(clusters[1]) if len(clusters) > 1 else 0
    return first - second > left or (first - second) > SURE * math.sqrt(first + second) + 1


# ---- the whole -----------------------------------------------------------------------------------


@dataclass
class Problem:
    """A task in words: the messages that ask for it, the examples that an answer must pass, inputs
    that the model thought of."""

    ask: Callable[[int, int, list[dict[str, str]]], list[tuple[str, float]]]
    # (how many, seed, further messages) -> answers with their mean log-probabilities
    examples: list[Case]
    function: str | None = None
    thought: Callable[[str], str] = lambda code: ""  # a text of calls to try a program on


class Search:
    """A search under way: the answers so far and what has become of them."""

    def __init__(
        self, problem: Problem, sandbox: Sandbox, seed: int, on_stage: Callable[[Stage], None]
    ) -> None:
        self.problem, self.sandbox, self.seed, self.on_stage = problem, sandbox, seed, on_stage
        self.answers: list[tuple[str, float]] = []
        self.candidates: list[Candidate] = []
        self.clusters: list[list[Candidate]] = []
        self.calls: list[Call] = []
        self.stages: list[Stage] = []
        self.repairs = 0

    def note(self, name: str, **facts: Any) -> None:
        self.stages.append({"stage": name} | facts)
        self.on_stage(self.stages[-1])

    def draw(self, count: int) -> None:
        """More samples, and what they come to with those before them."""
        self.answers += self.problem.ask(count, self.seed + len(self.answers), [])
        self.note("sampled", samples=len(self.answers))
        self.candidates = judged(candidates_of(self.answers), self.problem, self.sandbox)
        alive = survivors_of(self.candidates, self.problem.examples)
        self.note("filtered", distinct=len(self.candidates), survivors=len(alive))
        self.calls = self.calls or inputs_for(self.problem, alive, self.seed)
        results = self.sandbox.run_many([(each.code, self.calls) for each in alive])
        self.clusters = clusters_of(behaving(alive, results))
        sizes = [mass(cluster) for cluster in self.clusters]
        self.note("clustered", clusters=sizes, inputs=len(self.calls))

    def repair(self, rounds: int) -> None:
        """Mend the best where none passes."""
        given = (self.problem, self.sandbox, self.candidates, rounds, self.seed, self.note)
        fixed, self.repairs = repaired(*given)
        self.clusters = [[fixed]] if fixed else []

    def solution(self) -> Solution:
        """The likeliest of the largest cluster, or why nothing is claimed."""
        examples = len(self.problem.examples)
        common: dict[str, Any] = {
            "checked": bool(examples),
            "examples": examples,
            "samples": len(self.answers),
            "distinct": len(self.candidates),
            "inputs": len(self.calls),
            "repairs": self.repairs,
        }
        if not self.clusters:
            best = max((c.passed for c in self.candidates), default=0.0)
            why = "no answer was a program"
            if self.candidates:
                why = f"nothing passes the examples (the best passes {best:.0%})"
            self.note("abstained", reason=why)
            return Solution(None, reason=why, stages=tuple(self.stages), **common)
        picked = max(self.clusters[0], key=lambda c: (c.logprob, c.count))
        self.note("picked", code=picked.code)
        sizes = tuple(map(mass, self.clusters))
        return Solution(
            picked.code,
            clusters=sizes,
            stages=tuple(self.stages),
            passed=round(picked.passed * examples),
            survivors=sum(sizes),
            **common,
        )


def solve(
    problem: Problem,
    sandbox: Sandbox,
    n: int = 16,
    batch: int = 8,
    rounds: int = 3,
    seed: int = 0,
    on_stage: Callable[[Stage], None] = lambda stage: None,
) -> Solution:
    """Draw up to `n` samples, `batch` at a time until the lead is certain; repair up to `rounds`
    times where none passes the examples."""
    search = Search(problem, sandbox, seed, on_stage)
    while len(search.answers) < n:
        search.draw(min(batch, n - len(search.answers)))
        if certain(search.clusters, n - len(search.answers)):
            break
    if not search.clusters and search.candidates:
        search.repair(rounds)
    return search.solution()


def judged(candidates: list[Candidate], problem: Problem, sandbox: Sandbox) -> list[Candidate]:
    if not problem.examples:
        return candidates
    return graded(candidates, sandbox.grade_many([(c.code, problem.examples) for c in candidates]))


def inputs_for(problem: Problem, alive: list[Candidate], seed: int) -> list[Call]:
    """Calls to compare survivors on: by type and change, and those that the model thinks of."""
    if not alive:
        return []
    functions = functions_in(alive[0].code)
    name = problem.function or (functions[-1].name if functions else None)
    signature = next((f for f in functions if f.name == name), None)
    if signature is None:
        return []
    known = [case.call for case in problem.examples if case.call]
    lines = [
        call_of(line.strip().strip("`")) for line in problem.thought(alive[0].code).splitlines()
    ]
    thought = [call for call in lines if call and call.function == name and call not in known]
    return (known + thought + calls_for(signature, known + thought, INPUTS, seed))[
        : INPUTS + len(known)
    ]


def repaired(
    problem: Problem,
    sandbox: Sandbox,
    candidates: list[Candidate],
    rounds: int,
    seed: int,
    note: Callable[..., None],
) -> tuple[Candidate | None, int]:
    """The best candidate mended, told what it gave and what was wanted; and how many rounds that
    took."""
    best = max(candidates, key=lambda c: (c.passed, c.count, c.logprob))
    for number in range(1, rounds + 1):
        feedback = complaint(best.code, sandbox, problem.examples)
        turns = [
            {"role": "assistant", "content": f"```python\n{best.code}```"},
            {"role": "user", "content": feedback},
        ]
        drawn = candidates_of(problem.ask(4, seed + 1000 * number, turns))
        tried = judged(drawn, problem, sandbox)
        note("repaired", round=number, best=max((c.passed for c in tried), default=0.0))
        best = max([best, *tried], key=lambda c: (c.passed, c.count, c.logprob))
        if best.passed == 1.0:
            return best, number
    return None, rounds


def complaint(code: str, sandbox: Sandbox, examples: Sequence[Case]) -> str:
    """What is wrong with a program, in the words of one failing example."""
    grade = sandbox.grade(code, examples)
    again = "Write the whole function again, corrected."
    answers = grade.results[0].answers
    for case, answer, verdict in zip(examples, answers, grade.verdicts, strict=False):
        if verdict != "ok" and case.call:
            error = answer.error.strip().splitlines()[-1:]
            got = repr(answer.value) if answer.status == "ok" else "".join(error) or answer.status
            return f"That is wrong: {called(case.call)} gives {got}, and should give {case.want!r}. {again}"
    return f"That is wrong: {grade.results[0].error.strip() or grade.results[0].status}. {again}"
