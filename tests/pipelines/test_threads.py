"""Text and pictures from many threads at once: every call ends, with what it would give alone."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import daedal
from daedal import checkpoints
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.networks.media import MediaConfig, MediaTransformer

TINY = MediaConfig(
    hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, vocab_size=300, text_layers=1,
    text_length=6, sample_size=16,
)  # fmt: skip


@pytest.fixture(scope="module")
def painter(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("painter")
    checkpoints.save(MediaTransformer(TINY).init_weights(0), folder)
    words = Tokenizer.train(["a red circle"] * 5, 300, ["<|end|>", "<|pad|>"], pad="<|pad|>")
    words.save(folder)
    (folder / "generation_config.json").write_text(json.dumps({"steps": 2, "guidance_scale": 1.0}))
    return daedal.load(str(folder), device="cpu", dtype="fp32")


def test_eight_threads_text_and_pictures_at_once(tiny_folder: Path, painter: Any) -> None:
    writer = daedal.load(str(tiny_folder), dtype="fp32")
    asked = {"max_tokens": 4, "temperature": 0, "ignore_eos": True}
    texts = {prompt: writer(prompt, **asked).tokens for prompt in ("Once", "One day", "The")}
    pictures = {seed: painter("a red circle", seed=seed).pixels for seed in range(3)}

    def call(i: int) -> str:
        kind = i % 5
        if kind == 0:
            made = painter("a red circle", seed=i % 3).pixels
            assert np.abs(made.astype(int) - pictures[i % 3]).max() <= 1
            return "picture"
        if kind == 1:
            with pytest.raises(DaedalError, match="vocabulary"):
                writer("Once", **asked, logit_bias={100_000: 1.0})
            return "refused"
        if kind == 2:
            stream = writer.start("Once", **asked | {"max_tokens": 40}, client=str(i % 8))
            next(iter(stream))
            stream.cancel()
            assert stream.result().finish_reason in ("cancelled", "length")
            return "cancelled"
        prompt = list(texts)[i % 3]
        assert writer(prompt, **asked).tokens == texts[prompt]
        return "text"

    def thread(number: int) -> list[str]:
        torch.set_num_threads(1)
        return [call(number * 200 + i) for i in range(200)]

    with ThreadPoolExecutor(8) as pool:
        ends = [
            end
            for run in [pool.submit(thread, n) for n in range(8)]
            for end in run.result(timeout=300)
        ]
    assert len(ends) == 1600 and not writer.engine.busy and not painter.lane.busy


def test_a_painting_stops_within_a_step(painter: Any) -> None:
    painting = painter.start("a red circle", seed=0, steps=50)
    step = next(iter(painting))
    assert step.total == 50 and step.preview().shape == (1, 16, 16, 3)
    painting.cancel()
    assert painting.done and len(painting.generation.states) < 5
    with pytest.raises(DaedalError, match="cancelled"):
        painting.results()
