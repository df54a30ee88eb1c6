"""Questions and claims made of books, and what is measured with them."""

import random
import re

import numpy as np
import pytest

from daedal.assist.documents.words import content
from daedal.errors import DaedalError
from daedal.evals import evidence, text
from daedal.evals.book_questions import KINDS, Names, questions, reworded
from daedal.evals.claims import CHANGES, TRUE, claims
from daedal.pipelines.text_params import TextMeasuring

WHO = ["Anna", "Peter", "Clara", "Otto"]
THINGS = ["herrings", "lanterns", "kettles", "ribbons", "barrels", "candles"]
PLACES = ["Bergen", "Lisbon", "Dover", "Turin"]


def books(count=120):
    """Passages about four people, each with a number, a speech and a place of its own."""
    rng = random.Random(0)
    made = []
    for i in range(count):
        a, b = rng.sample(WHO, 2)
        thing, town, mark = rng.choice(THINGS), rng.choice(PLACES), f"q{i}x"
        made.append(
            f"{a} carried the {mark}lamp along the stony{i} path before {b} opened the old gate. "
            f'"I have never seen a{mark} ship with such ragged{i} sails," said {b} to her. '
            f"They counted twenty {thing} beside the broken{i} wall of the {mark}barn. "
            f"In the cold winter they hurried to {town} with the {mark}wagon and the lame{i} horse. "
            f"Then {a} was glad, and so was {b} when {a} looked at {b}."
        )
    return made


def test_a_question_does_not_hold_its_answer_and_its_passage_does():
    texts = books()
    made = questions(texts, random.Random(1), 40)
    assert len(made) == 40 and {q.kind for q in made} == set(KINDS)
    for q in made:
        assert q.answer.lower() not in q.text.lower() and q.answer in q.sentence
        assert q.sentence in texts[q.passage] and q.text.endswith("?")
    assert questions(texts, random.Random(1), 40) == made
    assert len({q.passage for q in made}) == len(made)


def test_words_are_replaced_whole():
    rng = random.Random(0)
    assert reworded("bigger said", rng).startswith("bigger ")
    assert "said" not in {reworded("he said", random.Random(n)) for n in range(3)}


def test_false_claims_differ_from_true_ones_by_one_change():
    known = Names(books())
    assert set(WHO) <= known.known and not known.has("Anna Anywhere") and known.person("Peter")
    made = claims(books(), random.Random(2), 160)
    true = [c for c in made if c.kind == TRUE]
    assert 2 * len(true) == len(made) and all(c.supported == (c.kind == TRUE) for c in made)
    assert {"name", "number", "negation", "elsewhere"} <= {c.kind for c in made} <= {TRUE, *CHANGES}
    for claim in made:
        if claim.kind == "number":
            assert not re.search(r"\btwenty\b", claim.text)
        if claim.kind == "negation":
            denied = re.search(r"\b(not|never)\b", claim.text) is not None
            assert denied != ("sails" in claim.text)  # the one sentence that is denied in the text


def test_figures_are_of_ranks():
    found = evidence.figures([1, 2, None, 9])
    assert found["recall@8"].value == 0.5
    assert abs(found["MRR"].value - (1 + 1 / 2 + 1 / 9) / 4) < 1e-6
    assert evidence.place(3, [5, 3]) == 2 and evidence.place(4, [5, 3]) is None
    assert content("The ships sailed") == {"ship", "sail"}


class Hashed:
    """An embedder of words by chance: alike texts share words."""

    name = "hashed"

    def __init__(self, folder):
        self.folder = folder
        (folder / "config.json").write_text("{}")

    def word_vectors(self, words):
        drawn = [np.random.default_rng(list(word.encode())).normal(size=64) for word in words]
        return np.stack([each / np.linalg.norm(each) for each in drawn])

    def embed(self, texts):
        rows = [self.word_vectors(re.findall(r"\w+", text.lower())).sum(0) for text in texts]
        return np.stack([row / np.linalg.norm(row) for row in rows]).astype(np.float32)


@pytest.mark.parametrize("task", ["retrieval", "evidence"])
def test_an_encoder_is_measured(tmp_path, task):
    (tmp_path / "books").mkdir()
    (tmp_path / "embedder").mkdir()
    for i, book in enumerate(books(60)):
        (tmp_path / "books" / f"{i}.txt").write_text(book)
    asked = TextMeasuring(data=str(tmp_path / "books"), tasks=task, limit=60)
    report = evidence.evaluate(Hashed(tmp_path / "embedder"), asked)
    groups = report.values
    if task == "retrieval":
        assert set(groups) == {"bm25", "dense", "hybrid", "hybrid + rerank"}
        assert groups["hybrid + rerank"]["recall@8"]["value"] > 0.9
    else:
        assert groups["number"]["AUROC"]["value"] > 0.7 and groups["all"]["AUROC"]["n"] > 40
    assert len(report.lines) >= 4


def test_other_tasks_of_an_encoder_are_refused():
    with pytest.raises(DaedalError, match="--tasks retrieval or evidence with --data FOLDER"):
        evidence.evaluate(None, TextMeasuring(tasks="memory", data="books"))


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ("evidence", "evidence is of an encoder of sentences; write `daedal eval minilm"),
        ("constraints,code", "code is measured by itself; give --tasks code alone"),
    ],
)
def test_tasks_of_others_are_named(tasks, said):
    with pytest.raises(DaedalError, match=said):
        text.evaluate(None, TextMeasuring(tasks=tasks))  # type: ignore[arg-type]
