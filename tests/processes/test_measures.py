import math

import pytest
import torch

from daedal.processes.measures import edits, first_hits, psnr


def test_psnr_by_hand() -> None:
    """An error of 0.2 everywhere, of a range of 2: 10 log10(4 / 0.04) = 20 dB."""
    a = torch.zeros(2, 3, 4, 4)
    assert psnr(a, a + 0.2).tolist() == pytest.approx([20, 20], abs=1e-4)
    assert psnr(a, a + 0.2, peak=1.0)[0].item() == pytest.approx(
        10 * math.log10(1 / 0.04), abs=1e-4
    )


def test_first_hits_by_hand() -> None:
    pictures = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    # the second caption is nearer to the first picture
    texts = torch.tensor([[5.0, 0.0], [1.0, 0.1], [1.0, 1.2]])
    assert first_hits(pictures, texts).tolist() == [True, False, True]


def test_edits_are_the_fewest():
    assert edits("kitten", "sitting") == 3 and edits("", "abc") == edits("abc", "") == 3
    assert edits(["a", "b", "c"], ["a", "x", "c", "d"]) == 2 and edits("ab", "ab") == 0
