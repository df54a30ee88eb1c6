"""Quicker convolutions of 3 x 3, for painting in fp32 on CPUs.

They take a fraction of the multiplications (Winograd 1980; Lavin & Gray 2016, "Fast algorithms for
convolutional neural networks"): a tile of m x m results is read from n x n pixels, n = m + 2, as Y
= A' [(G g G') * (B' d B)] A, of which the middle, summed over channels, is n^2 products of
matrices. Kernels g are transformed once, and take n^2 / 9 of their memory again. m = 4 does a
quarter of the direct multiplications, to about 1e-5 of the largest result, m = 2 four ninths, to
5e-6.

Legend: B batch, C channels in, O channels out, H height, W width, h and w tiles along them, P tiles
of a strip."""

from typing import TypeVar

import torch
from torch import Tensor, nn

from daedal.device import memory

N = TypeVar("N", bound=nn.Module)

CHANNELS = 128  # in and out; with fewer the transforms cost what the products save
# channels in times channels out from which kernels weigh more than pictures, and tiles of 2 are
# taken
LARGE = 2**20
STRIP = 256  # tiles transformed at a time, so that they stay in the cache

# m: (B', G, A'), of the points 0, 1, -1 (2, -2) and infinity (Lavin & Gray 2016, sections 4.1 and
# 4.3)
FORMS = {
    2: (
        [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
        [[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]],
        [[1, 1, 1, 0], [0, 1, -1, -1]],
    ),
    4: (
        [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0], [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]],
        [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6], [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]],
        [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
    ),
}  # fmt: skip
# over both sides of a tile at once
BOTH = {m: tuple(torch.kron(g, g) for g in map(torch.Tensor, forms)) for m, forms in FORMS.items()}


def tile(layer: nn.Conv2d) -> int:
    """m for a convolution of this many channels."""
    return 2 if layer.in_channels * layer.out_channels > LARGE else 4


def transformed(weight: Tensor, m: int) -> Tensor:
    """Kernels (O, C, 3, 3) -> (n^2, C, O)."""
    taps = weight.detach().flatten(2).permute(2, 1, 0)  # (9, C, O)
    return (BOTH[m][1] @ taps.reshape(9, -1)).view(-1, *taps.shape[1:])


def convolved(x: Tensor, kernels: Tensor, bias: Tensor | None, m: int) -> Tensor:
    """x (B, C, H, W) float32, padded by one, with kernels (n^2, C, O) -> (B, O, H, W),
    channels_last."""
    (B, C, H, W), O, n = x.shape, kernels.shape[2], m + 2
    h, w = -(-H // m), -(-W // m)
    padded = x.new_zeros(B, h * m + 2, w * m + 2, C)
    padded[:, 1 : H + 1, 1 : W + 1] = x.permute(0, 2, 3, 1)
    out, (into, _, back) = x.new_empty(B, h, m, w, m, O), BOTH[m]
    strip = max(1, STRIP // (B * w))
    for top in range(0, h, strip):
        rows = min(strip, h - top)
        # (B, rows, w, C, n, n)
        tiles = padded[:, top * m : (top + rows) * m + 2].unfold(1, n, m).unfold(2, n, m)
        tiles = into @ tiles.permute(4, 5, 0, 1, 2, 3).reshape(n * n, -1)  # (n^2, P C)
        sums = torch.bmm(tiles.view(n * n, -1, C), kernels)  # (n^2, P, O)
        if bias is not None:
            sums[n + 1] += bias  # the place (1, 1), which every result of a tile has once
        out[:, top : top + rows] = (
            (back @ sums.view(n * n, -1)).view(m, m, B, rows, w, O).permute(2, 3, 0, 4, 1, 5)
        )
    return out.view(B, h * m, w * m, O)[:, :H, :W].permute(0, 3, 1, 2)


class Winograd:
    """A layer's way by its transformed kernels, made anew when its weight is another one or was
    written to (not through `.data`)."""

    def __init__(self, layer: nn.Conv2d) -> None:
        self.m, self.kernels, self.of = tile(layer), torch.empty(0), (torch.empty(0), 0)
        self.size = 4 * layer.in_channels * layer.out_channels * (self.m + 2) ** 2  # bytes

    def __call__(self, x: Tensor, layer: nn.Conv2d) -> Tensor:
        weight = layer.weight
        version = 0 if weight.is_inference() else weight._version
        if self.of[0] is not weight or self.of[1] != version:
            self.kernels, self.of = transformed(weight, self.m), (weight, version)
        return convolved(x, self.kernels, layer.bias, self.m)


def suited(layer: nn.Conv2d) -> bool:
    on_cpu = layer.weight.device.type == "cpu" and layer.weight.dtype == torch.float32
    plain = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups) == (
        (3, 3),
        (1, 1),
        (1, 1),
        (1, 1),
        1,
    )
    return on_cpu and plain and min(layer.in_channels, layer.out_channels) >= CHANNELS


def quicken(network: N) -> N:
    """`network`, that is only painted with: its float32 convolutions of 3 x 3 on the CPU go this
    way from now on, the smallest first while transformed kernels take at most a quarter of the
    machine's memory: a fixed rule, so that a machine paints the same bytes each time."""
    layers = [
        layer for layer in network.modules() if isinstance(layer, nn.Conv2d) and suited(layer)
    ]
    room = memory(torch.device("cpu"))[0] / 4
    for layer, quick in sorted(
        ((layer, Winograd(layer)) for layer in layers), key=lambda pair: pair[1].size
    ):
        room -= quick.size
        # else its kernels may be there already
        if room >= 0 and getattr(layer, "quick", None) is None:
            layer.quick = quick  # type: ignore[assignment]
    return network
