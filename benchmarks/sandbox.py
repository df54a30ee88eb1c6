"""The sandbox: how long a run takes, and how many cheats and escapes succeed.

    python benchmarks/sandbox.py                                  # both, at each tier reached
    python benchmarks/sandbox.py --part speed --runs 5000

*speed* is `x + 1` from the zygote: milliseconds at the median and the 99th percentile, runs a second of
one after another and of all zygotes at once. Its peer is the start of a plain interpreter that confines
nothing. A run passes through three processes, so on a busy machine it waits three times for a core.
*attacks* runs the programs of tests/sandbox/cheats.py and escapes.py.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from daedal.errors import DaedalError
from daedal.sandbox.results import TIERS, Call, Limits
from daedal.sandbox.sandbox import Sandbox
from tests.sandbox.attacks import escaped, scored
from tests.sandbox.cheats import IN_CALLS, PROGRAMS
from tests.sandbox.escapes import GREEDY, expressions, system_calls

CODE, CALLS = "def f(x): return x + 1", [Call("f", (1,))]


def milliseconds(action, times: int) -> list[float]:
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        action()
        taken.append((time.perf_counter() - start) * 1000)
    return sorted(taken)


def plain() -> None:
    """The peer: an interpreter of its own, which confines nothing."""
    command = [sys.executable, "-I", "-S", "-c", "print(1 + 1)"]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def speed(sandbox: Sandbox, runs: int) -> str:
    milliseconds(lambda: sandbox.run(CODE, CALLS), 20)
    taken = milliseconds(lambda: sandbox.run(CODE, CALLS), runs)
    peer = statistics.median(milliseconds(plain, 50))
    start = time.perf_counter()
    results = sandbox.run_many([(CODE, CALLS)] * runs)
    together = runs / (time.perf_counter() - start)
    assert all(result.value == 2 for result in results)
    return (
        f"x + 1: p50 {statistics.median(taken):.2f} ms, p99 {taken[int(runs * 0.99)]:.2f} ms "
        f"(a plain interpreter p50 {peer:.2f} ms); {1000 / statistics.mean(taken):.0f} runs/s one by one, "
        f"{together:.0f} on {sandbox.workers} zygotes"
    )


def attacks(sandbox: Sandbox, _: int) -> str:
    cheats, escapes = scored(sandbox), escaped(sandbox)
    of_cheats = len(IN_CALLS) + len(PROGRAMS)
    of_escapes = len(expressions()) + len(system_calls()) + len(GREEDY)
    return (
        f"{len(cheats)} of {of_cheats} cheats scored, {len(escapes)} of {of_escapes} escapes succeeded"
        + "".join(f"\n  {name}: {what}" for name, what in (*cheats.items(), *escapes.items()))
    )


PARTS = {"speed": speed, "attacks": attacks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--part", choices=PARTS, nargs="*", default=list(PARTS))
    options = parser.parse_args()
    for tier in TIERS[1:]:
        try:
            with Sandbox(tier, at_most=tier, limits=Limits(wall_s=30)) as sandbox:
                for part in options.part:
                    print(f"{tier}: {PARTS[part](sandbox, options.runs)}", flush=True)
        except DaedalError as error:
            print(f"{tier}: {error}")


if __name__ == "__main__":
    main()
