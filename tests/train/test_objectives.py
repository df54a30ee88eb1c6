"""Chunked linear cross-entropy against torch's on whole logits: value and both gradients."""

import pytest
import torch
import torch.nn.functional as F

from daedal.train.objectives import linear_cross_entropy


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("z", [0.0, 0.01])
@pytest.mark.parametrize("chunk", [3, 1024])
def test_equals_whole_logits(z, softcap, chunk):
    torch.manual_seed(0)
    hidden = torch.randn(2, 5, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 8, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 11, (2, 5))
    targets[0, 2] = -100
    logits = hidden @ weight.T
    if softcap:
        logits = torch.tanh(logits / softcap) * softcap
    kept = (targets >= 0).flatten()
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    expected = expected + z * logits.flatten(0, 1)[kept].logsumexp(-1).square().sum()
    ours = linear_cross_entropy(hidden, weight, targets, z=z, softcap=softcap, chunk=chunk)
    assert ours.item() == pytest.approx(expected.item(), rel=1e-5)
    for a, b in zip(
        torch.autograd.grad(3 * ours, (hidden, weight)),
        torch.autograd.grad(3 * expected, (hidden, weight)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
