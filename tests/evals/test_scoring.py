"""Token losses against one whole forward pass, and bits per byte against arithmetic done by hand."""

import math

import pytest
import torch

import daedal
from daedal.evals.harness import greedy_losses, intervals
from daedal.processes.scoring import bits_per_byte, token_losses


@pytest.fixture(scope="module")
def pipeline(tiny_folder):
    return daedal.load(str(tiny_folder))


def test_one_window_is_a_plain_forward(pipeline):
    ids = pipeline.encode("Once upon a time there was a cat.")
    logs = pipeline.network(torch.tensor([ids[:-1]]))[0].log_softmax(-1)
    expected = -logs[torch.arange(len(ids) - 1), ids[1:]]
    torch.testing.assert_close(
        token_losses(pipeline.network, ids, 64), expected, rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(greedy_losses(pipeline, ids)[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("length", [9, 10, 11, 40])
def test_windows_score_every_token_once_with_enough_context(pipeline, length):
    ids = torch.randint(0, 400, (length,), generator=torch.Generator().manual_seed(0)).tolist()
    losses = token_losses(pipeline.network, ids, context=10, stride=5)
    assert len(losses) == length - 1
    for i in (1, 5, 9, length - 1):
        if i < length:
            seen = ids[: i + 1] if i <= 10 else None
            if seen:
                torch.testing.assert_close(
                    losses[i - 1],
                    token_losses(pipeline.network, seen, 64)[-1],
                    rtol=1e-3,
                    atol=1e-3,
                )


def test_bits_per_byte(pipeline):
    texts = ["Once upon a time", "The cat — and the dög"]
    m = bits_per_byte(pipeline.network, pipeline.tokenizer, texts, 64)
    nats = [
        token_losses(pipeline.network, pipeline.encode(text), 64).sum().item() for text in texts
    ]
    size = sum(len(text.encode()) for text in texts)
    assert (
        m.value == pytest.approx(sum(nats) / size / math.log(2), rel=1e-5)
        and m.bytes == size
        and m.error > 0
    )


def test_intervals_of_the_harness():
    out = intervals({"acc,none": 0.5, "acc_stderr,none": 0.1, "alias": "x"})
    assert out == {"acc": {"value": 0.5, "ci95": pytest.approx(0.196, abs=1e-3)}}
