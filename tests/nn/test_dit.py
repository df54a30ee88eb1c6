"""Attention a few heads at a time is attention."""

import pytest
import torch
import torch.nn.functional as F

from daedal.nn.dit import attend_by_heads


@pytest.mark.parametrize("keys", [5, 3])
@torch.inference_mode()
def test_attention_by_heads(keys):
    q, k, v = torch.randn(2, 6, 7, 8), torch.randn(2, keys // 5 * 3 + 3, 9, 8), None
    v = torch.randn_like(k)
    wanted = F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attend_by_heads(q, k, v), wanted)
    found = attend_by_heads(*(t.bfloat16() for t in (q, k, v))).float()
    torch.testing.assert_close(found, wanted, atol=0.03, rtol=0.03)
