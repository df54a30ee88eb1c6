"""Published weights, found through the catalogue in the folder that DAEDAL_CACHE says.

pytest -m real tests/real        # `daedal models pull coder`, gemma-270m and minilm bring the models
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from daedal.checkpoints import catalogue


@pytest.fixture(scope="session", autouse=True)
def all_cores() -> Iterator[None]:
    """Or OMP_NUM_THREADS: llama.cpp waits busily for a thread that has no core of its own."""
    before = torch.get_num_threads()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
    yield
    torch.set_num_threads(before)


def place(name: str) -> Path:
    if (path := catalogue.place(name)) is None:
        pytest.skip(f"{name} is not on this machine; `daedal models pull {name}` brings it.")
    return path


@pytest.fixture(scope="session")
def coder() -> Path:
    return place("coder")


@pytest.fixture(scope="session")
def gemma() -> Path:
    return place("gemma-270m")


@pytest.fixture(scope="session")
def minilm() -> Path:
    return place("minilm")


@pytest.fixture(scope="session")
def whisper_base() -> Path:
    return place("whisper-base")


@pytest.fixture(scope="session")
def joe() -> Path:
    return place("joe")
