"""What convolutional encoders, decoders and U-Nets of images are made of: convolutions and group
norms that follow the dtype of their input, the residual block (He et al. 2016, as in Ho et al.
2020), resampling by two, and self-attention over pixels.

Parameter names are those of diffusers' files. Legend: B batch, C channels, H heads or height, W
width, E width of the time embedding."""

from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.nn.linear import Linear
from daedal.nn.mlp import activation
from daedal.nn.quick import Winograd

Resample = Literal["up", "down"]
M = TypeVar("M", bound=nn.Module)


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` whose weight is cast to the dtype of its input, and which is not filled when
    built. Without gradients it may have a quicker way (daedal.nn.quick.quicken)."""

    quick: Winograd | None = None

    def reset_parameters(self) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C', H', W')
        if self.quick and x.dtype == torch.float32 and not torch.is_grad_enabled():
            return self.quick(x, self)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return self._conv_forward(x, self.weight.to(x.dtype), bias)


class GroupNorm(nn.GroupNorm):
    """`nn.GroupNorm` (Wu & He 2018) whose weight and bias follow the dtype of the input."""

    def forward(self, x: Tensor) -> Tensor:  # (B, C, ...) -> (B, C, ...)
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.group_norm(x, self.num_groups, weight, bias, self.eps)


def to_tokens(image: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H*W, C); no copy where the image is channels_last."""
    return image.permute(0, 2, 3, 1).flatten(1, 2)


def to_image(tokens: Tensor, like: Tensor) -> Tensor:
    """(B, H*W, C) -> (B, C, H, W) with the height and width of `like`, channels_last."""
    return tokens.unflatten(1, like.shape[2:]).permute(0, 3, 1, 2)


def multi_head(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Attention of q (B, T, D) over k and v (B, S, D) in `heads` heads -> (B, T, D). `mask` (B, 1,
    1, S) is True where a key exists."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))  # (B, H, T, K)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def resized(x: Tensor, resample: Resample | None, size: torch.Size | None = None) -> Tensor:
    """Nearest-neighbour doubling (to `size` where the double would not be it), the mean of 2 x 2,
    or x itself."""
    if resample == "up":
        size = size or torch.Size([2 * side for side in x.shape[2:]])
        return F.interpolate(x, size=size, mode="nearest")
    return F.avg_pool2d(x, 2) if resample == "down" else x


class ResnetBlock(nn.Module):
    """(shortcut(x) + conv2(act(norm2(conv1(act(norm1(x))) + time)))) / scale.

    `scale_shift` lets the time embedding scale and shift the second norm (Dhariwal & Nichol 2021)
    instead of adding to its input; `time_act` is False where the embedding has been activated
    already; `resample` resizes both branches before the first convolution."""

    def __init__(
        self,
        inp: int,
        out: int,
        *,
        groups: int,
        eps: float,
        act: str = "silu",
        time_dim: int | None = None,
        scale_shift: bool = False,
        time_act: bool = True,
        scale: float = 1.0,
        resample: Resample | None = None,
    ) -> None:
        super().__init__()
        self.act = activation(act)
        self.scale_shift = scale_shift
        self.time_act = time_act
        self.scale = scale
        self.resample = resample
        self.norm1 = GroupNorm(groups, inp, eps)
        self.conv1 = Conv2d(inp, out, 3, padding=1)
        self.time_emb_proj = Linear(time_dim, 2 * out if scale_shift else out) if time_dim else None
        self.norm2 = GroupNorm(groups, out, eps)
        self.conv2 = Conv2d(out, out, 3, padding=1)
        self.conv_shortcut = Conv2d(inp, out, 1) if inp != out else None

    # (B, C, H, W), (B, E)
    def forward(
        self, x: Tensor, time: Tensor | None = None, size: torch.Size | None = None
    ) -> Tensor:
        h = self.conv1(resized(self.act(self.norm1(x)), self.resample, size))
        h = self.conv2(self.act(self.conditioned(h, time)))
        x = resized(x, self.resample, size)
        out = (x if self.conv_shortcut is None else self.conv_shortcut(x)) + h
        return out if self.scale == 1.0 else out / self.scale

    def conditioned(self, h: Tensor, time: Tensor | None) -> Tensor:
        """The second norm, told the noise level."""
        if self.time_emb_proj is None or time is None:
            return self.norm2(h)
        e = self.time_emb_proj(self.act(time) if self.time_act else time)[:, :, None, None]
        if not self.scale_shift:
            return self.norm2(h + e)
        scale, shift = e.chunk(2, 1)
        return self.norm2(h) * (1 + scale) + shift


class Downsample(nn.Module):
    """A 3 x 3 convolution of stride 2. Padding 0 means one row and column of zeros at the far edges
    only, as in autoencoders."""

    def __init__(self, channels: int, padding: int = 1) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, stride=2, padding=padding)

    # (B, C, H, W) -> (B, C, H/2, W/2)
    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        return self.conv(x if self.conv.padding[0] else F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest-neighbour doubling (or to `size`), then a 3 x 3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1)

    # (B, C, H, W) -> (B, C, 2H, 2W)
    def forward(
        self, x: Tensor, time: Tensor | None = None, size: torch.Size | None = None
    ) -> Tensor:
        return self.conv(resized(x, "up", size))


class PixelAttention(nn.Module):
    """x + one head of self-attention over all pixels, behind a group norm (autoencoders)."""

    def __init__(self, channels: int, groups: int, eps: float) -> None:
        super().__init__()
        self.group_norm = GroupNorm(groups, channels, eps)
        self.to_q, self.to_k, self.to_v = (Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        h = to_tokens(self.group_norm(x))
        h = multi_head(self.to_q(h), self.to_k(h), self.to_v(h), heads=1)
        return x + to_image(self.to_out[0](h), x)


@torch.no_grad()
def init_(module: M, seed: int = 0, zero: tuple[str, ...] = ()) -> M:
    """Weights for training from scratch: convolutions and linears U(+-1/sqrt(fan_in)), biases zero,
    norms one, embeddings N(0, 0.02). Layers whose name ends in one of `zero` start at zero, so that
    what they write to is at first left alone."""
    g = torch.Generator().manual_seed(seed)
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = layer.weight[0].numel() ** -0.5
            layer.weight.zero_() if name.endswith(zero) else layer.weight.copy_(
                torch.empty(layer.weight.shape).uniform_(-bound, bound, generator=g)
            )
        elif isinstance(layer, nn.GroupNorm | nn.LayerNorm):
            layer.weight.fill_(1.0)
        elif isinstance(layer, nn.Embedding):
            layer.weight.copy_(torch.empty(layer.weight.shape).normal_(0, 0.02, generator=g))
        if isinstance(bias := getattr(layer, "bias", None), Tensor):
            bias.zero_()
    return module
