"""Nothing that a candidate tries gets out, and what takes too much is ended."""

import os
import platform
from pathlib import Path

import pytest

from daedal.sandbox.canary import OUTSIDE, SECRET
from daedal.sandbox.results import Call, Limits, Result
from daedal.sandbox.sandbox import Sandbox
from tests.sandbox.escapes import GREEDY, expressions, system_calls

TIGHT = Limits(wall_s=0.5, cpu_s=1, memory_bytes=2**27, output_bytes=2**18)


def attempts(sandbox: Sandbox, codes: dict[str, str]) -> dict[str, Result]:
    call = Call("attempt", (str(sandbox.folder / SECRET), str(sandbox.folder / OUTSIDE)))
    results = sandbox.run_many([(code, [call]) for code in codes.values()])
    return dict(zip(codes, results, strict=True))


def contained(result: Result) -> bool:
    """It failed by itself and could say so: silence may be a program that another replaced."""
    answer = result.answers[0]
    failed = answer.status == "error" and "error" in answer.error.splitlines()[-1].lower()
    return failed or (answer.status == "ok" and answer.value is False)


def test_there_are_enough() -> None:
    assert len(expressions()) + len(system_calls()) + len(GREEDY) >= 200


def test_escapes_are_contained(sandbox: Sandbox) -> None:
    folder = sandbox.folder
    secret = (folder / SECRET).read_text()
    outside = sorted(os.listdir(folder / OUTSIDE))
    results = attempts(sandbox, expressions())
    assert {name: r.answers for name, r in results.items() if not contained(r)} == {}
    assert (folder / SECRET).read_text() == secret
    assert sorted(os.listdir(folder / OUTSIDE)) == outside
    assert not Path("/tmp/daedal-escape").exists()
    assert not any(secret in r.stdout + r.stderr for r in results.values())


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are x86_64's")
def test_system_calls_do_not_exist(sandbox: Sandbox) -> None:
    results = attempts(sandbox, system_calls())
    assert {name: r.answers for name, r in results.items() if not contained(r)} == {}


def test_greed_ends(sandbox: Sandbox) -> None:
    results = sandbox.run_many([(code, ()) for code in GREEDY.values()], limits=TIGHT)
    named = dict(zip(GREEDY, results, strict=True))
    assert {name for name, r in named.items() if r.status == "ok"} == set()
    assert {name: r.wall_s for name, r in named.items() if r.wall_s > 2} == {}
    assert {name for name, r in named.items() if r.max_rss > 2**28} == set()
    assert all(len(r.stdout) + len(r.stderr) <= TIGHT.output_bytes for r in results)
