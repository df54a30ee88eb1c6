"""How soon a completion comes as one types: the second key at six places of a file, about a
thousand tokens before the cursor, as `daedal lsp` asks.

    python benchmarks/inline.py                  # the coder (daedal models pull coder), 32 tokens"""

import argparse
import statistics
import time
from pathlib import Path

import daedal
from daedal.assist.code.complete import Gap, complete

FILE = Path(__file__).parent.parent / "src" / "daedal" / "engine" / "engine.py"
PLACES = (140, 180, 220, 260, 300, 340)  # lines
BEFORE, BEHIND, COLUMN = 110, 4, 12


def gap(lines: list[str], place: int, column: int) -> Gap:
    before = "".join(lines[place - BEFORE : place]) + lines[place][:column]
    return Gap(before, "\n" + "".join(lines[place + 1 : place + BEHIND]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="coder")
    parser.add_argument("--tokens", type=int, default=32)
    options = parser.parse_args()
    pipeline = daedal.load(options.model, context=4096)
    pipeline.serving |= {"exact_prefixes": False, "max_batch": 2}
    lines = FILE.read_text().splitlines(keepends=True)
    first, whole = [], []
    for place in PLACES:
        complete(pipeline, gap(lines, place, COLUMN), options.tokens)  # the key before
        began, times = time.perf_counter(), []

        def noted(began: float = began, times: list[float] = times) -> bool:
            times.append(time.perf_counter() - began)
            return False

        complete(pipeline, gap(lines, place, COLUMN + 1), options.tokens, noted)
        whole.append(time.perf_counter() - began)
        first.append(times[0] if times else whole[-1])
    print(f"first text {statistics.median(first):.2f} s, all {statistics.median(whole):.2f} s")


if __name__ == "__main__":
    main()
