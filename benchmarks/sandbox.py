"""The sandbox: how long a run takes, and how many cheats and escapes succeed.

    python benchmarks/sandbox.py                # x + 1 a thousand times at each tier reached
    python benchmarks/sandbox.py --runs 5000

Prints a line a tier: milliseconds of one run at the median and the 99th percentile, runs a second of
one zygote and of all of them at once, and how many of the programs in tests/sandbox/cheats.py scored
and in tests/sandbox/escapes.py got out. A plain interpreter's start stands beside it as the peer:
what a run costs where each gets a process of its own. The last line is the same as JSON.
"""

import argparse
import json
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


def measure(tier: str, runs: int) -> dict[str, float | str]:
    with Sandbox(tier, at_most=tier, limits=Limits(wall_s=30)) as sandbox:
        milliseconds(lambda: sandbox.run(CODE, CALLS), 20)
        taken = milliseconds(lambda: sandbox.run(CODE, CALLS), runs)
        start = time.perf_counter()
        results = sandbox.run_many([(CODE, CALLS)] * runs)
        together = runs / (time.perf_counter() - start)
        assert all(result.value == 2 for result in results)
        return {
            "tier": tier,
            "p50_ms": statistics.median(taken),
            "p99_ms": taken[int(len(taken) * 0.99)],
            "runs_per_s": 1000 / statistics.mean(taken),
            "runs_per_s_together": together,
            "cheats": len(scored(sandbox)),
            "escapes": len(escaped(sandbox)),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    options = parser.parse_args()
    rows = []
    for tier in TIERS[1:]:
        try:
            rows.append(measure(tier, options.runs))
        except DaedalError as error:
            print(f"{tier}: {error}")
    peer = statistics.median(milliseconds(plain, 50))
    for row in rows:
        print(
            f"{row['tier']:10} p50 {row['p50_ms']:.2f} ms, p99 {row['p99_ms']:.2f} ms, {row['runs_per_s']:.0f} runs/s one by one, "
            f"{row['runs_per_s_together']:.0f} together; cheats that scored {row['cheats']}, escapes {row['escapes']}"
        )
    print(f"plain interpreter, nothing confined: p50 {peer:.2f} ms")
    print(json.dumps({"rows": rows, "plain_ms": peer}))


if __name__ == "__main__":
    main()
