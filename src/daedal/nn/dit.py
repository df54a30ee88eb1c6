"""What diffusion transformers of images and clips are made of (Peebles & Xie 2023): patches with
positions, norms that a condition scales and shifts, feed-forward layers, attention. (nn.joint has what
text and image need to attend to each other.)

Parameter names are those of diffusers' files. Legend: B batch, C channels, p patch side, h and w
patches, T tokens, D width, H heads, K head dim."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.errors import DaedalError
from daedal.nn import head_products
from daedal.nn.conv import Conv2d, to_tokens
from daedal.nn.linear import Linear, linears
from daedal.nn.norm import RMSNorm
from daedal.nn.side_by_side import side_by_side
from daedal.nn.timestep import sinusoidal

Rope = tuple[Tensor, Tensor]  # cosines and sines, each (T, 1, K/2) float32


class PatchEmbed(nn.Module):
    """Images (B, C, p*h, p*w) as tokens (B, h*w, D), row by row. `grid` is the side of a table of
    positions that the file holds."""

    pos_embed: Tensor

    def __init__(self, channels: int, dim: int, patch: int, grid: int | None = None) -> None:
        super().__init__()
        self.patch = patch
        self.proj = Conv2d(channels, dim, patch, stride=patch)
        if grid:
            self.register_buffer("pos_embed", torch.empty(1, grid * grid, dim))

    def forward(self, x: Tensor) -> Tensor:
        height, width, p = *x.shape[2:], self.patch
        if height % p or width % p:
            raise DaedalError(
                f"{height} x {width} cells cannot be cut into patches of {p} x {p}; change the image's size."
            )
        return to_tokens(self.proj(x))


def unpatchify(tokens: Tensor, patch: int, height: int, width: int) -> Tensor:
    """tokens (B, h*w, p*p*C), the values of a pixel side by side -> images (B, C, height, width)."""
    # (B, h, w, p, p, C)
    cells = tokens.view(len(tokens), height // patch, width // patch, patch, patch, -1)
    return cells.permute(0, 5, 1, 3, 2, 4).reshape(len(tokens), -1, height, width)


def sincos_grid(
    height: int,
    width: int,
    dim: int,
    base: int,
    scale: float = 1.0,
    device: torch.device | None = None,
) -> Tensor:
    """(height * width, dim) float32: half sinusoids of the column, half of the row, each counted
    from 0 to `base` / `scale` whatever the size of the grid."""
    rows, columns = (torch.arange(n, device=device) * (base / n / scale) for n in (height, width))
    down, across = (
        sinusoidal(positions, dim // 2, cos_first=False) for positions in (rows, columns)
    )
    return torch.cat(
        [across.expand(height, -1, -1), down[:, None].expand(-1, width, -1)], -1
    ).flatten(0, 1)


class Modulation(nn.Module):
    """linear(silu(condition)), cut into `parts` vectors: shifts, scales and gates (adaLN)."""

    def __init__(self, dim: int, parts: int) -> None:
        super().__init__()
        self.parts, self.linear = parts, Linear(dim, parts * dim)

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:  # (B, D) -> parts of (B, 1, D)
        return self.linear(F.silu(condition))[:, None].chunk(self.parts, -1)


def modulated(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """norm(x) * (1 + scale) + shift, the norm without weights of its own; x (B, T, D), shift and
    scale (B, 1, D)."""
    return F.layer_norm(x, x.shape[-1:], eps=eps) * (1 + scale) + shift


class LastNorm(nn.Module):
    """The norm before the last projection. In the files its scale comes before its shift."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = Linear(dim, 2 * dim)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:  # (B, T, D), (B, D) -> (B, T, D)
        scale, shift = self.linear(F.silu(condition))[:, None].chunk(2, -1)
        return modulated(x, shift, scale)


class GELU(nn.Module):
    def __init__(self, dim: int, inner: int, approximate: str = "tanh") -> None:
        super().__init__()
        self.proj, self.approximate = Linear(dim, inner), approximate

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.proj(x), approximate=self.approximate)


class FeedForward(nn.Module):
    """Four times as wide within as without, unless `inner` says how wide, to `out` channels."""

    def __init__(
        self, dim: int, inner: int = 0, out: int = 0, *, approximate: str = "tanh"
    ) -> None:
        super().__init__()
        inner, out = inner or 4 * dim, out or dim
        # the middle one was a dropout
        self.net = nn.ModuleList([GELU(dim, inner, approximate), nn.Identity(), Linear(inner, out)])

    def forward(self, x: Tensor) -> Tensor:  # (B, T, D) -> (B, T, D)
        return self.net[2](self.net[0](x))

    def added(self, x: Tensor, parts: Sequence[Tensor], eps: float = 1e-6) -> Tensor:
        """x + gate * self(modulated(x)), parts being shift, scale and gate, each (B, 1, D)."""
        shift, scale, gate = parts
        return x + gate * self(modulated(x, shift, scale, eps))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """q (B, T, H, K), k and v (B, S, H, K) -> (B, T, H*K). `mask` (B, 1, 1, S) is True where a key
    exists."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    if mask is None and head_products.suited(q, k):
        return head_products.attend(q, k, v).transpose(1, 2).flatten(2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


HEADS = 2  # whose scores of a thousand tokens stay in the cache


def attend_by_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of every query (B, H, T, K) over every key (B, H or fewer, S, K), as (B, T, H*K).
    In bf16 on a CPU a few heads at a time, whose scores stay in the processor's cache: two and a
    half times as fast at a thousand tokens as torch's own, which keeps its scores in float32. The
    scores are rounded to bf16 here; a network's output is no further from that in fp32 for it."""
    if q.device.type != "cpu" or q.dtype != torch.bfloat16 or torch.is_grad_enabled():
        grouped = q.shape[1] != k.shape[1]
        out = F.scaled_dot_product_attention(q, k, v, enable_gqa=grouped)
        return out.transpose(1, 2).flatten(2)
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
    rows, scale = [t.contiguous().flatten(0, 1) for t in (q, k, v)], q.shape[-1] ** -0.5
    out, none = torch.empty_like(rows[0]), q.new_zeros(1)

    def attended(heads: Tensor) -> Tensor:
        first, last = int(heads[0]), int(heads[-1]) + 1
        for at in range(first, last, HEADS):
            part = slice(at, min(at + HEADS, last))
            few, keys, values = (t[part] for t in rows)
            scores = torch.baddbmm(none, few, keys.mT, beta=0, alpha=scale)
            torch.bmm(scores.softmax(-1), values, out=out[part])
        return heads

    # a thread has heads of its own, so that it waits for the others once
    side_by_side(attended, torch.arange(len(out)).chunk(torch.get_num_threads()))
    return out.unflatten(0, q.shape[:2]).transpose(1, 2).flatten(2)


def rotated(x: Tensor, rope: Rope | None) -> Tensor:
    """Turn the neighbouring pairs (2i, 2i + 1) of x (B, T, H, K)."""
    if rope is None:
        return x
    cos, sin = rope
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2).to(x.dtype)


def axial_rope(places: Sequence[Tensor], dims: Sequence[int], theta: float = 10_000.0) -> Rope:
    """Cosines and sines (T, 1, K/2) of the points of a grid, the last axis fastest. Of a head's K
    channels dims[i] turn with the place on axis i, places[i], at frequencies from 1 to 1 / theta."""
    angles, grid = [], [len(place) for place in places]
    for axis, (place, dim) in enumerate(zip(places, dims, strict=True)):
        steps = torch.arange(0, dim, 2, dtype=torch.float64, device=place.device)
        shape = [1, 1, 1, len(steps)]
        shape[axis] = len(place)
        turned = place.double()[:, None] * theta ** (-steps / dim)
        angles.append(turned.view(shape).expand(*grid, -1))
    angle = torch.cat(angles, -1).flatten(0, len(grid) - 1)[:, None]
    return angle.cos().float(), angle.sin().float()


class WideAttention(nn.Module):
    """Attention over tokens or over a text, with one norm of queries and keys over all heads."""

    def __init__(
        self, dim: int, heads: int, eps: float, *, text: int = 0, bias: bool = True
    ) -> None:
        super().__init__()
        self.heads, text = heads, text or dim
        self.to_q = Linear(dim, dim, bias=bias)
        self.to_k, self.to_v = (Linear(text, dim, bias=bias) for _ in range(2))
        self.to_out = nn.ModuleList([Linear(dim, dim)])
        self.norm_q, self.norm_k = RMSNorm(dim, eps), RMSNorm(dim, eps)

    def split(self, x: Tensor) -> Tensor:  # (B, T, D) -> (B, T, H, K)
        return x.unflatten(-1, (self.heads, -1))

    def forward(self, x: Tensor, rope: Rope) -> Tensor:
        """Over itself, (B, T, D) -> (B, T, D)."""
        q, k, v = linears(x, self.to_q, self.to_k, self.to_v)
        q, k = rotated(self.split(self.norm_q(q)), rope), rotated(self.split(self.norm_k(k)), rope)
        return self.to_out[0](attend(q, k, self.split(v)))

    def read(self, q: Tensor, text: Tensor, mask: Tensor | None = None) -> Tensor:
        """Queries (B, T, H, K) over a text (B, L, D) -> (B, T, D), not projected."""
        k, v = linears(text, self.to_k, self.to_v)
        return attend(q, self.split(self.norm_k(k)), self.split(v), mask)

    def across(self, x: Tensor, text: Tensor, mask: Tensor | None = None) -> Tensor:
        """Over a text (B, L, D)."""
        return self.to_out[0](self.read(self.split(self.norm_q(self.to_q(x))), text, mask))


class TextBlock(nn.Module):
    """Tokens attend to each other, then to a text, and are fed forward; what the noise level says of
    shifts, scales and gates is shared by all blocks, and each adds a table of its own."""

    norm2: nn.Module
    attn1: WideAttention
    attn2: WideAttention
    ffn: FeedForward
    scale_shift_table: nn.Parameter

    def normed(self, x: Tensor) -> Tensor:
        """Before the attention and before the feed-forward, without weights."""
        raise NotImplementedError

    def forward(
        self, x: Tensor, shared: Tensor, rope: Rope, text: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """x (B, T, D), shared (B, 1 or T, 6, D), mask (B, 1, 1, L)."""
        parts = (self.scale_shift_table.float() + shared.float()).to(x.dtype).unbind(2)
        shift, scale, gate, shift2, scale2, gate2 = parts
        made = self.attn1(torch.addcmul(shift, self.normed(x), 1 + scale), rope)
        x = torch.addcmul(x, gate, made)
        x = x + self.attn2.across(self.norm2(x), text, mask)
        made = self.ffn(torch.addcmul(shift2, self.normed(x), 1 + scale2))
        return torch.addcmul(x, gate2, made)


class SelfAttention(nn.Module):
    """Attention of tokens over themselves. `qk_norm`: queries and keys have an RMS norm. `out`: the
    result is projected."""

    def __init__(
        self, dim: int, heads: int, *, bias: bool = True, qk_norm: bool = False, out: bool = True
    ) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (Linear(dim, dim, bias=bias) for _ in range(3))
        self.norm_q, self.norm_k = (head_norm(dim // heads, qk_norm) for _ in range(2))
        self.to_out = nn.ModuleList([Linear(dim, dim)] if out else [nn.Identity()])

    # (B, T, D) -> q, k, v (B, T, H, K)
    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)) for t in linears(x, self.to_q, self.to_k, self.to_v)
        )
        return self.norm_q(q), self.norm_k(k), v

    def forward(self, x: Tensor, rope: Rope | None = None) -> Tensor:  # (B, T, D) -> (B, T, D)
        q, k, v = self.split(x)
        return self.to_out[0](attend(rotated(q, rope), rotated(k, rope), v))


def wanted_text(text: Tensor | None, network: nn.Module) -> Tensor:
    """The text of a call that needs one, where nothing made of it stands in for it."""
    if text is None:
        raise DaedalError(
            f"{type(network).__name__} needs text, or what was made of it, and neither was given; pass one."
        )
    return text


def head_norm(dim: int, wanted: bool) -> nn.Module:
    return RMSNorm(dim) if wanted else nn.Identity()
