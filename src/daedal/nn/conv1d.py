"""What networks of sound are made of: convolutions along time that follow the dtype of their input,
WaveNet's gated stack (van den Oord et al. 2016), and HiFi-GAN's generator (Kong et al. 2020).

Parameter names are those of transformers' files; weight norms are folded when files are read.
Legend: B batch, C channels, T frames, N samples."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.nn.side_by_side import side_by_side

AT_ONCE = 512  # columns behind the first stage of HiFi-GAN that are worked on at once


class Conv1d(nn.Conv1d):
    """`nn.Conv1d` whose weight is cast to the dtype of its input, and which is not filled when
    built. An input whose channels lie side by side in memory (`channels_last`) is convolved so, at
    twice the speed on CPUs, and its output lies likewise."""

    def reset_parameters(self) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:  # (B, C, T) -> (B, C', T')
        bias, weight = None if self.bias is None else self.bias.to(x.dtype), self.weight.to(x.dtype)
        if not is_channels_last(x):
            return self._conv_forward(x, weight, bias)
        pad, dilation = (0, self.padding[0]), (1, self.dilation[0])  # type: ignore[arg-type]
        stride = (1, self.stride[0])
        return F.conv2d(
            x[:, :, None], weight[:, :, None], bias, stride, pad, dilation, self.groups
        )[:, :, 0]


class ConvTranspose1d(nn.ConvTranspose1d):
    """`nn.ConvTranspose1d`, likewise."""

    def reset_parameters(self) -> None:
        pass

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        bias, weight = None if self.bias is None else self.bias.to(x.dtype), self.weight.to(x.dtype)
        pad, stride = (0, self.padding[0]), (1, self.stride[0])  # type: ignore[arg-type]
        more = (0, self.output_padding[0])
        return F.conv_transpose2d(
            x[:, :, None], weight[:, :, None], bias, stride, pad, more, self.groups
        )[:, :, 0]


def channels_last(x: Tensor) -> Tensor:
    """(B, C, T), the same with the channels of a frame side by side in memory."""
    return x.mT.contiguous().mT


def is_channels_last(x: Tensor) -> bool:
    return x.shape[1] > 1 and x.stride(1) == 1 and x.stride(2) == x.shape[1]


def same(kernel: int, dilation: int = 1) -> int:
    """The padding that keeps the length."""
    return (kernel - 1) * dilation // 2


class WaveNet(nn.Module):
    """Gated convolutions with skip connections; the width of `inputs` is kept. `condition` (B, E,
    1) is added to every gate."""

    def __init__(
        self, width: int, layers: int, kernel: int, dilation: int = 1, condition: int = 0
    ) -> None:
        super().__init__()
        if condition:
            self.cond_layer = Conv1d(condition, 2 * width * layers, 1)
        dilations = [dilation**i for i in range(layers)]
        self.in_layers = nn.ModuleList(
            Conv1d(width, 2 * width, kernel, dilation=d, padding=same(kernel, d)) for d in dilations
        )
        # the last layer has no residual path
        self.res_skip_layers = nn.ModuleList(
            Conv1d(width, 2 * width if i < layers - 1 else width, 1) for i in range(layers)
        )

    def forward(self, x: Tensor, mask: Tensor, condition: Tensor | None = None) -> Tensor:
        width, skips = x.shape[1], torch.zeros_like(x)
        added = None if condition is None else self.cond_layer(condition)
        for i, (gates, out) in enumerate(zip(self.in_layers, self.res_skip_layers, strict=True)):
            both = gates(x)
            if added is not None:
                both = both + added[:, 2 * width * i : 2 * width * (i + 1)]
            made = out(both[:, :width].tanh() * both[:, width:].sigmoid())
            if made.shape[1] == 2 * width:
                x = (x + made[:, :width]) * mask
            skips = skips + made[:, -width:]
        return skips * mask


class ResBlock(nn.Module):
    """HiFi-GAN's residual block: the first form has a second convolution behind each dilated one;
    the second form, of smaller models, has none."""

    def __init__(
        self, channels: int, kernel: int, dilations: tuple[int, ...], slope: float, paired: bool
    ) -> None:
        super().__init__()
        self.slope = slope
        self.convs1 = nn.ModuleList(
            Conv1d(channels, channels, kernel, dilation=d, padding=same(kernel, d))
            for d in dilations
        )
        plain = dilations if paired else ()
        self.convs2 = nn.ModuleList(
            Conv1d(channels, channels, kernel, padding=same(kernel)) for _ in plain
        )

    @property
    def reach(self) -> float:
        """Samples on each side that one hears."""
        convs = [*self.convs1, *self.convs2]
        return sum((c.kernel_size[0] - 1) * c.dilation[0] / 2 for c in convs)  # type: ignore[index, operator]

    def forward(self, x: Tensor) -> Tensor:  # (B, C, N) -> (B, C, N)
        for i, conv in enumerate(self.convs1):
            made = conv(F.leaky_relu(x, self.slope))
            if len(self.convs2):
                made = self.convs2[i](F.leaky_relu(made, self.slope))
            x = x + made
        return x


class HifiGan(nn.Module):
    """Frames (B, C, T) -> samples (B, 1, T * product of rates): upsampled in turn, each time the
    mean of residual blocks of several kernels."""

    def __init__(
        self,
        channels: int,
        width: int,
        rates: tuple[int, ...],
        kernels: tuple[int, ...],
        block_kernels: tuple[int, ...],
        block_dilations: tuple[tuple[int, ...], ...],
        slope: float = 0.1,
        paired: bool = True,
        condition: int = 0,
        post_bias: bool = False,
    ) -> None:
        super().__init__()
        self.slope, self.blocks, self.rates, self.kernels = (
            slope,
            len(block_kernels),
            rates,
            kernels,
        )
        widths = [width >> (i + 1) for i in range(len(rates))]
        self.conv_pre = Conv1d(channels, width, 7, padding=3)
        self.upsampler = nn.ModuleList(
            ConvTranspose1d(2 * w, w, kernel, rate, padding=(kernel - rate) // 2)
            for w, rate, kernel in zip(widths, rates, kernels, strict=True)
        )
        self.resblocks = nn.ModuleList(
            ResBlock(w, kernel, dilations, slope, paired)
            for w in widths
            for kernel, dilations in zip(block_kernels, block_dilations, strict=True)
        )
        self.conv_post = Conv1d(widths[-1], 1, 7, padding=3, bias=post_bias)
        if condition:
            self.cond = Conv1d(condition, width, 1)

    def forward(self, frames: Tensor, condition: Tensor | None = None) -> Tensor:
        x = self.conv_pre(channels_last(frames))
        if condition is not None:
            x = x + self.cond(condition)
        x = self.stage(0, x)
        if torch.is_grad_enabled() or x.shape[-1] <= AT_ONCE:
            return self.rest(x)
        # the later stages piece by piece, each with what reaches into it, so that a piece stays in
        # the processor's cache (a third of the time) and each has a thread
        halo, length, scale = self.reach(1), x.shape[-1], math.prod(self.rates[1:])
        starts = range(0, length, AT_ONCE)
        begins = [max(0, at - halo) for at in starts]
        pieces = [x[..., b : at + AT_ONCE + halo] for b, at in zip(begins, starts, strict=True)]
        made = side_by_side(self.rest, pieces)
        kept = [
            piece[..., (at - b) * scale : (min(length, at + AT_ONCE) - b) * scale]
            for piece, b, at in zip(made, begins, starts, strict=True)
        ]
        return torch.cat(kept, -1)

    def stage(self, i: int, x: Tensor) -> Tensor:
        """Upsampled, and the mean of the residual blocks."""
        x = self.upsampler[i](F.leaky_relu(x, self.slope))
        blocks = list(self.resblocks)[i * self.blocks : (i + 1) * self.blocks]
        total = blocks[0](x)
        for block in blocks[1:]:
            total = total + block(x)
        return total / self.blocks

    def rest(self, x: Tensor) -> Tensor:
        """The stages behind the first."""
        for i in range(1, len(self.rates)):
            x = self.stage(i, x)
        return self.conv_post(F.leaky_relu(x)).tanh()

    def reach(self, first: int = 0) -> int:
        """How many columns on each side of one the stages from `first` on hear."""
        total, rate = 1.0 + (0 if first else 3), 1.0
        for i in range(first, len(self.rates)):
            total += (self.kernels[i] / self.rates[i] / 2 + 1) / rate
            rate *= self.rates[i]
            blocks = list(self.resblocks)[i * self.blocks : (i + 1) * self.blocks]
            total += max(block.reach for block in blocks) / rate  # type: ignore[type-var, operator]
        return int(total + 3 / rate) + 1
