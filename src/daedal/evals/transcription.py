"""`daedal eval` of an ear: how many words and characters of recordings it gets wrong."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch

from daedal.data.documents import Source, chunks, parquet
from daedal.errors import DaedalError
from daedal.evals.measured import Measured, Report, lines_of, plain
from daedal.pipelines.transcription import TranscriptionPipeline
from daedal.pipelines.transcription_params import TranscriptionMeasuring

ROUNDS = 1000


def evaluate(pipeline: TranscriptionPipeline, asked: TranscriptionMeasuring) -> Report:
    """Word and character error rates over recordings, with bootstrapped intervals."""
    if not asked.data:
        raise DaedalError(
            "an ear is measured on recordings; give --data, a table with columns audio and text."
        )
    pairs = [
        (plainly(row["text"]), plainly(str(pipeline(row["audio"], language="en"))))
        for row in rows(asked)
    ]
    found = {"words": rate(pairs, str.split), "characters": rate(pairs, list)}
    groups = {"error": found}
    return Report(plain(groups), lines_of(groups))


def rows(asked: TranscriptionMeasuring) -> list[dict[str, Any]]:
    where = {"split": asked.split} if asked.split else {}
    source = Source(path=str(asked.data), where=where)
    found = []
    for chunk in chunks(source):
        table = parquet(chunk.path).read_row_group(chunk.group)
        if missing := {"audio", "text", *where} - set(table.column_names):
            raise DaedalError(
                f"{chunk.path} has no column {min(missing)!r}; it needs audio (bytes of files) and text."
            )
        found += [
            r for r in table.to_pylist() if all(r[key] == value for key, value in where.items())
        ]
    return found[: asked.n]


def plainly(text: str) -> str:
    """Lower case, without signs, single spaces."""
    return " ".join(re.sub(r"[^\w\s']", " ", text.lower()).split())


def rate(pairs: Sequence[tuple[str, str]], split: Callable[[str], list[str]]) -> Measured:
    """Edits over what should stand there, of all texts together, with a bootstrapped interval."""
    counts = torch.tensor([[edits(split(a), split(b)), len(split(a))] for a, b in pairs]).double()
    noise = torch.Generator().manual_seed(0)
    picks = torch.randint(len(counts), (ROUNDS, len(counts)), generator=noise)
    sums = counts[picks].sum(1)
    low, high = (sums[:, 0] / sums[:, 1]).quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    total = counts.sum(0)
    return Measured((total[0] / total[1]).item(), low, high, len(counts))


def edits(a: Sequence[str], b: Sequence[str]) -> int:
    """Insertions, deletions and substitutions from one sequence to another (Levenshtein 1966)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]
