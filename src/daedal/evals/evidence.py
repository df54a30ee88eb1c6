"""How well passages are found and claims are checked, by an embedder and what Daedal adds to it, on
questions and claims made of the books of a folder (which is indexed).

    daedal eval minilm --tasks retrieval --data BOOKS      # 200 questions whose answers are known
    daedal eval minilm --tasks evidence --data BOOKS       # claims of which half are false

The books must not be those that the reranker and the verifier are fitted on (docs/figures.md)."""

import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from daedal.assist.documents.index import Index
from daedal.assist.documents.verify import support
from daedal.errors import DaedalError
from daedal.evals.book_questions import questions
from daedal.evals.claims import CHANGES, HELD_OUT, TRUE, claims
from daedal.evals.measured import Measured, Report, bootstrap, lines_of, plain
from daedal.evals.memorised import auroc
from daedal.pipelines.embedding import Embedder
from daedal.pipelines.text_params import TextMeasuring

QUESTIONS, CLAIMS = 200, 800
AT = 8  # passages that an answer is given


def evaluate(embedder: Embedder, asked: TextMeasuring) -> Report:
    """What `daedal eval EMBEDDER --tasks retrieval` (or evidence) says."""
    if asked.tasks not in TASKS or not asked.data:
        raise DaedalError(
            f"an encoder of sentences is measured by --tasks {' or '.join(TASKS)} with --data FOLDER of books, and got --tasks {asked.tasks} --data {asked.data}."
        )
    with Index.open(Path(asked.data)) as index:
        index.update(embedder)
        groups = TASKS[asked.tasks](index, embedder, asked.limit)
    return Report(plain(groups), lines_of(groups))


def passages_of(index: Index) -> list[tuple[int, str]]:
    """(number, text) of every passage of an index, in order."""
    return index.database.execute("SELECT id, text FROM passages ORDER BY id").fetchall()


def retrieval(
    index: Index, embedder: Embedder, limit: int | None
) -> dict[str, dict[str, Measured]]:
    """Share of questions whose passage is among the first 8, and mean reciprocal rank."""
    numbers, texts = zip(*passages_of(index), strict=True)
    ranks: dict[str, list[int | None]] = {}
    for question in questions(texts, random.Random("retrieval"), limit or QUESTIONS):
        right = numbers[question.passage]
        joined = index.joined(question.text, embedder)
        found: dict[str, Iterable[int]] = {
            "bm25": [number for number, _ in index.by_words(question.text)],
            "dense": [n for n, _ in index.by_meaning(embedder.embed([question.text])[0])],
            "hybrid": [each.number for each in joined],
            "hybrid + rerank": [
                each.number for each, _ in index.ordered(question.text, joined, embedder)
            ],
        }
        for way, order in found.items():
            ranks.setdefault(way, []).append(place(right, list(order)))
    return {way: figures(some) for way, some in ranks.items()}


def place(right: int, order: Sequence[int]) -> int | None:
    return order.index(right) + 1 if right in order else None


def figures(ranks: Sequence[int | None]) -> dict[str, Measured]:
    hits = torch.tensor([float(rank is not None and rank <= AT) for rank in ranks])
    inverse = torch.tensor([1 / rank if rank else 0.0 for rank in ranks])
    mean: Callable[[torch.Tensor], float] = lambda x: float(x.mean())  # noqa: E731
    return {f"recall@{AT}": bootstrap(mean, hits), "MRR": bootstrap(mean, inverse)}


def evidence(index: Index, embedder: Embedder, limit: int | None) -> dict[str, dict[str, Measured]]:
    """Area under the curve of the verifier's chance of support, true claims against false ones: of
    all, of each kind of change, and of those kinds that it was never fitted on."""
    texts = [text for _, text in passages_of(index)]
    made = claims(texts, random.Random("evidence"), limit or CLAIMS)
    chance = {kind: list[float]() for kind in (TRUE, *CHANGES)}
    for claim in made:
        chance[claim.kind].append(support(claim.text, claim.source, embedder))
    groups = {"all": CHANGES, "kinds held out": HELD_OUT, **{kind: (kind,) for kind in CHANGES}}
    return {
        name: {
            "AUROC": auroc(
                torch.tensor(chance[TRUE]),
                torch.tensor([p for kind in kinds for p in chance[kind]]),
            )
        }
        for name, kinds in groups.items()
        if any(chance[kind] for kind in kinds)
    }


TASKS = {"retrieval": retrieval, "evidence": evidence}
