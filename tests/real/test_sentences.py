"""MiniLM's vectors against sentence-transformers'."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import daedal

pytestmark = pytest.mark.real


def test_vectors(real_benchmark: ModuleType, minilm: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    texts = ["", "A cat.", "Ünïcode 🙂", *real_benchmark.sentences(200), "long " * 600]
    ours = daedal.load(str(minilm)).embed(texts)
    theirs = sentence_transformers.SentenceTransformer(str(minilm), device="cpu").encode(texts)
    print("largest difference", np.abs(ours - theirs).max())
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
