"""How good the unit tests are that a model writes (`daedal code test`), by execution.

    daedal eval coder --tasks unit-tests --data functions.parquet --limit 50

A file has documented Python functions in the column `code`, and what they import in `imports` where
they import anything. Those that stand alone are taken, evenly over the file. A test counts as good
if the function satisfies it; mutants are the function with one operator, constant or comparison
changed (DeMillo, Lipton and Sayward 1978)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from daedal.assist.code.coder import Coder
from daedal.errors import DaedalError
from daedal.evals.code_tasks import rows_of
from daedal.evals.measured import Measured, Report, bootstrap, lines_of, plain, share
from daedal.pipelines.text import TextPipeline
from daedal.pipelines.text_params import TextMeasuring
from daedal.sandbox.sandbox import Sandbox
from daedal.sandbox.snippets import functions_in


def evaluate(pipeline: TextPipeline, asked: TextMeasuring) -> Report:
    """What `daedal eval MODEL --tasks unit-tests --data FILE` says."""
    if not asked.data:
        raise DaedalError(
            "functions to test come from a file; give --data FILE with a column `code`."
        )
    with Coder(pipeline, Sandbox()) as coder:
        codes = alone(coder.sandbox, rows_of(Path(asked.data), asked.split), asked.limit or 50)
        found = [coder.tests(code) for code in codes]
    groups = {"tests": measured([each.details for each in found])}
    return Report(plain(groups), lines_of(groups))


def alone(sandbox: Sandbox, rows: Sequence[dict[str, Any]], count: int) -> list[str]:
    """`count` functions with a docstring that run by themselves, evenly over the rows."""
    if any("code" not in row for row in rows):
        raise DaedalError("a row of these functions has no column `code`; name it so.")
    codes = [
        f"{row['imports']}\n\n{row['code']}" if row.get("imports") else row["code"] for row in rows
    ]
    documented = [code for code in codes if any(f.docstring for f in functions_in(code))]
    runs = sandbox.run_many([(code, []) for code in documented])
    good = [code for code, run in zip(documented, runs, strict=True) if run.status == "ok"]
    if not good:
        raise DaedalError(
            "none of these functions runs by itself; give some that need nothing else."
        )
    count = min(count, len(good))
    return [good[i * len(good) // count] for i in range(count)]


def measured(found: Sequence[dict[str, int]]) -> dict[str, Measured]:
    """The share of written tests that hold, and of mutants that some test notices, with intervals
    over functions; and of how many functions any test was left."""
    counts = {key: torch.tensor([float(each[key]) for each in found]) for key in found[0]}
    held = torch.stack([counts["held"], counts["written"]], 1)
    killed = torch.stack([counts["killed"], counts["mutants"]], 1)
    some = sum(each["kept"] + each["added"] > 0 for each in found)
    return {
        "hold": bootstrap(ratio, held, 1000),
        "mutants": bootstrap(ratio, killed, 1000),
        "functions": share(some, len(found)),
    }


def ratio(pairs: torch.Tensor) -> float:
    """The sum of the first column over that of the second."""
    first, second = pairs.sum(0).tolist()
    return first / max(second, 1.0)
