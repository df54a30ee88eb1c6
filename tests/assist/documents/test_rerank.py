"""Passages ordered again, and claims held against them."""

import numpy as np
import pytest

from daedal.assist.documents import rerank, verify
from daedal.assist.documents.rerank import Candidate

TEXTS = [
    "The tall lighthouse stood on the rock. Nobody came there in winter.",
    "Anna walked to the harbour. She bought three herrings from Peter.",
    "Herrings were cheap that year. The harbour was full of boats, and Anna was ill.",
]


def candidates(bm25=(1.0, 1.0, 1.0)):
    return [Candidate(i, text, score, i + 1) for i, (text, score) in enumerate(zip(TEXTS, bm25, strict=True))]  # fmt: skip


def test_words_that_stand_together_win():
    question = "How many herrings did Anna buy at the harbour?"
    assert rerank.scores(question, candidates()).argmax() == 1
    found = dict(zip(rerank.FEATURES, rerank.features(question, candidates()).T, strict=True))
    assert found["near"].argmax() == 1 and found["wanted"][1] == 1 and found["overlap"][0] == 0


def test_word_vectors_stand_for_words():
    class Same:
        def word_vectors(self, words):
            likes = {"tower": 0, "lighthouse": 0}
            return np.stack([np.eye(400, dtype=np.float32)[likes.get(w, i + 1)] for i, w in enumerate(words)])  # fmt: skip

    plain, alike = (rerank.features("Which tower?", candidates(), one) for one in (None, Same()))
    soft = rerank.FEATURES.index("soft")
    assert plain[0, soft] == 0 and alike[0, soft] == 1 and alike[1, soft] == 0


@pytest.mark.parametrize("question", ["", "the of", "???", "груши"])
def test_any_question_can_be_asked(question):
    assert rerank.scores(question, candidates()).shape == (3,)
    assert rerank.scores(question, []).shape == (0,)


SOURCE = (
    "Anna walked to the harbour in May. She was not afraid of Peter, and paid him three shillings."
)


@pytest.mark.parametrize(
    "true, false",
    [
        ("Anna walked to the harbour in May.", "Anna never walked to the harbour in May."),
        ("Anna walked to the harbour.", "Peter walked to the harbour."),
        ("She was not afraid of Peter.", "She was afraid of Peter."),
        ("She paid him three shillings.", "She paid him nine shillings."),
    ],
)
def test_what_a_text_says_is_likelier_than_what_it_does_not(true, false):
    assert verify.support(true, SOURCE) > 0.5 > verify.support(false, SOURCE)


@pytest.mark.parametrize("claim", ["", "!?", "7", "Зимой собирают груши."])
def test_any_claim_can_be_checked(claim):
    assert 0 <= verify.support(claim, SOURCE) < 0.5


def test_numbers_are_the_same_in_words_and_digits():
    said = "Ten men, twenty-five boats and two hundred nets; one of the sixteen was lost."
    assert verify.in_digits(said) == "10 men, 25 boats and 200 nets; one of the 16 was lost."
    assert verify.support("She paid him 3 shillings.", SOURCE) > 0.5
