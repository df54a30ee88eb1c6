"""What networks of sound are made of: convolutions along time that follow the dtype of their input,
WaveNet's gated stack (van den Oord et al. 2016), and HiFi-GAN's generator (Kong et al. 2020).

Parameter names are those of transformers' files; weight norms are folded when files are read.
Legend: B batch, C channels, T frames, N samples."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
            x[:, :, None], weight[:, :, None], bias, stride, pad, dilation, self.groups  # type: ignore[arg-type]
        )[:, :, 0]  # fmt: skip


class ConvTranspose1d(nn.ConvTranspose1d):
    """`nn.ConvTranspose1d`, likewise."""

    def reset_parameters(self) -> None:
        pass

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        bias, weight = None if self.bias is None else self.bias.to(x.dtype), self.weight.to(x.dtype)
        pad, stride = (0, self.padding[0]), (1, self.stride[0])  # type: ignore[arg-type]
        more = (0, self.output_padding[0])
        return F.conv_transpose2d(
            x[:, :, None], weight[:, :, None], bias, stride, pad, more, self.groups  # type: ignore[arg-type]
        )[:, :, 0]  # fmt: skip


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
    ) -> None:
        super().__init__()
        self.slope, self.blocks = slope, len(block_kernels)
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
        self.conv_post = Conv1d(widths[-1], 1, 7, padding=3, bias=False)
        if condition:
            self.cond = Conv1d(condition, width, 1)

    def forward(self, frames: Tensor, condition: Tensor | None = None) -> Tensor:
        x = self.conv_pre(channels_last(frames))
        if condition is not None:
            x = x + self.cond(condition)
        for i, up in enumerate(self.upsampler):
            x = up(F.leaky_relu(x, self.slope))
            blocks = list(self.resblocks)[i * self.blocks : (i + 1) * self.blocks]
            total = blocks[0](x)
            for block in blocks[1:]:
                total = total + block(x)
            x = total / self.blocks
        return self.conv_post(F.leaky_relu(x)).tanh()
