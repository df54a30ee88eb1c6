"""Published GGUF files, and files that Daedal writes, against llama.cpp on the same file.

llama.cpp multiplies activations rounded to 8 bits with quantised weights, and so do our kernels, but
finer. What a file exactly says is its weights unpacked to fp32. Where the two tools disagree on a
greedy token, the exact model judges.
"""

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from daedal.cli.convert import write_gguf
from daedal.nn.quantized import dequantize_

pytestmark = pytest.mark.real

TOKENS = 64
PROMPTS = [
    "Once upon a time there was a little rabbit who",
    "The capital of France is",
    "def fibonacci(n):\n",
    "It was a dark night, and the captain of the ship",
    "To make bread you need flour, water,",
    "import numpy as np\n\n# The mean of each column\n",
    "Question: Why is the sky blue?\nAnswer:",
    "In 1969, the first people to walk on the moon",
    "Die Hauptstadt von Österreich ist",
    "Dear Sir,\n\nI am writing to you about",
]


@dataclass
class Agreement:
    """Of greedy tokens: at how many places both said the same; of the others, how far our choice is
    ahead of llama.cpp's in the exact model's logits. The mean errors are against these logits."""

    places: int
    same: int
    leads: list[float]
    our_error: float
    their_error: float

    @property
    def worst(self) -> float:
        """The widest lead of llama.cpp's choice over ours, in the exact model."""
        return max((-lead for lead in self.leads), default=0.0)


def greedy(llama: Any, ids: list[int]) -> tuple[list[int], Tensor]:
    """llama.cpp's continuation: all ids but the last, and its logits of what it wrote (TOKENS, V)."""
    llama.reset()
    llama.eval(ids)
    for _ in range(TOKENS - 1):
        llama.eval([int(np.argmax(llama.scores[llama.n_tokens - 1]))])
    logits = np.array(llama.scores[len(ids) - 1 : llama.n_tokens])
    return [int(i) for i in llama.input_ids[: llama.n_tokens]], torch.from_numpy(logits)


def agreement(tool: ModuleType, file: Path, prompts: list[str] = PROMPTS) -> Agreement:
    """Teacher-forced on llama.cpp's tokens."""
    ours, exact = tool.Ours(str(file)), tool.Ours(str(file), "fp32")
    dequantize_(exact.network)
    theirs = tool.Theirs(file, whole=True, exact=True)
    same, leads, errors = 0, [], []
    for prompt in prompts:
        ids, expected = greedy(theirs.llama, ours.tokenizer.encode(prompt))
        found, true = (side.logits(ids)[-TOKENS:] for side in (ours, exact))
        here, there = found.argmax(-1, keepdim=True), expected.argmax(-1, keepdim=True)
        lead = (true.gather(1, here) - true.gather(1, there))[here != there]
        same, leads = same + TOKENS - len(lead), leads + lead.tolist()
        errors.append([(x - true).abs().mean().item() for x in (found, expected)])
    means = np.mean(errors, axis=0)
    return Agreement(TOKENS * len(prompts), same, leads, *means.tolist())


@pytest.fixture(scope="module", params=["gemma", "coder"])
def file(request: pytest.FixtureRequest) -> Path:
    pytest.importorskip("llama_cpp")
    return request.getfixturevalue(request.param)


def test_greedy_tokens(real_benchmark: ModuleType, file: Path) -> None:
    """At least 19 of 20 are llama.cpp's, and our logits are nearer to what the file says. Where we
    differ the exact model chooses as we do, or is undecided: within twice our mean error."""
    found = agreement(real_benchmark, file)
    print(file.name, found)
    assert found.same >= 0.95 * found.places
    assert found.our_error < found.their_error
    assert found.worst < 2 * found.our_error


def test_perplexity(real_benchmark: ModuleType, file: Path) -> None:
    row = real_benchmark.perplexity_of(file.stem, file, 9)
    print(row)
    assert abs(row.ratio - 1) < 0.005


def test_weights_written_as_f32(real_benchmark: ModuleType, gemma: Path, tmp_path: Path) -> None:
    """Nothing is rounded on either side, so every token is the same."""
    pytest.importorskip("llama_cpp")
    write_gguf(str(gemma), tmp_path / "f32.gguf", "f32", False)
    found = agreement(real_benchmark, tmp_path / "f32.gguf")
    print(found)
    assert found.same == found.places
    assert found.their_error < 0.01
    (tmp_path / "f32.gguf").unlink()  # a gigabyte


@pytest.mark.parametrize("kind", ["q8_0", "f16"])
def test_the_house_model_in_llama_cpp(
    real_benchmark: ModuleType, kind: str, tmp_path: Path
) -> None:
    pytest.importorskip("llama_cpp")
    write_gguf("house/text", tmp_path / "house.gguf", kind, False)
    found = agreement(real_benchmark, tmp_path / "house.gguf", PROMPTS[:5])
    print(kind, found)
    assert found.same >= 0.98 * found.places
    assert found.worst < 0.05
