"""Attention by heads against the exact softmax in float64."""

import pytest
import torch
import torch.nn.functional as F

from daedal.nn import head_products
from daedal.nn.dit import attend


def error(made, exact):
    return ((made.double() - exact).square().mean() / exact.square().mean()).sqrt().item()


@pytest.mark.parametrize("scale", [1, 6])
@pytest.mark.parametrize("keys, queries", [(300, 700), (2000, 1500)])
def test_it_is_as_exact_as_torchs(scale, keys, queries, monkeypatch):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, n, 3, 64) for n in (queries, keys, keys))
    q, k, v = (scale * q).bfloat16(), k.bfloat16(), v.bfloat16()
    heads = [t.transpose(1, 2) for t in (q, k, v)]
    exact = F.scaled_dot_product_attention(*(t.double() for t in heads))
    theirs = error(F.scaled_dot_product_attention(*heads), exact)
    assert error(head_products.attend(*heads), exact) < 1.5 * theirs + 5e-4
    monkeypatch.setattr(head_products, "SCORES", 10_000)  # in strips of rows
    assert error(head_products.attend(*heads), exact) < 1.5 * theirs + 5e-4
    assert head_products.suited(*heads[:2])
    assert torch.equal(attend(q, k, v), head_products.attend(*heads).transpose(1, 2).flatten(2))


def test_what_it_is_not_for():
    q = torch.randn(1, 2, 300, 64)
    assert not head_products.suited(q, q)
    assert not head_products.suited(q.bfloat16()[:, :, :30], q.bfloat16())
    assert not head_products.suited(q.bfloat16().requires_grad_(), q.bfloat16())
