"""What codecs of clips are made of: convolutions over frames that see none to come, what these
remember from one piece of a clip to the next, and cells of pixels as channels.

A clip is coded piece by piece, for memory, and comes out as if it were one piece: each causal layer
finds the frames before its piece in a `Past`.

Legend: B batch, C channels, F frames, H and W pixels or cells."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.errors import DaedalError


class Past:
    """What the layers of a causal network remember of the frames before a piece of a clip. `first`
    is true while the clip's first piece is coded."""

    def __init__(self) -> None:
        self.first, self.frames = True, dict[nn.Module, Tensor]()

    def before(self, layer: nn.Module, x: Tensor, count: int, repeat: bool = False) -> Tensor:
        """x (B, C, F, H, W) behind the `count` frames that the layer saw last. In front of the first
        piece stand zeros, or its first frame if `repeat`."""
        if not count:
            return x
        seen = self.frames.get(layer)
        if seen is None:
            seen = x[:, :, :1] if repeat else torch.zeros_like(x[:, :, :1])
            seen = seen.expand(-1, -1, count, -1, -1)
        x = torch.cat([seen, x], 2)
        self.frames[layer] = x[:, :, -count:].clone()  # a view would keep all of x
        return x


def in_pieces(
    coder: Callable[[Tensor, Past], Tensor], x: Tensor, size: int, first: int = 1
) -> Tensor:
    """`coder(x, past)` of a clip in pieces of `size` frames, the first of `first`."""
    past, made = Past(), []
    for piece in [x[:, :, :first], *x[:, :, first:].split(size, 2)]:
        if piece.shape[2]:
            made.append(coder(piece, past))
            past.first = False
    return torch.cat(made, 2)


def check_fit(clips: Tensor, time: int, side: int) -> None:
    """An error if clips (B, 3, F, H, W) are not 1 + time n frames of sides of side n."""
    frames, height, width = clips.shape[2:]
    if (frames - 1) % time or height % side or width % side:
        raise DaedalError(
            f"{frames} frames of {width}x{height} do not fit: this codec takes 1 + {time} n frames and sides of {side} n; change the clip."
        )


class Conv3d(nn.Conv3d):
    """`nn.Conv3d` whose weight is cast to the dtype of its input, and which is not filled when
    built."""

    def reset_parameters(self) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:  # (B, C, F, H, W) -> (B, C', F', H', W')
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return self._conv_forward(x, self.weight.to(x.dtype), bias)


class CausalConv3d(Conv3d):
    """A convolution over frames that sees none to come; nothing (zeros) is around and before."""

    def __init__(self, inp: int, out: int, kernel: tuple[int, int, int], stride: int = 1) -> None:
        """`stride` is that of frames."""
        sides = (0, kernel[1] // 2, kernel[2] // 2)
        super().__init__(inp, out, kernel, (stride, 1, 1), sides)
        self.count = kernel[0] - stride  # frames before a piece that its results need

    def forward(self, x: Tensor, past: Past) -> Tensor:  # type: ignore[override]
        return super().forward(past.before(self, x, self.count))


class RepeatedConv3d(nn.Module):
    """A convolution over frames, those at the ends repeated: in front only if `causal`, and then of a
    piece it finds the frames before in a `Past`. Files have it under `conv`."""

    def __init__(
        self, inp: int, out: int, kernel: int = 3, stride: int = 1, *, causal: bool = True
    ) -> None:
        super().__init__()
        self.conv = Conv3d(inp, out, kernel, stride, (0, kernel // 2, kernel // 2))
        self.causal, self.around = causal, kernel // 2

    def forward(self, x: Tensor, past: Past | None = None) -> Tensor:
        if self.causal:
            return self.conv((past or Past()).before(self, x, 2 * self.around, repeat=True))
        ends = (
            x[:, :, at : at + 1].expand(-1, -1, self.around, -1, -1) for at in (0, x.shape[2] - 1)
        )
        front, behind = ends
        return self.conv(torch.cat([front, x, behind], 2))


def as_frames(x: Tensor) -> Tensor:  # (B, C, F, H, W) -> (B F, C, H, W)
    return x.transpose(1, 2).flatten(0, 1)


def as_clip(frames: Tensor, batch: int) -> Tensor:  # (B F, C, H, W) -> (B, C, F, H, W)
    return frames.unflatten(0, (batch, -1)).transpose(1, 2)


def to_cells(x: Tensor, frames: int, rows: int, columns: int) -> Tensor:
    """(B, C, F, H, W) -> (B, C frames rows columns, F / frames, H / rows, W / columns): the places
    of a cell as channels, column fastest."""
    x = x.unflatten(4, (-1, columns)).unflatten(3, (-1, rows)).unflatten(2, (-1, frames))
    return x.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)


def from_cells(x: Tensor, frames: int, rows: int, columns: int) -> Tensor:
    """What `to_cells` made, back."""
    x = x.unflatten(1, (-1, frames, rows, columns)).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.flatten(6, 7).flatten(4, 5).flatten(2, 3)


def to_patches(x: Tensor, side: int) -> Tensor:
    """(B, C, F, H, W) -> (B, C side side, F, H / side, W / side), row fastest, as codecs of clips
    have pixels."""
    return to_cells(x.mT, 1, side, side).mT


def from_patches(x: Tensor, side: int) -> Tensor:
    """What `to_patches` made, back."""
    return from_cells(x.mT, 1, side, side).mT


def rms_normed(x: Tensor, eps: float = 1e-8) -> Tensor:
    """x (B, C, ...) / rms over the channels."""
    return F.rms_norm(x.movedim(1, -1), x.shape[1:2], eps=eps).movedim(-1, 1)
