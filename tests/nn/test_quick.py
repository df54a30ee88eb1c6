"""Quicker convolutions against direct ones: any size and batch, kernels that change, and layers
that are left alone."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from daedal.nn import quick
from daedal.nn.conv import Conv2d, init_


def layer(inp: int = 128, out: int = 160, **options: int) -> Conv2d:
    return init_(Conv2d(inp, out, **{"kernel_size": 3, "padding": 1, **options}), seed=1)  # type: ignore[arg-type]


def far(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference, of the largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 7), (3, 200), (70, 66)])
def test_it_convolves(m: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 6, *size), torch.randn(10, 6, 3, 3), torch.randn(10)
    for some in (x, x.contiguous(memory_format=torch.channels_last)):
        ours = quick.convolved(some, quick.transformed(weight, m), bias, m)
        assert far(ours, F.conv2d(x.double(), weight.double(), bias.double(), padding=1)) < 2e-5
    assert (
        far(
            quick.convolved(x, quick.transformed(weight, m), None, m),
            F.conv2d(x, weight, padding=1),
        )
        < 2e-5
    )


def test_strips_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x, kernels = torch.randn(1, 8, 40, 40), quick.transformed(torch.randn(8, 8, 3, 3), 4)
    whole = quick.convolved(x, kernels, None, 4)
    monkeypatch.setattr(quick, "STRIP", 30)
    torch.testing.assert_close(quick.convolved(x, kernels, None, 4), whole, rtol=0, atol=1e-4)


@torch.no_grad()
def test_a_layer_follows_its_weight() -> None:
    """Written to in place, replaced, and copied."""
    conv, x = layer(), torch.randn(1, 128, 8, 8)
    direct = lambda: F.conv2d(x, conv.weight, conv.bias, padding=1)  # noqa: E731
    quick.quicken(conv)
    assert conv.quick and far(conv(x), direct()) < 2e-5
    assert conv.quick.kernels.numel() == 36 * 128 * 160
    conv.weight.mul_(2)
    assert far(conv(x), direct()) < 2e-5
    conv.weight = nn.Parameter(torch.randn_like(conv.weight))
    assert far(conv(x), direct()) < 2e-5
    made = conv.quick.kernels
    quick.quicken(conv)
    assert conv.quick.kernels is made
    again = copy.deepcopy(conv)
    again.weight.mul_(3)
    assert (
        far(again(x), F.conv2d(x, again.weight, conv.bias, padding=1)) < 2e-5
        and far(conv(x), direct()) < 2e-5
    )


@torch.inference_mode()
def test_a_layer_made_for_inference() -> None:
    conv, x = layer(), torch.randn(1, 128, 8, 8)
    quick.quicken(conv)
    assert far(conv(x), F.conv2d(x, conv.weight, conv.bias, padding=1)) < 2e-5


def test_gradients_and_half_precision_go_the_direct_way() -> None:
    conv, x = layer(), torch.randn(1, 128, 8, 8)
    quick.quicken(conv)
    torch.testing.assert_close(
        conv(x), F.conv2d(x, conv.weight, conv.bias, padding=1), rtol=0, atol=0
    )
    conv(x).sum().backward()
    assert conv.weight.grad is not None
    with torch.no_grad():
        assert conv(x.bfloat16()).dtype == torch.bfloat16
        assert conv.quick and not conv.quick.kernels.numel()


def test_what_would_not_gain_is_left_alone() -> None:
    others = [
        layer(64, 128),
        layer(stride=2),
        layer(kernel_size=1, padding=0),
        layer(groups=2),
        layer(kernel_size=4),
        layer(padding=0),
        layer(dilation=2),
        layer().bfloat16(),
    ]
    quick.quicken(nn.ModuleList(others))
    assert not any(conv.quick for conv in others)


def test_memory_is_kept_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest first, and no byte more than a quarter of the machine's."""
    large, small = network = nn.Sequential(layer(160, 160), layer(128, 128))
    # a byte too few
    monkeypatch.setattr(
        quick, "memory", lambda device: (4 * 36 * (128 * 128 + 160 * 160) * 4 - 1, 0)
    )
    quick.quicken(network)
    assert small.quick and not large.quick
    monkeypatch.undo()
    quick.quicken(network)
    assert large.quick


def test_large_kernels_take_small_tiles() -> None:
    assert [
        quick.tile(nn.Conv2d(*channels, 3, device="meta"))
        for channels in ((1280, 640), (1280, 1280))
    ] == [4, 2]
