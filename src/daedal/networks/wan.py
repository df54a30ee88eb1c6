"""The transformer of Wan 2.1 and 2.2 (Wan Team 2025): space-time patches that attend to each other
with rotary positions on three axes, and to umT5's text, and where a first frame is given to CLIP's
view of it.

Parameter names are those of diffusers' files. Legend: B batch, C channels, F, H and W latent frames,
rows and columns, T patches, L text tokens, D width, K head dim."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.errors import DaedalError
from daedal.nn.cost import count_flops
from daedal.nn.dit import (
    FeedForward,
    Rope,
    TextBlock,
    WideAttention,
    attend,
    axial_rope,
    modulated,
    wanted_text,
)
from daedal.nn.linear import Linear, linears
from daedal.nn.norm import LayerNorm, RMSNorm
from daedal.nn.timestep import TimestepEmbedding, sinusoidal

TEXT = (
    512  # tokens of text, padded with zeros that are attended to; what stands before is a picture
)
PICTURE = 257  # tokens of CLIP's view of a picture


@dataclass(frozen=True, kw_only=True)
class WanConfig:
    """`image_dim` is the width of a picture's tokens, `added_kv_proj_dim` that of what they become;
    `pos_embed_seq_len` counts those of a first and a last picture together."""

    patch_size: tuple[int, int, int] = (1, 2, 2)
    num_attention_heads: int = 40
    attention_head_dim: int = 128
    in_channels: int = 16
    out_channels: int = 16
    text_dim: int = 4096
    freq_dim: int = 256
    ffn_dim: int = 13824
    num_layers: int = 40
    cross_attn_norm: bool = True
    eps: float = 1e-6
    image_dim: int | None = None
    added_kv_proj_dim: int | None = None
    rope_max_seq_len: int = 1024
    pos_embed_seq_len: int | None = None

    class_name: ClassVar[str] = "WanTransformer3DModel"
    fixed: ClassVar[dict[str, Any]] = {"qk_norm": "rms_norm_across_heads"}

    @property
    def dim(self) -> int:
        return self.num_attention_heads * self.attention_head_dim


class Attention(WideAttention):
    """`picture`: a second pair of keys and values reads a picture's tokens, which stand before the
    text's."""

    def __init__(self, c: WanConfig, picture: bool = False) -> None:
        super().__init__(c.dim, c.num_attention_heads, c.eps)
        self.picture = picture
        if picture:
            D = c.dim
            self.add_k_proj, self.add_v_proj = (
                Linear(c.added_kv_proj_dim or D, D) for _ in range(2)
            )
            self.norm_added_k = RMSNorm(D, c.eps)

    def read(self, q: Tensor, text: Tensor, mask: Tensor | None = None) -> Tensor:
        if not self.picture:
            return super().read(q, text)
        seen, text = text[:, :-TEXT], text[:, -TEXT:]
        k, v = linears(seen, self.add_k_proj, self.add_v_proj)
        return super().read(q, text) + attend(q, self.split(self.norm_added_k(k)), self.split(v))


class WanBlock(TextBlock):
    def __init__(self, c: WanConfig) -> None:
        super().__init__()
        self.eps, self.scale_shift_table = c.eps, nn.Parameter(torch.empty(1, 6, c.dim))
        self.attn1 = Attention(c)
        self.attn2 = Attention(c, c.added_kv_proj_dim is not None)
        self.norm2 = LayerNorm(c.dim, c.eps) if c.cross_attn_norm else nn.Identity()
        self.ffn = FeedForward(c.dim, c.ffn_dim)

    def normed(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], eps=self.eps)


class PictureEmbedding(nn.Module):
    """CLIP's tokens of a picture, or of a first and a last one, as tokens of the text."""

    pos_embed: nn.Parameter | None

    def __init__(self, dim: int, out: int, places: int | None) -> None:
        super().__init__()
        self.norm1, self.norm2 = LayerNorm(dim), LayerNorm(out)
        self.ff = FeedForward(dim, dim, out, approximate="none")
        self.pos_embed = nn.Parameter(torch.empty(1, places, dim)) if places else None

    def forward(self, x: Tensor) -> Tensor:  # (B, n, dim) -> (B, n, out)
        if self.pos_embed is not None:  # of both pictures together
            x = x.reshape(-1, self.pos_embed.shape[1], x.shape[-1]) + self.pos_embed.to(x.dtype)
        return self.norm2(self.ff(self.norm1(x)))


class Condition(nn.Module):
    """The noise level and the text."""

    def __init__(self, c: WanConfig) -> None:
        super().__init__()
        self.frequencies = c.freq_dim
        self.time_embedder = TimestepEmbedding(c.freq_dim, c.dim)
        self.time_proj = Linear(c.dim, 6 * c.dim)
        self.text_embedder = TimestepEmbedding(c.text_dim, c.dim, "gelu_pytorch_tanh")
        self.image_embedder = (
            PictureEmbedding(c.image_dim, c.dim, c.pos_embed_seq_len) if c.image_dim else None
        )

    def level(self, time: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """time (B,) or (B, T) -> (B, 1 or T, D), and the modulation (B, 1 or T, 6, D) that all blocks
        share."""
        time = time[:, None] if time.dim() == 1 else time
        waves = sinusoidal(time.flatten(), self.frequencies).to(dtype)
        e = self.time_embedder(waves.unflatten(0, time.shape))
        return e, self.time_proj(F.silu(e)).unflatten(-1, (6, -1))


class WanTransformer3DModel(nn.Module):
    """Noisy latents of a clip, a noise level and a text -> the velocity (noise minus clean)."""

    config_class = WanConfig
    class_name = WanConfig.class_name

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        self.config, D, p = config, config.dim, config.patch_size
        self.patch_embedding = nn.Conv3d(config.in_channels, D, p, stride=p)
        self.condition_embedder = Condition(config)
        self.blocks = nn.ModuleList(WanBlock(config) for _ in range(config.num_layers))
        self.scale_shift_table = nn.Parameter(torch.empty(1, 2, D))
        self.proj_out = Linear(D, config.out_channels * p[0] * p[1] * p[2])

    def text_tokens(self, text: Tensor, picture: Tensor | None = None) -> Tensor:
        """text (B, L, text_dim), of a picture CLIP's tokens (B, 257, image_dim), of two (2 B, 257,
        image_dim) -> (B, n, D). They depend on nothing else, so once a prompt is enough."""
        words, embed = (
            self.condition_embedder.text_embedder(text),
            self.condition_embedder.image_embedder,
        )
        if embed is None:
            return words
        if picture is None:
            raise DaedalError(
                "this Wan reads a picture beside the words; give CLIP's tokens of it."
            )
        return torch.cat([embed(picture.to(words.dtype)), words], 1)

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        text: Tensor | None = None,
        picture: Tensor | None = None,
        *,
        tokens: Tensor | None = None,
    ) -> Tensor:
        """x (B, in_channels, F, H, W), time (B,) in 0..1000, or (B, T) one a patch, text and picture
        as `text_tokens` takes them, or `tokens` that it gave -> (B, out_channels, F, H, W)."""
        grid = [n // p for n, p in zip(x.shape[2:], self.config.patch_size, strict=True)]
        if any(n % p for n, p in zip(x.shape[2:], self.config.patch_size, strict=True)):
            raise DaedalError(
                f"latents of {tuple(x.shape[2:])} cannot be cut into patches of {self.config.patch_size}; change the clip's size."
            )
        if tokens is None:
            tokens = self.text_tokens(wanted_text(text, self).to(x.dtype), picture)
        level, shared = self.condition_embedder.level(time, x.dtype)
        rope = self.rope(grid, x.device)
        h = self.patches(x)
        for block in self.blocks:
            h = block(h, shared, rope, tokens)
        table = (self.scale_shift_table[:, None].float() + level[:, :, None].float()).to(h.dtype)
        shift, scale = table.unbind(2)
        return self.unpatched(self.proj_out(modulated(h, shift, scale, self.config.eps)), grid)

    def patches(self, x: Tensor) -> Tensor:  # (B, C, F, H, W) -> (B, T, D)
        conv, p = self.patch_embedding, self.config.patch_size
        out = F.conv3d(x, conv.weight.to(x.dtype), conv.bias.to(x.dtype), stride=p)  # type: ignore[union-attr]
        return out.flatten(2).transpose(1, 2)

    def unpatched(self, tokens: Tensor, grid: list[int]) -> Tensor:
        """(B, T, values of a patch) -> (B, out_channels, F, H, W)."""
        cells = tokens.unflatten(2, (*self.config.patch_size, -1)).unflatten(1, grid)
        cells = cells.permute(0, 7, 1, 4, 2, 5, 3, 6)  # (B, C, F, pf, H, ph, W, pw)
        return cells.flatten(6, 7).flatten(4, 5).flatten(2, 3)

    def rope(self, grid: list[int], device: torch.device) -> Rope:
        """Cosines and sines (T, 1, K/2). Of a head's pairs a third each turn with the row and the
        column, the rest with the frame."""
        K = self.config.attention_head_dim
        across = 2 * (K // 6)
        places = [torch.arange(count, device=device) for count in grid]
        return axial_rope(places, (K - 2 * across, across, across))

    def flops(self, frames: int, height: int, width: int, text_tokens: int = TEXT) -> int:
        """Floating-point operations of one call on one latent clip of that size, the text's included;
        a multiply-add is two."""
        c = self.config

        def call(wan: Any) -> None:
            picture = torch.empty(1, PICTURE, c.image_dim) if c.image_dim else None
            x = torch.empty(1, c.in_channels, frames, height, width)
            wan(x, torch.empty(1), torch.empty(1, text_tokens, c.text_dim), picture)

        return count_flops(self, call)
