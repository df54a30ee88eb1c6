"""The bundled text model: present, small, licensed, deterministic, and the README's lines run on
it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import daedal
from daedal.checkpoints.resolve import HOUSE

FOLDER = HOUSE / "text"
README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module")
def story():
    return daedal.load("house/text")


def test_files():
    weights = list(FOLDER.glob("*.safetensors"))
    assert weights and all(file.stat().st_size <= 15e6 for file in weights)
    card = (FOLDER / "README.md").read_text()
    assert all(
        word in card
        for word in (
            "Licence",
            "CC BY 4.0",
            "CDLA-Sharing-1.0",
            "public domain",
            "bits per byte",
            "FLOPs",
            "Limits",
        )
    )


@pytest.mark.dtype
def test_writes_english(story):
    text = story("Once upon a time", seed=0, max_tokens=80, temperature=0.5).text
    words = re.findall(r"[a-z]+", text.lower())
    assert len(words) > 30 and sum(
        word in {"the", "a", "and", "to", "was", "it", "he", "she", "in", "of"} for word in words
    ) > 0.15 * len(words)


@pytest.mark.dtype
def test_same_seed_same_text(story):
    assert (
        story("One day", seed=5, max_tokens=30).text == story("One day", seed=5, max_tokens=30).text
    )


def test_the_readme_s_python_runs():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout.strip(), done.stderr
