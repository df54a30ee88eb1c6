"""What finding and answering from documents is made of and costs.

    python benchmarks/documents.py books books.parquet OUT        # held-out books as a folder of texts
    python benchmarks/documents.py fit TRAIN_FOLDER               # the reranker again
    python benchmarks/documents.py fit_claims TRAIN_FOLDER        # and the verifier
    python benchmarks/documents.py calibrate FOLDER OTHER_FOLDER  # from which score it is worth asking
    python benchmarks/documents.py answers FOLDER OTHER_FOLDER RESULTS.jsonl    # by the coder
    python benchmarks/documents.py million EMPTY_FOLDER           # search among a million passages

`books` takes a parquet file of books (columns title, part, text, split); `fit` takes an indexed
folder of other books and writes the weights beside the code."""

import json
import random
import re
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

import daedal
from daedal.assist.documents import answer, rerank, verify
from daedal.assist.documents.index import Hit, Index
from daedal.assist.documents.passages import Passage
from daedal.assist.documents.verify import in_digits
from daedal.evals.book_questions import questions
from daedal.evals.claims import CHANGES, HELD_OUT, claims
from daedal.evals.evidence import passages_of
from daedal.evals.measured import bootstrap, share

WIDTH, WORDS, COMMON = 384, 50_000, 100  # the commonest are what questions leave out
PARTS = 100  # of a book, at most
UNITS = 6
PLACE = Path(rerank.__file__).parent


def books(file: str, out: str, split: str = "val", titles: str = "") -> None:
    """The books of a split, or those named (separated by |), a text file each."""
    wanted = set(titles.split("|")) if titles else None
    found: dict[str, list[tuple[int, str]]] = defaultdict(list)
    columns = ["title", "part", "text", "split"]
    for row in pq.read_table(file, columns=columns).to_pylist():
        if row["split"] == split and (wanted is None or row["title"] in wanted):
            found[row["title"]].append((row["part"], row["text"]))
    Path(out).mkdir(parents=True, exist_ok=True)
    for title, parts in found.items():
        text = "\n\n".join(text for _, text in sorted(parts)[:PARTS])
        Path(out, re.sub(r"\W+", "_", title) + ".txt").write_text(text, encoding="utf-8")


def fit(folder: str) -> None:
    """The reranker, with an embedder and by words alone."""
    with Index.open(Path(folder), make=False) as index:
        write("rerank", {name: fit_rerank(index, one) for name, one in ways().items()})


def fit_claims(folder: str) -> None:
    """The verifier, with an embedder and by words alone."""
    with Index.open(Path(folder), make=False) as index:
        texts = [text for _, text in passages_of(index)]
    kept = [kind for kind in CHANGES if kind not in HELD_OUT]
    made = claims(texts, random.Random("fit"), 2400, kept)
    write("verify", {name: fit_verify(made, one) for name, one in ways().items()})


def ways() -> dict[str, Any]:
    return {"dense": daedal.load("minilm"), "words": None}


def write(name: str, networks: dict[str, Any]) -> None:
    rounded = {
        kind: {key: np.round(value, 4).tolist() for key, value in weights.items()}
        for kind, weights in networks.items()
    }
    (PLACE / f"{name}.json").write_text(json.dumps(rounded) + "\n", encoding="utf-8")


def fit_rerank(index: Index, embedder: Any) -> dict[str, np.ndarray]:
    """A softmax over the candidates of each question (three draws of questions)."""
    numbers, texts = zip(*passages_of(index), strict=True)
    rows, right = [], []
    for seed in range(3):
        for question in questions(texts, random.Random(f"fit/{seed}"), 1200):
            found = index.joined(question.text, embedder)
            places = [each.number for each in found]
            if numbers[question.passage] in places:
                rows.append(rerank.features(question.text, found, embedder))
                right.append(places.index(numbers[question.passage]))
    longest = max(map(len, rows))
    filled = np.stack([np.pad(x, ((0, longest - len(x)), (0, 0))) for x in rows])
    there = torch.tensor([[i < len(x) for i in range(longest)] for x in rows])
    target = torch.tensor(right)

    def loss(odds: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(odds.masked_fill(~there, -1e9), target)

    return trained(filled, np.concatenate(rows), loss)


def fit_verify(made: list[Any], embedder: Any) -> dict[str, np.ndarray]:
    """A logistic loss over claims."""
    x = np.stack([verify.features(claim.text, claim.source, embedder) for claim in made])
    target = torch.tensor([float(claim.supported) for claim in made])
    return trained(x, x, lambda odds: torch.nn.functional.binary_cross_entropy_with_logits(odds, target))  # fmt: skip


def trained(x: np.ndarray, seen: np.ndarray, loss: Any, steps: int = 500) -> dict[str, np.ndarray]:
    """Weights of a perceptron over features `x` (..., F) with the least loss of its numbers (...)."""
    torch.manual_seed(0)
    mean, scale = seen.mean(0), seen.std(0) + 1e-3
    inputs = torch.tensor((x - mean) / scale, dtype=torch.float32)
    shapes = {"inner": (x.shape[-1], UNITS), "bias": (UNITS,), "outer": (UNITS,), "offset": ()}
    weights = {name: (0.3 * torch.randn(shape)).requires_grad_() for name, shape in shapes.items()}
    optimizer = torch.optim.AdamW(weights.values(), 0.02, weight_decay=1e-2)
    for _ in range(steps):
        hidden = torch.tanh(inputs @ weights["inner"] + weights["bias"])
        value = loss(hidden @ weights["outer"] + weights["offset"])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    print(f"loss {value.item():.4f}")
    return {"mean": mean, "scale": scale} | {k: v.detach().numpy() for k, v in weights.items()}


def calibrate(answerable: str, other: str, count: int = 100) -> None:
    """Prints from which score of the best passage it is worth asking: the best F1 of abstaining,
    of questions about the indexed folder `answerable` against those about `other`."""
    with Index.open(Path(answerable), make=False) as index, Index.open(Path(other)) as away:
        away.update()
        own, strange = ([text for _, text in passages_of(each)] for each in (index, away))
        for name, one in ways().items():
            best = [
                np.array([index.search(q.text, one, 1)[0].score for q in made])
                for made in (
                    questions(own, random.Random("calibrate"), count),
                    questions(strange, random.Random("calibrate"), count),
                )
            ]
            rated = [(f1(best[0], best[1], least), least) for least in np.concatenate(best)]
            value, least = max(rated)
            print(f"{name}: abstain below {least:.2f}, F1 {value:.3f} on {len(best[0])} and {len(best[1])} questions")  # fmt: skip


def f1(answerable: np.ndarray, strange: np.ndarray, least: float) -> float:
    """Of abstaining below a score."""
    right, wrong = int((strange < least).sum()), int((answerable < least).sum())
    return 2 * right / max(2 * right + wrong + len(strange) - right, 1)


def answers(folder: str, other: str, results: str, count: str = "60") -> None:
    """Answers of the coder to questions about the indexed folder, and half as many about other
    books, from three passages each; what is in the file of results is not asked again."""
    file, embedder, coder = Path(results), daedal.load("minilm"), daedal.load("coder")
    known = {row["q"] for row in rows_of(file)}
    with Index.open(Path(folder), make=False) as index, Index.open(Path(other)) as away:
        away.update()
        for place, n in ((index, int(count)), (away, int(count) // 2)):
            texts = [text for _, text in passages_of(place)]
            for q in questions(texts, random.Random("answers"), n):
                if q.text in known:
                    continue
                hits = index.search(q.text, embedder, 3)
                asked = {"max_tokens": 60, "temperature": 0.0, "seed": 0}
                said = coder.start(answer.messages(q.text, hits), **asked).result().text
                found = [{"file": hit.file, "text": hit.passage.text} for hit in hits]
                row = {"q": q.text, "answer": q.answer, "answerable": place is index, "said": said, "hits": found}  # fmt: skip
                with file.open("a", encoding="utf-8") as opened:
                    opened.write(json.dumps(row, ensure_ascii=False) + "\n")
    report(folder, results)


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def report(folder: str, results: str) -> None:
    """Of answers: how many name what was asked for, before and after what no source supports is
    left out, how well it is abstained, and every sentence that is kept, to be read beside its
    source."""
    embedder, rows = daedal.load("minilm"), rows_of(Path(results))
    with Index.open(Path(folder), make=False) as index:
        for row in rows:
            hits = [Hit(Passage(hit["text"], "", ""), hit["file"], 0.0) for hit in row["hits"]]
            row["asks"] = answer.worth_asking(row["q"], index.search(row["q"], embedder, 1))
            made = answer.checked(row["q"], row["said"], hits, embedder)
            row["found"] = row["asks"] and made.found
            right = row["answer"].split()[-1]
            row["right"] = answer.stands_in(in_digits(right), in_digits(row["said"]))
            row["kept"] = row["found"] and answer.stands_in(in_digits(right), in_digits(made.text))
            for sentence in made.sentences if row["asks"] else ():
                if sentence.supported:
                    print(f"kept {sentence.cites} {sentence.text}")
    own = [row for row in rows if row["answerable"]]
    for name, key in {"right": "right", "right and supported": "kept"}.items():
        print(f"{name}: {share(sum(row[key] for row in own), len(own))}")
    for name, key in {"abstains before asking": "asks", "abstains in the end": "found"}.items():
        table = torch.tensor([[float(not row["answerable"]), float(not row[key])] for row in rows])
        print(f"{name}: F1 {bootstrap(f1_of, table)}")


def f1_of(table: torch.Tensor) -> float:
    """Of rows (should abstain, abstains)."""
    both = float((table[:, 0] * table[:, 1]).sum())
    return 2 * both / max(float(table.sum()), 1.0)


def million(place: str, count: str = "1000000") -> None:
    """Search among a million passages: 40 words each, of 50,000 drawn as often as words are, and random unit vectors of 384 numbers as stand-in for an embedder's."""
    index, rng = Index.open(Path(place)), np.random.default_rng(0)
    if len(index) < int(count):
        filled(index, int(count), rng)
    took: dict[str, list[float]] = defaultdict(list)
    index.by_meaning(rng.normal(size=WIDTH).astype(np.float32))  # makes the signs
    for _ in range(30):
        question = " ".join(words_of(rng, 8, COMMON))
        vector = rng.normal(size=WIDTH).astype(np.float32)
        once = One(vector)
        for name, work in {
            "by words": lambda q=question: index.by_words(q),
            "by meaning": lambda v=vector: index.by_meaning(v),
            "search, without the question's vector": lambda q=question, e=once: index.search(q, e),
        }.items():
            began = time.perf_counter(), time.process_time()
            work()
            took[name].append(1000 * (time.perf_counter() - began[0]))
            took[f"{name}, processor"].append(1000 * (time.process_time() - began[1]))
    for name, some in took.items():
        print(f"{name}: p50 {np.median(some):.0f} ms, p95 {np.quantile(some, 0.95):.0f} ms among {len(index):,}")  # fmt: skip


class One:
    """An embedder of one vector."""

    name = "random"

    def __init__(self, vector: np.ndarray) -> None:
        self.vector, self.folder = vector, PLACE

    def embed(self, texts: list[str]) -> np.ndarray:
        return np.tile(self.vector, (len(texts), 1))

    def word_vectors(self, words: list[str]) -> np.ndarray:
        drawn = np.random.default_rng(len(words)).normal(size=(len(words), WIDTH))
        return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def words_of(rng: np.random.Generator, count: int, common: int = 0) -> list[str]:
    """Words as often as the law of Zipf and Mandelbrot has them, without the commonest."""
    chances = 1 / (np.arange(common, WORDS) + 2.7)
    rising = np.cumsum(chances) / chances.sum()
    return [f"w{number}" for number in common + np.searchsorted(rising, rng.random(count))]


def filled(index: Index, count: int, rng: np.random.Generator) -> None:
    index._expect(One(np.zeros(WIDTH)), claim=True)
    with index.whole(), index.vectors_file.open("wb") as file:
        for start in range(0, count, 10_000):
            texts = np.array(words_of(rng, 10_000 * 40)).reshape(10_000, 40)
            rows = [(start + i + 1, " ".join(words)) for i, words in enumerate(texts)]
            index.database.executemany(
                "INSERT INTO passages VALUES (?, 'a.txt', '', 'line 1', ?, ?)",
                [(number, text, number - 1) for number, text in rows],
            )
            index.database.executemany(
                "INSERT INTO words (rowid, heading, text) VALUES (?, '', ?)", rows
            )
            vectors = rng.normal(size=(10_000, WIDTH)).astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            file.write(vectors.tobytes())


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
