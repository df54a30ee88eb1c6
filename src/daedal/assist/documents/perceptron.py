"""Small networks over features, as JSON beside the code: one layer of tanh, one number.

Legend: N rows, F features, U units."""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np


@dataclass(frozen=True)
class Perceptron:
    """Features are standardised first."""

    mean: np.ndarray  # (F,)
    scale: np.ndarray  # (F,)
    inner: np.ndarray  # (F, U)
    bias: np.ndarray  # (U,)
    outer: np.ndarray  # (U,)
    offset: np.ndarray  # ()

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(N, F) -> (N,)."""
        hidden = np.tanh((x - self.mean) / self.scale @ self.inner + self.bias)
        return hidden @ self.outer + self.offset


@cache
def fitted(name: str, dense: bool) -> Perceptron:
    """Of NAME.json the network for features that an embedder took part in, or for words alone."""
    text = files("daedal.assist.documents").joinpath(f"{name}.json").read_text(encoding="utf-8")
    weights = json.loads(text)["dense" if dense else "words"]
    return Perceptron(**{key: np.array(value) for key, value in weights.items()})
