"""The transformer of CogVideoX (Yang et al. 2024): text and space-time patches are one sequence that
attends to itself, with norms of their own. Positions are sinusoids (2B), rotary on three axes (5B), and
learned beside these (5B from a picture).

Parameter names are those of diffusers' files. Legend: B batch, C channels, F, h and w latent frames,
rows and columns, T patches, L text tokens, D width, E width of the noise level's vector, K head dim."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.errors import DaedalError
from daedal.nn.conv import Conv2d
from daedal.nn.conv3d import from_cells, to_cells
from daedal.nn.cost import count_flops
from daedal.nn.dit import FeedForward, Rope, SelfAttention, axial_rope, wanted_text
from daedal.nn.linear import Linear
from daedal.nn.norm import LayerNorm
from daedal.nn.timestep import TimestepEmbedding, sinusoidal

TEXT = 226  # tokens of a prompt
OFS = 2.0  # what 1.5 from a picture is told beside the noise level, always


@dataclass(frozen=True, kw_only=True)
class CogVideoXConfig:
    """`patch_size_t`: frames of a patch, of 1.5. `sample_*` are the sizes of the latents, and the
    number of frames, that positions were trained for."""

    num_attention_heads: int = 30
    attention_head_dim: int = 64
    in_channels: int = 16
    out_channels: int | None = 16
    time_embed_dim: int = 512
    ofs_embed_dim: int | None = None
    text_embed_dim: int = 4096
    num_layers: int = 30
    attention_bias: bool = True
    sample_width: int = 90
    sample_height: int = 60
    sample_frames: int = 49
    patch_size: int = 2
    patch_size_t: int | None = None
    temporal_compression_ratio: int = 4
    max_text_seq_length: int = 226
    norm_eps: float = 1e-5
    spatial_interpolation_scale: float = 1.875
    temporal_interpolation_scale: float = 1.0
    use_rotary_positional_embeddings: bool = False
    use_learned_positional_embeddings: bool = False
    patch_bias: bool = True

    class_name: ClassVar[str] = "CogVideoXTransformer3DModel"
    fixed: ClassVar[dict[str, Any]] = {
        "flip_sin_to_cos": True, "freq_shift": 0, "activation_fn": "gelu-approximate", "timestep_activation_fn": "silu",
        "norm_elementwise_affine": True,
    }  # fmt: skip
    ignored: ClassVar[frozenset[str]] = frozenset({"dropout"})

    @property
    def dim(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    @property
    def patch(self) -> tuple[int, int, int]:
        return self.patch_size_t or 1, self.patch_size, self.patch_size


class JointNorm(nn.Module):
    """One norm of text and patches, with a shift, a scale and a gate for each."""

    def __init__(self, c: CogVideoXConfig) -> None:
        super().__init__()
        self.linear = Linear(c.time_embed_dim, 6 * c.dim)
        self.norm = LayerNorm(c.dim, c.norm_eps)

    def forward(self, x: Tensor, text: Tensor, e: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, T, D), text (B, L, D), e (B, E) -> both normed as one (B, L + T, D), text first, and
        their gates."""
        parts = self.linear(F.silu(e))[:, None].chunk(6, -1)
        shift, scale, gate, text_shift, text_scale, text_gate = parts
        words = self.norm(text) * (1 + text_scale) + text_shift
        return torch.cat([words, self.norm(x) * (1 + scale) + shift], 1), gate, text_gate


class CogVideoXBlock(nn.Module):
    def __init__(self, c: CogVideoXConfig) -> None:
        super().__init__()
        self.norm1, self.norm2 = JointNorm(c), JointNorm(c)
        self.attn1 = SelfAttention(c.dim, c.num_attention_heads, bias=c.attention_bias)
        self.attn1.norm_q, self.attn1.norm_k = (
            LayerNorm(c.attention_head_dim, 1e-6) for _ in range(2)
        )
        self.ff = FeedForward(c.dim)

    def forward(
        self, x: Tensor, text: Tensor, e: Tensor, rope: Rope | None
    ) -> tuple[Tensor, Tensor]:
        """x (B, T, D), text (B, L, D), e (B, E); `rope` has the text's positions first."""
        L = text.shape[1]
        both, gate, text_gate = self.norm1(x, text, e)
        made = self.attn1(both, rope)
        x, text = x + gate * made[:, L:], text + text_gate * made[:, :L]
        both, gate, text_gate = self.norm2(x, text, e)
        made = self.ff(both)
        return x + gate * made[:, L:], text + text_gate * made[:, :L]


class PatchEmbed(nn.Module):
    """Patches and text as tokens."""

    pos_embedding: Tensor

    def __init__(self, c: CogVideoXConfig) -> None:
        super().__init__()
        frames, side, _ = c.patch
        if c.patch_size_t is None:
            self.proj: Conv2d | Linear = Conv2d(
                c.in_channels, c.dim, side, stride=side, bias=c.patch_bias
            )
        else:
            self.proj = Linear(c.in_channels * frames * side * side, c.dim)
        self.text_proj = Linear(c.text_embed_dim, c.dim)
        if c.use_learned_positional_embeddings:
            count = 1 + (c.sample_frames - 1) // c.temporal_compression_ratio
            count *= (c.sample_height // side) * (c.sample_width // side)
            shape = 1, c.max_text_seq_length + count, c.dim
            self.register_buffer("pos_embedding", torch.empty(shape))

    def forward(self, cells: Tensor) -> Tensor:  # (B, values of a patch, F, h, w) -> (B, T, D)
        weight, bias = self.proj.weight, self.proj.bias
        bias = None if bias is None else bias.to(cells.dtype)
        return F.linear(cells.flatten(2).transpose(1, 2), weight.flatten(1).to(cells.dtype), bias)


class LastNorm(nn.Module):
    def __init__(self, c: CogVideoXConfig) -> None:
        super().__init__()
        self.linear = Linear(c.time_embed_dim, 2 * c.dim)
        self.norm = LayerNorm(c.dim, c.norm_eps)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:  # (B, T, D), (B, E) -> (B, T, D)
        shift, scale = self.linear(F.silu(e))[:, None].chunk(2, -1)
        return self.norm(x) * (1 + scale) + shift


class CogVideoXTransformer3DModel(nn.Module):
    """Noisy latents of a clip, a noise level and a text -> v."""

    config_class = CogVideoXConfig
    class_name = CogVideoXConfig.class_name

    def __init__(self, config: CogVideoXConfig) -> None:
        super().__init__()
        self.config, D = config, config.dim
        self.patch_embed = PatchEmbed(config)
        self.time_embedding = TimestepEmbedding(D, config.time_embed_dim)
        ofs = config.ofs_embed_dim
        self.ofs_embedding = TimestepEmbedding(ofs, ofs) if ofs else None
        self.transformer_blocks = nn.ModuleList(
            CogVideoXBlock(config) for _ in range(config.num_layers)
        )
        self.norm_final, self.norm_out = LayerNorm(D, config.norm_eps), LastNorm(config)
        frames, side, _ = config.patch
        channels = config.out_channels or config.in_channels
        self.proj_out = Linear(D, channels * frames * side * side)

    def text_tokens(self, text: Tensor) -> Tensor:
        """text (B, L, text_embed_dim) -> (B, L, D); once a prompt is enough."""
        return self.patch_embed.text_proj(text)

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        text: Tensor | None = None,
        *,
        tokens: Tensor | None = None,
    ) -> Tensor:
        """x (B, in_channels, F, h, w), time (B,) in 0..999, text (B, L, text_embed_dim), or `tokens` =
        text_tokens(text) in its place -> (B, out_channels, F, h, w)."""
        if any(n % p for n, p in zip(x.shape[2:], self.config.patch, strict=True)):
            raise DaedalError(
                f"latents of {tuple(x.shape[2:])} cannot be cut into patches of {self.config.patch}; change the clip's size."
            )
        words = self.text_tokens(wanted_text(text, self).to(x.dtype)) if tokens is None else tokens
        cells = to_cells(x, *self.config.patch)
        grid = cells.shape[2:]
        words, h = self.placed(words, self.patch_embed(cells), x.shape[2:], grid)
        e = self.level(time, x.dtype)
        rope = self.rope(grid, words.shape[1], x.device)
        for block in self.transformer_blocks:
            h, words = block(h, words, e, rope)
        out = self.proj_out(self.norm_out(self.norm_final(h), e))
        return from_cells(out.transpose(1, 2).unflatten(2, grid), *self.config.patch)

    def level(self, time: Tensor, dtype: torch.dtype) -> Tensor:
        """(B,) -> (B, E)."""
        e = self.time_embedding(sinusoidal(time, self.config.dim).to(dtype))
        if self.ofs_embedding is None:
            return e
        told = sinusoidal(time.new_full((1,), OFS), self.config.ofs_embed_dim or 0)
        return e + self.ofs_embedding(told.to(dtype))

    def placed(
        self, words: Tensor, h: Tensor, size: torch.Size, grid: torch.Size
    ) -> tuple[Tensor, Tensor]:
        """Text and patches with the positions that are added, if any."""
        c = self.config
        if c.use_learned_positional_embeddings:
            frames = 1 + (c.sample_frames - 1) // c.temporal_compression_ratio
            if (trained := (frames, c.sample_height, c.sample_width)) != tuple(size):
                raise DaedalError(
                    f"this CogVideoX has learned positions of latents of {trained}, not of {tuple(size)}; leave size and seconds out."
                )
            places = self.patch_embed.pos_embedding.to(h.dtype)
            first = c.max_text_seq_length
            return words + places[:, : words.shape[1]], h + places[:, first:]
        return words, h if c.use_rotary_positional_embeddings else h + self.sinusoids(grid, h)

    def sinusoids(self, grid: torch.Size, like: Tensor) -> Tensor:
        """(T, D): a quarter of the frame, three eighths each of the column and of the row."""
        c = self.config
        scales = c.temporal_interpolation_scale, *(c.spatial_interpolation_scale,) * 2
        waves = []
        for axis, (count, scale) in enumerate(zip(grid, scales, strict=True)):
            dim = c.dim // 4 if axis == 0 else 3 * c.dim // 8
            place = torch.arange(count, device=like.device) / scale
            shape = [1, 1, 1, dim]
            shape[axis] = count
            waves.append(sinusoidal(place, dim, cos_first=False).view(shape).expand(*grid, -1))
        frame, row, column = waves
        return torch.cat([frame, column, row], -1).flatten(0, 2).to(like.dtype)

    def rope(self, grid: torch.Size, text: int, device: torch.device) -> Rope | None:
        """Of the text, which is not turned, and of the patches. The places of 1.0 lie in the picture
        that it was trained on, in its middle and as large as fits."""
        c = self.config
        if not c.use_rotary_positional_embeddings:
            return None
        sides = list(grid[1:])
        places = [torch.arange(count, device=device).float() for count in grid]
        if c.patch_size_t is None:
            spans = fitted(
                sides, [side // c.patch_size for side in (c.sample_height, c.sample_width)]
            )
            for axis, (start, stop) in enumerate(spans):
                count, end = sides[axis], stop * (sides[axis] - 1) / sides[axis]
                places[1 + axis] = torch.linspace(start, end, count, device=device)
        K = c.attention_head_dim
        cos, sin = axial_rope(places, (K // 4, K // 8 * 3, K // 8 * 3))
        return F.pad(cos, (0, 0, 0, 0, text, 0), value=1.0), F.pad(sin, (0, 0, 0, 0, text, 0))

    def flops(self, frames: int, height: int, width: int, text_tokens: int = TEXT) -> int:
        """Floating-point operations of one call on one latent clip of that size, the text's included;
        a multiply-add is two."""
        c = self.config

        def call(cog: Any) -> None:
            text = torch.empty(1, text_tokens, c.text_embed_dim)
            cog(torch.empty(1, c.in_channels, frames, height, width), torch.empty(1), text)

        return count_flops(self, call)


def fitted(sides: list[int], within: list[int]) -> list[tuple[int, int]]:
    """Where a grid of these sides begins and ends on each axis of another, when it is made as large
    as fits and put in the middle."""
    (height, width), (most, wide) = sides, within
    if height * wide > width * most:
        sizes = most, round(most / height * width)
    else:
        sizes = round(wide / width * height), wide
    starts = [round((side - size) / 2) for side, size in zip(within, sizes, strict=True)]
    return [(start, start + size) for start, size in zip(starts, sizes, strict=True)]
